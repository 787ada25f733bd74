"""Pixels of a simulated exposure, as planes of amplifiers or as the words of a board.

A pixel is a level of its row's kind, plus noise out of a tile, plus stars, cut at the converter's
ends. A tile is made once for an exposure and detector; each row begins at another place of it,
chosen by a counter-based hash, so that no deviate is drawn per pixel. `amplifier_planes` and
`board_words` come to the same numbers by different ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Board, Camera, Detector
from platevault.domain.errors import UsageError
from platevault.domain.wire import ReadoutRegisters, registers_of
from platevault.sim.recipe import ImageType, InvalidRecipeError, PixelRecipe
from platevault.sim.sensors import TILE_STARTS, ExposedSensor, expose, key_of

__all__ = [
    "ImageType",
    "InvalidRecipeError",
    "PixelRecipe",
    "amplifier_planes",
    "board_registers",
    "board_words",
    "stripe_words",
]

#: Bytes of a board that are worked on at a time; they should stay in a core's cache.
_BLOCK_BYTES = 1 << 19


def amplifier_planes(
    camera: Camera,
    detector: Detector,
    recipe: PixelRecipe,
    *,
    seed: int,
    image: str,
    registers: ReadoutRegisters | None = None,
) -> NDArray[np.int32]:
    """Make the counts of one detector: what its raw file must contain.

    Parameters
    ----------
    camera, detector
        Whose pixels.
    recipe
        What falls on them.
    seed, image
        With these the counts repeat; another seed or image name gives other noise.
    registers
        Geometry of the readout; a full frame if not given.

    Returns
    -------
    numpy.ndarray
        Counts, shape ``(n_amp, rows, columns)`` in HDU order [adu], ``word_bits`` used.

    Raises
    ------
    InvalidCameraError
        No board reads the detector.
    """
    registers = registers_of(detector.type) if registers is None else registers
    sensor = expose(camera, detector, recipe, seed=seed, image=image, registers=registers)
    starts = _row_starts(camera, camera.board_of(detector.name), seed, image, registers.rows)
    # Planes are built amplifier by amplifier of whole rows: nothing here knows of stripes.
    channels = [amplifier.channel for amplifier in detector.type.amplifiers]
    lit_level, dark_level, lit_noise, read_noise = (
        np.ascontiguousarray(plane.T[channels])
        for plane in (sensor.lit_level, sensor.dark_level, sensor.lit_noise, sensor.read_noise)
    )
    counts = np.empty((len(channels), registers.rows, registers.columns), np.int32)
    for row, start in enumerate(starts.tolist()):
        if row >= sensor.lit_rows:
            counts[:, row] = dark_level + read_noise[:, start : start + registers.columns]
            continue
        for begin, end, light in sensor.columns:
            noise = lit_noise if light else read_noise
            np.add(
                lit_level[:, begin:end],
                noise[:, start + begin : start + end],
                out=counts[:, row, begin:end],
            )
    stars = sensor.stars
    amplifier = np.argsort(channels)[stars.channel]
    np.add.at(counts, (amplifier, stars.row, stars.column), stars.adu)
    np.clip(counts, 0, sensor.top, out=counts)
    return counts


def board_words(
    camera: Camera,
    board: Board,
    recipe: PixelRecipe,
    *,
    seed: int,
    image: str,
    registers: ReadoutRegisters | None = None,
    into: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Make the words of one board as its DAQ delivers them: stripes, masks applied, int32.

    Parameters
    ----------
    camera, board
        Whose pixels.
    recipe, seed, image, registers
        As for `amplifier_planes`.
    into
        Where to make them: contiguous bytes, at least the size of the board; a new array if not
        given.

    Returns
    -------
    numpy.ndarray
        Words, shape ``(n_bytes,)`` [byte]; a view of ``into`` if that was given.

    Raises
    ------
    InvalidRecipeError
        No registers are given and the board's detectors differ in size.
    UsageError
        ``into`` is too small or is not contiguous bytes. Nothing was written.
    """
    detectors = [camera.detector_by_name[name] for name in board.detectors]
    registers = board_registers(camera, board) if registers is None else registers
    sensors = [
        expose(camera, item, recipe, seed=seed, image=image, registers=registers)
        for item in detectors
    ]
    channels = sum(len(item.type.amplifiers) for item in detectors)
    size = registers.samples * channels * 4
    data = _buffer(size, into)
    width = registers.columns * channels
    rows = data.view("<i4").reshape(registers.rows, width)
    starts = (_row_starts(camera, board, seed, image, registers.rows) * channels).tolist()
    lit_level, dark_level, lit_noise, read_noise = (
        np.concatenate([getattr(item, name) for item in sensors], axis=1).ravel()
        for name in ("lit_level", "dark_level", "lit_noise", "read_noise")
    )
    pieces = [
        (begin * channels, end * channels, lit_noise if light else read_noise)
        for begin, end, light in sensors[0].columns
    ]
    stars = _by_block(sensors, registers, width)
    top = _per_word([item.top for item in sensors], sensors, registers.columns)
    mask = _per_word([item.mask for item in sensors], sensors, registers.columns)
    highest = int(lit_level.max() + max(lit_noise.max(), read_noise.max()))
    lowest = int(dark_level.min() + min(lit_noise.min(), read_noise.min()))
    cut = lowest < 0 or highest > min(item.top for item in sensors)
    lit_rows = sensors[0].lit_rows
    for number, first in enumerate(range(0, registers.rows, stars.rows)):
        block = rows[first : first + stars.rows]
        for row, start in enumerate(starts[first : first + stars.rows]):
            if first + row < lit_rows:
                for begin, end, tile in pieces:
                    noise = tile[start + begin : start + end]
                    np.add(lit_level[begin:end], noise, out=block[row, begin:end])
            else:
                np.add(dark_level, read_noise[start : start + width], out=block[row])
        place, adu, limit = stars.of(number)
        if len(place):
            flat = block.reshape(-1)
            np.add.at(flat, place, adu)
            # A pixel of several stars comes up more than once here; cutting twice does no harm.
            flat[place] = np.minimum(flat[place], limit)
        if cut:
            np.clip(block, 0, top, out=block)
        np.bitwise_xor(block, mask, out=block)
    return data


def stripe_words(
    camera: Camera,
    board: Board,
    planes: Mapping[str, NDArray[np.int32]],
    registers: ReadoutRegisters,
    *,
    into: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Put given counts into the words of a board, as `board_words` does with made ones.

    Parameters
    ----------
    camera, board
        Whose pixels.
    planes
        Counts by sensor, ``(n_amp, rows, columns)`` in HDU order [adu]; a sensor of the board that
        is absent reads 0.
    registers, into
        As for `board_words`.

    Returns
    -------
    numpy.ndarray
        Words, shape ``(n_bytes,)`` [byte].
    """
    detectors = [camera.detector_by_name[name] for name in board.detectors]
    channels = sum(len(item.type.amplifiers) for item in detectors)
    data = _buffer(registers.samples * channels * 4, into)
    words = data.view("<i4").reshape(registers.rows, registers.columns, channels)
    step = max(1, _BLOCK_BYTES // (registers.columns * channels * 4))
    for first in range(0, registers.rows, step):
        block = words[first : first + step]
        offset = 0
        for detector in detectors:
            kind = detector.type
            counts = planes.get(detector.name)
            for amplifier, plane in zip(
                kind.amplifiers,
                [None] * len(kind.amplifiers) if counts is None else counts,
                strict=True,
            ):
                block[:, :, offset + amplifier.channel] = (
                    kind.xor_mask if plane is None else plane[first : first + step] ^ kind.xor_mask
                )
            offset += len(kind.amplifiers)
    return data


def board_registers(camera: Camera, board: Board) -> ReadoutRegisters:
    """Give the registers of a full frame of a board; its detectors must agree on them."""
    kinds = {registers_of(camera.detector_by_name[name].type) for name in board.detectors}
    if len(kinds) != 1:
        raise InvalidRecipeError(
            "Detectors of a board differ in size", board=board.location, detectors=board.detectors
        )
    return kinds.pop()


def check_buffer(into: NDArray[np.uint8] | None, size_bytes: int) -> None:
    """Refuse a buffer that is not contiguous, writeable bytes or is too small (`UsageError`)."""
    if into is not None and (
        into.dtype != np.uint8
        or into.ndim != 1
        or not into.flags.c_contiguous
        or not into.flags.writeable
        or len(into) < size_bytes
    ):
        raise UsageError(
            "Buffer does not suit a board",
            dtype=str(into.dtype),
            shape=into.shape,
            expected=size_bytes,
        )


def _buffer(size: int, into: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    check_buffer(into, size)
    return np.empty(size, np.uint8) if into is None else into[:size]


def _row_starts(
    camera: Camera, board: Board, seed: int, image: str, rows: int
) -> NDArray[np.int64]:
    """Choose where in the tile each row begins, shape ``(rows,)``.

    References
    ----------
    Finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014.
    """
    key = np.uint64(key_of("rows", seed, camera.name, board.location, image))
    bits = key + np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits % np.uint64(TILE_STARTS)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _StarBlocks:
    """Star pixels of a board, sorted by block of rows."""

    rows: int
    bounds: NDArray[np.intp]
    place: NDArray[np.intp]
    adu: NDArray[np.int32]
    top: NDArray[np.int32]

    def of(self, block: int) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
        """Give flat places within a block, counts to add and the largest count allowed."""
        part = slice(self.bounds[block], self.bounds[block + 1])
        return self.place[part], self.adu[part], self.top[part]


def _by_block(
    sensors: list[ExposedSensor], registers: ReadoutRegisters, row_words: int
) -> _StarBlocks:
    rows = max(1, _BLOCK_BYTES // (row_words * 4))
    stripe = row_words // registers.columns
    offset = 0
    place, adu, top, number = [], [], [], []
    for sensor in sensors:
        stars = sensor.stars
        place.append(stars.row % rows * row_words + stars.column * stripe + stars.channel + offset)
        number.append((stars.row // rows).astype(np.uint16))
        adu.append(stars.adu)
        top.append(np.full(len(stars.adu), sensor.top, np.int32))
        offset += sensor.lit_level.shape[1]
    blocks = np.concatenate(number)
    order = np.argsort(blocks, kind="stable")
    return _StarBlocks(
        rows=rows,
        bounds=np.searchsorted(blocks[order], np.arange(registers.rows // rows + 2)),
        place=np.concatenate(place)[order],
        adu=np.concatenate(adu)[order],
        top=np.concatenate(top)[order],
    )


def _per_word(
    values: list[int], sensors: list[ExposedSensor], columns: int
) -> np.int32 | NDArray[np.int32]:
    """Give one number if all detectors of a board share it, else one for each word of a row."""
    if len(set(values)) == 1:
        return np.int32(values[0])
    widths = [sensor.lit_level.shape[1] for sensor in sensors]
    return np.tile(np.repeat(np.array(values, np.int32), widths), columns)
