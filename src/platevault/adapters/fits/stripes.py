"""Where the words of one detector stand among those of its board."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import DetectorType
from platevault.domain.errors import UsageError
from platevault.domain.wire import (
    BoardPixels,
    MalformedPixelsError,
    ReadoutRegisters,
    StripeLayout,
    WordPacking,
)
from platevault.ports.image_writer import SensorImage

#: Bits of a packed word.
_PACKED_BITS = 18
#: Samples that NumPy takes apart at a time, so that they stay in cache.
_BLOCK_SAMPLES = 1152


@dataclass(frozen=True, slots=True)
class DetectorWords:
    """The words of one detector.

    Attributes
    ----------
    data
        Bytes of the whole board, shape ``(n_bytes,)``, uint8, contiguous; not changed.
    offset_bytes
        Place of the first sample that holds a word of the detector [byte].
    stripe_bytes
        From one sample to the next [byte].
    first_channel
        Channels of other detectors before its own within the stripe.
    channels
        DAQ channel of each HDU, from 0: a permutation.
    columns, rows
        Size of a segment [pixel].
    packing
        How words stand in bytes.
    xor_mask
        Applied to each word.
    """

    data: NDArray[np.uint8]
    offset_bytes: int
    stripe_bytes: int
    first_channel: int
    channels: tuple[int, ...]
    columns: int
    rows: int
    packing: WordPacking
    xor_mask: int

    @property
    def samples(self) -> int:
        """Samples per channel."""
        return self.columns * self.rows

    @property
    def pixel_bytes(self) -> int:
        """Size of the detector's pixels as 32-bit integers [byte]."""
        return 4 * self.samples * len(self.channels)


def locate_words(image: SensorImage) -> DetectorWords:
    """Check a board's words against registers, detector and segments, and find the detector's.

    Raises
    ------
    MalformedPixelsError
        Too few or too many bytes, no such detector on the board, or an active area of another
        size. Read again, or fail.
    UsageError
        Cards for another number of segments than the detector has. A bug.
    """
    pixels = image.pixels
    kind = image.detector_type
    facts = {"detector_type": kind.name, "group": image.group}
    registers = pixels.registers
    if min(registers.columns, registers.rows) < 1:
        raise MalformedPixelsError("Readout has no pixels", registers=registers, **facts)
    if pixels.data.dtype != np.uint8 or pixels.data.ndim != 1 or not pixels.data.flags.c_contiguous:
        raise MalformedPixelsError(
            "Words are no plain run of bytes",
            value=(str(pixels.data.dtype), pixels.data.shape, pixels.data.strides),
            **facts,
        )
    if pixels.data.nbytes != pixels.expected_bytes:
        raise MalformedPixelsError(
            "Board has the wrong number of bytes",
            value=pixels.data.nbytes,
            expected=pixels.expected_bytes,
            registers=registers,
            **facts,
        )
    if not 0 <= image.group < len(pixels.channels):
        raise MalformedPixelsError(
            "Board has no such detector", expected=f"less than {len(pixels.channels)}", **facts
        )
    hdu_channels = tuple(amplifier.channel for amplifier in kind.amplifiers)
    if sorted(hdu_channels) != list(range(pixels.channels[image.group])):
        raise MalformedPixelsError(
            "Channels of the amplifiers are not those of the board",
            value=hdu_channels,
            expected=f"each of 0 to {pixels.channels[image.group] - 1} once",
            **facts,
        )
    _check_active_area(registers, kind)
    if len(image.segments) != len(hdu_channels):
        raise UsageError(
            "Wrong number of segment headers",
            value=len(image.segments),
            expected=len(hdu_channels),
            **facts,
        )
    offset_bytes, stripe_bytes, first_channel = _place(pixels, image.group)
    return DetectorWords(
        data=pixels.data,
        offset_bytes=offset_bytes,
        stripe_bytes=stripe_bytes,
        first_channel=first_channel,
        channels=hdu_channels,
        columns=registers.columns,
        rows=registers.rows,
        packing=pixels.packing,
        xor_mask=kind.xor_mask,
    )


def _check_active_area(registers: ReadoutRegisters, kind: DetectorType) -> None:
    """Readers accept another overscan, but no other active area."""
    value = (
        registers.under_cols,
        registers.read_cols + registers.read_cols2,
        registers.read_rows,
    )
    expected = (kind.prescan, kind.data_columns, kind.data_rows)
    if value != expected:
        raise MalformedPixelsError(
            "Registers do not fit the detector",
            field="prescan, data columns, data rows",
            value=value,
            expected=expected,
            detector_type=kind.name,
        )


def _place(pixels: BoardPixels, group: int) -> tuple[int, int, int]:
    match pixels.layout:
        case StripeLayout.SAMPLE_MAJOR:
            before = sum(pixels.channels[:group])
            return 0, _stripe_bytes(sum(pixels.channels), pixels.packing), before
        case StripeLayout.DETECTOR_MAJOR:
            stripes = [_stripe_bytes(count, pixels.packing) for count in pixels.channels]
            samples = pixels.registers.samples
            if sum(stripes) * samples != pixels.expected_bytes:
                raise MalformedPixelsError(
                    "Packed words of a detector do not end on a byte", channels=pixels.channels
                )
            return sum(stripes[:group]) * samples, stripes[group], 0


def _stripe_bytes(channels: int, packing: WordPacking) -> int:
    return channels * 4 if packing is WordPacking.INT32 else (channels * _PACKED_BITS + 7) // 8


def separate(words: DetectorWords) -> NDArray[np.int32]:
    """Take the amplifiers apart and undo the mask, with NumPy.

    Returns
    -------
    numpy.ndarray
        Counts in HDU order, shape ``(n_amp, n_row, n_col)``, native int32 [adu]; a new array.
    """
    channels = len(words.channels)
    samples = words.samples
    end = words.offset_bytes + samples * words.stripe_bytes
    stripes = words.data[words.offset_bytes : end].reshape(samples, words.stripe_bytes)
    planes = np.empty((channels, samples), dtype=np.int32)
    mask = np.uint32(words.xor_mask)
    runs = list(_runs(words.channels))
    for start in range(0, samples, _BLOCK_SAMPLES):
        block = stripes[start : start + _BLOCK_SAMPLES]
        if words.packing is WordPacking.INT32:
            first = 4 * words.first_channel
            found = block[:, first : first + 4 * channels].view("<u4")
        else:
            found = _unpack(block, words.first_channel, channels)
        part = planes[:, start : start + block.shape[0]].view(np.uint32)
        for hdus, taken in runs:
            np.bitwise_xor(found[:, taken].T, mask, out=part[hdus])
    return planes.reshape(channels, words.rows, words.columns)


def _runs(channels: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Cut a map into HDUs whose channels follow each other: a view of those costs no copy."""
    start = 0
    for end in range(1, len(channels) + 1):
        step = channels[start + 1] - channels[start] if end - start > 1 else 0
        goes_on = end < len(channels) and (
            channels[end] - channels[end - 1] == step
            if step
            else abs(channels[end] - channels[start]) == 1
        )
        if not goes_on:
            stop = channels[end - 1] + (step or 1)
            yield slice(start, end), slice(channels[start], None if stop < 0 else stop, step or 1)
            start = end


def _unpack(block: NDArray[np.uint8], first: int, channels: int) -> NDArray[np.uint32]:
    """Unpack 18-bit words, least significant bit first; a word touches at most three bytes."""
    bits = _PACKED_BITS * (first + np.arange(channels))
    at = bits // 8
    found = block[:, at].astype(np.uint32)
    found |= block[:, at + 1].astype(np.uint32) << np.uint32(8)
    found |= block[:, at + 2].astype(np.uint32) << np.uint32(16)
    found >>= (bits % 8).astype(np.uint32)
    found &= np.uint32((1 << _PACKED_BITS) - 1)
    return found
