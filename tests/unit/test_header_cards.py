"""Cards of HDU 0: order, what the writer adds, and a header of last resort."""

from __future__ import annotations

from typing import Any

import pytest

from platevault.compose.cameras import load_camera
from platevault.compose.header_keywords import load_keyword_set
from platevault.domain.camera import Camera
from platevault.domain.header_cards import PRIMARY, cards_by_keyword, sensor_cards
from platevault.domain.header_fallback import fallback_document
from platevault.domain.headers import Card, HeaderDocument, HeaderStatus, HeaderValue
from platevault.domain.ids import InvalidNameError
from platevault.domain.keywords import GROUP_TITLES, Capture, Section
from platevault.services.header_service.building import HeaderBuilder
from platevault.services.header_service.exposures import ExposureEvents
from platevault.services.header_service.sampling import Samples, reading_of
from platevault.services.header_service.service import _AS_SENT
from platevault.testing.header_samples import BEGIN_TAI, IMAGE, exposure

FACTS: dict[str, HeaderValue] = {
    "DATE-TRG": "2025-04-16T00:53:29.519",
    "FIRMWARE": "31395007",
    "DAQVERS": "R5-V13.4",
    "DAQFOLD": "raw",
    "IHVERS": "1.0",
    "CONTNUM": "18edfc9b",
}


@pytest.fixture(scope="module")
def camera() -> Camera:
    return load_camera("comcam")


@pytest.fixture(scope="module")
def document(camera: Camera) -> HeaderDocument:
    keywords = load_keyword_set(camera)
    builder = HeaderBuilder(camera=camera, keywords=keywords, texts={"origin": "Platevault"})
    samples = Samples(keywords=keywords, keep_s=960.0)
    events = ExposureEvents(IMAGE, camera.readout_s)
    for sample in exposure(camera):
        if sample.fields.get("imageName"):
            events.take(sample.topic.name, reading_of(sample, _AS_SENT))
        else:
            samples.take(sample)
    return builder.build(events, samples, version=1, created_tai=BEGIN_TAI + 20.0, kept={})


def titles(cards: tuple[Card, ...]) -> list[str]:
    return [card.comment.strip("- ") for card in cards if not card.keyword and card.comment]


def test_groups_stand_in_the_order_of_the_contract(
    camera: Camera, document: HeaderDocument
) -> None:
    cards = sensor_cards(document, camera, camera.detectors[4], FACTS)
    found = titles(cards)
    order = [title for title in GROUP_TITLES.values() if title]
    assert found == [title for title in order if title in found]
    assert found[-1] == "Checksums"
    for place, card in enumerate(cards):
        if not card.keyword and card.comment:
            assert cards[place - 1] == Card("")


def test_a_file_has_every_keyword_of_its_camera_once(
    camera: Camera, document: HeaderDocument
) -> None:
    cards = sensor_cards(document, camera, camera.detectors[4], FACTS)
    names = [card.keyword for card in cards if card.keyword]
    assert len(names) == len(set(names))
    expected = {
        row.keyword
        for row in load_keyword_set(camera).keywords
        if row.capture is not Capture.FILE and row.section is not Section.SEGMENT
    }
    omitted = {row.keyword for row in load_keyword_set(camera).keywords if row.omitted}
    assert expected - omitted <= set(names)
    assert not {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM"} & set(names)


def test_exposure_keywords_are_the_same_on_every_sensor(
    camera: Camera, document: HeaderDocument
) -> None:
    exposure_cards = cards_by_keyword(document.sections[PRIMARY])
    for detector in camera.detectors:
        values = cards_by_keyword(sensor_cards(document, camera, detector, FACTS))
        for keyword, value in exposure_cards.items():
            if keyword not in {"FILENAME", "DATE-TRG", "MJD-TRG"}:
                assert values[keyword] == value, keyword
        assert values["FILENAME"] == f"{IMAGE}_{detector.name}.fits"
        assert (values["RAFTBAY"], values["CCDSLOT"]) == (detector.raft, detector.slot)
        assert values["LSST_NUM"] == detector.serial
        assert values["CCD_TYPE"] == "3800C"
        assert values["DETSIZE"] == "[1:4072,1:4000]"


def test_facts_of_the_writer_fill_its_keywords(camera: Camera, document: HeaderDocument) -> None:
    values = cards_by_keyword(sensor_cards(document, camera, camera.detectors[0], FACTS))
    assert values["DATE-TRG"] == "2025-04-16T00:53:29.519"
    assert values["MJD-TRG"] == pytest.approx(60781.037147206, abs=1e-8)
    assert values["FIRMWARE"] == "31395007"
    assert values["CONTNUM"] == "18edfc9b"
    assert values["PLATFORM"] == "comcam"
    assert values["SEQFILE"] == values["SEQNAME"] == "FP_ITL.seq"


def test_a_fact_never_replaces_a_value_of_the_exposure(
    camera: Camera, document: HeaderDocument
) -> None:
    facts: dict[str, HeaderValue] = {**FACTS, "EXPTIME": 31.0, "OBJECT": "Vela_SNR"}
    values = cards_by_keyword(sensor_cards(document, camera, camera.detectors[0], facts))
    assert values["EXPTIME"] == 15.0
    assert values["HIERARCH FRAME EXPTIME"] == 31.0
    assert "HIERARCH FRAME OBJECT" not in values


def test_facts_of_a_foreign_frame_are_carried_where_they_do_no_harm(
    camera: Camera, document: HeaderDocument
) -> None:
    facts: dict[str, HeaderValue] = {
        "CRVAL1": 300.1,
        "CTYPE1": "RA---TAN",
        "MOONFRAC": 0.3,
        "long.keyword.name": 7,
        "NAXIS1": 4096,
        "BSCALE": 1.0,
        "AUTHOR": "Müller",
        "EMPTY": None,
        "BAD": float("nan"),
        "SHUTTER OPEN SIDE": "PLUSX",
    }
    values = cards_by_keyword(sensor_cards(document, camera, camera.detectors[0], facts))
    assert values["HIERARCH FRAME CRVAL1"] == 300.1
    assert "CRVAL1" not in values
    assert "CTYPE1" not in values
    assert values["MOONFRAC"] == 0.3
    assert values["HIERARCH LONG KEYWORD NAME"] == 7
    assert values["HIERARCH SHUTTER OPEN SIDE"] == "PLUSX"
    assert not {"NAXIS1", "BSCALE", "AUTHOR", "EMPTY", "BAD"} & values.keys()


def test_the_same_input_gives_the_same_cards(camera: Camera, document: HeaderDocument) -> None:
    first = sensor_cards(document, camera, camera.detectors[0], FACTS)
    assert (
        sensor_cards(document, camera, camera.detectors[0], dict(reversed(FACTS.items()))) == first
    )


def test_a_header_without_a_section_for_the_sensor_gets_one_from_the_camera(
    camera: Camera, document: HeaderDocument
) -> None:
    bare = HeaderDocument(
        image=IMAGE,
        camera=camera.name,
        version=1,
        status=HeaderStatus.PARTIAL,
        sections={PRIMARY: document.sections[PRIMARY]},
    )
    values = cards_by_keyword(sensor_cards(bare, camera, camera.detectors[8], FACTS))
    assert (values["RAFTBAY"], values["CCDSLOT"]) == ("R22", "S22")
    assert values["LSST_NUM"] == "ITL-3800C-206"


# --- the header of last resort --------------------------------------------------------------------


def test_the_fallback_knows_what_the_name_says(camera: Camera) -> None:
    document = fallback_document(IMAGE, camera, {})
    values = cards_by_keyword(document.sections[PRIMARY])
    assert document.status is HeaderStatus.MINIMAL
    assert (values["OBSID"], values["DAYOBS"], values["SEQNUM"]) == (IMAGE, "20250415", 60)
    assert (values["INSTRUME"], values["TELESCOP"]) == ("ComCam", "Simonyi Survey Telescope")
    assert values["TIMESYS"] == "TAI"
    assert values["DATE"] is None
    assert "DATE" in values
    assert {"IMGTYPE", "EXPTIME", "DATE-BEG", "RASTART"} <= set(document.missing)
    assert "OBSID" not in document.missing


def test_the_fallback_uses_what_the_camera_said(camera: Camera) -> None:
    facts: dict[str, Any] = {
        "additionalKeys": "imageType:groupId:reason",
        "additionalValues": r"OBJECT:2025-04-16T00\:53\:10.143:science",
        "exposureTime": 15.0,
        "imageIndex": 1,
        "imagesInSequence": 2,
        "timestampAcquisitionStart": BEGIN_TAI,
        "timestampEndOfReadout": BEGIN_TAI + 18.0,
        "OBJECT": "Vela",
    }
    document = fallback_document(IMAGE, camera, facts)
    values = cards_by_keyword(document.sections[PRIMARY])
    assert values["IMGTYPE"] == "OBJECT"
    assert values["GROUPID"] == "2025-04-16T00:53:10.143"
    assert (values["EXPTIME"], values["CURINDEX"], values["MAXINDEX"]) == (15.0, 1, 2)
    assert values["DATE-BEG"] == "2025-04-16T00:53:13.500"
    assert values["MJD-BEG"] == pytest.approx(60781.0369618, abs=1e-7)
    assert values["DATE"] == "2025-04-16T00:52:54.500"
    assert values["OBJECT"] == "Vela"
    assert document == fallback_document(IMAGE, camera, facts)


def test_without_an_end_the_fallback_was_made_when_the_exposure_was_over(camera: Camera) -> None:
    facts: dict[str, HeaderValue] = {
        "exposureTime": 15.0,
        "timestampAcquisitionStart": BEGIN_TAI,
    }
    values = cards_by_keyword(fallback_document(IMAGE, camera, facts).sections[PRIMARY])
    assert values["DATE"] == "2025-04-16T00:52:51.500"
    assert values["DATE"] != values["DATE-OBS"]


def test_the_fallback_serves_every_sensor(camera: Camera) -> None:
    document = fallback_document(IMAGE, camera, {"exposureTime": 1.0})
    for detector in camera.detectors:
        values = cards_by_keyword(sensor_cards(document, camera, detector, FACTS))
        assert (values["RAFTBAY"], values["CCDSLOT"]) == (detector.raft, detector.slot)
        assert values["EXPTIME"] == 1.0


def test_unusable_facts_leave_the_fallback_undefined(camera: Camera) -> None:
    facts: dict[str, Any] = {"exposureTime": float("nan"), "imageIndex": "one", "REASON": "Ü"}
    values = cards_by_keyword(fallback_document(IMAGE, camera, facts).sections[PRIMARY])
    assert values["EXPTIME"] is None
    assert values["CURINDEX"] is None
    assert values["REASON"] is None


def test_no_image_name_is_refused(camera: Camera) -> None:
    with pytest.raises(InvalidNameError):
        fallback_document("elsewhere", camera, {})
