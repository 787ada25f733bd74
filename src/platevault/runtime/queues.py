"""Bounded queues within a process, which say what happens when they are full."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from typing import Generic, Self, TypeVar

from platevault.domain.errors import TransientError, UsageError

ItemT = TypeVar("ItemT")


class QueueOverflowError(TransientError):
    """The queue is full and its rule is to fail: the item is not on it."""


class QueueClosedError(UsageError):
    """Something was put on a queue after it was closed: a bug."""


class Overflow(Enum):
    """What a full queue does."""

    BLOCK = auto()
    """Who puts waits for a place: nothing is lost, pressure goes upstream."""
    DROP_OLDEST = auto()
    """The oldest item makes place and is counted: for values of which the newest matters."""
    FAIL = auto()
    """`QueueOverflowError`: for what must neither be lost nor wait."""


class BoundedQueue(Generic[ItemT]):
    """Items from tasks to tasks of one event loop, first in, first out.

    Iterating (or ``anext``) takes items until the queue is closed and empty; a cancelled
    ``anext`` takes nothing.

    Parameters
    ----------
    max_items
        How many it holds.
    overflow
        What happens to one more.
    """

    def __init__(self, *, max_items: int, overflow: Overflow) -> None:
        if max_items < 1:
            raise UsageError("A queue must hold one item at least", value=max_items)
        self._max_items = max_items
        self._overflow = overflow
        self._items: deque[ItemT] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: ItemT) -> None:
        """Add an item.

        Raises
        ------
        QueueOverflowError
            It is full and its rule is `Overflow.FAIL`.
        QueueClosedError
            It was closed, also while this call waited.
        """
        while self._overflow is Overflow.BLOCK and self._is_full and not self._closed:
            await self._changed.wait()
        self.put_nowait(item)

    def put_nowait(self, item: ItemT) -> None:
        """Add an item without waiting; a full queue whose rule is to block fails here."""
        if self._closed:
            raise QueueClosedError("The queue is closed")
        if self._is_full:
            if self._overflow is not Overflow.DROP_OLDEST:
                raise QueueOverflowError("The queue is full", limit=self._max_items)
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._tell()

    async def __anext__(self) -> ItemT:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            await self._changed.wait()
        item = self._items.popleft()
        self._tell()
        return item

    def close(self) -> None:
        """Take no more items; those on it can still be taken."""
        self._closed = True
        self._tell()

    def __aiter__(self) -> Self:
        return self

    @property
    def _is_full(self) -> bool:
        return len(self._items) >= self._max_items

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
