from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from platevault.domain.camera import Camera, Detector
from platevault.sim.pixels import ImageType, PixelRecipe, amplifier_planes
from platevault.sim.sky import (
    Pointing,
    StarsOnDetector,
    cells_of_band,
    detector_to_focal_plane,
    focal_plane_to_detector,
    focal_plane_to_sky,
    sky_to_focal_plane,
    stars_of_cell,
    stars_on_detector,
)
from platevault.sim.stamps import star_pixels
from platevault.testing.cameras import tiny_camera, tiny_detector_type

CAMERA = tiny_camera()
FIELDS = (
    Pointing(53.1, -27.8, 0.0),
    Pointing(53.1, -27.8, 137.0),
    Pointing(0.01, 2.0, -40.0),
    Pointing(359.995, -45.0, 200.0),
    Pointing(120.0, 89.97, 10.0),
    Pointing(10.0, -89.99, 10.0),
)


def astropy_wcs(camera: Camera, pointing: Pointing) -> WCS:
    """Tangent plane in mm of the focal plane; at rotation 0 north is +y and west is +x."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [pointing.ra_deg, pointing.dec_deg]
    wcs.wcs.crpix = [1.0, 1.0]
    angle = np.radians(pointing.rotation_deg)
    scale = camera.plate_scale_arcsec_per_mm / 3600.0
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return wcs


@pytest.mark.parametrize("pointing", FIELDS, ids=str)
def test_places_on_the_sky_are_those_of_astropy(pointing: Pointing) -> None:
    x_mm, y_mm = np.meshgrid(np.linspace(-1.5, 1.5, 5), np.linspace(-1.0, 2.0, 4))
    ra, dec = focal_plane_to_sky(CAMERA, pointing, x_mm, y_mm)
    theirs = astropy_wcs(CAMERA, pointing).pixel_to_world(x_mm, y_mm)
    ours = SkyCoord(ra * units.deg, dec * units.deg)
    assert ours.separation(theirs).arcsec.max() < 1e-6
    again_x, again_y = sky_to_focal_plane(CAMERA, pointing, ra, dec)
    assert np.allclose(again_x, x_mm, atol=1e-9)
    assert np.allclose(again_y, y_mm, atol=1e-9)


def test_what_is_behind_the_camera_has_no_place() -> None:
    x_mm, _ = sky_to_focal_plane(
        CAMERA, Pointing(10.0, 0.0), np.array([190.0, 100.1]), np.array([0.0, 0.0])
    )
    assert np.isnan(x_mm).all()


@given(
    x=st.floats(-20, 100), y=st.floats(-20, 60), number=st.integers(0, len(CAMERA.detectors) - 1)
)
def test_pixels_and_focal_plane_are_inverse(x: float, y: float, number: int) -> None:
    detector = CAMERA.detectors[number]
    place = detector_to_focal_plane(detector, np.array([x]), np.array([y]))
    back_x, back_y = focal_plane_to_detector(detector, *place)
    assert (back_x[0], back_y[0]) == pytest.approx((x, y), abs=1e-9)


def test_a_turned_detector_lies_where_its_orientation_says() -> None:
    guider = CAMERA.detector_by_name["R00_SG0"]
    assert guider.orientation_deg == 90.0
    # The sensor's +x runs along the focal plane's +y.
    x_mm, y_mm = detector_to_focal_plane(guider, np.array([31.5, 32.5]), np.array([15.5, 15.5]))
    assert x_mm == pytest.approx([-0.4, -0.4])
    assert y_mm == pytest.approx([-0.5, -0.49])


def every_star_near(pointing: Pointing, radius_deg: float) -> tuple[NDArray[np.float64], ...]:
    """All stars of the cells in a box that is surely large enough."""
    stars = [
        stars_of_cell(band, cell)
        for band in range(900)
        if abs(-90.0 + (band + 0.5) * 0.2 - pointing.dec_deg) < radius_deg + 0.2
        for cell in range(cells_of_band(band))
        if cells_of_band(band) < 60
        or abs(((cell + 0.5) * 360.0 / cells_of_band(band) - pointing.ra_deg + 180) % 360 - 180)
        * np.cos(np.radians(pointing.dec_deg))
        < radius_deg + 0.4
    ]
    return tuple(
        np.concatenate([getattr(one, name) for one in stars]) for name in ("ra_deg", "dec_deg")
    )


@pytest.mark.parametrize("pointing", FIELDS, ids=str)
def test_no_star_of_a_detector_is_missed(pointing: Pointing) -> None:
    ra, dec = every_star_near(pointing, 0.4)
    x_mm, y_mm = astropy_wcs(CAMERA, pointing).world_to_pixel(
        SkyCoord(ra * units.deg, dec * units.deg)
    )
    for detector in CAMERA.detectors:
        x, y = focal_plane_to_detector(detector, x_mm, y_mm)
        expected = (x > -3) & (x < 63 + 3) & (y > -3) & (y < 31 + 3)
        found = stars_on_detector(CAMERA, detector, pointing, band="r", margin_pixels=3.0)
        assert len(found.x) == expected.sum() > 0
        assert np.allclose(np.sort(found.x), np.sort(x[expected]), atol=1e-4)
        assert np.allclose(np.sort(found.y), np.sort(y[expected]), atol=1e-4)


def test_the_sky_is_the_same_in_every_detector_and_whatever_the_seed() -> None:
    """One star is put on four detectors in turn; each image shows it where it must be."""
    brightest = max(
        (stars_of_cell(300, cell) for cell in range(40)), key=lambda one: -one.r_mag.min()
    )
    number = int(np.argmin(brightest.r_mag))
    ra, dec = float(brightest.ra_deg[number]), float(brightest.dec_deg[number])
    for seed, detector in enumerate(CAMERA.detectors):
        for target in ((20.0, 10.0), (40.0, 25.0)):
            pointing = pointing_that_puts(ra, dec, detector, target)
            recipe = PixelRecipe(
                ImageType.OBJECT, 1.0, pointing, "r_tiny", sky_mag_arcsec2=30.0, zero_point_mag=24.0
            )
            image = trimmed(
                detector,
                amplifier_planes(CAMERA, detector, recipe, seed=seed, image=f"image {seed}"),
            )
            y, x = np.unravel_index(np.argmax(image), image.shape)
            assert (float(x), float(y)) == target, (detector.name, target)


def pointing_that_puts(
    ra: float, dec: float, detector: Detector, target: tuple[float, float]
) -> Pointing:
    x_mm, y_mm = detector_to_focal_plane(detector, np.array([target[0]]), np.array([target[1]]))
    pointing = Pointing(ra, dec, 25.0)
    for _ in range(6):
        now_ra, now_dec = focal_plane_to_sky(CAMERA, pointing, x_mm, y_mm)
        pointing = Pointing(
            float(pointing.ra_deg + ra - now_ra[0]),
            float(pointing.dec_deg + dec - now_dec[0]),
            25.0,
        )
    return pointing


def trimmed(detector: Detector, planes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Assemble a detector as its amplifiers say, plainly."""
    kind = detector.type
    image = np.zeros((kind.trimmed_rows, kind.trimmed_columns), np.int32)
    for amplifier, plane in zip(kind.amplifiers, planes, strict=True):
        data = plane[: kind.data_rows, kind.prescan : kind.prescan + kind.data_columns]
        data = data[:, ::-1] if amplifier.flip_x else data
        data = data[::-1] if amplifier.flip_y else data
        level = np.median(plane[:, -kind.serial_overscan :]).astype(np.int32)
        image[
            amplifier.y0 : amplifier.y0 + kind.data_rows,
            amplifier.x0 : amplifier.x0 + kind.data_columns,
        ] = data - level
    return image


def test_a_star_on_the_seam_of_two_detectors_is_in_both() -> None:
    """Neighbours that touch show the two halves of one star."""
    left, right = CAMERA.detectors[0], CAMERA.detectors[1]
    left = dataclasses.replace(left, centre_x_mm=-0.32)
    right = dataclasses.replace(right, centre_x_mm=0.32)
    camera = dataclasses.replace(CAMERA, detectors=(left, right, *CAMERA.detectors[2:]))
    stars = stars_of_cell(300, 7)
    number = int(np.argmin(stars.r_mag))
    pointing = Pointing(float(stars.ra_deg[number]), float(stars.dec_deg[number]), 70.0)
    recipe = PixelRecipe(
        ImageType.OBJECT, 1.0, pointing, "r_tiny", sky_mag_arcsec2=30.0, zero_point_mag=26.0
    )
    edges = [
        trimmed(item, amplifier_planes(camera, item, recipe, seed=1, image="a"))[14:18, column]
        for item, column in ((left, -1), (right, 0))
    ]
    assert min(edge.max() for edge in edges) > 500
    assert np.allclose(edges[0], edges[1], rtol=0.3, atol=300)


def test_a_star_has_the_light_of_its_magnitude() -> None:
    kind = tiny_detector_type()
    stars = StarsOnDetector(np.array([20.3]), np.array([7.6]), np.array([15.0]))
    found = star_pixels(
        kind,
        stars,
        flux_e=np.array([80_000.0]),
        sigma_pixels=1.2,
        gain_e_per_adu=np.full(4, 1.6),
        read_columns=np.arange(32),
        read_rows=np.arange(16),
        random=np.random.default_rng(1),
    )
    # The star is well inside the lower left amplifier.
    assert set(found.channel.tolist()) == {kind.amplifiers[3].channel}
    assert found.adu.sum() == pytest.approx(50_000.0, rel=0.02)
    assert np.average(found.column, weights=found.adu) == pytest.approx(20.3, abs=0.05)
    assert np.average(found.row, weights=found.adu) == pytest.approx(7.6, abs=0.05)


def test_a_red_star_is_brighter_in_i_than_in_g() -> None:
    stars = stars_of_cell(300, 7)
    red = stars.colour > 0.5
    assert (stars.magnitudes("i")[red] < stars.magnitudes("g")[red] - 0.5).all()
    assert np.array_equal(stars.magnitudes(""), stars.r_mag)


def test_cells_cover_their_band_and_only_it() -> None:
    for band in (0, 1, 450, 899):
        count = cells_of_band(band)
        ra = np.concatenate(
            [stars_of_cell(band, cell).ra_deg for cell in {0, count // 2, count - 1}]
        )
        dec = np.concatenate(
            [stars_of_cell(band, cell).dec_deg for cell in {0, count // 2, count - 1}]
        )
        assert ((ra >= 0.0) & (ra < 360.0)).all()
        assert (dec >= -90.0 + 0.2 * band - 1e-9).all()
        assert (dec <= -90.0 + 0.2 * (band + 1) + 1e-9).all()
    assert cells_of_band(0) == 3
    assert cells_of_band(450) == 1799
