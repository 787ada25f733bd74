"""Limits in the time of an injected clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from platevault.ports.clock import Clock


class TimeLimit:
    """The time that the body of `time_limit` has."""

    def __init__(self, duration_s: float) -> None:
        self._left_s = duration_s

    def extend(self, by_s: float) -> None:
        """Give ``by_s`` [s] more; too late once the limit has passed."""
        self._left_s += max(0.0, by_s)

    async def pass_on(self, clock: Clock) -> None:
        """Return when the limit with all its extensions has passed."""
        while self._left_s > 0:
            slice_s, self._left_s = self._left_s, 0.0
            await clock.sleep(slice_s)


@asynccontextmanager
async def time_limit(clock: Clock, duration_s: float) -> AsyncIterator[TimeLimit]:
    """Cancel the body after ``duration_s`` [s] of the clock's time, and raise `TimeoutError`.

    Steps of the clock do not matter, only the time it lets pass.
    """
    loop = asyncio.get_running_loop()
    limit = TimeLimit(duration_s)

    async def expire(scope: asyncio.Timeout) -> None:
        await limit.pass_on(clock)
        scope.reschedule(loop.time())

    async with asyncio.timeout(None) as scope:
        timer = loop.create_task(expire(scope), name="time-limit")
        try:
            yield limit
        finally:
            timer.cancel()
            await asyncio.wait({timer})
