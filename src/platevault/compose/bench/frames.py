"""Boards with realistic and with difficult pixels, repeatable, in page-aligned buffers."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Camera, DetectorType
from platevault.domain.headers import Card
from platevault.domain.segments import segment_cards
from platevault.domain.wire import BoardPixels, StripeLayout, WordPacking, registers_of
from platevault.ports.image_writer import SensorImage

_DETECTORS = 3
_TOP = (1 << 18) - 1
#: Size of HDU 0 in real files: about 250 cards.
_PRIMARY_CARDS = 250
#: Cards of HDU 0 that belong to the sensor and not to the exposure.
_SENSOR_CARDS = 16
_GAIN_E_PER_ADU = 1.6


@dataclass(frozen=True, slots=True)
class Frames:
    """Boards of one content.

    Attributes
    ----------
    content
        What is on them.
    boards
        Words of each board.
    planes
        Counts by board, shape ``(n_detector, n_chan, n_row, n_col)``, DAQ channel order [adu].
    """

    content: str
    boards: list[BoardPixels]
    planes: list[NDArray[np.int32]]


def make_frames(content: str, kind: DetectorType, *, boards: int, seed: int = 20250415) -> Frames:
    """Make boards of three detectors of a kind.

    Parameters
    ----------
    content
        One of `CONTENTS`.
    kind
        Detector kind.
    boards, seed
        How many; with the seed they repeat.
    """
    shape = (len(kind.amplifiers), kind.rows, kind.columns)
    made, planes = [], []
    for board in range(boards):
        rng = np.random.default_rng((seed, board))
        counts = np.empty((_DETECTORS, *shape), dtype=np.int32)
        for detector in range(_DETECTORS):
            for channel in range(shape[0]):
                pixels = CONTENTS[content](rng, kind)
                counts[detector, channel] = np.clip(np.rint(pixels), 0, _TOP)
        planes.append(counts)
        made.append(_deliver(counts, kind))
    return Frames(content, made, planes)


def _deliver(counts: NDArray[np.int32], kind: DetectorType) -> BoardPixels:
    detectors, channels = counts.shape[:2]
    buffer = np.frombuffer(mmap.mmap(-1, counts.nbytes), dtype=np.uint8)
    words = buffer.view("<u4").reshape(-1, detectors, channels)
    for detector in range(detectors):
        flat = counts[detector].reshape(channels, -1).view(np.uint32)
        np.bitwise_xor(flat.T, np.uint32(kind.xor_mask), out=words[:, detector, :])
    return BoardPixels(
        data=buffer,
        layout=StripeLayout.SAMPLE_MAJOR,
        packing=WordPacking.INT32,
        registers=registers_of(kind),
        channels=(channels,) * detectors,
    )


def _bias(rng: np.random.Generator, kind: DetectorType) -> NDArray[np.float64]:
    shape = (kind.rows, kind.columns)
    droop = -40 * np.exp(-np.arange(kind.columns) / 12)
    level = 25000 + 300 * rng.standard_normal()
    noise = np.float64(rng.uniform(4, 6.5)) * rng.standard_normal(shape)
    return np.asarray(level + droop + noise, dtype=np.float64)


def _lit(
    rng: np.random.Generator, kind: DetectorType, electrons: NDArray[np.float64]
) -> NDArray[np.float64]:
    pixels = _bias(rng, kind)
    light = rng.poisson(np.minimum(electrons, 150_000)) / _GAIN_E_PER_ADU
    pixels[: kind.data_rows, kind.prescan : kind.prescan + kind.data_columns] += light
    return pixels


def _sky(rng: np.random.Generator, kind: DetectorType) -> NDArray[np.float64]:
    electrons = np.full((kind.data_rows, kind.data_columns), 1000.0)
    y, x = np.mgrid[-10:11, -10:11]
    shape = np.exp(-(x**2 + y**2) / 8) / (8 * np.pi)
    for _ in range(120):
        row = rng.integers(10, kind.data_rows - 10)
        column = rng.integers(10, kind.data_columns - 10)
        flux = 10 ** rng.uniform(2.5, 6)
        electrons[row - 10 : row + 11, column - 10 : column + 11] += flux * shape
    return _lit(rng, kind, electrons)


def _flat(rng: np.random.Generator, kind: DetectorType) -> NDArray[np.float64]:
    return _lit(rng, kind, np.full((kind.data_rows, kind.data_columns), 100_000.0))


def _saturated(rng: np.random.Generator, kind: DetectorType) -> NDArray[np.float64]:
    pixels = _sky(rng, kind)
    columns = rng.integers(kind.prescan, kind.prescan + kind.data_columns, 20)
    pixels[:, columns] = _TOP
    return pixels


def _random(rng: np.random.Generator, kind: DetectorType) -> NDArray[np.float64]:
    return rng.integers(0, _TOP + 1, (kind.rows, kind.columns)).astype(np.float64)


#: Contents by name; each makes one amplifier's counts, shape ``(n_row, n_col)`` [adu].
CONTENTS: dict[str, Callable[[np.random.Generator, DetectorType], NDArray[np.float64]]] = {
    "sky": _sky,
    "bias": _bias,
    "flat": _flat,
    "saturated columns": _saturated,
    "random 18-bit": _random,
}


def exposure_cards(camera: Camera) -> list[tuple[list[Card], list[list[Card]]]]:
    """Make the cards of every detector's file: HDU 0 as large as real ones, real segments."""
    common: list[Card] = []
    for number in range(_PRIMARY_CARDS - _SENSOR_CARDS):
        value = (number * 0.731, "a value of text", number, number % 2 == 0, None)[number % 5]
        common.append(Card(f"KEY{number:05d}", value, "comment of ordinary length"))
    cards = []
    for detector in camera.detectors:
        own = [Card("RAFTBAY", detector.raft), Card("CCDSLOT", detector.slot)]
        own += [
            Card(f"SENSOR{number:02d}", detector.id + number / 7, "value of the sensor")
            for number in range(_SENSOR_CARDS - len(own))
        ]
        cards.append((common + own, [list(item) for item in segment_cards(camera, detector)]))
    return cards


def image_of(
    frames: Frames,
    number: int,
    kind: DetectorType,
    cards: tuple[list[Card], list[list[Card]]],
) -> SensorImage:
    """Give the n-th detector's image, going round the boards."""
    boards = frames.boards
    return SensorImage(
        pixels=boards[number // _DETECTORS % len(boards)],
        group=number % _DETECTORS,
        detector_type=kind,
        primary=cards[0],
        segments=cards[1],
    )
