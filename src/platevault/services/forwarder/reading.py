"""Boards read from the DAQ, with limits and second chances."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Board, Camera
from platevault.domain.errors import PermanentError, TransientError
from platevault.domain.headers import HeaderValue
from platevault.domain.timescales import isot
from platevault.domain.wire import BoardPixels, MalformedPixelsError
from platevault.ports.clock import Clock
from platevault.ports.readout import BoardDescription, ImageMissingError, Readout
from platevault.runtime.limits import within
from platevault.runtime.retry import Backoff, retry
from platevault.runtime.service import Deadline

ResultT = TypeVar("ResultT")

#: Pauses while a readout goes on, or the DAQ is away.
_BACKOFF = Backoff(first_s=0.05, ceiling_s=1.0)
#: Reads of a board that came short before it counts as damaged.
_READS = 3
#: Images whose place in the store is kept for further boards.
_KEPT = 64


@dataclass(frozen=True, slots=True)
class BoardReading:
    """A board in hand.

    Attributes
    ----------
    description
        What the DAQ says of it.
    pixels
        Its words; a view of ``buffer``.
    buffer
        What they were read into, shape ``(n_bytes,)``.
    facts
        Header values that only the DAQ knows, by keyword.
    """

    description: BoardDescription
    pixels: BoardPixels
    buffer: NDArray[np.uint8]
    facts: Mapping[str, HeaderValue]


class BoardReader:
    """Reads boards of any camera.

    Parameters
    ----------
    readouts
        The DAQ of each camera, by camera name.
    clock
        Time of pauses and limits.
    version
        Of the writer, for IHVERS; empty leaves it undefined.
    """

    def __init__(self, *, readouts: Mapping[str, Readout], clock: Clock, version: str = "") -> None:
        self._version = version
        self._readouts = readouts
        self._clock = clock
        self._stored: OrderedDict[tuple[str, str], dict[str, HeaderValue]] = OrderedDict()

    async def describe(
        self, camera: Camera, image: str, board: Board, deadline: Deadline
    ) -> BoardDescription:
        """Wait for the end of readout and give the geometry of a board.

        Raises
        ------
        ImageIncompleteError, ReadoutUnavailableError, TimeLimitError
            The readout did not end, or the DAQ did not answer, until the deadline.
        ImageMissingError
            The store does not hold the board at the deadline.
        MalformedPixelsError
            The board has not the detectors that the camera's description gives it.
        """
        readout = self._readout(camera)

        async def ask() -> BoardDescription:
            try:
                return await self._limited(
                    readout.describe(image, board.location), deadline, "describe"
                )
            except ImageMissingError as error:
                # The store hears of an image a moment later than the bus does.
                raise ImageAwaitedError(error.message, **error.context) from error

        try:
            description = await retry(ask, clock=self._clock, backoff=_BACKOFF, deadline=deadline)
        except ImageAwaitedError as error:
            raise ImageMissingError(error.message, **error.context) from error
        expected = tuple(
            len(camera.detector_by_name[name].type.amplifiers) for name in board.detectors
        )
        if description.channels != expected:
            raise MalformedPixelsError(
                "The board has other detectors than the camera's description",
                image=image,
                location=board.location,
                channels=description.channels,
                expected=expected,
            )
        return description

    async def read(
        self,
        camera: Camera,
        image: str,
        description: BoardDescription,
        deadline: Deadline,
        into: NDArray[np.uint8],
    ) -> BoardReading:
        """Read the words of a board into a buffer of at least ``size_bytes``.

        Raises
        ------
        ReadoutUnavailableError, ImageMissingError, TimeLimitError
            As for `describe`.
        MalformedPixelsError
            It came short each time.
        """
        readout = self._readout(camera)
        short = 0

        async def take() -> BoardPixels:
            nonlocal short
            try:
                return await self._limited(
                    readout.read_board(image, description.location, into=into), deadline, "read"
                )
            except MalformedPixelsError as error:
                short += 1
                if short >= _READS:
                    raise
                raise BoardShortError(error.message, **error.context) from error

        pixels = await retry(take, clock=self._clock, backoff=_BACKOFF, deadline=deadline)
        return BoardReading(
            description, pixels, into, await self._facts(camera, image, description, deadline)
        )

    async def _facts(
        self, camera: Camera, image: str, description: BoardDescription, deadline: Deadline
    ) -> dict[str, HeaderValue]:
        if (camera.name, image) not in self._stored:
            readout = self._readout(camera)
            images = await retry(
                lambda: self._limited(readout.images(), deadline, "list"),
                clock=self._clock,
                backoff=_BACKOFF,
                deadline=deadline,
            )
            self._stored[camera.name, image] = next(
                (
                    {"DAQFOLD": one.folder, "DATE-TRG": isot(one.triggered_tai)}
                    for one in images
                    if one.image == image
                ),
                {},
            )
            while len(self._stored) > _KEPT:
                self._stored.popitem(last=False)
        return {
            "CONTNUM": description.serial or None,
            "FIRMWARE": description.firmware or None,
            "PLATFORM": description.platform or None,
            "DAQPART": description.partition or None,
            "DAQVERS": description.daq_version or None,
            "IHVERS": self._version or None,
            **self._stored[camera.name, image],
            **description.facts,
        }

    async def _limited(
        self, work: Coroutine[Any, Any, ResultT], deadline: Deadline, what: str
    ) -> ResultT:
        return await within(self._clock, deadline.remaining_s, work, what=f"{what} a board")

    def _readout(self, camera: Camera) -> Readout:
        readout = self._readouts.get(camera.name)
        if readout is None:
            raise PermanentError("No DAQ is known for the camera", camera=camera.name)
        return readout


class ImageAwaitedError(TransientError):
    """The image is not in the store yet."""


class BoardShortError(TransientError):
    """A board came short and is read again."""
