"""Buffers for boards, used again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def lend(self, size_bytes: int) -> Iterator[NDArray[np.uint8]]:
        """Lend a buffer of at least ``size_bytes`` [byte]; its contents are arbitrary.

        Yields
        ------
        numpy.ndarray
            Shape ``(n_bytes,)``, uint8. Not to be used after the block.
        """
        self._free.sort(key=len)
        fitting = [n for n, buffer in enumerate(self._free) if len(buffer) >= size_bytes]
        if fitting:
            buffer = self._free.pop(fitting[0])
        else:
            if self._free:
                self._free.pop(0)
            buffer = np.empty(size_bytes, dtype=np.uint8)
        try:
            yield buffer
        finally:
            if len(self._free) < self._count:
                self._free.append(buffer)
