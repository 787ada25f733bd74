"""What a service is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Protocol, TypeVar

from platevault.ports.clock import Clock

ItemT = TypeVar("ItemT")


class StopToken:
    """A request to stop: finish the unit in hand, take no other."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def requested(self) -> bool:
        """The stop was asked for."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask to stop; more than once does no harm."""
        self._event.set()

    async def wait(self) -> None:
        """Return when the stop is asked for."""
        await self._event.wait()

    async def until(self, items: AsyncIterable[ItemT]) -> AsyncIterator[ItemT]:
        """Iterate ``items`` until the stop; an item that came with the stop is still given.

        What ``items`` raises is raised here.
        """
        iterator = aiter(items)
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(self.wait(), name="stop-token")
        taking: asyncio.Task[ItemT] | None = None
        try:
            while not self.requested:
                taking = loop.create_task(_next_of(iterator), name="next-item")
                await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    await asyncio.wait({taking})
                    if taking.cancelled():
                        return
                try:
                    item = taking.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            # The source may be in use until its task has ended, so that is waited for.
            left = {task for task in (stopping, taking) if task is not None and not task.done()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)


async def _next_of(iterator: AsyncIterator[ItemT]) -> ItemT:
    return await anext(iterator)


class Deadline:
    """A moment by which something must be done, handed down from caller to callee.

    Parameters
    ----------
    clock
        Whose time counts.
    due_tai
        The moment [s, TAI].
    """

    def __init__(self, clock: Clock, due_tai: float) -> None:
        self._clock = clock
        self.due_tai = due_tai

    @property
    def remaining_s(self) -> float:
        """Time left [s]; 0 when it is past."""
        return max(0.0, self.due_tai - self._clock.now_tai())

    @property
    def passed(self) -> bool:
        """The moment is past."""
        return self._clock.now_tai() >= self.due_tai

    async def wait(self) -> None:
        """Return when it is past."""
        while not self.passed:
            await self._clock.sleep(self.remaining_s)


class Service(Protocol):
    """Something that runs until it is asked to stop.

    Resources open and close inside `run`; ``__init__`` only assigns. Returning without being
    asked is an error of the process, and so is any exception. A service that its own users may
    end (exitControl of a CSC) calls ``stop.request()`` on its token and returns; the others go on.
    """

    @property
    def name(self) -> str:
        """Unique within the process."""

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Recover, call ``ready`` once, then work until ``stop``, which is this service's own."""
