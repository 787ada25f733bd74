"""Boards of stored images: made again from recipe or replayed planes whenever they are read."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Board, Camera
from platevault.domain.wire import StripeLayout, WordPacking
from platevault.ports.readout import BoardDescription
from platevault.sim.delivery import rearranged
from platevault.sim.pixels import PixelRecipe, board_words, stripe_words
from platevault.sim.replay import ReplayedPlanes
from platevault.sim.shared_memory import SharedBlocks, SharedPlace


@dataclass(frozen=True, slots=True)
class BoardSource:
    """All that is needed to make the words of one board again; safe to use in any thread.

    Attributes
    ----------
    image, board
        Which board of which image.
    description
        What a reader is told of it.
    camera, seed
        Of the device.
    recipe, planes
        What its pixels are made of; one of them.
    """

    image: str
    board: Board
    description: BoardDescription
    camera: Camera
    seed: int
    recipe: PixelRecipe | None
    planes: ReplayedPlanes | None

    def words(self, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Make the words, shape ``(size_bytes,)`` [byte], into the caller's buffer if given."""
        told = self.description
        plain = told.layout is StripeLayout.SAMPLE_MAJOR and told.packing is WordPacking.INT32
        made = self._stripes(into if plain else None)
        if plain:
            return made
        data = rearranged(
            made.view("<i4").reshape(-1, sum(told.channels)),
            told.channels,
            told.layout,
            told.packing,
        )
        if into is None:
            return data
        into[: len(data)] = data
        return into[: len(data)]

    def _stripes(self, into: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        registers = self.description.registers
        if self.planes is not None:
            planes = self.planes.of(self.board.detectors)
            return stripe_words(self.camera, self.board, planes, registers, into=into)
        assert self.recipe is not None
        return board_words(
            self.camera,
            self.board,
            self.recipe,
            seed=self.seed,
            image=self.image,
            registers=registers,
            into=into,
        )


class BoardCache:
    """Words of boards that were read last, within a bound of bytes; safe in any thread.

    Parameters
    ----------
    limit_bytes
        Bound [byte]; a larger board is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._memory = SharedBlocks(limit_bytes)
        self._held: dict[tuple[str, str], NDArray[np.uint8]] = {}
        self._lock = Lock()

    @property
    def held_bytes(self) -> int:
        """What it holds at present [byte]."""
        with self._lock:
            return sum(len(words) for words in self._held.values())

    def words(
        self, source: BoardSource, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Give the words of a board, made now unless they are held.

        Words made into the caller's buffer are not kept. Without ``into`` the answer is read-only
        and shared.
        """
        key = (source.image, source.board.location)
        with self._lock:
            held = self._held.pop(key, None)
            if held is not None:
                self._held[key] = held
        if held is not None:
            if into is None:
                return held
            into[: len(held)] = held
            return into[: len(held)]
        if into is not None:
            return source.words(into)
        made = source.words(self._memory.take(source.description.size_bytes))
        made.flags.writeable = False
        self._keep(key, made)
        return made

    def prepare(self, size_bytes: int, count: int) -> None:
        """Have memory ready for ``count`` boards of ``size_bytes`` [byte]; it takes a moment."""
        self._memory.prepare(size_bytes, count)

    def place_of(self, words: NDArray[np.uint8]) -> SharedPlace | None:
        """Tell where other processes find the words while the array is held, if they can."""
        return self._memory.place_of(words)

    def forget(self, image: str) -> None:
        """Drop the boards of an image."""
        with self._lock:
            for key in [key for key in self._held if key[0] == image]:
                del self._held[key]

    def _keep(self, key: tuple[str, str], words: NDArray[np.uint8]) -> None:
        with self._lock:
            self._held[key] = words
            total = sum(len(held) for held in self._held.values())
            while total > self._limit_bytes:
                total -= len(self._held.pop(next(iter(self._held))))
