"""Page-aligned buffers that are kept: nothing is allocated for a file."""

from __future__ import annotations

import mmap
import queue
from collections.abc import Iterator
from contextlib import contextmanager


class BufferPool:
    """A bounded number of page-aligned buffers; thread-safe.

    Memory is taken when a buffer is first used, and again only for a larger one; pages that were
    never touched cost nothing.

    Parameters
    ----------
    count
        Buffers that may be out at a time; the next caller waits for one.
    """

    def __init__(self, *, count: int) -> None:
        self._free: queue.LifoQueue[mmap.mmap | None] = queue.LifoQueue(maxsize=count)
        for _ in range(count):
            self._free.put_nowait(None)

    @contextmanager
    def lease(self, size_bytes: int) -> Iterator[memoryview]:
        """Lend a buffer of at least ``size_bytes``; its former contents are still in it.

        Views of it must not be used after the block.
        """
        buffer = self._free.get()
        try:
            if buffer is None or len(buffer) < size_bytes:
                buffer = None  # give the small one back before the large one is taken
                buffer = mmap.mmap(-1, max(size_bytes, 1))
            yield memoryview(buffer)
        finally:
            self._free.put_nowait(buffer)
