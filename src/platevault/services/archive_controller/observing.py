"""What an Archive Controller tells about its own work; bound to metrics by who starts it."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from platevault.domain.ids import FileKey
from platevault.domain.inventory import ExposureRecord
from platevault.domain.lifecycles import Destination


class ArchiveControllerObserver(Protocol):
    """Told of each step of a hand-off; must not fail or wait."""

    def place_made(self, record: ExposureRecord) -> None:
        """Hear that an exposure has its directory, its manifest in it."""

    def file_delivered(
        self, record: ExposureRecord, key: FileKey, destination: Destination, *, latency_s: float
    ) -> None:
        """Hear that a file is verified at a destination, ``latency_s`` [s] after it was written."""

    def delivery_failed(
        self, record: ExposureRecord, key: FileKey, destination: Destination, *, final: bool
    ) -> None:
        """Hear that a file did not get to a destination, and whether that is the last word."""


class NoObserver(ArchiveControllerObserver):
    """Keeps nothing."""

    @override
    def place_made(self, record: ExposureRecord) -> None: ...

    @override
    def file_delivered(
        self, record: ExposureRecord, key: FileKey, destination: Destination, *, latency_s: float
    ) -> None: ...

    @override
    def delivery_failed(
        self, record: ExposureRecord, key: FileKey, destination: Destination, *, final: bool
    ) -> None: ...
