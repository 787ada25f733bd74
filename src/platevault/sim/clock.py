"""Device time: it moves when somebody steps it, and only then."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

from platevault.domain.errors import UsageError


class DeviceClock:
    """The time of simulated devices, a `platevault.ports.clock.Clock`.

    Parameters
    ----------
    epoch_tai
        First moment [s, TAI].
    """

    def __init__(self, epoch_tai: float) -> None:
        self._now_tai = epoch_tai
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now_tai(self) -> float:
        """Give the present moment [s, TAI]."""
        return self._now_tai

    def step(self, duration_s: float) -> None:
        """Move time on by ``duration_s`` [s] and wake who slept until then.

        Raises
        ------
        UsageError
            ``duration_s`` is negative. A bug; nothing moved.
        """
        if duration_s < 0:
            raise UsageError("Device time does not go back", duration_s=duration_s)
        self._now_tai += duration_s
        while self._sleepers and self._sleepers[0][0] <= self._now_tai:
            _, _, waiter = heapq.heappop(self._sleepers)
            if not waiter.done():
                waiter.set_result(None)

    async def sleep(self, duration_s: float) -> None:
        """Return when time was stepped on by ``duration_s`` [s]."""
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_tai + duration_s, next(self._order), waiter))
        await waiter
