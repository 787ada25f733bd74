"""What a Header Service tells about its own work; bound to metrics by who starts it."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from platevault.domain.headers import HeaderDocument


class HeaderObserver(Protocol):
    """Told of each step of a header; must not fail or wait."""

    def header_built(self, document: HeaderDocument, *, duration_s: float) -> None:
        """Hear that a header was built, and how long evaluation took [s, machine]."""

    def header_stored(
        self, document: HeaderDocument, *, size_bytes: int, duration_s: float
    ) -> None:
        """Hear that the annex has it, and how long writing and sending took [s]."""

    def header_published(self, document: HeaderDocument, *, latency_s: float) -> None:
        """Hear that its event is out, ``latency_s`` [s] after the camera's last event."""

    def store_failed(self, *, held_back: bool) -> None:
        """Hear that the annex did not take an object; it is held back on disk or in memory."""

    def past_taken(self, *, taken: bool, after_s: float) -> None:
        """Hear that the past was taken in, or given up, ``after_s`` [s] after the start."""

    def image_failed(self, image: str) -> None:
        """Hear that the header of an image could not be made by a fault of ours."""


class NoObserver(HeaderObserver):
    """Keeps nothing."""

    @override
    def header_built(self, document: HeaderDocument, *, duration_s: float) -> None: ...

    @override
    def header_stored(
        self, document: HeaderDocument, *, size_bytes: int, duration_s: float
    ) -> None: ...

    @override
    def header_published(self, document: HeaderDocument, *, latency_s: float) -> None: ...

    @override
    def store_failed(self, *, held_back: bool) -> None: ...

    @override
    def past_taken(self, *, taken: bool, after_s: float) -> None: ...

    @override
    def image_failed(self, image: str) -> None: ...
