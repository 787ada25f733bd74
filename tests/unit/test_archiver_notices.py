"""Events become notices, or errors that name the field."""

from __future__ import annotations

import math
from typing import Any

import pytest

from platevault.domain.inventory import HeaderReference
from platevault.domain.samples import Sample
from platevault.sal.schema import load_interfaces
from platevault.services.archiver.notices import (
    MalformedEventError,
    StrangeImageError,
    read_exposure,
    read_header,
)
from platevault.testing.cameras import tiny_camera

CAMERA = tiny_camera()
INTERFACES = load_interfaces()
IMAGE = "TC_O_20330517_000001"


def event(name: str, component: str = "CCCamera", **fields: Any) -> Sample:
    topic = INTERFACES.component(component).event(name)
    return Sample(topic=topic, fields=fields, sent_tai=500.0)


def header_event(**fields: Any) -> Sample:
    given: dict[str, Any] = {
        "url": "file:///annex/h.yaml",
        "version": 2.0,
        "byteSize": 10,
        "checkSum": "ab",
        "mimeType": "YAML",
        "id": IMAGE,
    }
    return event("largeFileObjectAvailable", "CCHeaderService", **(given | fields))


def test_an_end_happened_when_the_camera_says() -> None:
    notice = read_exposure(event("endReadout", imageName=IMAGE, timestampEndOfReadout=7.5), CAMERA)
    assert (str(notice.image), notice.moment_tai) == (IMAGE, 7.5)


@pytest.mark.parametrize("moment", [math.nan, 0.0, -1.0, None])
def test_an_impossible_moment_is_replaced_by_that_of_the_sample(moment: float | None) -> None:
    sample = event("endReadout", imageName=IMAGE, timestampEndOfReadout=moment)
    assert read_exposure(sample, CAMERA).moment_tai == 500.0


def test_facts_are_plain_values_without_nan() -> None:
    sample = event("startIntegration", imageName=IMAGE, exposureTime=math.nan, extra=[1, 2])
    assert read_exposure(sample, CAMERA).facts == {"imageName": IMAGE, "exposureTime": None}


@pytest.mark.parametrize("name", [None, 7, "", "x", "TC_O_20330517_000001 "])
def test_an_event_without_an_image_name_is_malformed(name: object) -> None:
    with pytest.raises(MalformedEventError, match="imageName"):
        read_exposure(event("startIntegration", imageName=name), CAMERA)


def test_an_image_of_another_camera_is_strange() -> None:
    with pytest.raises(StrangeImageError, match="MC_O"):
        read_exposure(event("startIntegration", imageName="MC_O_20330517_000001"), CAMERA)


def test_a_header_is_where_its_event_says() -> None:
    found = read_header(header_event(), CAMERA)
    assert found is not None
    assert found[1] == HeaderReference("file:///annex/h.yaml", 2, 10, "ab")


def test_the_fits_form_of_a_header_is_passed_over() -> None:
    assert read_header(header_event(mimeType="FITS"), CAMERA) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("url", ""), ("version", math.nan), ("byteSize", "many"), ("id", "none")],
)
def test_a_header_event_names_the_field_that_is_wrong(field: str, value: object) -> None:
    with pytest.raises(MalformedEventError, match=field):
        read_header(header_event(**{field: value}), CAMERA)
