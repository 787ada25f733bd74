"""The `Readout` port of a simulated DAQ in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platevault.domain.wire import BoardPixels, MalformedPixelsError
from platevault.ports.readout import (
    BoardDescription,
    ImageAnnouncement,
    ReadoutUnavailableError,
)
from platevault.sim.daq import SimDaq
from platevault.sim.daq_boards import BoardSource
from platevault.sim.daq_faults import FaultKind
from platevault.sim.pixels import check_buffer
from platevault.sim.sensors import key_of

#: Announcements a slow listener may fall behind; then it loses the oldest, for they are hints.
_BACKLOG = 1024
#: Bits of a word that a broken link may turn.
_LINK_BITS = 18


@dataclass(frozen=True, slots=True)
class Delivery:
    """What arrives of a board.

    Attributes
    ----------
    data
        Bytes that arrive, shape ``(n_bytes,)``; fewer than expected if the board is truncated.
    broken
        The connection breaks after them.
    """

    data: NDArray[np.uint8]
    broken: bool


class SimReadout:
    """Reads a simulated DAQ, a `platevault.ports.readout.Readout`.

    Parameters
    ----------
    daq
        The device.
    concurrent_reads
        Boards that are made at a time; others wait.
    """

    def __init__(self, daq: SimDaq, *, concurrent_reads: int = 2) -> None:
        self._daq = daq
        self._making = asyncio.Semaphore(concurrent_reads)

    async def images(self, *, folder: str = "raw") -> list[ImageAnnouncement]:
        """List what the store holds, oldest first."""
        self._answer()
        return self._daq.images(folder=folder)

    @asynccontextmanager
    async def announcements(self) -> AsyncIterator[AsyncIterator[ImageAnnouncement]]:
        """Hear of each image when it is triggered and again when it is complete (a hint)."""
        self._answer()
        waiting: asyncio.Queue[ImageAnnouncement | None] = asyncio.Queue(_BACKLOG)

        def put(item: ImageAnnouncement | None) -> None:
            if waiting.full():
                waiting.get_nowait()
            waiting.put_nowait(item)

        def notice() -> None:
            if self._daq.faults.find(FaultKind.UNREACHABLE) is not None:
                put(None)

        async def iterate() -> AsyncIterator[ImageAnnouncement]:
            while (item := await waiting.get()) is not None:
                yield item
            raise ReadoutUnavailableError("The DAQ does not answer")

        with self._daq.listening(put), self._daq.watching(notice):
            yield iterate()

    async def describe(self, image: str, location: str) -> BoardDescription:
        """Tell geometry and origin of one board of an image; errors as the port says."""
        self._answer()
        return self._daq.source(image, location).description

    async def read_board(
        self, image: str, location: str, *, into: NDArray[np.uint8] | None = None
    ) -> BoardPixels:
        """Read the words of one board; errors as the port says.

        Raises
        ------
        UsageError
            ``into`` is not contiguous bytes, or is smaller than the board. Nothing was read.
        """
        source = await self.admit(image, location)
        description = source.description
        delivery = await self.deliver(source, into=into)
        if delivery.broken:
            raise ReadoutUnavailableError(
                "The connection broke", image=image, location=location, got=len(delivery.data)
            )
        if len(delivery.data) != description.size_bytes:
            raise MalformedPixelsError(
                "Board has fewer words than its registers say",
                image=image,
                location=location,
                size_bytes=len(delivery.data),
                expected=description.size_bytes,
            )
        return BoardPixels(
            data=delivery.data,
            layout=description.layout,
            packing=description.packing,
            registers=description.registers,
            channels=description.channels,
        )

    async def admit(self, image: str, location: str) -> BoardSource:
        """Find a board and wait as long as faults let its reader wait.

        Raises
        ------
        ImageMissingError, ImageIncompleteError, ReadoutUnavailableError
            As for `read_board`.
        """
        self._answer()
        faults = self._daq.faults
        self._daq.source(image, location)
        await self._until(lambda: faults.find(FaultKind.STALLED, image, location) is None)
        slow = faults.strike(FaultKind.SLOW, image, location)
        if slow is not None:
            due_tai = self._daq.now_tai + slow.amount
            await self._until(lambda: self._daq.now_tai >= due_tai)
        return self._daq.source(image, location)

    async def deliver(
        self, source: BoardSource, *, into: NDArray[np.uint8] | None = None
    ) -> Delivery:
        """Give what arrives of a board that was admitted, faults included.

        Raises
        ------
        UsageError
            ``into`` is not contiguous bytes, or is smaller than the board. Nothing was read.
        """
        image, location = source.image, source.board.location
        size = source.description.size_bytes
        check_buffer(into, size)
        async with self._making:
            data = await self._make(source, into)
        faults = self._daq.faults
        corrupt = faults.strike(FaultKind.CORRUPT, image, location)
        if corrupt is not None:
            data = self._corrupted(data, source, int(corrupt.amount))
        truncated = faults.strike(FaultKind.BOARD_TRUNCATED, image, location)
        if truncated is not None:
            data = data[: min(int(size * truncated.amount), size - 1)]
        broken = faults.strike(FaultKind.DISCONNECTED, image, location) is not None
        return Delivery(data[: size // 2] if broken else data, broken)

    def _answer(self) -> None:
        if self._daq.faults.strike(FaultKind.UNREACHABLE) is not None:
            raise ReadoutUnavailableError("The DAQ does not answer")

    async def _make(self, source: BoardSource, into: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        making = asyncio.get_running_loop().run_in_executor(
            None, self._daq.cache.words, source, into
        )
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # The buffer is the caller's again only when nobody writes into it any more.
            await asyncio.wait({making})
            raise

    async def _until(self, condition: Callable[[], bool]) -> None:
        changed = asyncio.Event()
        with self._daq.watching(changed.set):
            while not condition():
                changed.clear()
                await changed.wait()

    def _corrupted(
        self, data: NDArray[np.uint8], source: BoardSource, words: int
    ) -> NDArray[np.uint8]:
        """Turn bits of some words; in place where the caller owns them."""
        spoiled = data if data.flags.writeable else data.copy()
        random = np.random.default_rng(
            key_of("corrupt", self._daq.seed, source.image, source.board.location)
        )
        count = min(words, len(spoiled) // 4)
        places = random.choice(len(spoiled) // 4, size=count, replace=False)
        masks = random.integers(1, 1 << _LINK_BITS, size=count).astype("<i4")
        spoiled[: len(spoiled) // 4 * 4].view("<i4")[places] ^= masks
        return spoiled
