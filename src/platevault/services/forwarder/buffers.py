"""Buffers for boards, used again and again."""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray


class BoardBuffers:
    """A few buffers as large as the largest board so far; memory does not grow with the camera.

    Parameters
    ----------
    count
        Buffers kept for the next board.
    """

    def __init__(self, *, count: int) -> None:
        self._count = count
        self._free: list[NDArray[np.uint8]] = []

    def prepare(self, size_bytes: int) -> None:
        """Have all of them ready for boards of ``size_bytes`` [byte], memory included.

        Memory that is touched for the first time costs as much as compressing what it holds
        (measured): the first exposures should not pay for it.
        """
        while len(self._free) < self._count:
            buffer = _fresh(size_bytes)
            buffer.fill(0)
            self._free.append(buffer)

    def take(self, size_bytes: int) -> NDArray[np.uint8]:
        """Take a buffer of at least ``size_bytes`` [byte]; its contents are arbitrary.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_bytes,)``, uint8, page-aligned.
        """
        self._free.sort(key=len)
        for number, buffer in enumerate(self._free):
            if len(buffer) >= size_bytes:
                return self._free.pop(number)
        if self._free:
            self._free.pop(0)
        return _fresh(size_bytes)

    def give_back(self, buffer: NDArray[np.uint8]) -> None:
        """Let others use a buffer; not one that a read which was cut short may still fill."""
        if len(self._free) < self._count:
            self._free.append(buffer)


def _fresh(size_bytes: int) -> NDArray[np.uint8]:
    # Pages of their own: an aligned source makes the separation of channels 20-40 % faster
    # (measured), and the pages go back to the system with the buffer.
    pages = mmap.mmap(-1, max(size_bytes, 1))
    with suppress(AttributeError, OSError):  # not every system has large pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)[:size_bytes]
