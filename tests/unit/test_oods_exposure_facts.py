"""What an exposure record says follows from the header by the rules of the public readers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from platevault.adapters.butler.facts import (
    BadMetadataError,
    ExposureFacts,
    Moment,
    Pointing,
    allows_visit,
    exposure_facts,
)
from platevault.domain.camera import Camera
from platevault.domain.headers import HeaderValue
from platevault.domain.ids import ImageName
from platevault.testing.cameras import tiny_camera
from platevault.testing.raw_files import a_header

IMAGE = ImageName.parse("TC_O_20250415_000060")


def camera_like(keyword_set: str) -> Camera:
    return replace(tiny_camera(), keyword_set=keyword_set)


def facts_of(
    without: Collection[str] = (),
    *,
    like: str = "LSSTCam",
    changes: Mapping[str, HeaderValue] | None = None,
    **more: Any,
) -> ExposureFacts:
    camera = camera_like(like)
    header = a_header(camera, str(IMAGE), "R22_S00", **{**(changes or {}), **more})
    for keyword in without:
        del header[keyword]
    return exposure_facts(header, camera=camera, image=IMAGE)


def test_a_science_exposure_has_all_its_facts() -> None:
    facts = facts_of()
    assert facts == ExposureFacts(
        obs_id="TC_O_20250415_000060",
        exposure_id=2025041500060,
        day_obs=20250415,
        seq_num=60,
        seq_start=60,
        seq_end=60,
        group="2025-04-16T01:23:40.123",
        physical_filter="r_tiny",
        observation_type="science",
        observation_reason="science",
        science_program="BLOCK-T1",
        target_name="field 7",
        begin=Moment(60781.05816756944),
        end=Moment("2025-04-16T01:24:15.678"),
        exposure_s=30.0,
        dark_s=30.5,
        pointing=Pointing("icrs", 53.125, -28.0),
        sky_angle_deg=33.0,
        azimuth_deg=270.5,
        zenith_deg=20.25,
        simulated=False,
        can_see_sky=True,
    )
    assert allows_visit(facts)


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ((), Moment(60781.05816756944)),
        (("MJD-BEG",), Moment("2025-04-16T01:23:45.678")),
        (("MJD-BEG", "DATE-BEG"), Moment(60781.05816756944)),
        (("MJD-BEG", "DATE-BEG", "MJD-OBS"), Moment("2025-04-16T01:23:45.678")),
    ],
)
def test_the_begin_is_read_from_the_first_keyword_that_is_there(
    without: tuple[str, ...], expected: Moment
) -> None:
    facts = facts_of(without, MJD_OBS=60781.05816756944, DATE_BEG="2025-04-16T01:23:45.678")
    assert facts.begin == expected


def test_without_a_time_scale_the_end_is_universal_time() -> None:
    assert facts_of(("TIMESYS",)).end == Moment("2025-04-16T01:24:15.678", "utc")


def test_without_an_end_there_is_none() -> None:
    assert facts_of(("DATE-END",)).end is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("OBJECT", "science"), ("SKYEXP", "science"), ("BIAS", "bias"), ("ENGTEST", "engtest")],
)
def test_image_types_get_their_name(kind: str, expected: str) -> None:
    assert facts_of(IMGTYPE=kind).observation_type == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"REASON": "Twilight", "TESTTYPE": "x"}, "twilight"),
        ({"REASON": None, "TESTTYPE": "Focus"}, "focus"),
        ({"REASON": None}, "science"),
        ({"REASON": None, "IMGTYPE": "BIAS"}, "unknown"),
    ],
)
def test_the_reason_has_its_fallbacks(changes: dict[str, HeaderValue], expected: str) -> None:
    assert facts_of(changes=changes).observation_reason == expected


@pytest.mark.parametrize(
    ("like", "changes", "exposure_s", "dark_s"),
    [
        ("LSSTCam", {"SHUTTIME": 29.9}, 29.9, 30.5),
        ("LSSTCam", {"SHUTTIME": 0.0}, 30.0, 30.5),
        ("LSSTCam", {"DARKTIME": None}, 30.0, 30.0),
        ("LSSTCam", {"DARKTIME": 1.0}, 30.0, 1.0),
        ("LATISS", {"SHUTTIME": 29.9}, 30.0, 30.5),
        ("LATISS", {"DARKTIME": 1.0}, 30.0, 30.0),
        ("LATISS", {"EXPTIME": None, "SHUTTIME": None}, -1.0, 30.5),
    ],
)
def test_times_follow_the_rules_of_the_instrument(
    like: str, changes: dict[str, HeaderValue], exposure_s: float, dark_s: float
) -> None:
    facts = facts_of(like=like, changes=changes)
    assert (facts.exposure_s, facts.dark_s) == (exposure_s, dark_s)


@pytest.mark.parametrize(
    ("like", "changes", "expected"),
    [
        ("LSSTCam", {"FILTER": "r_57"}, "r_57"),
        ("LSSTCam", {"FILTER": "NONE"}, "none"),
        ("LSSTCam", {"FILTER": None}, "unknown"),
        ("LSSTCam", {"FILTER": "r_57", "FILTER1": "ND_1", "FILTER2": "empty"}, "r_57~ND_1"),
        ("ComCam", {"FILTER": None}, "unknown"),
        ("LATISS", {"FILTER": "SDSSr", "GRATING": "empty_2"}, "SDSSr~empty"),
        ("LATISS", {"FILTER": "empty_1", "GRATING": "ronchi90lpmm"}, "empty~ronchi90lpmm"),
        ("LATISS", {"FILTER": "SDSSr"}, "SDSSr~unknown"),
    ],
)
def test_filters_join_as_the_instrument_does(
    like: str, changes: dict[str, HeaderValue], expected: str
) -> None:
    assert facts_of(like=like, changes=changes).physical_filter == expected


def test_sequence_numbers_follow_from_the_place_in_the_sequence() -> None:
    facts = facts_of(CURINDEX=2, MAXINDEX=3)
    assert (facts.seq_start, facts.seq_end) == (59, 61)
    alone = facts_of(("CURINDEX", "MAXINDEX"))
    assert (alone.seq_start, alone.seq_end) == (60, 60)


def test_without_a_group_the_exposure_is_its_own() -> None:
    assert facts_of(GROUPID=None).group == "2025041500060"


@pytest.mark.parametrize(
    ("like", "changes"),
    [
        ("LSSTCam", {"TRACKSYS": "AZEL"}),
        ("LSSTCam", {"TRACKSYS": ""}),
        ("LSSTCam", {"RADESYS": "GAPPT"}),
        ("LSSTCam", {"IMGTYPE": "BIAS"}),
        ("LSSTCam", {"IMGTYPE": "FLAT"}),
        ("LSSTCam", {"RASTART": None, "RA": None}),
        ("LSSTCam", {"RASTART": math.nan, "RA": math.nan}),
        ("LATISS", {"TRACKSYS": "LOCAL"}),
    ],
)
def test_an_exposure_that_tracked_no_sky_position_has_none(
    like: str, changes: dict[str, HeaderValue]
) -> None:
    facts = facts_of(like=like, changes=changes)
    assert facts.pointing is None
    assert facts.sky_angle_deg is None
    assert not allows_visit(facts)


@pytest.mark.parametrize("keyword", ["DATE", "DATE-OBS"])
def test_without_both_dates_there_is_no_pointing(keyword: str) -> None:
    assert facts_of((keyword,)).pointing is None


def test_an_undefined_date_is_no_obstacle() -> None:
    assert facts_of(DATE=None).pointing == Pointing("icrs", 53.125, -28.0)


def test_equal_dates_give_the_pointing_from_azimuth_and_elevation() -> None:
    same = "2025-04-16T01:23:45.678"
    assert facts_of(DATE=same).pointing == Pointing("azel")
    assert facts_of(DATE=same, AZSTART=None).pointing is None


@pytest.mark.parametrize(
    ("like", "changes", "expected"),
    [
        ("LSSTCam", {"RASTART": None}, Pointing("icrs", 53.1, -28.1)),
        ("LSSTCam", {"DECSTART": None}, Pointing("icrs", 53.1, -28.1)),
        ("LSSTCam", {"RADESYS": "FK5"}, Pointing("fk5", 53.125, -28.0)),
        ("LSSTCam", {"RADESYS": None}, Pointing("icrs", 53.125, -28.0)),
        ("LSSTCam", {"TRACKSYS": None}, Pointing("icrs", 53.125, -28.0)),
        ("LSSTCam", {"RASTART": -10.0}, Pointing("icrs", 350.0, -28.0)),
        ("LATISS", {"TRACKSYS": "SIDEREAL", "RADESYS": ""}, Pointing("icrs", 53.125, -28.0)),
        ("LATISS", {"TRACKSYS": ""}, Pointing("icrs", 53.125, -28.0)),
    ],
)
def test_the_pointing_has_its_fallbacks(
    like: str, changes: dict[str, HeaderValue], expected: Pointing
) -> None:
    assert facts_of(like=like, changes=changes).pointing == expected


def test_darks_keep_their_pointing_but_have_no_sky_angle() -> None:
    dark = facts_of(IMGTYPE="DARK", SHUTTIME=0.0)
    assert dark.pointing is not None
    assert dark.sky_angle_deg is None
    assert dark.can_see_sky is False


@pytest.mark.parametrize(
    ("like", "changes", "expected"),
    [
        ("LSSTCam", {"ROTCOORD": "mount"}, None),
        ("LSSTCam", {"ROTCOORD": None}, None),
        ("LSSTCam", {"ROTPA": None}, None),
        ("LSSTCam", {"ROTPA": None, "ROTANGLE": 12.0}, 12.0),
        ("ComCam", {"ROTPA": None}, 0.0),
        ("LATISS", {"ROTPA": None}, None),
    ],
)
def test_the_sky_angle_needs_a_rotator_on_the_sky(
    like: str, changes: dict[str, HeaderValue], expected: float | None
) -> None:
    facts = facts_of(like=like, changes=changes)
    assert facts.sky_angle_deg == expected
    assert allows_visit(facts) is (expected is not None)


@pytest.mark.parametrize(
    ("like", "changes", "expected"),
    [
        ("LSSTCam", {"VIGN_MIN": "FULLY"}, False),
        ("LSSTCam", {"VIGN_MIN": "PARTIALLY"}, True),
        ("LSSTCam", {"VIGN_MIN": None}, None),
        ("LSSTCam", {"SHUTTIME": 0.0}, False),
        ("LSSTCam", {"SHUTTIME": None}, True),
        ("LATISS", {"VIGN_MIN": None}, True),
        ("LATISS", {"VIGN_MIN": None, "IMGTYPE": "FLAT"}, False),
        ("LATISS", {"VIGN_MIN": None, "IMGTYPE": "ENGTEST"}, None),
    ],
)
def test_shutter_and_dome_tell_whether_there_was_sky(
    like: str, changes: dict[str, HeaderValue], expected: bool | None
) -> None:
    facts = facts_of(like=like, changes=changes)
    assert facts.can_see_sky is expected
    if expected is False:
        assert not allows_visit(facts)


@pytest.mark.parametrize(
    ("changes", "azimuth", "zenith"),
    [
        ({"AZSTART": -89.5, "ELSTART": 69.75}, 270.5, 20.25),
        ({"AZSTART": 10.0, "ELSTART": 90.2}, 10.0, 0.0),
        ({"AZSTART": 10.0, "ELSTART": 120.0}, None, None),
        ({"AZSTART": None, "ELSTART": 69.75}, None, None),
    ],
)
def test_azimuth_and_elevation_become_those_of_the_record(
    changes: dict[str, HeaderValue], azimuth: float | None, zenith: float | None
) -> None:
    facts = facts_of(changes=changes)
    assert (facts.azimuth_deg, facts.zenith_deg) == (azimuth, zenith)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"HIERARCH.SIMULATE.ATMCS": 0}, False),
        ({"HIERARCH.SIMULATE.ATMCS": None}, False),
        ({"HIERARCH.SIMULATE.ATMCS": 1}, True),
        ({"SIMULATE MTDOME": True}, True),
    ],
)
def test_a_simulated_part_marks_the_exposure(
    flags: Mapping[str, HeaderValue], expected: bool
) -> None:
    camera = camera_like("LSSTCam")
    header = {**a_header(camera, str(IMAGE), "R22_S00"), **flags}
    assert exposure_facts(header, camera=camera, image=IMAGE).simulated is expected


def test_a_simulating_controller_marks_the_exposure() -> None:
    camera, image = camera_like("LSSTCam"), ImageName.parse("TC_S_20260415_000060")
    header = a_header(camera, str(image), "R22_S00")
    assert exposure_facts(header, camera=camera, image=image).simulated is True


@pytest.mark.parametrize(
    ("without", "changes", "field"),
    [
        (("OBSID",), {}, "OBSID"),
        ((), {"OBSID": "TC_O_20250415_000061"}, "OBSID"),
        ((), {"DAYOBS": "20250416"}, "DAYOBS"),
        ((), {"DAYOBS": "2025-04-15"}, "DAYOBS"),
        ((), {"SEQNUM": 61}, "SEQNUM"),
        ((), {"SEQNUM": "60"}, "SEQNUM"),
        ((), {"CONTRLLR": "C"}, "CONTRLLR"),
        ((), {"INSTRUME": "OtherCam"}, "INSTRUME"),
        (("INSTRUME",), {}, "INSTRUME"),
        (("MJD-BEG", "DATE-BEG", "MJD-OBS", "DATE-OBS"), {}, "DATE-BEG"),
        ((), {"MJD_BEG": "60781"}, "MJD-BEG"),
        ((), {"EXPTIME": "thirty"}, "EXPTIME"),
        ((), {"CURINDEX": 1.5}, "CURINDEX"),
        ((), {"OBJECT": "x" * 65}, "target_name"),
        ((), {"PROGRAM": "x" * 65}, "science_program"),
        ((), {"IMGTYPE": "x" * 17}, "observation_type"),
        ((), {"FILTER": "x" * 33}, "physical_filter"),
        ((), {"DECSTART": 91.0}, "DECSTART"),
        ((), {"RASTART": 400.0}, "RASTART"),
    ],
)
def test_what_does_not_allow_a_record_is_named(
    without: tuple[str, ...], changes: dict[str, HeaderValue], field: str
) -> None:
    with pytest.raises(BadMetadataError) as caught:
        facts_of(without, changes=changes)
    assert caught.value.context["field"] == field
    assert "expected" in caught.value.context


def test_what_the_image_name_tells_may_be_absent() -> None:
    assert facts_of(("DAYOBS", "SEQNUM", "CONTRLLR")) == facts_of()
