"""The keyword schema: its grammar, the shipped file, and the choice of a camera's rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from platevault.compose.cameras import load_camera, shipped_cameras
from platevault.compose.header_keywords import load_keyword_set, own_keyword_file
from platevault.domain.camera import Camera
from platevault.domain.header_sources import (
    FixedKind,
    FixedSource,
    InvalidKeywordsError,
    Step,
    TopicAddress,
    TopicMode,
    TopicSource,
    parse_source,
)
from platevault.domain.keywords import (
    GROUP_TITLES,
    Capture,
    Required,
    Section,
    parse_keywords,
    parse_topics,
)
from platevault.sal.schema import UnknownTopicError
from platevault.testing.cameras import tiny_camera
from platevault.testing.header_samples import interfaces

HEADER = (
    "keyword,section,group,type,unit,capture,source,default,required,absent,limits,max_age_s,"
    "sets,comment\n"
)
#: Keywords without which ingest or a visit fails, on every camera with a telescope and end events
#: (raw-fits contract, sec. 5).
CRITICAL = {
    "yes": {"INSTRUME", "OBSID", "DAYOBS", "SEQNUM", "IMGTYPE", "EXPTIME", "DATE-BEG", "MJD-BEG"},
    "visit": {
        "DATE", "RASTART", "DECSTART", "RA", "DEC", "TRACKSYS", "ROTPA", "ROTCOORD", "VIGN_MIN",
        "SHUTTIME", "DARKTIME", "TIMESYS", "DATE-END", "GROUPID", "CURINDEX", "MAXINDEX", "FILTER",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "MTPtg.mountPosition.ra",
            TopicSource("MTPtg", 0, "mountPosition", "ra"),
        ),
        (
            "MTHexapod:1.application.demand[2] | scale(0.001)",
            TopicSource(
                "MTHexapod", 1, "application", "demand", 2, steps=(Step("scale", ("0.001",)),)
            ),
        ),
        (
            "ATPtg.mountPositions.ra[at S]",
            TopicSource("ATPtg", 0, "mountPositions", "ra", at_capture=True),
        ),
        (
            "{camera}.focalPlaneSummaryInfo.raftBay[@ccd] | hex",
            TopicSource(
                "{camera}",
                0,
                "focalPlaneSummaryInfo",
                "raftBay",
                per_sensor=True,
                steps=(Step("hex"),),
            ),
        ),
        (
            "{camera}.startIntegration.additionalValues[key=groupId]",
            TopicSource("{camera}", 0, "startIntegration", "additionalValues", key="groupId"),
        ),
        (
            "A.t.f | enum(E) | only(ICRS, FK5) | monitor(max)",
            TopicSource(
                "A",
                0,
                "t",
                "f",
                steps=(
                    Step("enum", ("E",)),
                    Step("only", ("ICRS", "FK5")),
                    Step("monitor", ("max",)),
                ),
            ),
        ),
        ("static: 1 1", FixedSource(FixedKind.STATIC, "1 1")),
        ("rule: mjd(DATE-OBS)", FixedSource(FixedKind.RULE, "mjd(DATE-OBS)")),
        ("config: tstand", FixedSource(FixedKind.CONFIG, "tstand")),
    ],
)
def test_a_source_is_read(text: str, expected: object) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MTPtg.mountPosition",
        "MTPtg.mountPosition.ra[first]",
        "MTPtg.mountPosition.ra | twist",
        "MTPtg.mountPosition.ra | scale(far)",
        "MTPtg.mountPosition.ra | isot(UTC)",
        "MTPtg.mountPosition.ra | monitor(median)",
        "MTPtg.mountPosition.ra | wrap",
        "DIMM:1.t.f | valid_until(expiresAt)",
        "{camera}.t.f[key=]",
        "1MT.a.b",
    ],
)
def test_a_source_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeywordsError):
        parse_source(text)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("RA,PRIMARY,pointing,real,,S,A.t.f,,no,undefined,,,*,c", "Not a type"),
        ("RA,PRIMARY,sky,float,,S,A.t.f,,no,undefined,,,*,c", "Not a card group"),
        ("RA,TERTIARY,pointing,float,,S,A.t.f,,no,undefined,,,*,c", "Not a known word"),
        ("RA,PRIMARY,pointing,float,,S,A.t,,no,undefined,,,*,c", "Not a source"),
        ("RA,PRIMARY,pointing,float,,S,A.t.f,,no,gone,,,*,c", "Not a way to be absent"),
        ("RA,PRIMARY,pointing,float,,S,A.t.f,,no,undefined,near(3),,*,c", "Not a step or limit"),
        ("RA,PRIMARY,pointing,float,,S,A.t.f,,no,undefined,range(x..),,*,c", "Wrong arguments"),
        ("RA,PRIMARY,pointing,float,,S,A.t.f,,no,undefined,,old,*,c", "could not convert"),
        ("RA,PRIMARY", "Wrong number of cells"),
    ],
)
def test_a_wrong_row_names_file_and_line(row: str, problem: str) -> None:
    with pytest.raises(InvalidKeywordsError, match=problem) as caught:
        parse_keywords(f"{HEADER}{row}\n", file="mine.csv")
    assert (caught.value.context["file"], caught.value.context["line"]) == ("mine.csv", 2)


def test_wrong_columns_are_refused() -> None:
    with pytest.raises(InvalidKeywordsError, match="Wrong columns"):
        parse_keywords("keyword,source\n")


def test_a_wrong_topic_policy_names_its_line() -> None:
    with pytest.raises(InvalidKeywordsError) as caught:
        parse_topics("topic,mode,time_field,time_scale,max_age_s,ahead_s\nA.b,guess,,TAI,,0\n")
    assert caught.value.context["line"] == 2


@pytest.mark.parametrize("name", shipped_cameras())
def test_every_topic_and_field_of_the_schema_is_in_the_interfaces(name: str) -> None:
    keywords = load_keyword_set(load_camera(name))
    for address, fields in keywords.fields.items():
        component = interfaces().component(address.component)
        assert bool(address.sal_index) == component.indexed, address
        try:
            topic = component.event(address.topic)
        except UnknownTopicError:
            topic = component.topic(address.topic)
        known = {field.name for field in topic.fields}
        assert fields - known <= {"ccdLocation", "location"}, address


@pytest.mark.parametrize("name", shipped_cameras())
def test_every_camera_has_the_critical_keywords_once_in_card_order(name: str) -> None:
    keywords = load_keyword_set(load_camera(name))
    places = [(row.section, row.keyword) for row in keywords.keywords]
    assert len(places) == len(set(places))
    for required, names in CRITICAL.items():
        found = {row.keyword for row in keywords.keywords if row.required == required}
        assert names - found == set()
    groups = [list(GROUP_TITLES).index(row.group) for row in keywords.keywords]
    assert groups == sorted(groups)


def test_each_camera_gets_its_own_rows() -> None:
    comcam = load_keyword_set(load_camera("comcam")).by_keyword
    latiss = load_keyword_set(load_camera("latiss")).by_keyword
    assert comcam[Section.PRIMARY, "RASTART"].source == parse_source(
        "MTPtg.mountPosition.ra | wrap(0..360)"
    )
    assert latiss[Section.PRIMARY, "RASTART"].source == parse_source(
        "ATPtg.mountPositions.ra[at S] | wrap(0..360)"
    )
    assert comcam[Section.PRIMARY, "TELESCOP"].required is Required.YES
    assert latiss[Section.PRIMARY, "TELESCOP"].required is Required.NO
    assert (Section.PRIMARY, "GRATING") not in comcam


def other_camera(telescope: str = "main") -> Camera:
    camera = tiny_camera()
    components = replace(
        camera.components, camera="GenericCamera", sal_index=101, telescope=telescope
    )
    return replace(camera, keyword_set="Sinistro", components=components, constants={})


@pytest.mark.parametrize(("telescope", "pointing"), [("main", "MTPtg"), ("aux", "ATPtg")])
def test_a_camera_without_a_set_gets_the_generic_one_of_its_telescope(
    telescope: str, pointing: str
) -> None:
    keywords = load_keyword_set(other_camera(telescope))
    assert keywords.name == "GenericCamera"
    pointed = keywords.by_keyword[Section.PRIMARY, "RASTART"].source
    assert isinstance(pointed, TopicSource)
    assert pointed.component == pointing
    start = keywords.by_keyword[Section.PRIMARY, "EXPTIME"].source
    assert isinstance(start, TopicSource)
    assert start.address == TopicAddress("GenericCamera", 101, "startIntegration")


def test_a_cameras_own_file_adds_replaces_and_drops_rows(tmp_path: Path) -> None:
    path = tmp_path / "sinistro.keywords.csv"
    path.write_text(
        HEADER
        + "# this observatory has a filter wheel of its own\n"
        + "FILTER,PRIMARY,filter,str,,static,static: rp,,visit,undefined,,,*,filter\n"
        + "SEEING,PRIMARY,weather,float,,dropped,static: 0,,no,undefined,,,*,no monitor\n"
        + "OBJECT,PRIMARY,pointing,str,,static,config: object,,no,omit,,,*,target\n",
        encoding="utf-8",
    )
    assert own_keyword_file(tmp_path / "sinistro.yaml") == path
    keywords = load_keyword_set(other_camera(), own_file=path).by_keyword
    assert keywords[Section.PRIMARY, "FILTER"].source == FixedSource(FixedKind.STATIC, "rp")
    assert keywords[Section.PRIMARY, "OBJECT"].omitted
    assert (Section.PRIMARY, "SEEING") not in keywords


def test_a_camera_without_an_own_file_has_none(tmp_path: Path) -> None:
    assert own_keyword_file(tmp_path / "sinistro.yaml") is None


def test_constants_of_the_camera_take_the_place_of_sources_and_are_added() -> None:
    camera = replace(
        other_camera(), constants={"ROTPA": 12.5, "TELID": "1m0", "N": 3, "AMSTART": None}
    )
    keywords = load_keyword_set(camera).by_keyword
    rotation = keywords[Section.PRIMARY, "ROTPA"]
    assert rotation.capture is Capture.STATIC
    assert rotation.source == FixedSource(FixedKind.CAMERA, "constants.ROTPA")
    added = keywords[Section.PRIMARY, "TELID"]
    assert (added.type, added.group) == ("str", "camera")
    assert keywords[Section.PRIMARY, "N"].type == "int"
    assert keywords[Section.PRIMARY, "AMSTART"].capture is Capture.STATIC


def test_added_rows_stand_in_their_group() -> None:
    camera = replace(other_camera(), constants={"AAA": 1})
    groups = [list(GROUP_TITLES).index(row.group) for row in load_keyword_set(camera).keywords]
    assert groups == sorted(groups)


def test_a_site_may_have_its_weather_elsewhere() -> None:
    keywords = load_keyword_set(load_camera("comcam"), sal_indices={"ESS": 112})
    source = keywords.by_keyword[Section.PRIMARY, "HUMIDITY"].source
    assert isinstance(source, TopicSource)
    assert source.sal_index == 112


def test_policies_go_by_topic_and_have_a_default() -> None:
    keywords = load_keyword_set(load_camera("comcam"))

    def policy(component: str, topic: str) -> tuple[TopicMode, float | None]:
        found = keywords.policy(TopicAddress(component, 0, topic))
        return found.mode, found.max_age_s

    assert policy("CCCamera", "endSetFilter") == (TopicMode.STATE, None)
    assert policy("ESS", "pressure") == (TopicMode.SAMPLE, 120.0)
    assert policy("DIMM", "dimmMeasurement") == (TopicMode.SAMPLE, 600.0)
    assert policy("MTMount", "simulationMode") == (TopicMode.STATE, None)
    assert policy("Elsewhere", "thing") == (TopicMode.SAMPLE, 5.0)
