"""Pixels as the DAQ delivers them: one board, sample after sample, amplifiers interleaved.

A stripe is one sample of every amplifier of every detector of a board. The detectors' groups
follow each other in the board's order; within a group the DAQ channels run from 0.

References
----------
Pixel and sensor facts of the capture contract, sec. 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Camera, DetectorType
from platevault.domain.errors import PermanentError


class MalformedPixelsError(PermanentError):
    """Pixels of a board do not have the size or shape their registers say: read again or fail."""


class StripeLayout(StrEnum):
    """Order of the words of a board."""

    SAMPLE_MAJOR = "sample_major"
    """``(sample, detector, channel)``: all detectors of the board interleaved."""
    DETECTOR_MAJOR = "detector_major"
    """``(detector, sample, channel)``: a vendor decoder took the detectors apart already."""


class WordPacking(StrEnum):
    """How words stand in bytes."""

    INT32 = "int32"
    """One little-endian 32-bit word per sample."""
    PACKED18 = "packed18"
    """18 bits per sample, least significant bit first, without gaps within a stripe."""


@dataclass(frozen=True, slots=True)
class ReadoutRegisters:
    """Geometry with which a board was read [pixel].

    Attributes
    ----------
    under_cols, read_cols, read_cols2, over_cols
        Their sum is NAXIS1.
    read_rows, over_rows
        Their sum is NAXIS2.
    pre_cols, post_cols, pre_rows, post_rows
        Skipped, not delivered.
    """

    under_cols: int
    read_cols: int
    over_cols: int
    read_rows: int
    over_rows: int
    read_cols2: int = 0
    pre_cols: int = 0
    post_cols: int = 0
    pre_rows: int = 0
    post_rows: int = 0

    @property
    def columns(self) -> int:
        """NAXIS1 of a segment [pixel]."""
        return self.under_cols + self.read_cols + self.read_cols2 + self.over_cols

    @property
    def rows(self) -> int:
        """NAXIS2 of a segment [pixel]."""
        return self.read_rows + self.over_rows

    @property
    def samples(self) -> int:
        """Samples per amplifier."""
        return self.columns * self.rows


def registers_of(detector_type: DetectorType) -> ReadoutRegisters:
    """Give the registers of a normal full-frame readout."""
    return ReadoutRegisters(
        under_cols=detector_type.prescan,
        read_cols=detector_type.data_columns,
        over_cols=detector_type.serial_overscan,
        read_rows=detector_type.data_rows,
        over_rows=detector_type.parallel_overscan,
    )


@dataclass(frozen=True, slots=True)
class BoardPixels:
    """The words of one board in hand.

    Attributes
    ----------
    data
        Bytes as delivered, shape ``(n_bytes,)``, uint8, contiguous; not changed by readers.
    layout
        Order of the words.
    packing
        How words stand in bytes.
    registers
        Geometry of the readout.
    channels
        Channels of each detector of the board, in stripe order.
    """

    data: NDArray[np.uint8]
    layout: StripeLayout
    packing: WordPacking
    registers: ReadoutRegisters
    channels: tuple[int, ...]

    @property
    def expected_bytes(self) -> int:
        """Size the data must have [byte]."""
        return board_bytes(self.registers, self.channels, self.packing)


def board_bytes(
    registers: ReadoutRegisters, channels: tuple[int, ...], packing: WordPacking
) -> int:
    """Compute the size of one board's words [byte]."""
    total = sum(channels)
    stripe = total * 4 if packing is WordPacking.INT32 else (total * 18 + 7) // 8
    return stripe * registers.samples


def largest_board_bytes(camera: Camera) -> int:
    """Compute the size of the largest board of a camera in a full-frame readout [byte]."""
    boards = ([camera.detector_by_name[name] for name in one.detectors] for one in camera.boards)
    return max(
        board_bytes(
            registers_of(detectors[0].type),
            tuple(len(detector.type.amplifiers) for detector in detectors),
            WordPacking.INT32,
        )
        for detectors in boards
    )
