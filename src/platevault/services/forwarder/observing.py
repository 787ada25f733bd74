"""What a Forwarder tells about its own work; bound to metrics by who starts it."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from platevault.domain.capture import RetrievalStatus
from platevault.domain.lifecycles import FileState
from platevault.domain.messages import EndReadout


class ForwarderObserver(Protocol):
    """Told of each step of a board; must not fail or wait."""

    def paired(self, forwarder: str, archiver: str) -> None:
        """Hear for which Archiver a Forwarder works now; empty for none."""

    def board_read(self, order: EndReadout, *, size_bytes: int, duration_s: float) -> None:
        """Hear that a board is in hand, and how long reading took, waits included [s]."""

    def file_written(
        self, order: EndReadout, sensor: str, *, latency_s: float, degraded: bool
    ) -> None:
        """Hear that a file is durable and recorded, ``latency_s`` [s] after the end of readout."""

    def sensor_failed(
        self, order: EndReadout, sensor: str, *, status: RetrievalStatus, state: FileState
    ) -> None:
        """Hear that a sensor was not written, and whether it will be tried again."""


class NoObserver(ForwarderObserver):
    """Keeps nothing."""

    @override
    def paired(self, forwarder: str, archiver: str) -> None: ...

    @override
    def board_read(self, order: EndReadout, *, size_bytes: int, duration_s: float) -> None: ...

    @override
    def file_written(
        self, order: EndReadout, sensor: str, *, latency_s: float, degraded: bool
    ) -> None: ...

    @override
    def sensor_failed(
        self, order: EndReadout, sensor: str, *, status: RetrievalStatus, state: FileState
    ) -> None: ...
