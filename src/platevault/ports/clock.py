"""Time, injected."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The time of a process; real, faster than real, or stepped by a test."""

    def now_tai(self) -> float:
        """Give the present moment [s, TAI]."""

    async def sleep(self, duration_s: float) -> None:
        """Return after ``duration_s`` [s] of this clock's time; at once if not positive."""
