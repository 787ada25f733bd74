"""The telescope's angles agree with each other and with the sky."""

from datetime import UTC, datetime

import numpy as np
import pytest

from platevault.sim.clock import DeviceClock
from platevault.sim.telescope import Site, Target, Telescope, airmass_of, horizon_angles
from platevault.sim.weather import Weather

SITE = Site(-70.749417, -30.244639, 2663.0)


def test_the_angles_are_those_of_a_real_exposure() -> None:
    # MC_O_20250415_000060: RA 127.5, Dec -44.2; its header says what the telescope measured.
    begin = datetime(2025, 4, 16, 0, 53, 13, 573000, tzinfo=UTC).timestamp()
    telescope = Telescope(SITE)
    telescope.slew(Target("Vela_SNR", 127.5, -44.2, 46.375))
    track = telescope.track(np.array([begin]))
    assert track.elevation_deg[0] == pytest.approx(69.3932, abs=0.01)
    assert track.azimuth_deg[0] == pytest.approx(221.7491, abs=0.02)
    assert track.hour_angle_h[0] == pytest.approx(1.27445, abs=0.001)
    assert track.airmass[0] == pytest.approx(1.068223, abs=0.0005)


def test_a_target_in_the_zenith_has_airmass_one() -> None:
    begin = 1.8e9
    telescope = Telescope(SITE)
    ra, dec = telescope.overhead_position(begin)
    telescope.slew(Target("zenith", ra, dec, 0.0))
    track = telescope.track(np.array([begin]))
    assert track.elevation_deg[0] == pytest.approx(90.0, abs=0.01)
    assert track.airmass[0] == pytest.approx(1.0, abs=1e-6)


def test_the_rotator_follows_the_parallactic_angle() -> None:
    telescope = Telescope(SITE)
    ra, dec = telescope.overhead_position(1.8e9)
    telescope.slew(Target("field", (ra + 10) % 360, dec + 5, 30.0))
    track = telescope.track(1.8e9 + np.arange(0.0, 600.0, 60.0))
    difference = (track.parallactic_deg - track.rotator_deg - 30.0 + 180.0) % 360.0 - 180.0
    assert np.allclose(difference, 0.0, atol=1e-9)
    assert np.ptp(track.rotator_deg) > 0.5


def test_the_meridian_has_hour_angle_zero() -> None:
    azimuth, elevation = np.array([0.0, 180.0]), np.array([50.0, 50.0])
    hour, parallactic = horizon_angles(azimuth, elevation, -30.0)
    assert np.allclose(hour, 0.0)
    # North of the zenith the pole lies below, south of it above.
    assert np.allclose(np.abs(parallactic), [180.0, 0.0])


def test_airmass_grows_towards_the_horizon() -> None:
    assert np.all(np.diff(airmass_of(np.linspace(90.0, 5.0, 50))) > 0)


def test_device_time_moves_by_steps_only() -> None:
    clock = DeviceClock(100.0)
    clock.step(2.5)
    assert clock.now_tai() == 102.5


def test_the_weather_is_that_of_its_seed() -> None:
    assert Weather(1).at(1.8e9) == Weather(1).at(1.8e9)
    assert Weather(1).at(1.8e9) != Weather(2).at(1.8e9)
    reports = [Weather(3).at(1.8e9 + 600 * n) for n in range(500)]
    assert all(0 <= report.humidity_percent <= 100 for report in reports)
    assert all(0 <= report.wind_deg < 360 for report in reports)
    assert all(0.3 < report.seeing_arcsec < 2.0 for report in reports)
