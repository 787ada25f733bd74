"""Images of stars on the pixels of a detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import DetectorType
from platevault.sim.sky import StarsOnDetector

#: A stamp ends where a star gives less than this [e/pixel].
_FAINTEST_E = 0.5
#: A narrower profile would depend on where in a pixel a star falls.
_NARROWEST_SIGMA_PIXELS = 0.6


@dataclass(frozen=True, slots=True)
class StarPixels:
    """What stars add to pixels, each array of shape ``(n,)``; a pixel may come more than once.

    Attributes
    ----------
    row, column
        Place in the segment as read, overscan included [pixel].
    channel
        Channel of the detector, in stripe order.
    adu
        Counts to add [adu].
    """

    row: NDArray[np.intp]
    column: NDArray[np.intp]
    channel: NDArray[np.intp]
    adu: NDArray[np.int32]

    @classmethod
    def none(cls) -> Self:
        """Give no pixels."""
        empty = np.zeros(0, np.intp)
        return cls(empty, empty, empty, np.zeros(0, np.int32))


def psf_sigma_pixels(seeing_arcsec: float, pixel_arcsec: float) -> float:
    """Turn the full width at half maximum [arcsec] into a standard deviation [pixel]."""
    return max(
        _NARROWEST_SIGMA_PIXELS, seeing_arcsec / pixel_arcsec / math.sqrt(8.0 * math.log(2.0))
    )


def star_pixels(
    kind: DetectorType,
    stars: StarsOnDetector,
    *,
    flux_e: NDArray[np.float64],
    sigma_pixels: float,
    gain_e_per_adu: NDArray[np.float64],
    read_columns: NDArray[np.intp],
    read_rows: NDArray[np.intp],
    random: np.random.Generator,
) -> StarPixels:
    """Spread stars over pixels, with shot noise.

    Parameters
    ----------
    kind
        Amplifiers and where they lie.
    stars
        Centres, ``n_star`` of them.
    flux_e
        Electrons of each star, shape ``(n_star,)`` [e].
    sigma_pixels
        Width of the Gaussian profile [pixel].
    gain_e_per_adu
        By channel, shape ``(n_amp,)`` [e/adu].
    read_columns, read_rows
        Where each column and row of an amplifier's data is in the segment as read, shapes
        ``(data_columns,)`` and ``(data_rows,)``; -1 where it is not read.
    random
        For the shot noise.

    Returns
    -------
    StarPixels
        Pixels that are on the detector and were read.
    """
    peak = flux_e / (2.0 * np.pi * sigma_pixels**2)
    reach = sigma_pixels * np.sqrt(2.0 * np.log(np.maximum(peak / _FAINTEST_E, 1.0)))
    radius = np.ceil(reach).astype(np.intp)
    places: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]] = []
    for size in np.unique(radius[peak > _FAINTEST_E]):
        chosen = (radius == size) & (peak > _FAINTEST_E)
        places.append(_stamps(stars.x[chosen], stars.y[chosen], peak[chosen], sigma_pixels, size))
    if not places:
        return StarPixels.none()
    x, y, electrons = (np.concatenate(arrays) for arrays in zip(*places, strict=True))
    inside = (x >= 0) & (x < kind.trimmed_columns) & (y >= 0) & (y < kind.trimmed_rows)
    x, y, electrons = x[inside], y[inside], electrons[inside]
    electrons = electrons + np.sqrt(electrons) * random.standard_normal(len(electrons), np.float32)
    amplifier, along, across = _amplifiers_at(kind, x, y)
    channel = np.array([item.channel for item in kind.amplifiers], np.intp)[amplifier]
    column, row = read_columns[along], read_rows[across]
    read = (amplifier >= 0) & (column >= 0) & (row >= 0)
    adu = np.rint(electrons[read] / gain_e_per_adu.astype(np.float32)[channel[read]])
    return StarPixels(row[read], column[read], channel[read], adu.astype(np.int32))


def _stamps(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    peak_e: NDArray[np.float64],
    sigma: float,
    radius: np.intp,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    offsets = np.arange(-radius, radius + 1)
    columns = np.rint(x).astype(np.intp)[:, None] + offsets
    rows = np.rint(y).astype(np.intp)[:, None] + offsets
    across = np.exp(-0.5 * ((columns - x[:, None]) / sigma) ** 2).astype(np.float32)
    along = (peak_e[:, None] * np.exp(-0.5 * ((rows - y[:, None]) / sigma) ** 2)).astype(np.float32)
    electrons = along[:, :, None] * across[:, None, :]
    shape = electrons.shape
    return (
        np.broadcast_to(columns[:, None, :], shape).ravel(),
        np.broadcast_to(rows[:, :, None], shape).ravel(),
        electrons.ravel(),
    )


def _amplifiers_at(
    kind: DetectorType, x: NDArray[np.intp], y: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Find amplifier in HDU order (-1: none), data column and data row of trimmed pixels."""
    lefts = np.unique([item.x0 for item in kind.amplifiers])
    bottoms = np.unique([item.y0 for item in kind.amplifiers])
    grid = np.full((len(bottoms), len(lefts)), -1, np.intp)
    for number, item in enumerate(kind.amplifiers):
        grid[np.searchsorted(bottoms, item.y0), np.searchsorted(lefts, item.x0)] = number
    left = np.searchsorted(lefts, x, side="right") - 1
    bottom = np.searchsorted(bottoms, y, side="right") - 1
    amplifier = grid[bottom, left]
    along, across = x - lefts[left], y - bottoms[bottom]
    flip_x = np.array([item.flip_x for item in kind.amplifiers])[amplifier]
    flip_y = np.array([item.flip_y for item in kind.amplifiers])[amplifier]
    along = np.where(flip_x, kind.data_columns - 1 - along, along)
    across = np.where(flip_y, kind.data_rows - 1 - across, across)
    outside = (along < 0) | (along >= kind.data_columns) | (across < 0) | (across >= kind.data_rows)
    amplifier = np.where(outside, -1, amplifier)
    return amplifier, np.where(outside, 0, along), np.where(outside, 0, across)
