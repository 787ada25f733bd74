"""Codec of the compiled kernel: one call per detector, without the interpreter lock."""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType

from typing_extensions import override

from platevault.adapters.fits.codec import Codec, CodecInfo, DetectorData, Encoding, SegmentData
from platevault.adapters.fits.stripes import DetectorWords
from platevault.domain.errors import UsageError
from platevault.domain.wire import MalformedPixelsError, WordPacking


class Level(IntEnum):
    """Instruction sets of the kernel, slowest first; numbers as in ``native/kernel.h``."""

    PORTABLE = 0
    AVX2 = 1


_RATES = {Level.PORTABLE: "about 1.5 GB/s per core", Level.AVX2: "about 2 GB/s per core"}
_PACKING = {WordPacking.INT32: 0, WordPacking.PACKED18: 1}


class NativeCodec(Codec):
    """Encodes with the compiled kernel.

    Parameters
    ----------
    kernel
        The extension module.
    level
        Instruction set to use.
    """

    def __init__(self, *, kernel: ModuleType, level: Level) -> None:
        self._kernel = kernel
        self._level = level

    @property
    @override
    def info(self) -> CodecInfo:
        return CodecInfo("native", self._level.name.lower(), _RATES[self._level])

    @override
    def buffer_bytes(self, words: DetectorWords, encoding: Encoding) -> int:
        try:
            size: int = self._kernel.buffer_bytes(
                words.columns, words.rows, len(words.channels), _tile_rows(encoding)
            )
        except (ValueError, OverflowError) as error:
            raise MalformedPixelsError(
                "Readout cannot be encoded",
                reason=str(error),
                value=(words.columns, words.rows, len(words.channels)),
            ) from error
        return size

    @override
    def encode(self, words: DetectorWords, encoding: Encoding, buffer: memoryview) -> DetectorData:
        try:
            found, used_bits = self._kernel.encode(
                words.data,
                words.offset_bytes,
                words.stripe_bytes,
                words.first_channel,
                bytes(words.channels),
                words.columns,
                words.rows,
                _PACKING[words.packing],
                words.xor_mask,
                _tile_rows(encoding),
                self._level,
                buffer,
            )
        except (ValueError, OverflowError) as error:
            raise UsageError("Kernel refused a detector", reason=str(error)) from error
        segments = [
            SegmentData(buffer[offset : offset + size], heap, longest, data_sum, plane_sum)
            for offset, size, heap, longest, data_sum, plane_sum in found
        ]
        return DetectorData(segments, used_bits)


def _tile_rows(encoding: Encoding) -> int:
    return encoding.tile_rows if encoding.compressed else 0
