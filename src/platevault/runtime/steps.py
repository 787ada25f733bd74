"""Named steps of durable work, where a test may fail or kill the process."""

from __future__ import annotations

from typing import Protocol


class Steps(Protocol):
    """Told at each step of work that changes something outside."""

    async def reached(self, step: str, subject: str) -> None:
        """Hear that ``step`` was reached for ``subject``; may raise, delay, or not return."""


class NoSteps:
    """Does nothing; what services run with outside tests and fault drills."""

    async def reached(self, step: str, subject: str) -> None:
        """Do nothing."""
