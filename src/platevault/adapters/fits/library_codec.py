"""Codec of NumPy and fitsio: slow, everywhere available, and the reference of the others."""

from __future__ import annotations

import fitsio
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from platevault.adapters.fits.cards import BLOCK_BYTES, CARD_BYTES
from platevault.adapters.fits.checksum import sum_words
from platevault.adapters.fits.codec import Codec, CodecInfo, DetectorData, Encoding, SegmentData
from platevault.adapters.fits.stripes import DetectorWords, separate

_DESCRIPTOR_BYTES = 8


class LibraryCodec(Codec):
    """Separates with NumPy and compresses with the cfitsio inside fitsio.

    Parameters
    ----------
    reason
        Why no faster codec is at work.
    """

    def __init__(self, *, reason: str = "asked for") -> None:
        self._reason = reason

    @property
    @override
    def info(self) -> CodecInfo:
        return CodecInfo(
            "library", "fitsio", f"about 0.2 GB/s; the native codec is not at work: {self._reason}"
        )

    @override
    def buffer_bytes(self, words: DetectorWords, encoding: Encoding) -> int:
        return 0

    @override
    def encode(self, words: DetectorWords, encoding: Encoding, buffer: memoryview) -> DetectorData:
        planes = separate(words)
        used_bits = int(np.bitwise_or.reduce(planes.reshape(-1).view(np.uint32)))
        return DetectorData([_encode_plane(plane, encoding) for plane in planes], used_bits)


def _encode_plane(plane: NDArray[np.int32], encoding: Encoding) -> SegmentData:
    stored = memoryview(plane.astype(">i4").tobytes())
    plane_sum = sum_words(stored)
    if not encoding.compressed:
        return SegmentData(stored, 0, 0, plane_sum, plane_sum)
    tile_rows = min(encoding.tile_rows, plane.shape[0])
    data, tiles = _compress(plane, tile_rows)
    descriptors = np.frombuffer(data, ">u4", count=2 * tiles)
    return SegmentData(
        data=data,
        heap_bytes=data.nbytes - _DESCRIPTOR_BYTES * tiles,
        longest_tile_bytes=int(descriptors[::2].max()),
        data_sum=sum_words(data),
        plane_sum=plane_sum,
    )


def _compress(plane: NDArray[np.int32], tile_rows: int) -> tuple[memoryview, int]:
    """Let fitsio write a file in memory, and take its table of tiles out."""
    with fitsio.FITS("mem://", "rw") as file:
        file.write(plane, compress="RICE", tile_dims=(tile_rows, plane.shape[1]))
        raw = memoryview(file.read_raw())
    start = _header_end(raw, 0)
    facts = _integers(raw, start, ("NAXIS1", "NAXIS2", "PCOUNT"))
    begin = _header_end(raw, start)
    tiles = facts["NAXIS2"]
    end = begin + facts["NAXIS1"] * tiles + facts["PCOUNT"]
    return raw[begin:end], tiles


def _header_end(raw: memoryview, start: int) -> int:
    while True:
        block = bytes(raw[start : start + BLOCK_BYTES])
        start += BLOCK_BYTES
        if any(
            block[at : at + CARD_BYTES].rstrip() == b"END"
            for at in range(0, BLOCK_BYTES, CARD_BYTES)
        ):
            return start


def _integers(raw: memoryview, start: int, keywords: tuple[str, ...]) -> dict[str, int]:
    header = bytes(raw[start : _header_end(raw, start)]).decode("ascii")
    found = {}
    for at in range(0, len(header), CARD_BYTES):
        card = header[at : at + CARD_BYTES]
        if card[:8].rstrip() in keywords:
            found[card[:8].rstrip()] = int(card[10:30])
    return found
