"""Time that moves only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from platevault.domain.errors import UsageError

#: 2033-05-18T03:33:20 UTC [s, TAI]; a moment that no test can mistake for the present.
START_TAI = 2_000_000_037.0
#: Turns of the event loop after which tasks that never rest are an error of the test.
_TURNS_LIMIT = 100_000


class RestlessTasksError(UsageError):
    """Tasks go on and on without waiting for time or input: find the loop that spins."""


class SteppedClock:
    """A `Clock` that stands still between calls of `advance`.

    Parameters
    ----------
    start_tai
        First moment [s, TAI].

    Notes
    -----
    Equal calls give equal orders of waking. Work in threads is outside its reach: await an event
    that such work sets.
    """

    def __init__(self, start_tai: float = START_TAI) -> None:
        self._now = start_tai
        self._offset = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_tai(self) -> float:
        """Give the present moment [s, TAI]."""
        return self._now + self._offset

    @property
    def sleepers(self) -> int:
        """How many tasks wait for time to pass."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, duration_s: float) -> None:
        """Return once the clock was advanced by ``duration_s`` [s]."""
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + duration_s, next(self._order), future))
        await future

    async def advance(self, duration_s: float) -> None:
        """Let ``duration_s`` [s] pass, waking sleepers in order, each at its own moment.

        Before, between and after, every task runs until it waits.
        """
        end = self._now + duration_s
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._now = max(self._now, due)
            future.set_result(None)
            await self.settle()
        self._now = end
        await self.settle()

    def step(self, offset_s: float) -> None:
        """Set the clock as an operator would: `now_tai` jumps, sleepers are not touched."""
        self._offset += offset_s

    async def settle(self) -> None:
        """Let every task run until it waits for time, for input or for a thread.

        Raises
        ------
        RestlessTasksError
            Some task never waits.
        """
        ready = getattr(asyncio.get_running_loop(), "_ready", None)
        for turn in range(_TURNS_LIMIT):
            await asyncio.sleep(0)
            if (ready is None and turn > 100) or (ready is not None and not ready):
                return
        raise RestlessTasksError("Tasks never come to rest", turns=_TURNS_LIMIT)
