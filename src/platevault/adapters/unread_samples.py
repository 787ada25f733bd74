"""What one subscriber of a bus has not yet taken."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from typing_extensions import override

from platevault.domain.errors import PlatevaultError
from platevault.domain.samples import Sample
from platevault.ports.sample_bus import SubscriberOverflowError, Subscription


class UnreadSamples(AsyncIterator[Sample], Subscription):
    """Samples in order, the past first; a cancelled ``anext`` loses nothing.

    Parameters
    ----------
    limit
        Live samples that it holds.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._past: deque[Sample] = deque()
        self._live: deque[Sample] = deque()
        self._failure: PlatevaultError | None = None
        self._closed = False
        self._news = asyncio.Event()

    @property
    @override
    def past_left(self) -> int:
        return len(self._past)

    @property
    def failed(self) -> bool:
        """Nothing more is taken: it overflowed, or reception failed."""
        return self._failure is not None

    def put_past(self, samples: Iterable[Sample]) -> None:
        """Give what was before."""
        self._past.extend(samples)
        self._news.set()

    def put(self, sample: Sample) -> None:
        """Give a live sample."""
        if self.failed:
            return
        if len(self._live) >= self._limit:
            self.fail(
                SubscriberOverflowError(
                    "The subscriber was too slow and lost samples", limit=self._limit
                )
            )
            return
        self._live.append(sample)
        self._news.set()

    def fail(self, error: PlatevaultError) -> None:
        """Let ``error`` follow what is in hand."""
        self._failure = error
        self._news.set()

    def close(self) -> None:
        """End the samples at once."""
        self._closed = True
        self._news.set()

    @override
    async def __anext__(self) -> Sample:
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self._past:
                return self._past.popleft()
            if self._live:
                return self._live.popleft()
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
