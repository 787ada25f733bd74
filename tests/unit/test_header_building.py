"""A header from everything that was said around an exposure, whatever is missing or wrong."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platevault.compose.cameras import load_camera
from platevault.compose.header_keywords import load_keyword_set
from platevault.domain.camera import Camera
from platevault.domain.header_cards import PRIMARY, cards_by_keyword
from platevault.domain.header_validation import RejectedValueError, problems_of
from platevault.domain.headers import (
    Collected,
    HeaderDocument,
    HeaderStatus,
    HeaderValue,
    KeywordRecord,
)
from platevault.domain.keywords import KeywordSet
from platevault.domain.samples import Sample
from platevault.services.header_service.assessing import (
    amended,
    checked_correction,
    corrected,
)
from platevault.services.header_service.building import HeaderBuilder, Place
from platevault.services.header_service.computing import geocentric_m
from platevault.services.header_service.conversions import Found
from platevault.services.header_service.exposures import (
    IMAGE_TOPICS,
    Correction,
    ExposureEvents,
)
from platevault.services.header_service.sampling import Samples, reading_of
from platevault.services.header_service.service import _AS_SENT
from platevault.testing.header_samples import (
    BEGIN_TAI,
    EXPOSURE_S,
    IMAGE,
    Speaker,
    exposure,
)

COMCAM = load_camera("comcam")
KEYWORDS = load_keyword_set(COMCAM)
CREATED_TAI = BEGIN_TAI + EXPOSURE_S + 4.0
WHOLE = exposure(COMCAM)


def build(
    said: Iterable[Sample],
    *,
    camera: Camera = COMCAM,
    keywords: KeywordSet = KEYWORDS,
    corrections: Sequence[Correction] = (),
    kept: Mapping[Place, Found] | None = None,
    texts: Mapping[str, HeaderValue] | None = None,
    image: str = IMAGE,
) -> HeaderDocument:
    samples = Samples(keywords=keywords, keep_s=960.0)
    events = ExposureEvents(image, camera.readout_s, corrections=list(corrections))
    for sample in said:
        if sample.topic.name in IMAGE_TOPICS and sample.sal_index == camera.components.sal_index:
            if sample.fields["imageName"] == image:
                events.take(sample.topic.name, reading_of(sample, _AS_SENT))
        else:
            samples.take(sample)
    builder = HeaderBuilder(camera=camera, keywords=keywords, texts=texts or {})
    return builder.build(events, samples, version=1, created_tai=CREATED_TAI, kept=kept or {})


def without(*topics: str, component: str = "") -> list[Sample]:
    return [
        sample
        for sample in WHOLE
        if sample.topic.name not in topics or component not in {"", sample.topic.component}
    ]


def changed(topic: str, **fields: object) -> list[Sample]:
    return [
        replace(sample, fields={**sample.fields, **fields})
        if sample.topic.name == topic
        else sample
        for sample in WHOLE
    ]


def values_of(document: HeaderDocument, section: str = PRIMARY) -> dict[str, HeaderValue]:
    return cards_by_keyword(document.sections[section])


def record(document: HeaderDocument, keyword: str, section: str = PRIMARY) -> KeywordRecord:
    (found,) = [one for one in document.records if (one.section, one.keyword) == (section, keyword)]
    return found


# --- whole headers --------------------------------------------------------------------------------


def test_a_whole_exposure_gives_a_complete_header() -> None:
    document = build(WHOLE)
    assert document.status is HeaderStatus.COMPLETE
    assert document.completeness == 1.0
    assert document.missing == ()
    values = values_of(document)
    expected = {
        "OBSID": IMAGE,
        "IMGTYPE": "OBJECT",
        "GROUPID": "2025-04-16T00:53:10.143",
        "PROGRAM": "BLOCK-T434",
        "REASON": "science",
        "DATE-OBS": "2025-04-16T00:53:13.500",
        "DATE-BEG": "2025-04-16T00:53:13.500",
        "DATE-END": "2025-04-16T00:53:29.500",
        "DATE": "2025-04-16T00:52:55.500",
        "FILTER": "r_03",
        "FILTSLOT": 2,
        "TRACKSYS": "RADEC",
        "RADESYS": "ICRS",
        "ROTCOORD": "sky",
        "OBJECT": "Vela_SNR",
        "VIGNETTE": "NO",
        "VIGN_MIN": "NO",
        "EXPTIME": 15.0,
        "DARKTIME": 16.0,
        "SHUTTIME": 15.0,
        "FOCUSZ": -2.856,
        "AIRTEMP": 11.0,
        "PRESSURE": 74390.0,
        "SEEING": 0.75,
        "CURINDEX": 1,
        "MAXINDEX": 1,
        "OBSANNOT": f"note of {IMAGE}",
        "HIERARCH SIMULATE CAMHEXAPOD": 0,
    }
    assert {keyword: values[keyword] for keyword in expected} == expected
    assert values["RASTART"] == pytest.approx(127.5, abs=1e-9)
    assert values["RAEND"] == pytest.approx(127.66, abs=1e-9)
    assert values["RA"] == pytest.approx(127.5, abs=1e-9)
    assert values["DEC"] == pytest.approx(-44.2, abs=1e-8)
    assert values["MJD-OBS"] == pytest.approx(60781.036961806, abs=1e-9)


def test_the_shipped_header_passes_its_own_validation() -> None:
    assert problems_of(build(WHOLE), COMCAM, KEYWORDS) == []


def test_sensors_have_their_own_values() -> None:
    values = values_of(build(WHOLE), "R22S21_PRIMARY")
    assert values["RAFTBAY"] == "R22"
    assert values["CCDSLOT"] == "S21"
    assert values["LSST_NUM"] == "ITL-3800C-209"
    assert values["CONTNUM"] == "18dd9c9b"
    assert values["CCD_SERN"] == "22007"
    assert (values["OVERH"], values["OVERV"], values["PREH"]) == (64, 48, 3)
    assert values["TEMP_SET"] == -107.0
    assert values["CCDTEMP"] == pytest.approx(-100.7)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_order_and_repetition_of_arrival_change_nothing(seed: int) -> None:
    shuffled = list(WHOLE)
    order = random.Random(seed)
    shuffled += order.sample(WHOLE, 30)
    order.shuffle(shuffled)
    assert build(shuffled) == build(WHOLE)


def test_overlapping_exposures_keep_their_own_values() -> None:
    speaker = Speaker()
    said = [
        sample
        for number in range(3)
        for sample in exposure(COMCAM, speaker=speaker, number=number, period_s=17.5)
    ]
    said.sort(key=lambda sample: sample.sent_tai)
    for number in range(3):
        name = f"CC_O_20250415_{60 + number:06d}"
        values = values_of(build(said, image=name))
        assert values["OBSANNOT"] == f"note of {name}"
        assert values["RASTART"] == pytest.approx(127.5 + 0.175 * number, abs=1e-9)
        assert values["SEQNUM"] == 60 + number


# --- what is missing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        (["mountPosition"], {"RASTART", "DECSTART", "ROTPA"}),
        (["currentTarget"], {"RA", "DEC", "TRACKSYS", "RADESYS", "OBJECT"}),
        (["endSetFilter"], {"FILTER"}),
        (["temperature"], {"AIRTEMP"}),
        (["telescopeVignetted"], {"VIGN_MIN"}),
        (["endOfImageTelemetry"], {"SHUTTIME", "DARKTIME"}),
        (["endOfImageTelemetry", "startReadout"], {"DATE-END", "SHUTTIME", "DARKTIME"}),
        (["dimmMeasurement", "airFlow", "simulationMode"], set()),
    ],
)
def test_a_lost_topic_is_named_and_nothing_else(lost: list[str], missing: set[str]) -> None:
    document = build(without(*lost))
    assert set(document.missing) == missing
    assert (document.status is HeaderStatus.COMPLETE) == (not missing)
    assert (document.completeness < 1.0) == bool(missing)
    for keyword in missing:
        assert values_of(document)[keyword] is None
        assert record(document, keyword).collected is Collected.MISSING


def test_every_keyword_has_a_card_even_when_nothing_is_known() -> None:
    empty, full = build([]), build(WHOLE)
    keywords = set(values_of(full)) - {"EMUIMAGE"}
    assert keywords <= set(values_of(empty))
    assert empty.status is HeaderStatus.MINIMAL
    assert values_of(empty)["OBSID"] == IMAGE
    assert record(empty, "DAYOBS").collected is Collected.DEFAULTED


def test_without_the_telescope_the_header_is_minimal() -> None:
    document = build(
        sample for sample in WHOLE if sample.topic.component == COMCAM.components.camera
    )
    assert document.status is HeaderStatus.MINIMAL
    assert values_of(document)["EXPTIME"] == 15.0


def test_a_lost_end_event_leaves_the_dates_that_other_events_tell() -> None:
    document = build(without("endOfImageTelemetry"))
    assert values_of(document)["DATE-END"] == "2025-04-16T00:53:29.500"
    assert values_of(document)["DATE-OBS"] == "2025-04-16T00:53:13.500"
    assert record(document, "DATE-OBS").collected is Collected.DEFAULTED
    assert values_of(document)["MJD-BEG"] == pytest.approx(60781.036961806, abs=1e-9)


def test_an_end_without_a_start_still_gives_a_header() -> None:
    document = build(without("startIntegration"))
    values = values_of(document)
    assert document.missing == ()
    assert (values["EXPTIME"], values["IMGTYPE"]) == (15.0, "OBJECT")
    assert values["RASTART"] == pytest.approx(127.5, abs=1e-9)


def test_sensors_are_known_from_the_camera_when_it_does_not_say() -> None:
    document = build(without("focalPlaneSummaryInfo"))
    values = values_of(document, "R22S21_PRIMARY")
    assert (values["RAFTBAY"], values["LSST_NUM"]) == ("R22", "ITL-3800C-209")
    found = record(document, "RAFTBAY", "R22S21_PRIMARY")
    assert found.collected is Collected.DEFAULTED
    assert document.missing == ()
    assert document.completeness < 1.0


def test_only_sensors_that_the_camera_has_get_a_section() -> None:
    said = changed(
        "focalPlaneSummaryInfo", ccdLocation="R22S11:R22S22:R99S99", raftBay="R22:R22:R9"
    )
    assert list(build(said).sections) == [PRIMARY, "R22S11_PRIMARY", "R22S22_PRIMARY"]


def test_pointing_is_not_needed_for_an_exposure_off_the_sky() -> None:
    keys = "imageType:groupId:reason:program"
    said = [
        replace(
            sample,
            fields={
                **sample.fields,
                "additionalKeys": keys,
                "additionalValues": "BIAS:2025-04-15:calibration:BLOCK-1",
            },
        )
        if "additionalKeys" in sample.fields
        else sample
        for sample in without("mountPosition", "currentTarget", "telescopeVignetted")
    ]
    assert build(said).status is HeaderStatus.COMPLETE


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "fields", "rejected"),
    [
        ("currentTargetStatus", {"airmass": 0.0}, {"AMSTART", "AMEND"}),
        ("currentTargetStatus", {"airmass": float("nan")}, {"AMSTART", "AMEND"}),
        ("relativeHumidity", {"relativeHumidityItem": 101.0}, {"HUMIDITY"}),
        ("pressure", {"pressureItem": [743.9] * 8}, {"PRESSURE"}),
        ("endSetFilter", {"filterName": "z_99"}, {"FILTER"}),
        ("currentTarget", {"targetName": "x" * 65}, {"OBJECT"}),
        ("currentTarget", {"targetName": "Südkreuz"}, {"OBJECT"}),
        ("currentTarget", {"ra": 0.0, "declination": 0.0}, {"RA", "DEC"}),
        ("endOfImageTelemetry", {"darkTime": 3.0}, {"DARKTIME"}),
        ("mountPosition", {"declination": -91.0}, {"DECSTART", "DECEND"}),
    ],
)
def test_a_bad_value_is_left_out_and_the_rest_stands(
    topic: str, fields: dict[str, object], rejected: Collection[str]
) -> None:
    document = build(changed(topic, **fields))
    found = {one.keyword for one in document.records if one.collected is Collected.REJECTED}
    assert found == set(rejected)
    for keyword in rejected:
        assert values_of(document)[keyword] is None
        assert record(document, keyword).problem
    assert values_of(document)["EXPTIME"] == 15.0
    assert problems_of(document, COMCAM, KEYWORDS) == []


def test_an_end_before_the_begin_is_taken_from_the_readout() -> None:
    document = build(changed("endOfImageTelemetry", timestampDateEnd=BEGIN_TAI - 1.0))
    assert values_of(document)["DATE-END"] == "2025-04-16T00:53:29.500"
    found = record(document, "DATE-END")
    assert found.collected is Collected.DEFAULTED
    assert "before DATE-BEG" in found.problem


def test_a_default_that_cannot_be_either_is_rejected() -> None:
    said = [
        replace(
            sample,
            fields={
                name: BEGIN_TAI - 1.0
                if name in {"timestampDateEnd", "timestampStartOfReadout"}
                else value
                for name, value in sample.fields.items()
            },
        )
        for sample in WHOLE
    ]
    document = build(said)
    assert values_of(document)["DATE-END"] is None
    assert record(document, "DATE-END").collected is Collected.REJECTED
    assert "DATE-END" in document.missing
    assert problems_of(document, COMCAM, KEYWORDS) == []


def test_a_wrong_day_is_taken_from_the_image_name() -> None:
    document = build(changed("startIntegration", imageDate="2025-04-15"))
    assert values_of(document)["DAYOBS"] == "20250415"
    found = record(document, "DAYOBS")
    assert found.collected is Collected.DEFAULTED
    assert "2025-04-15" in found.problem


def test_a_day_that_is_not_that_of_the_name_is_taken_from_the_name() -> None:
    document = build(changed("startIntegration", imageDate="20250416"))
    assert values_of(document)["DAYOBS"] == "20250415"


def test_stale_weather_is_told_with_its_age() -> None:
    said = [
        replace(sample, fields={**sample.fields, "timestamp": sample.fields["timestamp"] - 500.0})
        if sample.topic.name == "relativeHumidity"
        else sample
        for sample in WHOLE
    ]
    found = record(build(said), "HUMIDITY")
    assert found.collected is Collected.STALE
    assert found.age_s is not None
    assert found.age_s > 480.0


# --- keys, constants, settings --------------------------------------------------------------------


def test_unknown_keys_of_the_take_command_are_passed_on() -> None:
    said = [
        replace(
            sample,
            fields={
                **sample.fields,
                "additionalKeys": "imageType:my-Key:bad",
                "additionalValues": r"OBJECT:a\:b:Ü",
            },
        )
        if "additionalKeys" in sample.fields
        else sample
        for sample in WHOLE
    ]
    values = values_of(build(said))
    assert values["HIERARCH CAMKEY MY-KEY"] == "a:b"
    assert "HIERARCH CAMKEY BAD" not in values


def test_settings_and_constants_give_their_keywords() -> None:
    camera = replace(COMCAM, constants={"TELID": "1m0", "ROTPA": 90})
    document = build(
        WHOLE,
        camera=camera,
        keywords=load_keyword_set(camera),
        texts={"origin": "here", "observer": "us", "tstand": "TS8"},
    )
    values = values_of(document)
    assert (values["ORIGIN"], values["OBSERVER"], values["TSTAND"]) == ("here", "us", "TS8")
    assert values["TELID"] == "1m0"
    assert values["ROTPA"] == 90.0
    assert isinstance(values["ROTPA"], float)
    assert values["FACILITY"] == "Cerro Pachon"


def test_a_setting_that_is_not_made_leaves_no_card() -> None:
    camera = replace(COMCAM, constants={})
    values = values_of(build(WHOLE, camera=camera, keywords=load_keyword_set(camera)))
    assert "TSTAND" not in values
    assert "OBSERVER" not in values


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("comcam", (1818938.94, -5208470.95, -3195172.08)),
        ("latiss", (1819093.52, -5208408.10, -3195186.45)),
    ],
)
def test_the_place_on_earth_agrees_with_real_headers(
    name: str, expected: tuple[float, float, float]
) -> None:
    assert geocentric_m(load_camera(name)) == pytest.approx(expected, abs=0.006)


def test_the_effective_exposure_is_the_shutter_time_if_it_opened() -> None:
    camera = load_camera("lsstcam")
    keywords = load_keyword_set(camera)
    said = [
        replace(sample, topic=replace(sample.topic, component="MTCamera"))
        if sample.topic.component == "CCCamera"
        else sample
        for sample in WHOLE
    ]
    values = values_of(build(said, camera=camera, keywords=keywords))
    assert (values["XPOSURE"], values["TELAPSE"]) == (15.0, 16.0)
    closed = [
        replace(sample, fields={**sample.fields, "measuredShutterOpenTime": 0.0})
        if sample.topic.name == "endOfImageTelemetry"
        else sample
        for sample in said
    ]
    values = values_of(build(closed, camera=camera, keywords=keywords))
    assert (values["XPOSURE"], values["SHUTTIME"]) == (15.0, 0.0)


# --- restart and amendments -----------------------------------------------------------------------


def test_what_was_kept_stands_in_for_lost_telemetry() -> None:
    samples = Samples(keywords=KEYWORDS, keep_s=960.0)
    events = ExposureEvents(IMAGE, 2.0)
    for sample in WHOLE:
        if sample.topic.name in IMAGE_TOPICS:
            events.take(sample.topic.name, reading_of(sample, _AS_SENT))
        else:
            samples.take(sample)
    builder = HeaderBuilder(camera=COMCAM, keywords=KEYWORDS, texts={})
    kept = builder.snapshot(events, samples)
    lost = without("mountPosition", "currentTargetStatus", "azimuth", "elevation")
    assert build(lost).missing != ()
    document = build(lost, kept=kept)
    assert document.missing == ()
    assert values_of(document) == values_of(build(WHOLE))


def test_an_amendment_takes_what_is_better_and_loses_nothing() -> None:
    first = build(without("mountPosition", "endOfImageTelemetry"))
    second = build(without("currentTarget"))
    better = amended(first, second, KEYWORDS)
    assert better is not None
    assert better.version == 2
    assert better.status is HeaderStatus.COMPLETE
    assert better.missing == ()
    assert {"RASTART", "DECSTART", "ROTPA", "SHUTTIME", "DARKTIME"} <= set(better.changed)
    assert "OBJECT" not in better.changed
    assert "DATE" not in better.changed
    assert values_of(better) == values_of(build(WHOLE))
    assert amended(better, second, KEYWORDS) is None


def test_a_value_that_no_longer_applies_is_not_lost() -> None:
    later = build(changed("currentTarget", frame=3))
    assert record(later, "RADESYS").collected is Collected.OK
    assert values_of(later)["RADESYS"] is None
    assert amended(build(WHOLE), later, KEYWORDS) is None


def test_telemetry_that_is_evaluated_again_makes_no_version() -> None:
    cut = [
        sample
        for sample in WHOLE
        if sample.topic.name != "mountPosition" or sample.fields["timestamp"] < BEGIN_TAI
    ]
    first, later = build(cut), build(WHOLE)
    assert values_of(first)["RASTART"] != values_of(later)["RASTART"]
    better = amended(first, later, KEYWORDS)
    assert better is not None
    assert set(better.changed) == {"RAEND", "DECEND"}


def test_what_the_camera_says_later_of_the_image_is_taken_over() -> None:
    later = build(changed("endOfImageTelemetry", darkTime=17.25))
    better = amended(build(WHOLE), later, KEYWORDS)
    assert better is not None
    assert better.changed == ("DARKTIME",)
    assert values_of(better)["DARKTIME"] == 17.25


def test_a_default_gives_way_to_its_source() -> None:
    better = amended(build(without("focalPlaneSummaryInfo")), build(WHOLE), KEYWORDS)
    assert better is not None
    assert better.completeness == 1.0
    assert "R22S00.SEQNAME" in better.changed


def test_nothing_new_is_no_amendment() -> None:
    document = build(WHOLE)
    assert amended(document, build(WHOLE), KEYWORDS) is None


def test_a_correction_is_an_amendment_with_author_and_reason() -> None:
    correction = Correction(
        checked_correction({"program": "BLOCK-7", "ROTPA": "46.5"}, KEYWORDS), "me", "misspelt"
    )
    document = corrected(build(WHOLE), correction, KEYWORDS)
    assert document is not None
    values = values_of(document)
    assert (values["PROGRAM"], values["ROTPA"]) == ("BLOCK-7", 46.5)
    assert set(document.changed) == {"PROGRAM", "ROTPA"}
    found = record(document, "PROGRAM")
    assert (found.source, found.problem) == ("correction", "misspelt (me)")
    assert document.sections.keys() == build(WHOLE).sections.keys()


def test_a_correction_may_take_a_value_away() -> None:
    correction = Correction({"OBJECT": None}, "me", "was not there")
    document = corrected(build(WHOLE), correction, KEYWORDS)
    assert document is not None
    assert values_of(document)["OBJECT"] is None
    rebuilt = build(WHOLE, corrections=[correction])
    assert values_of(rebuilt)["OBJECT"] is None


@pytest.mark.parametrize(
    "values", [{"ROTPA": "east"}, {"AMSTART": 0.5}, {"OBJECT": "Ü"}, {"!": None}]
)
def test_a_bad_correction_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(RejectedValueError):
        checked_correction(values, KEYWORDS)
