"""Steps at which a process ends, or waits."""

from __future__ import annotations

import asyncio


class Crash(BaseException):
    """The process ends here: nothing catches it."""


class CrashAt:
    """`Steps` that let a process die at a step, the first time it is reached.

    Parameters
    ----------
    step
        Where.
    subject
        Part of the subject; empty for any.
    """

    def __init__(self, step: str, *, subject: str = "") -> None:
        self._step = step
        self._subject = subject
        self.reached_steps: list[str] = []
        self.crashed = False

    async def reached(self, step: str, subject: str) -> None:
        """Note the step, and crash if it is the one."""
        self.reached_steps.append(step)
        if step == self._step and self._subject in subject and not self.crashed:
            self.crashed = True
            raise Crash(step)


class HoldAt:
    """`Steps` that let work wait at a step until the test lets it go.

    Parameters
    ----------
    step
        Where; each time.
    """

    def __init__(self, step: str) -> None:
        self._step = step
        self.waiting = 0
        self.go = asyncio.Event()

    async def reached(self, step: str, subject: str) -> None:  # noqa: ARG002 - the protocol's
        """Wait if it is the step."""
        if step == self._step:
            self.waiting += 1
            await self.go.wait()


def is_crash(error: BaseException) -> bool:
    """Tell whether an error, or every part of a group, is a crash."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_crash(part) for part in error.exceptions)
    return isinstance(error, Crash)
