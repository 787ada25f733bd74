"""Blocking calls in named threads, so many at once and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from platevault.domain.errors import UsageError

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class BlockingCalls:
    """Runs blocking functions in its own threads, while its context is open.

    Parameters
    ----------
    name
        Prefix of the threads' names.
    threads
        How many calls run at once; further callers wait, in order.
    """

    def __init__(self, *, name: str, threads: int) -> None:
        self._name = name
        self._threads = threads
        self._places = asyncio.Semaphore(threads)
        self._pool: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            # Every call has ended or was waited for in `run`, so this returns at once.
            pool.shutdown(wait=True, cancel_futures=True)

    async def run(
        self, function: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResultT:
        """Give what ``function`` gives.

        A caller that is cancelled waits for a call that has begun, so that what the call uses
        (buffers, files) is free afterwards; a call that has not begun never runs.

        Raises
        ------
        UsageError
            The context is not open. A bug.
        """
        async with self._places:
            if self._pool is None:
                raise UsageError("Blocking calls were made outside their context", name=self._name)
            call = self._pool.submit(function, *args, **kwargs)
            answer = asyncio.wrap_future(call)
            try:
                return await asyncio.shield(answer)
            except asyncio.CancelledError:
                if not call.cancel():
                    await _ended(answer)
                raise


async def _ended(answer: asyncio.Future[ResultT]) -> None:
    """Wait for a call however it ends, and however often the waiter is cancelled."""
    while not answer.done():
        try:
            await asyncio.wait({answer})
        except asyncio.CancelledError:
            continue
    if not answer.cancelled():
        answer.exception()
