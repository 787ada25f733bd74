"""Codec for machines with numba but without the compiled kernel.

Importing this module needs numba. The functions are compiled when a codec is made (seconds), so
that the first exposure does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from typing_extensions import override

from platevault.adapters.fits.checksum import sum_words
from platevault.adapters.fits.codec import Codec, CodecInfo, DetectorData, Encoding, SegmentData
from platevault.adapters.fits.stripes import DetectorWords, separate

_DESCRIPTOR_BYTES = 8
#: RICE_1 of 32-bit pixels (FITS 4.0 sec. 10.4.1): pixels of a block, bits of its split level,
#: level from which it is stored as it is.
_BLOCK, _LEVEL_BITS, _RAW_LEVEL = 32, 5, 25


class NumbaCodec(Codec):
    """Separates with NumPy and compresses with functions that numba compiles.

    Parameters
    ----------
    reason
        Why no faster codec is at work.
    """

    def __init__(self, *, reason: str = "asked for") -> None:
        self._reason = reason
        _encode_tiles(np.zeros((1, 1), np.int32), 1, np.zeros(64, np.uint8))

    @property
    @override
    def info(self) -> CodecInfo:
        return CodecInfo(
            "numba", "jit", f"about 0.3 GB/s; the native codec is not at work: {self._reason}"
        )

    @override
    def buffer_bytes(self, words: DetectorWords, encoding: Encoding) -> int:
        if not encoding.compressed:
            return 0
        return len(words.channels) * _room(words.rows, words.columns, encoding.tile_rows)

    @override
    def encode(self, words: DetectorWords, encoding: Encoding, buffer: memoryview) -> DetectorData:
        planes = separate(words)
        used_bits = int(np.bitwise_or.reduce(planes.reshape(-1).view(np.uint32)))
        if not encoding.compressed:
            return DetectorData([_plain(plane) for plane in planes], used_bits)
        room = _room(words.rows, words.columns, encoding.tile_rows)
        segments = []
        for number, plane in enumerate(planes):
            place = buffer[number * room : (number + 1) * room]
            size, longest = _encode_tiles(plane, encoding.tile_rows, np.frombuffer(place, np.uint8))
            table = -(-words.rows // encoding.tile_rows) * _DESCRIPTOR_BYTES
            data = place[:size]
            plane_sum = sum_words(plane.byteswap().reshape(-1).view(np.uint8).data)
            segments.append(SegmentData(data, size - table, longest, sum_words(data), plane_sum))
        return DetectorData(segments, used_bits)


def _plain(plane: NDArray[np.int32]) -> SegmentData:
    stored = memoryview(plane.astype(">i4").tobytes())
    plane_sum = sum_words(stored)
    return SegmentData(stored, 0, 0, plane_sum, plane_sum)


def _room(rows: int, columns: int, tile_rows: int) -> int:
    tiles = -(-rows // tile_rows)
    pixels = rows * columns
    return tiles * (_DESCRIPTOR_BYTES + 8) + 4 * pixels + pixels // _BLOCK + 64


if TYPE_CHECKING:

    def _jit(function: Any) -> Any: ...
else:
    _jit = njit(nogil=True, cache=False)


@_jit
def _put_bits(out, at, held, bits, code, length):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Append at most 32 bits; up to 31 wait at the low end of ``held``."""
    held = (held << np.uint64(length)) | np.uint64(code)
    bits += length
    if bits >= 32:  # noqa: PLR2004
        bits -= 32
        word = held >> np.uint64(bits)
        out[at] = np.uint8(word >> np.uint64(24))
        out[at + 1] = np.uint8(word >> np.uint64(16))
        out[at + 2] = np.uint8(word >> np.uint64(8))
        out[at + 3] = np.uint8(word)
        at += 4
    return at, held, bits


@_jit
def _put_rest(out, at, held, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the bits that wait, filled with zeros to a byte."""
    while bits > 0:
        out[at] = np.uint8((held << np.uint64(8)) >> np.uint64(bits))
        at += 1
        bits -= 8
    return at


@_jit
def _put_word(out, at, value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for place in range(4):
        out[at + place] = np.uint8((value >> (24 - 8 * place)) & 0xFF)


@_jit
def _split_level(total, count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    above = total - count // 2 - 1
    half = (above // count) >> 1 if above > 0 else 0
    level = 0
    while half:
        half >>= 1
        level += 1
    return level


@_jit
def _encode_tiles(plane, tile_rows, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write descriptors and heap of one amplifier; give their size and the longest tile."""
    rows, columns = plane.shape
    pixels = plane.reshape(-1)
    tiles = (rows + tile_rows - 1) // tile_rows
    heap = tiles * 8
    at = heap
    longest = 0
    mapped = np.empty(32, np.uint32)
    for tile in range(tiles):
        begin = tile * tile_rows * columns
        end = min(begin + tile_rows * columns, rows * columns)
        start = at
        _put_word(out, at, np.int64(pixels[begin]))
        at += 4
        held = np.uint64(0)
        bits = 0
        last = pixels[begin]
        for first in range(begin, end, 32):
            count = min(32, end - first)
            total = np.int64(0)
            for place in range(count):
                value = pixels[first + place]
                step = np.int32(np.int64(value) - np.int64(last))
                last = value
                code = np.uint32((step << np.int32(1)) ^ (step >> np.int32(31)))
                mapped[place] = code
                total += np.int64(code)
            if total == 0:
                at, held, bits = _put_bits(out, at, held, bits, 0, 5)
                continue
            level = _split_level(total, count)
            if level >= 25:  # noqa: PLR2004
                at, held, bits = _put_bits(out, at, held, bits, 26, 5)
                for place in range(count):
                    at, held, bits = _put_bits(out, at, held, bits, mapped[place], 32)
                continue
            at, held, bits = _put_bits(out, at, held, bits, level + 1, 5)
            for place in range(count):
                zeros = np.int64(mapped[place]) >> level
                code = (np.int64(mapped[place]) & ((1 << level) - 1)) | (1 << level)
                length = level + 1
                while zeros + length > 32:  # noqa: PLR2004
                    part = min(zeros, 24)
                    at, held, bits = _put_bits(out, at, held, bits, 0, part)
                    zeros -= part
                at, held, bits = _put_bits(out, at, held, bits, code, zeros + length)
        at = _put_rest(out, at, held, bits)
        _put_word(out, tile * 8, at - start)
        _put_word(out, tile * 8 + 4, start - heap)
        longest = max(longest, at - start)
    return at, longest
