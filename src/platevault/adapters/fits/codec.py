"""What turns the words of a detector into the data units of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from platevault.adapters.fits.stripes import DetectorWords
from platevault.domain.errors import UsageError


@dataclass(frozen=True, slots=True)
class Encoding:
    """Form of the pixels in a file.

    Attributes
    ----------
    compressed
        RICE_1 in a table of tiles; else big-endian 32-bit integers.
    tile_rows
        Rows of a tile [pixel].
    """

    compressed: bool = True
    tile_rows: int = 1

    def __post_init__(self) -> None:
        """Refuse what no reader could make sense of."""
        if self.tile_rows < 1:
            raise UsageError("A tile has at least one row", value=self.tile_rows)


@dataclass(frozen=True, slots=True)
class SegmentData:
    """The data unit of one amplifier, without padding.

    Attributes
    ----------
    data
        Descriptors and heap, or pixels; valid until the codec's next call with the same buffer.
    heap_bytes
        Size of the heap [byte]; 0 if not compressed.
    longest_tile_bytes
        Size of the longest tile [byte].
    data_sum
        DATASUM of ``data`` with its padding.
    plane_sum
        DATASUM of the pixels as big-endian 32-bit integers.
    """

    data: memoryview
    heap_bytes: int
    longest_tile_bytes: int
    data_sum: int
    plane_sum: int


@dataclass(frozen=True, slots=True)
class DetectorData:
    """The data units of one detector.

    Attributes
    ----------
    segments
        In HDU order.
    used_bits
        Bitwise or of all counts; tells whether a word was wider than the converter.
    """

    segments: Sequence[SegmentData]
    used_bits: int


@dataclass(frozen=True, slots=True)
class CodecInfo:
    """Which codec is at work.

    Attributes
    ----------
    name
        ``native``, ``numba`` or ``library``.
    level
        Instruction set or library, such as ``avx2``, ``portable``, ``fitsio``.
    detail
        One sentence for people: expected rate, and why not a faster one.
    """

    name: str
    level: str
    detail: str


class Codec(Protocol):
    """Takes amplifiers apart and encodes them; every codec gives the same bytes."""

    @property
    def info(self) -> CodecInfo:
        """What it is."""

    def buffer_bytes(self, words: DetectorWords, encoding: Encoding) -> int:
        """Size that ``buffer`` of `encode` must have [byte]."""

    def encode(self, words: DetectorWords, encoding: Encoding, buffer: memoryview) -> DetectorData:
        """Encode a detector; the answer's data may be views of ``buffer``.

        Raises
        ------
        MalformedPixelsError
            The words cannot be encoded. Nothing was written.
        """
