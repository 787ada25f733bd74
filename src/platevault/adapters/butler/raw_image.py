"""A raw image in memory: amplifiers as read, metadata, the assembled detector.

References
----------
Raw-file contract, sections 2 and 3.4; cards ASMX0, ASMY0, ASMFLIPX and ASMFLIPY of each segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from platevault.domain.errors import UsageError
from platevault.domain.headers import HeaderValue


class OutsideDetectorError(UsageError):
    """A bounding box is empty or leaves the detector: ask for another; nothing was read."""


class Box(NamedTuple):
    """A rectangle of an assembled detector, half-open like a Python slice [pixel].

    Attributes
    ----------
    x0, y0
        Lower left pixel, counted from 0 at the lower left of the trimmed detector.
    x1, y1
        First column and first row beyond it.
    """

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def columns(self) -> int:
        """Width [pixel]."""
        return self.x1 - self.x0

    @property
    def rows(self) -> int:
        """Height [pixel]."""
        return self.y1 - self.y0

    def overlap(self, other: Box) -> Box:
        """Give what both have in common; without columns or rows if that is nothing."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(x0, y0, max(x0, min(self.x1, other.x1)), max(y0, min(self.y1, other.y1)))

    @property
    def empty(self) -> bool:
        """It has no pixel."""
        return self.columns <= 0 or self.rows <= 0


@dataclass(frozen=True, slots=True)
class AmplifierPlace:
    """Where the data of an amplifier stand, in its own HDU and in the assembled detector.

    Attributes
    ----------
    name
        EXTNAME, such as ``Segment10``.
    hdu
        Number of its HDU, from 1.
    columns, rows
        Size of the segment with prescan and overscan, NAXIS1 and NAXIS2 [pixel].
    data
        Its data within the segment, from DATASEC.
    box
        Its data within the assembled detector.
    flip_x, flip_y
        The data are turned along the axis before they are placed.
    """

    name: str
    hdu: int
    columns: int
    rows: int
    data: Box
    box: Box
    flip_x: bool
    flip_y: bool

    def rows_for(self, wanted: Box) -> tuple[int, int]:
        """Give the first row of the segment that ``wanted`` needs, and the one after its last."""
        part = self.box.overlap(wanted)
        if part.empty:
            return 0, 0
        if self.flip_y:
            return self.data.y0 + self.box.y1 - part.y1, self.data.y0 + self.box.y1 - part.y0
        return self.data.y0 + part.y0 - self.box.y0, self.data.y0 + part.y1 - self.box.y0


@dataclass(frozen=True, slots=True, eq=False)
class RawAmplifier:
    """The pixels of one amplifier, in read order.

    Attributes
    ----------
    place
        Where it belongs.
    pixels
        Counts, shape ``(n_row, n_col)`` [adu], int32, all columns of the segment, rows from
        ``first_row`` on. The whole segment unless a bounding box was asked for.
    first_row
        Row of the segment that is row 0 of ``pixels``.
    metadata
        Header of its HDU by keyword, without the cards of the compression.
    """

    place: AmplifierPlace
    pixels: NDArray[np.int32]
    first_row: int
    metadata: Mapping[str, HeaderValue]

    @property
    def name(self) -> str:
        """EXTNAME, such as ``Segment10``."""
        return self.place.name

    def oriented(self, wanted: Box) -> NDArray[np.int32]:
        """Give the data within ``wanted``, as they stand in the assembled detector.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_row, n_col)`` of the overlap [adu]; a view of ``pixels``.
        """
        place = self.place
        part = place.box.overlap(wanted)
        first, beyond = place.rows_for(wanted)
        strip = self.pixels[first - self.first_row : beyond - self.first_row]
        strip = strip[:, place.data.x0 : place.data.x1]
        if place.flip_y:
            strip = strip[::-1]
        if place.flip_x:
            strip = strip[:, ::-1]
        return strip[:, part.x0 - place.box.x0 : part.x1 - place.box.x0]


@dataclass(frozen=True, slots=True, eq=False)
class RawImage:
    """One raw file: what ``butler.get("raw", ...)`` gives.

    Attributes
    ----------
    metadata
        Values of HDU 0 by keyword, hierarchical ones as ``HIERARCH.A.B``; ``None`` is undefined.
        The same as the sidecar's.
    amplifiers
        In HDU order; with a bounding box only those that it touches.
    dimensions
        The whole assembled detector.
    bbox
        The part that was asked for; `dimensions` if none was.
    """

    metadata: dict[str, HeaderValue]
    amplifiers: Sequence[RawAmplifier]
    dimensions: Box
    bbox: Box

    def assemble(self) -> NDArray[np.int32]:
        """Put the data of all amplifiers where they are on the detector.

        Returns
        -------
        numpy.ndarray
            Trimmed detector, or `bbox` of it, shape ``(n_row, n_col)`` [adu], prescan and
            overscan left out, nothing subtracted. A new array.
        """
        image = np.zeros((self.bbox.rows, self.bbox.columns), dtype=np.int32)
        for amplifier in self.amplifiers:
            part = amplifier.place.box.overlap(self.bbox)
            if part.empty:
                continue
            x, y = part.x0 - self.bbox.x0, part.y0 - self.bbox.y0
            image[y : y + part.rows, x : x + part.columns] = amplifier.oriented(self.bbox)
        return image


def checked_box(wanted: Sequence[int], dimensions: Box) -> Box:
    """Check a bounding box ``(x0, y0, x1, y1)`` against the detector.

    Raises
    ------
    OutsideDetectorError
        It is empty, not four integers, or not within ``dimensions``.
    """
    try:
        box = Box(*(int(edge) for edge in wanted))
    except (TypeError, ValueError) as error:
        raise OutsideDetectorError(
            "Bounding box is not four integers", value=wanted, expected="(x0, y0, x1, y1)"
        ) from error
    if box.empty or box.overlap(dimensions) != box:
        raise OutsideDetectorError(
            "Bounding box is empty or leaves the detector",
            value=tuple(box),
            expected=f"within {tuple(dimensions)}",
        )
    return box
