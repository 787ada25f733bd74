"""What one subscriber has not yet taken."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from typing_extensions import override

from platevault.domain.errors import PlatevaultError
from platevault.domain.samples import Sample
from platevault.ports import sample_bus as ports
from platevault.ports.sample_bus import SubscriberOverflowError

_Key = tuple[str, str, int]


class Subscription(AsyncIterator[Sample], ports.Subscription):
    """Samples from the receiving thread to a task; a cancelled ``anext`` loses nothing.

    At first the newest sample of each key is gathered, which is the past; after `go_live` every
    sample follows.

    Parameters
    ----------
    sal_index
        Index that is wanted; 0 for all.
    limit
        Live samples that it holds.
    """

    def __init__(self, *, sal_index: int, limit: int) -> None:
        self._sal_index = sal_index
        self._limit = limit
        self._past: dict[_Key, Sample] | None = {}
        self._waiting: deque[Sample] = deque()
        self._past_left = 0
        self._overflowed = False
        self._failure: PlatevaultError | None = None
        self._closed = False
        self._news = asyncio.Event()
        self.gathered = 0

    @property
    @override
    def past_left(self) -> int:
        return self._past_left

    def offer(self, sample: Sample, written_ns: int) -> None:  # noqa: ARG002 - as any target
        """Take a sample; in the receiving thread."""
        if self._sal_index not in {0, sample.sal_index} or self._overflowed:
            return
        if self._past is not None:
            key = (sample.topic.component, sample.topic.sal_name, sample.sal_index)
            known = self._past.get(key)
            if known is None or known.sent_tai <= sample.sent_tai:
                self._past[key] = sample
            self.gathered += 1
        elif len(self._waiting) >= self._limit:
            self._overflowed = True
        else:
            self._waiting.append(sample)

    def go_live(self, *, with_past: bool) -> None:
        """End the past; in the receiving thread."""
        past, self._past = self._past, None
        if with_past and past:
            # More keys than the limit are no overflow: nobody has been slow yet.
            self._limit += len(past)
            self._waiting.extend(past.values())
            self._past_left = len(past)

    def wake(self) -> None:
        """Look at what was taken."""
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
            self._news.clear()
            if self._closed:
                raise StopAsyncIteration
            if self._waiting:
                self._past_left = max(0, self._past_left - 1)
                return self._waiting.popleft()
            if self._overflowed:
                raise SubscriberOverflowError(
                    "The subscriber was too slow and lost samples", limit=self._limit
                )
            if self._failure is not None:
                raise self._failure
            await self._news.wait()
