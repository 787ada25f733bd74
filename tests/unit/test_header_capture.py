"""Each form of a source gives the value at the time of the event, not of its arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platevault.compose.cameras import load_camera
from platevault.compose.header_keywords import load_keyword_set
from platevault.domain.header_sources import TopicSource
from platevault.domain.headers import Collected
from platevault.domain.keyed_lists import join_list, split_list, split_pairs
from platevault.domain.keywords import Capture, KeywordSet, parse_keywords
from platevault.domain.samples import Sample
from platevault.domain.timescales import utc_from_tai
from platevault.services.header_service.conversions import Found
from platevault.services.header_service.evaluation import Evaluation
from platevault.services.header_service.exposures import IMAGE_TOPICS, ExposureEvents
from platevault.services.header_service.sampling import (
    READING_LIMIT,
    Samples,
    TopicBuffer,
    reading_of,
)
from platevault.services.header_service.service import _AS_SENT
from platevault.testing.header_samples import (
    BEGIN_TAI,
    EXPOSURE_S,
    IMAGE,
    Speaker,
    camera_events,
)

S = BEGIN_TAI
R = BEGIN_TAI + EXPOSURE_S + 1.0
CAMERAS = {name: load_camera(name) for name in ("comcam", "latiss")}
SETS = {name: load_keyword_set(camera) for name, camera in CAMERAS.items()}
COLUMNS = (
    "keyword,section,group,type,unit,capture,source,default,required,absent,limits,max_age_s,"
    "sets,comment"
)


def only(source: str, capture: str, like: str, max_age: str = "") -> KeywordSet:
    row = f'K,PRIMARY,date,str,,{capture},"{source}",,no,undefined,,{max_age},*,c'
    (keyword,) = parse_keywords(f"{COLUMNS}\n{row}\n")
    assert isinstance(keyword.source, TopicSource)
    if keyword.source.component == "{camera}":
        keyword = replace(
            keyword, source=replace(keyword.source, component=SETS[like].camera_component)
        )
    return replace(SETS[like], keywords=(keyword,))


def capture(
    source: str,
    said: Sequence[Sample],
    *,
    at: str = "S",
    like: str = "comcam",
    sensor: str = "",
    max_age: str = "",
    events: bool = True,
    missed: bool = False,
) -> Found:
    keywords = only(source, at, like, max_age)
    exposure = ExposureEvents(IMAGE, 2.0)
    samples = Samples(keywords=keywords, keep_s=960.0)
    extra = camera_events(Speaker(), CAMERAS["comcam"]) if events else []
    for sample in [*said, *extra]:
        if sample.topic.name in IMAGE_TOPICS:
            exposure.take(sample.topic.name, reading_of(sample, _AS_SENT))
        samples.take(sample)
    (row,) = keywords.captured
    evaluation = Evaluation(keywords=keywords, samples=samples, events=exposure, missed=missed)
    assert isinstance(row.source, TopicSource)
    if row.source.monitor:
        return evaluation.monitored(row.source)
    located = evaluation.locate(row.source, row.capture, row.max_age_s)
    return evaluation.value(row.source, located, sensor)


def position(tai: float, sent_tai: float | None = None, **fields: Any) -> Sample:
    return Speaker().say(
        "MTPtg", "mountPosition", tai if sent_tai is None else sent_tai, timestamp=tai, **fields
    )


# --- moments --------------------------------------------------------------------------------------


def test_a_position_is_interpolated_to_the_start_of_acquisition() -> None:
    found = capture(
        "MTPtg.mountPosition.ra", [position(S - 0.25, ra=10.0), position(S + 0.75, ra=14.0)]
    )
    assert found.value == pytest.approx(11.0)
    assert found.collected is Collected.OK
    assert (found.sample_tai, found.age_s) == (S - 0.25, 0.25)


def test_the_end_is_taken_at_the_start_of_readout() -> None:
    said = [position(S, ra=10.0), position(R - 1.0, ra=20.0), position(R + 1.0, ra=22.0)]
    assert capture("MTPtg.mountPosition.ra", said, at="R").value == pytest.approx(21.0)


def test_the_sample_time_counts_and_not_the_send_time() -> None:
    # Both were sent after the start; the first was measured before it.
    said = [position(S - 0.1, S + 3.0, ra=1.0), position(S + 4.0, S + 1.0, ra=9.0)]
    assert capture("MTPtg.mountPosition.ra", said).value == pytest.approx(1.0 + 8.0 * 0.1 / 4.1)


@pytest.mark.parametrize(
    ("source", "first", "second", "expected"),
    [
        ("MTPtg.mountPosition.ra | wrap(0..360)", 359.0, 1.0, 0.0),
        ("MTPtg.mountPosition.ra | wrap(0..360)", 1.0, 359.0, 0.0),
        ("MTPtg.mountPosition.ra | wrap(0..360)", 350.0, 20.0, 5.0),
        ("MTPtg.mountPosition.skyAngle | wrap(360)", 179.0, -179.0, 180.0),
        ("MTPtg.mountPosition.skyAngle | wrap(360)", -89.0, -91.0, -90.0),
    ],
)
def test_an_angle_goes_the_short_way_round(
    source: str, first: float, second: float, expected: float
) -> None:
    name = source.split(" ", maxsplit=1)[0].rsplit(".", 1)[1]
    said = [position(S - 1.0, **{name: first}), position(S + 1.0, **{name: second})]
    value = capture(source, said).value
    assert (value - expected + 180.0) % 360.0 - 180.0 == pytest.approx(0.0, abs=1e-9)
    if "0..360" in source:
        assert 0.0 <= value < 360.0


def test_without_a_later_sample_the_last_one_stands() -> None:
    assert capture("MTPtg.mountPosition.ra", [position(S - 4.0, ra=7.0)]).value == 7.0


def test_a_later_sample_that_is_far_off_is_not_used() -> None:
    said = [position(S - 1.0, ra=7.0), position(S + 60.0, ra=70.0)]
    assert capture("MTPtg.mountPosition.ra", said).value == 7.0


def test_a_sample_past_its_limit_is_stale_with_its_age() -> None:
    found = capture("MTPtg.mountPosition.ra", [position(S - 5.5, ra=7.0)])
    assert (found.value, found.collected, found.age_s) == (None, Collected.STALE, 5.5)
    assert "limit 5.0" in found.problem


def test_a_keyword_may_have_a_limit_of_its_own() -> None:
    said = [position(S - 5.5, ra=7.0)]
    assert capture("MTPtg.mountPosition.ra", said, max_age="6").value == 7.0
    assert capture("MTPtg.mountPosition.ra", said, max_age="2").collected is Collected.STALE


def test_a_sample_of_after_the_event_is_no_value_of_it() -> None:
    found = capture("MTPtg.mountPosition.ra", [position(S + 0.1, ra=7.0)])
    assert found.collected is Collected.MISSING


def test_a_source_that_never_spoke_is_missing() -> None:
    found = capture("MTPtg.mountPosition.ra", [])
    assert (found.collected, found.problem) == (
        Collected.MISSING,
        "MTPtg never sent mountPosition",
    )


def test_without_a_start_there_is_no_moment() -> None:
    found = capture("MTPtg.mountPosition.ra", [position(S, ra=7.0)], events=False)
    assert found.collected is Collected.MISSING


# --- blocks ---------------------------------------------------------------------------------------


def block(first_tai: float, sent_tai: float, values: Sequence[float]) -> Sample:
    return Speaker().say(
        "ATPtg", "mountPositions", sent_tai, cRioTimestamp=first_tai, ra=list(values)
    )


def test_the_element_of_a_block_is_the_one_of_the_moment() -> None:
    said = [
        block(S - 1.25, S - 0.2, [float(n) for n in range(100)]),
        block(S - 0.25, S + 0.8, [100.0 + n for n in range(100)]),
    ]
    found = capture("ATPtg.mountPositions.ra[at S]", said, like="latiss")
    assert found.value == pytest.approx(125.0, abs=1e-3)


def test_a_block_in_utc_is_recognised_by_its_send_time() -> None:
    said = [block(utc_from_tai(S - 0.25), S + 0.8, [float(n) for n in range(100)])]
    found = capture("ATPtg.mountPositions.ra[at S]", said, like="latiss")
    assert found.value == pytest.approx(25.0, abs=1e-3)
    assert found.sample_tai == pytest.approx(S - 0.25, abs=1e-6)


def test_after_the_last_block_its_last_element_stands_until_it_is_stale() -> None:
    values = [float(n) for n in range(100)]
    fresh = capture(
        "ATPtg.mountPositions.ra[at S]", [block(S - 3.0, S - 2.0, values)], like="latiss"
    )
    assert fresh.value == 99.0
    old = capture("ATPtg.mountPositions.ra[at S]", [block(S - 6.5, S - 5.5, values)], like="latiss")
    assert old.collected is Collected.STALE


# --- states ---------------------------------------------------------------------------------------


def filter_event(tai: float, name: str) -> Sample:
    return Speaker().say("CCCamera", "endSetFilter", tai, filterName=name, filterPosition=-1.0)


def test_a_state_holds_its_last_value_however_old() -> None:
    said = [filter_event(S - 90_000.0, "g_01"), filter_event(S + 5.0, "r_03")]
    found = capture("{camera}.endSetFilter.filterName | state", said)
    assert (found.value, found.age_s) == ("g_01", 90_000.0)


def test_a_value_that_stands_for_unknown_is_missing() -> None:
    found = capture("{camera}.endSetFilter.filterPosition | unless(-1)", [filter_event(S - 1, "x")])
    assert found.collected is Collected.MISSING


def test_a_focal_plane_that_is_told_right_after_the_start_counts() -> None:
    said = [
        Speaker().say(
            "CCCamera", "focalPlaneSummaryInfo", S + 0.5, ccdLocation="R22S00", ccdSlot="S00"
        )
    ]
    found = capture("{camera}.focalPlaneSummaryInfo.ccdSlot[@ccd]", said, sensor="R22S00")
    assert found.value == "S00"


# --- events of the image --------------------------------------------------------------------------


def test_a_keyed_value_comes_out_of_the_parallel_lists() -> None:
    found = capture("{camera}.startIntegration.additionalValues[key=groupId]", [])
    assert found.value == "2025-04-16T00:53:10.143"


def test_a_key_that_was_not_given_is_missing() -> None:
    found = capture("{camera}.startIntegration.additionalValues[key=stutterRows]", [])
    assert found.collected is Collected.MISSING


def test_dates_are_tai() -> None:
    found = capture("{camera}.endOfImageTelemetry.timestampDateObs | isot(TAI)", [], at="E")
    assert found.value == "2025-04-16T00:53:13.500"


def test_a_missed_start_is_read_from_the_other_events() -> None:
    events = camera_events(Speaker(), CAMERAS["comcam"])
    for kept in ("startReadout", "endOfImageTelemetry"):
        said = [sample for sample in events if sample.topic.name == kept]
        found = capture("{camera}.startIntegration.exposureTime", said, events=False)
        assert found.value == EXPOSURE_S
    done = [sample for sample in events if sample.topic.name == "endReadout"]
    assert capture("{camera}.startIntegration.exposureTime", done, events=False).value == EXPOSURE_S
    position_found = capture("MTPtg.mountPosition.ra", [*done, position(S, ra=3.0)], events=False)
    assert position_found.value == 3.0


def test_events_are_matched_by_image_name() -> None:
    exposure = ExposureEvents(IMAGE, 2.0)
    other = Speaker().say(
        "CCCamera", "imageReadoutParameters", S, imageName=IMAGE, daqAnnotation="mine"
    )
    exposure.take("imageReadoutParameters", reading_of(other, _AS_SENT))
    found = exposure.carrier("imageReadoutParameters", "daqAnnotation")
    assert found is not None
    assert found[0].fields["daqAnnotation"] == "mine"


# --- conversions ----------------------------------------------------------------------------------


def test_radians_become_degrees() -> None:
    said = [Speaker().say("MTPtg", "currentTarget", S - 9, timestamp=S - 9, ra=3.141592653589793)]
    found = capture("MTPtg.currentTarget.ra | scale(57.29577951308232) | wrap(0..360)", said)
    assert found.value == pytest.approx(180.0)


def test_an_element_of_an_array_is_scaled() -> None:
    said = [
        Speaker().say("MTHexapod", "application", S, sal_index=1, demand=[1, 2, -2856.0, 4, 5, 6])
    ]
    found = capture("MTHexapod:1.application.demand[2] | scale(0.001)", said)
    assert found.value == pytest.approx(-2.856)


def test_another_index_of_the_component_does_not_count() -> None:
    said = [Speaker().say("MTHexapod", "application", S, sal_index=2, demand=[0.0] * 6)]
    found = capture("MTHexapod:1.application.demand[2]", said)
    assert found.collected is Collected.MISSING


def test_numbers_of_an_enumeration_become_names() -> None:
    said = [Speaker().say("MTPtg", "currentTarget", S - 9, timestamp=S - 9, targetType=1, frame=3)]
    assert capture("MTPtg.currentTarget.targetType | enum(TargetTypes)", said).value == "RADEC"
    azel = capture("MTPtg.currentTarget.frame | enum(CoordFrame) | only(ICRS, FK5)", said)
    assert (azel.value, azel.collected) == (None, Collected.OK)


def test_a_number_that_is_no_member_is_rejected() -> None:
    target = Speaker().say("MTPtg", "currentTarget", S - 9, timestamp=S - 9)
    said = [replace(target, fields={**target.fields, "targetType": 9})]
    found = capture("MTPtg.currentTarget.targetType | enum(TargetTypes)", said)
    assert found.collected is Collected.REJECTED


def test_empty_text_is_no_value() -> None:
    said = [Speaker().say("ATMCS", "target", S, taiTime=S, tracksys="")]
    found = capture("ATMCS.target.tracksys | nonempty", said, like="latiss")
    assert found.collected is Collected.MISSING


def test_a_seeing_is_dropped_when_it_says_that_it_expired() -> None:
    def seeing(expires_in_s: float) -> Found:
        said = [
            Speaker().say(
                "DIMM",
                "dimmMeasurement",
                S - 30.0,
                sal_index=1,
                timestamp=S - 30.0,
                fwhm=0.7,
                expiresAt=utc_from_tai(S) + expires_in_s,
            )
        ]
        return capture("DIMM:1.dimmMeasurement.fwhm | valid_until(expiresAt UTC)", said)

    assert seeing(1.0).value == pytest.approx(0.7)
    assert seeing(-1.0).collected is Collected.STALE
    # 37 s between the scales must not make it valid.
    assert seeing(-20.0).collected is Collected.STALE


def test_seeing_of_ten_minutes_ago_is_stale_whatever_it_says() -> None:
    said = [
        Speaker().say(
            "DIMM",
            "dimmMeasurement",
            S - 601.0,
            sal_index=1,
            timestamp=S - 601.0,
            fwhm=0.7,
            expiresAt=utc_from_tai(S) + 999.0,
        )
    ]
    found = capture("DIMM:1.dimmMeasurement.fwhm | valid_until(expiresAt UTC)", said)
    assert found.collected is Collected.STALE


# --- sensors --------------------------------------------------------------------------------------


def focal_plane(**fields: Any) -> list[Sample]:
    return [Speaker().say("CCCamera", "focalPlaneSummaryInfo", S - 50, **fields)]


def test_each_sensor_gets_its_element_of_text_and_of_numbers() -> None:
    said = focal_plane(
        ccdLocation="R22S02:R22S00",
        rebSerialNumber="255:4096",
        ccdTempSetPoint=[-95.0, -97.0],
    )
    serial = "{camera}.focalPlaneSummaryInfo.rebSerialNumber[@ccd] | hex"
    assert capture(serial, said, sensor="R22S00").value == "1000"
    assert capture(serial, said, sensor="R22S02").value == "ff"
    set_point = "{camera}.focalPlaneSummaryInfo.ccdTempSetPoint[@ccd]"
    assert capture(set_point, said, sensor="R22S00").value == -97.0


def test_a_sensor_that_is_not_listed_has_no_value() -> None:
    said = focal_plane(ccdLocation="R22S02", rebSerialNumber="255")
    found = capture("{camera}.focalPlaneSummaryInfo.rebSerialNumber[@ccd]", said, sensor="R22S00")
    assert found.collected is Collected.MISSING


def test_the_halves_of_a_wavefront_sensor_share_their_ccd() -> None:
    said = focal_plane(ccdLocation="R00SG0:R00SW0", ccdSlot="SG0:SW")
    source = "{camera}.focalPlaneSummaryInfo.ccdSlot[@ccd]"
    assert capture(source, said, sensor="R00SW1").value == "SW"
    assert capture(source, said, sensor="R00SG1").collected is Collected.MISSING


def test_a_scalar_serves_a_camera_of_one_sensor() -> None:
    said = [
        Speaker().say("ATCamera", "focal_plane_Ccd", S - 1, location="R00S00", temp=-101.0),
        *camera_events(Speaker(), CAMERAS["comcam"]),
    ]
    found = capture("{camera}.focal_plane_Ccd.temp[@ccd]", said, like="latiss", sensor="R00S00")
    assert found.value == -101.0


# --- windows --------------------------------------------------------------------------------------


def vignetted(*said: tuple[float, int]) -> list[Sample]:
    speaker = Speaker()
    return [
        speaker.say("MTDomeTrajectory", "telescopeVignetted", tai, vignetted=value)
        for tai, value in said
    ]


VIGNETTED = "MTDomeTrajectory.telescopeVignetted.vignetted | enum(E) | monitor({})"
OPEN, CLOSED = S + 0.1, R - 0.1


@pytest.mark.parametrize(
    ("said", "worst", "least"),
    [
        ([(S - 500, 1)], "NO", "NO"),
        ([(S - 500, 1), (S + 5, 2), (S + 9, 1)], "PARTIALLY", "NO"),
        # The slew after the shutter closed, and the one before it opened, do not count.
        ([(S - 500, 3), (S - 1, 1), (R + 0.5, 3)], "NO", "NO"),
        ([(S - 500, 0), (S + 5, 3)], "FULLY", "FULLY"),
        ([(S - 500, 2), (S + 5, 0)], "PARTIALLY", "PARTIALLY"),
        ([(S - 500, 0)], "UNKNOWN", "UNKNOWN"),
        ([(OPEN, 2), (CLOSED, 3)], "FULLY", "PARTIALLY"),
    ],
)
def test_statistics_run_while_the_shutter_was_open(
    said: list[tuple[float, int]], worst: str, least: str
) -> None:
    assert capture(VIGNETTED.format("max"), vignetted(*said)).value == worst
    assert capture(VIGNETTED.format("min"), vignetted(*said)).value == least


def test_the_latest_of_a_window_and_its_mean() -> None:
    said = vignetted((S - 500, 3), (S + 5, 2), (S + 9, 1))
    assert capture(VIGNETTED.format("latest"), said).value == "NO"
    mean = "MTDomeTrajectory.telescopeVignetted.vignetted | monitor(mean)"
    assert capture(mean, said).value == pytest.approx(2.0)


def test_a_statistic_without_a_sample_is_missing() -> None:
    assert capture(VIGNETTED.format("max"), []).collected is Collected.MISSING


# --- buffers --------------------------------------------------------------------------------------


def test_the_buffer_gives_the_same_whatever_the_order_of_arrival() -> None:
    readings = [
        reading_of(position(S + n, ra=float(n)), SETS["comcam"].policies[0]) for n in range(4)
    ]
    for order in permutations(readings):
        buffer = TopicBuffer(keep_s=60.0)
        for reading in (*order, order[0]):
            buffer.add(reading)
        assert list(buffer.within(S - 10, S + 10)) == sorted(readings)
        assert len(buffer) == 4


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=40))
def test_the_newest_before_the_horizon_is_never_forgotten(times: list[float]) -> None:
    buffer = TopicBuffer(keep_s=100.0)
    policy = SETS["comcam"].policies[0]
    for tai in times:
        buffer.add(reading_of(position(S + tai), policy))
    horizon = S + max(times) - 100.0
    expected = max((S + tai for tai in times if S + tai <= horizon), default=None)
    before = buffer.before(horizon)
    # One that arrived after younger ones were dropped may be gone; never the newest of all.
    assert buffer.before(S + 2000.0) is not None
    if expected is not None and sorted(times) == times:
        assert before is not None
        assert before.tai == expected


def test_a_buffer_is_bounded() -> None:
    buffer = TopicBuffer(keep_s=1e9)
    reading = reading_of(position(S), SETS["comcam"].policies[0])
    for number in range(READING_LIMIT + 100):
        buffer.add(replace(reading, tai=S + number, sequence=number))
    assert len(buffer) == READING_LIMIT
    newest = buffer.before(S + 1e9)
    assert newest is not None
    assert newest.sequence == READING_LIMIT + 99


# --- lists ----------------------------------------------------------------------------------------


def test_colons_within_an_element_are_escaped() -> None:
    values = r"BIAS:2025-05-02T13\:29\:16.756:BIAS:0"
    assert split_list(values) == ["BIAS", "2025-05-02T13:29:16.756", "BIAS", "0"]
    pairs = split_pairs("imageType:groupId:testType:stutterRows", values)
    assert pairs["groupId"] == "2025-05-02T13:29:16.756"


@given(st.lists(st.text(min_size=1)))
def test_a_list_survives_its_text(parts: list[str]) -> None:
    assert split_list(join_list(parts)) == parts


def test_empty_text_is_an_empty_list() -> None:
    assert split_list("") == []
    assert split_list("a::b") == ["a", "", "b"]


def test_an_older_event_that_comes_late_does_not_replace_a_newer_one() -> None:
    speaker = Speaker()
    old, new = (
        speaker.say(
            "CCCamera", "imageReadoutParameters", S + n, imageName=IMAGE, daqAnnotation=text
        )
        for n, text in enumerate(("first", "mended"))
    )
    for order in ((old, new), (new, old)):
        exposure = ExposureEvents(IMAGE, 2.0)
        for sample in order:
            exposure.take("imageReadoutParameters", reading_of(sample, _AS_SENT))
        found = exposure.carrier("imageReadoutParameters", "daqAnnotation")
        assert found is not None
        assert found[0].fields["daqAnnotation"] == "mended"


def test_the_start_of_readout_is_reckoned_from_what_is_known() -> None:
    events = {sample.topic.name: sample for sample in camera_events(Speaker(), CAMERAS["comcam"])}
    for name in ("startReadout", "endReadout", "endOfImageTelemetry"):
        exposure = ExposureEvents(IMAGE, 2.0)
        exposure.take(name, reading_of(events[name], _AS_SENT))
        assert exposure.moment(Capture.READOUT) == R


def test_captures_have_their_moments() -> None:
    exposure = ExposureEvents(IMAGE, 2.0)
    assert exposure.moment(Capture.START) is None
    for sample in camera_events(Speaker(), CAMERAS["comcam"]):
        exposure.take(sample.topic.name, reading_of(sample, _AS_SENT))
    assert exposure.moment(Capture.START) == S
    assert exposure.moment(Capture.READOUT) == R
    assert exposure.moment(Capture.END) == R + 2.0 + 0.3


# --- moments at which nobody listened -------------------------------------------------------------


def test_the_first_sample_after_a_missed_moment_stands_in_and_says_so() -> None:
    said = [position(S + 3.0, ra=10.0), position(S + 4.0, ra=11.0)]
    found = capture("MTPtg.mountPosition.ra", said, missed=True)
    assert (found.value, found.collected, found.age_s) == (10.0, Collected.DEFAULTED, -3.0)
    assert found.problem == "sampled 3.000 s after the moment"


def test_of_a_block_after_a_missed_moment_the_first_element_stands_in() -> None:
    said = [block(S + 2.0, S + 2.0, [float(number) for number in range(100)])]
    found = capture("ATPtg.mountPositions.ra[at S]", said, like="latiss", missed=True)
    assert (found.value, found.collected, found.age_s) == (0.0, Collected.DEFAULTED, -2.0)


def test_beyond_the_age_limit_nothing_stands_in() -> None:
    found = capture("MTPtg.mountPosition.ra", [position(S + 6.0, ra=10.0)], missed=True)
    assert (found.value, found.collected, found.age_s) == (None, Collected.STALE, -6.0)
    assert found.problem == "6.000 s after the moment, limit 5.0 s"


def test_a_moment_that_was_heard_gets_no_second_best() -> None:
    found = capture("MTPtg.mountPosition.ra", [position(S + 3.0, ra=10.0)])
    assert (found.value, found.collected) == (None, Collected.MISSING)


def test_a_sample_of_the_moment_is_better_than_one_that_stands_in() -> None:
    said = [position(S - 4.0, ra=10.0), position(S + 11.0, ra=11.0)]
    found = capture("MTPtg.mountPosition.ra", said, missed=True)
    assert (found.value, found.collected) == (10.0, Collected.OK)


def test_a_state_that_is_told_later_was_not_that_of_a_missed_moment() -> None:
    later = Speaker().say("MTPtg", "currentTarget", S + 1.0, timestamp=S + 1.0, targetName="X")
    found = capture("MTPtg.currentTarget.targetName", [later], missed=True)
    assert (found.value, found.collected) == (None, Collected.MISSING)
