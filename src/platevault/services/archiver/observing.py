"""What an Archiver tells about its own work; bound to metrics by who starts it."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from platevault.domain.inventory import ExposureRecord


class ArchiverObserver(Protocol):
    """Told of each step of an exposure; must not fail or wait."""

    def exposure_registered(self, record: ExposureRecord) -> None:
        """Hear that an exposure is in the ledger, with the sensors it must give."""

    def board_sent(self, camera: str, image: str, board: str, *, catch_up: bool) -> None:
        """Hear that a board is in the work queue."""

    def result_told(self, camera: str, event: str, status_code: int) -> None:
        """Hear that the result of a sensor is on the bus."""

    def exposure_closed(
        self, record: ExposureRecord, *, status: str, missing: int, latency_s: float
    ) -> None:
        """Hear that an exposure is closed, ``latency_s`` [s] after its end of readout."""

    def event_ignored(self, camera: str, topic: str) -> None:
        """Hear that an event came while the Archiver was not ENABLED."""

    def event_refused(self, camera: str, topic: str, error: str) -> None:
        """Hear that an event could not be handled, and the class of the error."""

    def forwarders_paired(self, camera: str, count: int) -> None:
        """Hear how many Forwarders work for the camera now."""

    def looked(self, camera: str, *, adopted: int, boards: int, missing: int) -> None:
        """Hear what catch-up found: exposures nobody had, boards sent again, files missing."""


class NoObserver(ArchiverObserver):
    """Keeps nothing."""

    @override
    def exposure_registered(self, record: ExposureRecord) -> None: ...

    @override
    def board_sent(self, camera: str, image: str, board: str, *, catch_up: bool) -> None: ...

    @override
    def result_told(self, camera: str, event: str, status_code: int) -> None: ...

    @override
    def exposure_closed(
        self, record: ExposureRecord, *, status: str, missing: int, latency_s: float
    ) -> None: ...

    @override
    def event_ignored(self, camera: str, topic: str) -> None: ...

    @override
    def event_refused(self, camera: str, topic: str, error: str) -> None: ...

    @override
    def forwarders_paired(self, camera: str, count: int) -> None: ...

    @override
    def looked(self, camera: str, *, adopted: int, boards: int, missing: int) -> None: ...
