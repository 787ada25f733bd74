"""TAI inside, UTC for people and the observing day."""

import erfa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platevault.domain.timescales import day_obs_of, isot, mjd, tai_from_utc, utc_from_tai


@pytest.mark.parametrize("year", range(1973, 2027))
@pytest.mark.parametrize("month", [1, 7])
def test_the_leap_seconds_are_those_of_erfa(year: int, month: int) -> None:
    from datetime import UTC, datetime

    utc = datetime(year, month, 1, 0, 0, 1, tzinfo=UTC).timestamp()
    assert tai_from_utc(utc) - utc == erfa.dat(year, month, 1, 0.0)


@given(st.floats(7e7, 4e9))
def test_utc_and_tai_are_inverse_outside_leap_seconds(utc: float) -> None:
    assert utc_from_tai(tai_from_utc(utc)) == pytest.approx(utc, abs=1e-6)


def test_the_day_rolls_over_at_noon_utc() -> None:
    from datetime import UTC, datetime

    noon = tai_from_utc(datetime(2025, 4, 16, 12, tzinfo=UTC).timestamp())
    assert day_obs_of(noon - 0.001) == 20250415
    assert day_obs_of(noon) == 20250416


def test_times_have_milliseconds_and_round_into_the_next_second() -> None:
    assert isot(1744764793.573) == "2025-04-16T00:53:13.573"
    assert isot(59.9996) == "1970-01-01T00:01:00.000"


def test_the_mjd_is_that_of_a_real_header() -> None:
    # DATE-OBS 2025-04-16T00:53:13.573 TAI stands with MJD-OBS 60781.03696264839 in LSSTCam data.
    assert mjd(1744764793.573) == pytest.approx(60781.03696264839, abs=5e-9)
