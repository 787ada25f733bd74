"""The camera's data acquisition: announced images, pixels of one board."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from platevault.domain.errors import PermanentError, TransientError
from platevault.domain.wire import BoardPixels, ReadoutRegisters, StripeLayout, WordPacking


class ReadoutUnavailableError(TransientError):
    """The DAQ does not answer: retry."""


class ImageIncompleteError(TransientError):
    """The image is not read out yet: retry until the deadline."""


class ImageMissingError(PermanentError):
    """The store does not hold the image or the board (any more): it cannot be fetched."""


@dataclass(frozen=True, slots=True)
class ImageAnnouncement:
    """An image that the store has, or begins to have.

    Attributes
    ----------
    image, folder
        Its name and its folder, such as ``raw``.
    tag
        Unique number, hexadecimal.
    annotation
        Text stored with it.
    triggered_tai
        Readout trigger [s, TAI].
    complete
        Every board is there.
    boards
        Locations of the boards that the store holds; empty if it does not say.
    """

    image: str
    folder: str
    tag: str
    annotation: str
    triggered_tai: float
    complete: bool
    boards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BoardDescription:
    """What the store knows of one board of an image.

    Attributes
    ----------
    location
        ``bay/board``.
    registers
        Geometry of the readout.
    layout, packing
        How its words are delivered.
    channels
        Channels of each detector, in stripe order.
    size_bytes
        Size of its words [byte].
    serial, firmware, platform, partition, daq_version
        CONTNUM, FIRMWARE, PLATFORM, DAQPART, DAQVERS.
    facts
        Further header values by keyword, such as those of a replayed frame.
    """

    location: str
    registers: ReadoutRegisters
    layout: StripeLayout
    packing: WordPacking
    channels: tuple[int, ...]
    size_bytes: int
    serial: str
    firmware: str
    platform: str
    partition: str
    daq_version: str
    facts: Mapping[str, str | int | float | bool | None]


class Readout(Protocol):
    """A DAQ partition and its store of recent images."""

    async def images(self, *, folder: str = "raw") -> list[ImageAnnouncement]:
        """List what the store holds, oldest first."""

    def announcements(
        self,
    ) -> AbstractAsyncContextManager[AsyncIterator[ImageAnnouncement]]:
        """Hear of each image when it is triggered and again when it is complete (a hint)."""

    async def describe(self, image: str, location: str) -> BoardDescription:
        """Tell geometry and origin of one board of an image.

        Raises
        ------
        ImageMissingError
            No such image or board. Do not retry.
        ImageIncompleteError
            Not read out yet. Retry until the deadline.
        """

    async def read_board(
        self, image: str, location: str, *, into: NDArray[np.uint8] | None = None
    ) -> BoardPixels:
        """Read the words of one board, into the caller's buffer if one is given.

        ``into`` has at least ``size_bytes`` bytes; the answer is a view of it.

        Raises
        ------
        ImageMissingError, ImageIncompleteError
            As for `describe`.
        ReadoutUnavailableError
            The connection broke. Retry; ``into`` holds nothing of use.
        MalformedPixelsError
            Fewer words came than the registers say. Retry, then fail.
        """
