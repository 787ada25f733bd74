"""Follow a subscription in the background, the past first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from platevault.domain.errors import PlatevaultError
from platevault.domain.samples import Sample

#: Turns of the event loop that bring nothing more before the past counts as taken. A subscription
#: has its past in hand, so one turn takes all of it; the second is for adapters that hand over.
_QUIET_TURNS = 2


class Follower:
    """Hands every sample of a subscription to a function.

    Parameters
    ----------
    samples
        The subscription.
    take
        Gets each sample; must not fail.
    failed
        Told when the subscription fails; nothing follows.
    name
        Name of the task.
    """

    def __init__(
        self,
        *,
        samples: AsyncIterator[Sample],
        take: Callable[[Sample], None],
        failed: Callable[[PlatevaultError], None],
        name: str,
    ) -> None:
        self._samples = samples
        self._take = take
        self._failed = failed
        self._name = name
        self._taken = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; return when what the subscription held has been handed over."""
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=self._name)
        seen = -1
        while seen != self._taken:
            seen = self._taken
            for _ in range(_QUIET_TURNS):
                await asyncio.sleep(0)

    async def stop(self) -> None:
        """End; raises what was not one of our errors."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()

    async def _follow(self) -> None:
        try:
            async for sample in self._samples:
                self._take(sample)
                self._taken += 1
        except PlatevaultError as error:
            self._failed(error)
