"""Memory that other processes of this host may read, and that is used again."""

from __future__ import annotations

import mmap
import os
from collections import deque
from dataclasses import dataclass
from threading import Lock
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

_NAME = "platevault-boards"


@dataclass(frozen=True, slots=True)
class SharedPlace:
    """Where other processes of the same user find bytes.

    Attributes
    ----------
    path
        Opened read-only, it gives the memory.
    offset_bytes
        Where in it the bytes begin [byte].
    """

    path: str
    offset_bytes: int


class SharedBlocks:
    """Blocks of memory, lent as arrays; safe in any thread.

    Fresh pages cost more than the pixels that are made in them, so a block is lent again once its
    last view is gone.

    Parameters
    ----------
    limit_bytes
        Of blocks that nobody looks at, what exceeds this goes back to the system [byte].
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._free: list[_Block] = []
        self._lent: dict[int, _Block] = {}
        # The collector may return a block at any moment in any thread, so without the lock.
        self._back: deque[int] = deque()

    def prepare(self, size_bytes: int, count: int) -> None:
        """Have ``count`` blocks of ``size_bytes`` [byte] ready, and keep as many."""
        with self._lock:
            self._limit_bytes = max(self._limit_bytes, size_bytes * count)
        taken = [self.take(size_bytes) for _ in range(count)]
        for data in taken:
            data.fill(0)

    def take(self, size_bytes: int) -> NDArray[np.uint8]:
        """Lend ``size_bytes`` bytes of any content, shape ``(size_bytes,)``, from a page's start.

        They may be lent again when the last view of the array is gone.
        """
        with self._lock:
            while self._back:
                self._free.append(self._lent.pop(self._back.popleft()))
            block = next((one for one in self._free if len(one.pages) == size_bytes), None)
            if block is None:
                block = _Block(size_bytes)
            else:
                self._free.remove(block)
            while sum(len(one.pages) for one in self._free) > self._limit_bytes:
                del self._free[0]
            # Views of this array keep it alive, since what it stands on is no array.
            taken = np.frombuffer(block.pages, np.uint8)
            start = _address(taken)
            self._lent[start] = block
        finalize(taken, self._back.append, start).atexit = False
        return taken

    def place_of(self, data: NDArray[np.uint8]) -> SharedPlace | None:
        """Tell where others find the bytes of an array; ``None`` if they cannot.

        They stay there as long as the array is held.
        """
        first = _address(data)
        with self._lock:
            for start, block in self._lent.items():
                if start <= first and first + data.nbytes <= start + len(block.pages):
                    return SharedPlace(f"/proc/{os.getpid()}/fd/{block.file}", first - start)
        return None


class _Block:
    """Pages behind a file that has no name."""

    def __init__(self, size_bytes: int) -> None:
        self.file = os.memfd_create(_NAME)
        finalize(self, os.close, self.file)
        os.ftruncate(self.file, size_bytes)
        self.pages = mmap.mmap(self.file, size_bytes)


def _address(data: NDArray[np.uint8]) -> int:
    return int(data.__array_interface__["data"][0])
