"""The interface definitions load, and make the schemas that the wire demands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from platevault.domain.samples import TopicKind
from platevault.sal.schema import (
    InterfaceFileError,
    Interfaces,
    UnknownComponentError,
    UnknownTopicError,
    avro_schema,
    load_interfaces,
    rev_code,
)

CAMERAS = {"MTCamera": (201, 212, 71), "CCCamera": (9, 9, 3), "ATCamera": (1, 1, 1)}

DEMO = """
component: PVDemo
about: invented
indexed: true
generics: [mandatory, csc]
events:
  frameStored:
    about: A frame reached the archive.
    fields:
      obsId: {type: string, about: Observation id.}
      byteCount: {type: long long, units: byte, about: File size.}
      stageTime: {type: float, count: 2, units: second, about: Seconds per stage.}
"""

#: SAL over Kafka, section 6, word for word.
DEMO_SCHEMA = """
{"type": "record", "name": "logevent_frameStored", "namespace": "lsst.sal.PVDemo", "fields": [
{"name": "salIndex", "type": "int", "default": 0, "description": "SAL index (only present for \
indexed SAL components)", "units": "unitless"},
{"name": "private_sndStamp", "type": "double", "default": 0.0, "description": "Time of instance \
publication", "units": "second"},
{"name": "private_rcvStamp", "type": "double", "default": 0.0, "description": "Time of instance \
reception", "units": "second"},
{"name": "private_efdStamp", "type": "double", "default": 0.0, "description": "UTC time for EFD \
timestamp. An integer (the number of leap seconds) different from private_sndStamp.", "units": \
"second"},
{"name": "private_kafkaStamp", "type": "double", "default": 0.0, "description": "TAI time at \
which the Kafka message was created.", "units": "second"},
{"name": "private_seqNum", "type": "int", "default": 0, "description": "Sequence number", \
"units": "unitless"},
{"name": "private_revCode", "type": "string", "default": "", "description": "Revision hashcode", \
"units": "unitless"},
{"name": "private_identity", "type": "string", "default": "", "description": "Identity of \
publisher: SAL component name for a CSC or user@host for a user", "units": "unitless"},
{"name": "private_origin", "type": "int", "default": 0, "description": "Process ID of publisher", \
"units": "unitless"},
{"name": "obsId", "type": "string", "default": "", "description": "Observation id.", "units": \
"unitless"},
{"name": "byteCount", "type": "long", "default": 0, "description": "File size.", "units": "byte"},
{"name": "stageTime", "type": {"type": "array", "items": "float"}, "default": [0.0, 0.0], \
"description": "Seconds per stage.", "units": "second"}],
"description": "A frame reached the archive."}
"""


@pytest.fixture(scope="module")
def interfaces() -> Interfaces:
    return load_interfaces()


def test_the_worked_example_has_its_schema_and_revision_code(tmp_path: Path) -> None:
    (tmp_path / "PVDemo.yaml").write_text(DEMO)
    topic = load_interfaces(tmp_path).topic("PVDemo", "logevent_frameStored")
    assert json.dumps(avro_schema(topic)) == json.dumps(json.loads(DEMO_SCHEMA))
    assert rev_code(topic) == "56a5799c"


@pytest.mark.parametrize(
    ("component", "code"), [("CCHeaderService", "66a4705e"), ("OCPS", "33c9967f")]
)
def test_the_reply_topic_has_the_registered_revision_code(
    interfaces: Interfaces, component: str, code: str
) -> None:
    assert rev_code(interfaces.component(component).ackcmd) == code


def test_a_revision_code_changes_with_a_unit(tmp_path: Path) -> None:
    (tmp_path / "PVDemo.yaml").write_text(DEMO.replace("units: byte", "units: kB"))
    assert rev_code(load_interfaces(tmp_path).topic("PVDemo", "logevent_frameStored")) != "56a5799c"


def test_an_array_of_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "PVDemo.yaml").write_text(DEMO.replace("type: string,", "type: string, count: 4,"))
    schema = avro_schema(load_interfaces(tmp_path).topic("PVDemo", "logevent_frameStored"))
    assert schema["fields"][9]["type"] == "string"
    assert schema["fields"][9]["default"] == ""


def test_every_component_makes_a_schema_of_every_topic(interfaces: Interfaces) -> None:
    count = 0
    for name in interfaces:
        component = interfaces.component(name)
        for topic in component.topics.values():
            assert avro_schema(topic)["namespace"] == f"lsst.sal.{name}"
            assert topic.component == name
            count += 1
    assert len(list(interfaces)) >= 38
    assert count > 700


@pytest.mark.parametrize("name", CAMERAS)
def test_cameras_differ_in_the_lengths_of_arrays(interfaces: Interfaces, name: str) -> None:
    ccds, with_guiders, boards = CAMERAS[name]
    component = interfaces.component(name)

    def count(topic: str, field: str) -> int:
        return next(f.count for f in component.topic(topic).fields if f.name == field)

    assert count("logevent_imageReadoutParameters", "overRows") == ccds
    assert count("logevent_focalPlaneSummaryInfo", "ccdType") == with_guiders
    assert count("focal_plane_Reb", "digV") == boards
    assert count("focal_plane_Ccd", "temp") == ccds


def test_start_integration_has_its_fields_in_wire_order(interfaces: Interfaces) -> None:
    expected = [
        "additionalKeys",
        "additionalValues",
        "imagesInSequence",
        "imageName",
        "imageIndex",
        "imageSource",
        "imageController",
        "imageDate",
        "imageNumber",
        "timestampAcquisitionStart",
        "exposureTime",
    ]
    for name, rest in (("MTCamera", ["mode", "timeout"]), ("GenericCamera", [])):
        fields = interfaces.topic(name, "logevent_startIntegration").fields
        assert [field.name for field in fields] == expected + rest


def test_a_component_may_mean_another_thing_by_a_shared_field(interfaces: Interfaces) -> None:
    def image_source(name: str) -> int:
        topic = interfaces.topic(name, "logevent_endReadout")
        return next(field.max_length for field in topic.fields if field.name == "imageSource")

    assert (image_source("ATCamera"), image_source("GenericCamera")) == (2, 0)


@pytest.mark.parametrize("name", ["ATArchiver", "CCArchiver", "MTArchiver"])
def test_archivers_report_each_sensor(interfaces: Interfaces, name: str) -> None:
    for event in ("imageRetrievalForArchiving", "imageInOODS"):
        fields = interfaces.component(name).event(event).fields
        assert [(field.name, field.max_length) for field in fields] == [
            ("camera", 256),
            ("obsid", 256),
            ("raft", 5),
            ("sensor", 5),
            ("archiverName", 256),
            ("statusCode", 0),
            ("description", 256),
        ]


def test_generic_topics_come_with_what_a_component_asks_for(interfaces: Interfaces) -> None:
    service = interfaces.component("CCHeaderService")
    assert service.has("logevent_largeFileObjectAvailable")
    assert service.has("command_start")
    assert not service.has("logevent_configurationApplied")
    assert not service.has("command_enterControl")
    assert interfaces.component("CCCamera").has("command_enterControl")


def test_enumerations_are_there(interfaces: Interfaces) -> None:
    field = interfaces.topic("OCPS", "logevent_summaryState").fields[0]
    assert field.enum["FAULT"] == 3


def test_commands_events_and_telemetry_are_told_apart(interfaces: Interfaces) -> None:
    camera = interfaces.component("ATCamera")
    assert camera.command("takeImages").kind is TopicKind.COMMAND
    assert {topic.kind for topic in camera.events} == {TopicKind.EVENT}
    assert {"vacuum", "focal_plane_sensor"} <= {topic.sal_name for topic in camera.telemetry}
    assert "focal_plane_sensor" in camera.native
    assert "vacuum" not in camera.native


def test_command_types_count_all_topics(interfaces: Interfaces) -> None:
    component = interfaces.component("CCHeaderService")
    assert component.command_types["command_disable"] == 1
    assert sorted(component.topics)[:2] == ["ackcmd", "command_disable"]
    # Topics that only Avro defines are none of the component's own: ``ats`` does not count.
    camera = interfaces.component("ATCamera")
    assert sorted(camera.topics)[1] == "ats"
    assert camera.command_types["command_clear"] == 1


def test_unknown_names_say_what_there_is(interfaces: Interfaces) -> None:
    with pytest.raises(UnknownComponentError, match="ATArchiver"):
        interfaces.component("ATArchivist")
    with pytest.raises(UnknownTopicError, match="logevent_nothing"):
        interfaces.topic("ATArchiver", "logevent_nothing")


def test_a_site_replaces_a_component_and_adds_another(tmp_path: Path) -> None:
    (tmp_path / "PVDemo.yaml").write_text(DEMO)
    (tmp_path / "WFOODS.yaml").write_text(
        "component: WFOODS\nabout: ours\nindexed: true\nindices: {East: 1}\ngenerics: [mandatory]\n"
    )
    site = load_interfaces(tmp_path)
    assert site.component("WFOODS").indices == {"East": 1}
    assert not site.component("WFOODS").has("logevent_imageInOODS")
    assert "PVDemo" in site
    assert "PVDemo" not in load_interfaces()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("type: string", "type: text"), "events.frameStored.fields.obsId.type"),
        (("about: invented", "abuot: invented"), "abuot"),
        (("indexed: true", "indexed: yes please"), "indexed"),
        (("generics: [mandatory, csc]", "generics: [mandatry]"), "mandatry"),
        (("generics: [mandatory, csc]", "generics: [csc]\nlike: [_nothing]"), "_nothing"),
        (("{type: string, about: Observation id.}", ""), "obsId"),
        (("count: 2", "count: boards"), "boards"),
        (("count: 2", "count: 0"), "count"),
        (("obsId:", "+nothing:\n      obsId:"), "nothing"),
        (("about: A frame", "without: [ra]\n    about: A frame"), "without"),
        (("component: PVDemo", "component: PVOther"), "PVOther"),
        (("indexed: true", "indexed: false\nindices: {One: 1}"), "indices"),
        (("events:", "events: ["), "Not YAML"),
    ],
)
def test_a_bad_file_names_the_file_and_the_field(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    (tmp_path / "PVDemo.yaml").write_text(DEMO.replace(*change))
    with pytest.raises(InterfaceFileError, match=r"PVDemo\.yaml") as caught:
        load_interfaces(tmp_path)
    assert said in str(caught.value)


def test_a_missing_site_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InterfaceFileError, match="not there"):
        load_interfaces(tmp_path / "nowhere")
