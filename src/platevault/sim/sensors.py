"""One detector during one exposure: levels, noise and stars, before they become pixels.

References
----------
Levels: pixel recipe of the capture contract (bias 25000 adu with sigma 300 between amplifiers,
read noise 4 to 6.5 adu, droop -40 adu exp(-x/12)). None of them is meant to be a real sensor.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Camera, Detector
from platevault.domain.wire import ReadoutRegisters
from platevault.sim.recipe import ImageType, PixelRecipe
from platevault.sim.sky import stars_on_detector
from platevault.sim.stamps import StarPixels, psf_sigma_pixels, star_pixels

#: Rows begin at one of this many places of their noise tile.
TILE_STARTS = 4096
_BIAS_SPREAD_ADU = 300.0
_READ_NOISE_RANGE = (0.8, 1.3)
_GAIN_SPREAD = 0.02
_DROOP_ADU, _DROOP_COLUMNS = -40.0, 12.0
#: Stars whose centre lies this far off the detector may still reach it [sigma].
_STAR_MARGIN_SIGMA = 6.0


@dataclass(frozen=True, slots=True)
class ExposedSensor:
    """One detector in one exposure; channels in stripe order, columns as read.

    Attributes
    ----------
    lit_level, dark_level
        Rows of the image area and of the parallel overscan, ``(columns, channels)`` [adu].
    lit_noise, read_noise
        Tiles, ``(starts + columns, channels)`` [adu].
    columns
        Runs of columns as (begin, end, whether they see light).
    lit_rows
        Rows of the image area, the first ones.
    stars
        Pixels of stars.
    top
        Largest count [adu].
    mask
        Applied to each word.
    """

    lit_level: NDArray[np.int32]
    dark_level: NDArray[np.int32]
    lit_noise: NDArray[np.int32]
    read_noise: NDArray[np.int32]
    columns: tuple[tuple[int, int, bool], ...]
    lit_rows: int
    stars: StarPixels
    top: int
    mask: int


def expose(
    camera: Camera,
    detector: Detector,
    recipe: PixelRecipe,
    *,
    seed: int,
    image: str,
    registers: ReadoutRegisters,
) -> ExposedSensor:
    """Expose one detector; equal arguments give equal pixels."""
    kind = detector.type
    columns, rows = _data_columns(detector, registers), _data_rows(detector, registers)
    count = len(kind.amplifiers)
    fixed = np.random.default_rng(key_of("electronics", seed, camera.name, detector.name))
    bias = kind.bias_adu + fixed.normal(0.0, _BIAS_SPREAD_ADU, count)
    gain = kind.gain_e_per_adu * (1.0 + fixed.normal(0.0, _GAIN_SPREAD, count))
    read = kind.read_noise_adu * fixed.uniform(*_READ_NOISE_RANGE, count)
    light_e = _light_e(camera, detector, recipe)
    droop = _DROOP_ADU * np.exp(-np.arange(registers.columns) / _DROOP_COLUMNS)
    dark_level = bias + droop[:, None]
    lit_level = dark_level + (columns >= 0)[:, None] * light_e / gain
    random = np.random.default_rng(key_of("noise", seed, camera.name, detector.name, image))
    normal = random.standard_normal((TILE_STARTS + registers.columns, count), np.float32)
    # Electrons arrive singly: their variance is their number.
    lit_sigma = np.sqrt(read**2 + light_e / gain**2)
    return ExposedSensor(
        lit_level=np.rint(lit_level).astype(np.int32),
        dark_level=np.rint(dark_level).astype(np.int32),
        lit_noise=np.rint(normal * lit_sigma.astype(np.float32)).astype(np.int32),
        read_noise=np.rint(normal * read.astype(np.float32)).astype(np.int32),
        columns=_runs(columns >= 0),
        lit_rows=int((rows >= 0).sum()),
        stars=_stars(camera, detector, recipe, gain, columns, rows, random),
        top=min(kind.saturation_adu, (1 << camera.word_bits) - 1),
        mask=kind.xor_mask,
    )


def _light_e(camera: Camera, detector: Detector, recipe: PixelRecipe) -> float:
    """Electrons in each pixel of the image area but for stars [e]."""
    rate = 0.0
    match recipe.image_type:
        case ImageType.BIAS:
            return 0.0
        case ImageType.DARK:
            pass
        case ImageType.FLAT:
            rate = recipe.flat_e_per_s
        case ImageType.OBJECT:
            area = _pixel_arcsec(camera, detector) ** 2
            rate = area * 10.0 ** (0.4 * (recipe.zero_point_mag - recipe.sky_mag_arcsec2))
    return max(0.0, (rate + recipe.dark_e_per_s) * recipe.exposure_s)


def _pixel_arcsec(camera: Camera, detector: Detector) -> float:
    return detector.type.pixel_um / 1000.0 * camera.plate_scale_arcsec_per_mm


def _stars(
    camera: Camera,
    detector: Detector,
    recipe: PixelRecipe,
    gain: NDArray[np.float64],
    columns: NDArray[np.intp],
    rows: NDArray[np.intp],
    random: np.random.Generator,
) -> StarPixels:
    if recipe.image_type is not ImageType.OBJECT or recipe.pointing is None:
        return StarPixels.none()
    band = next((item.band for item in camera.filters if item.name == recipe.filter), "")
    sigma = psf_sigma_pixels(recipe.seeing_arcsec, _pixel_arcsec(camera, detector))
    stars = stars_on_detector(
        camera, detector, recipe.pointing, band=band, margin_pixels=_STAR_MARGIN_SIGMA * sigma
    )
    flux = recipe.exposure_s * 10.0 ** (0.4 * (recipe.zero_point_mag - stars.magnitude))
    return star_pixels(
        detector.type,
        stars,
        flux_e=flux,
        sigma_pixels=sigma,
        gain_e_per_adu=gain,
        read_columns=_places(columns, detector.type.data_columns),
        read_rows=_places(rows, detector.type.data_rows),
        random=random,
    )


def _data_columns(detector: Detector, registers: ReadoutRegisters) -> NDArray[np.intp]:
    """Which column of the data each column as read is; -1 for prescan and overscan."""
    first = registers.pre_cols + np.arange(registers.read_cols)
    second = (
        registers.pre_cols
        + registers.read_cols
        + registers.post_cols
        + np.arange(registers.read_cols2)
    )
    none = np.full(registers.under_cols, -1), np.full(registers.over_cols, -1)
    columns = np.concatenate([none[0], first, second, none[1]])
    return np.where(columns < detector.type.data_columns, columns, -1)


def _data_rows(detector: Detector, registers: ReadoutRegisters) -> NDArray[np.intp]:
    """Which row of the data each row as read is; -1 for the overscan."""
    rows = np.concatenate(
        [registers.pre_rows + np.arange(registers.read_rows), np.full(registers.over_rows, -1)]
    )
    return np.where(rows < detector.type.data_rows, rows, -1)


def _places(data: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    places = np.full(size, -1, np.intp)
    read = np.flatnonzero(data >= 0)
    places[data[read]] = read
    return places


def _runs(lit: NDArray[np.bool_]) -> tuple[tuple[int, int, bool], ...]:
    edges = [0, *(np.flatnonzero(np.diff(lit)) + 1).tolist(), len(lit)]
    return tuple(
        (begin, end, bool(lit[begin])) for begin, end in itertools.pairwise(edges) if end > begin
    )


def key_of(*parts: object) -> int:
    """Hash names and numbers to 64 bits; equal parts give equal keys on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
