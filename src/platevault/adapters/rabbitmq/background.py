"""Work that must not stop half way when its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

#: Time in which work may still come to its end when the adapter closes [s].
_LAST_MOMENTS_S = 3.0

ResultT = TypeVar("ResultT")


class Background:
    """Tasks of one adapter, which ends them all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, ResultT], *, name: str) -> asyncio.Task[ResultT]:
        """Run ``work`` on its own; the adapter's end cancels it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run ``work``, in whose end nobody is interested."""
        _ = self.start(work, name=name)

    async def finish(self, work: Coroutine[Any, Any, ResultT], *, name: str) -> ResultT:
        """Give the result of ``work``, which goes on to its end if the caller is cancelled."""
        return await asyncio.shield(self.start(work, name=name))

    async def close(self) -> None:
        """Wait for what still runs, briefly; then cancel it."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_LAST_MOMENTS_S)
        while self._tasks:
            tasks = set(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # heard by whoever waited; by nobody if that one was cancelled
