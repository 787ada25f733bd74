"""A synthetic all-sky star catalogue and its place on detectors.

The catalogue belongs to the sky: the same region holds the same stars for every camera, night and
seed. Its counts are rough (a high galactic latitude), its positions uniform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Camera, Detector

#: Height of a declination band and width of a cell [deg].
_CELL_DEG = 0.2
_BANDS = 900
_CATALOGUE = 0x5AB1E57A
#: Stars per square degree and their magnitudes; a guess near counts at the galactic poles.
_STARS_PER_DEG2 = 12_000.0
_BRIGHTEST_MAG, _FAINTEST_MAG = 9.0, 23.0
_SLOPE = 0.28
#: Magnitude in a band less magnitude in r, per magnitude of g - r; a rough stellar locus.
_COLOUR_TERMS = {"u": 2.2, "g": 1.0, "r": 0.0, "i": -0.35, "z": -0.5, "y": -0.6}


@dataclass(frozen=True, slots=True)
class Pointing:
    """Where a camera looks.

    Attributes
    ----------
    ra_deg, dec_deg
        Place of the focal plane's origin on the sky [deg, ICRS].
    rotation_deg
        Position angle of the focal plane's +y axis, north through east [deg] (ROTPA); at 0
        north is +y and west is +x.
    """

    ra_deg: float
    dec_deg: float
    rotation_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class Stars:
    """Stars of the catalogue, each array of shape ``(n_star,)``.

    Attributes
    ----------
    ra_deg, dec_deg
        Position [deg, ICRS].
    r_mag
        Magnitude in r [mag].
    colour
        g - r [mag].
    """

    ra_deg: NDArray[np.float64]
    dec_deg: NDArray[np.float64]
    r_mag: NDArray[np.float64]
    colour: NDArray[np.float64]

    def magnitudes(self, band: str) -> NDArray[np.float64]:
        """Give magnitudes in a band [mag], shape ``(n_star,)``; an unknown band counts as r."""
        return np.asarray(self.r_mag + _COLOUR_TERMS.get(band, 0.0) * self.colour)


@dataclass(frozen=True, slots=True)
class StarsOnDetector:
    """Stars that fall on or near a detector, each array of shape ``(n_star,)``.

    Attributes
    ----------
    x, y
        Centre in the trimmed detector, 0 at the centre of its lower left pixel [pixel].
    magnitude
        In the exposure's band [mag].
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    magnitude: NDArray[np.float64]


@lru_cache(maxsize=512)
def stars_of_cell(band: int, cell: int) -> Stars:
    """Make the stars of one cell of the sky.

    Parameters
    ----------
    band
        Declination band, 0 at the south pole.
    cell
        Cell of the band, 0 at right ascension 0.
    """
    random = np.random.default_rng([_CATALOGUE, band, cell])
    south = np.radians(-90.0 + band * _CELL_DEG)
    north = south + np.radians(_CELL_DEG)
    width_deg = 360.0 / cells_of_band(band)
    area_deg2 = width_deg * np.degrees(np.sin(north) - np.sin(south))
    count = int(random.poisson(area_deg2 * _STARS_PER_DEG2))
    ra = (cell + random.random(count)) * width_deg
    dec = np.degrees(np.arcsin(random.uniform(np.sin(south), np.sin(north), count)))
    # Counts grow by a constant factor per magnitude; invert their cumulative distribution.
    bright, faint = 10.0 ** (_SLOPE * np.array([_BRIGHTEST_MAG, _FAINTEST_MAG]))
    magnitude = np.log10(bright + random.random(count) * (faint - bright)) / _SLOPE
    colour = np.clip(random.normal(0.8, 0.4, count), -0.3, 1.6)
    return Stars(ra, dec, magnitude, colour)


def cells_of_band(band: int) -> int:
    """Count the cells of a declination band; at least one."""
    middle = np.radians(-90.0 + (band + 0.5) * _CELL_DEG)
    return max(1, int(360.0 * np.cos(middle) / _CELL_DEG))


def focal_plane_to_sky(
    camera: Camera, pointing: Pointing, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the sky position of places in the focal plane.

    Parameters
    ----------
    camera
        For its plate scale.
    pointing
        Where it looks.
    x_mm, y_mm
        Places [mm], any equal shape.

    Returns
    -------
    tuple
        RA (0 to 360) and Dec [deg], of the same shape.
    """
    scale = np.radians(camera.plate_scale_arcsec_per_mm / 3600.0)
    xi, eta = _turn(x_mm * scale, y_mm * scale, pointing.rotation_deg)
    ra0, dec0 = np.radians(pointing.ra_deg), np.radians(pointing.dec_deg)
    along = np.cos(dec0) - eta * np.sin(dec0)
    up = np.sin(dec0) + eta * np.cos(dec0)
    ra = ra0 + np.arctan2(xi, along)
    dec = np.arctan2(up, np.hypot(xi, along))
    return np.asarray(np.degrees(ra) % 360.0), np.asarray(np.degrees(dec))


def sky_to_focal_plane(
    camera: Camera, pointing: Pointing, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the place in the focal plane of sky positions, by tangent plane.

    Parameters
    ----------
    camera
        For its plate scale.
    pointing
        Where it looks.
    ra_deg, dec_deg
        Positions [deg], any equal shape.

    Returns
    -------
    tuple
        x and y [mm], of the same shape; NaN behind the observer.

    References
    ----------
    Gnomonic projection: Calabretta and Greisen 2002 (FITS paper II), sec. 5.1.3.
    """
    scale = np.radians(camera.plate_scale_arcsec_per_mm / 3600.0)
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    ra0, dec0 = np.radians(pointing.ra_deg), np.radians(pointing.dec_deg)
    cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
    cosine = np.where(cosine > 0.0, cosine, np.nan)
    xi = np.cos(dec) * np.sin(ra - ra0) / cosine
    eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / cosine
    x, y = _turn(xi, eta, pointing.rotation_deg)
    return x / scale, y / scale


def _turn(
    first: NDArray[np.float64], second: NDArray[np.float64], rotation_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Go between (x, y) of the focal plane and (xi, eta) of the sky; it is its own inverse."""
    cosine, sine = np.cos(np.radians(rotation_deg)), np.sin(np.radians(rotation_deg))
    return (
        np.asarray(-first * cosine + second * sine),
        np.asarray(first * sine + second * cosine),
    )


def detector_to_focal_plane(
    detector: Detector, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the place in the focal plane [mm] of pixels of the trimmed detector [pixel]."""
    kind = detector.type
    pixel_mm = kind.pixel_um / 1000.0
    right = (x - (kind.trimmed_columns - 1) / 2.0) * pixel_mm
    up = (y - (kind.trimmed_rows - 1) / 2.0) * pixel_mm
    cosine, sine = _turn_of(detector)
    return (
        np.asarray(detector.centre_x_mm + right * cosine - up * sine),
        np.asarray(detector.centre_y_mm + right * sine + up * cosine),
    )


def focal_plane_to_detector(
    detector: Detector, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find pixels of the trimmed detector [pixel] for places in the focal plane [mm]."""
    kind = detector.type
    pixel_mm = kind.pixel_um / 1000.0
    cosine, sine = _turn_of(detector)
    from_x, from_y = x_mm - detector.centre_x_mm, y_mm - detector.centre_y_mm
    return (
        np.asarray((from_x * cosine + from_y * sine) / pixel_mm + (kind.trimmed_columns - 1) / 2.0),
        np.asarray((from_y * cosine - from_x * sine) / pixel_mm + (kind.trimmed_rows - 1) / 2.0),
    )


def _turn_of(detector: Detector) -> tuple[float, float]:
    angle = np.radians(detector.orientation_deg)
    return float(np.cos(angle)), float(np.sin(angle))


def stars_on_detector(
    camera: Camera, detector: Detector, pointing: Pointing, *, band: str, margin_pixels: float
) -> StarsOnDetector:
    """Find the stars on a detector and within ``margin_pixels`` [pixel] around it."""
    kind = detector.type
    size_x, size_y = kind.trimmed_columns, kind.trimmed_rows
    pixel_deg = kind.pixel_um / 1000.0 * camera.plate_scale_arcsec_per_mm / 3600.0
    radius_deg = (np.hypot(size_x, size_y) / 2.0 + margin_pixels * 1.5) * pixel_deg
    centre = detector_to_focal_plane(
        detector, np.array([(size_x - 1) / 2.0]), np.array([(size_y - 1) / 2.0])
    )
    ra, dec = focal_plane_to_sky(camera, pointing, *centre)
    cells = [
        stars_of_cell(*place) for place in _cells_around(float(ra[0]), float(dec[0]), radius_deg)
    ]
    stars = Stars(
        *(
            np.concatenate([getattr(cell, name) for cell in cells])
            for name in ("ra_deg", "dec_deg", "r_mag", "colour")
        )
    )
    x, y = focal_plane_to_detector(
        detector, *sky_to_focal_plane(camera, pointing, stars.ra_deg, stars.dec_deg)
    )
    near = (x > -margin_pixels) & (x < size_x - 1 + margin_pixels)
    near &= (y > -margin_pixels) & (y < size_y - 1 + margin_pixels)
    return StarsOnDetector(x[near], y[near], stars.magnitudes(band)[near])


def _cells_around(ra_deg: float, dec_deg: float, radius_deg: float) -> Iterator[tuple[int, int]]:
    lowest = max(0, int((dec_deg - radius_deg + 90.0) / _CELL_DEG))
    highest = min(_BANDS - 1, int((dec_deg + radius_deg + 90.0) / _CELL_DEG))
    # The meridian that touches the circle makes a right-angled triangle with the pole.
    ratio = np.sin(np.radians(radius_deg)) / max(np.cos(np.radians(dec_deg)), 1e-9)
    reach_deg = 180.0 if ratio >= 1.0 else float(np.degrees(np.arcsin(ratio)))
    for band in range(lowest, highest + 1):
        count = cells_of_band(band)
        width_deg = 360.0 / count
        first = int(np.floor((ra_deg - reach_deg) / width_deg))
        last = int(np.floor((ra_deg + reach_deg) / width_deg))
        for cell in range(first, min(last, first + count - 1) + 1):
            yield band, cell % count
