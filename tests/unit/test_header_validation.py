"""What may stand in a header, and what is left undefined instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from platevault.compose.cameras import load_camera
from platevault.domain.header_sources import Limit
from platevault.domain.header_validation import (
    RejectedValueError,
    check_limits,
    contradictions,
    registered_filter,
    typed_value,
)
from platevault.domain.headers import HeaderValue
from platevault.domain.keywords import Keyword, parse_keywords
from platevault.testing.header_samples import IMAGE

COMCAM = load_camera("comcam")
GOOD: dict[str, HeaderValue] = {
    "OBSID": IMAGE,
    "CAMCODE": "CC",
    "CONTRLLR": "O",
    "DAYOBS": "20250415",
    "SEQNUM": 60,
    "DATE": "2025-04-16T00:53:29.524",
    "MJD": 60781.03714726852,
    "DATE-BEG": "2025-04-16T00:53:13.573",
    "DATE-END": "2025-04-16T00:53:29.528",
    "EXPTIME": 15.0,
    "DARKTIME": 15.9,
    "FILTER": "r_03",
    "RA": 0.0,
    "DEC": -44.2,
    "CURINDEX": 1,
    "MAXINDEX": 2,
}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("float", 3, 3.0),
        ("float", "0.25", 0.25),
        ("float", np.float32(1.5), 1.5),
        ("int", "7", 7),
        ("int", 7.0, 7),
        ("int", np.int64(7), 7),
        ("str", "text  ", "text"),
        ("str", "1e5", "1e5"),
        ("str", 20250415, "20250415"),
        ("bool", 1, True),
        ("bool", "F", False),
        ("float", None, None),
    ],
)
def test_a_value_gets_the_type_of_its_keyword(kind: str, value: Any, expected: HeaderValue) -> None:
    typed = typed_value("K", kind, value)
    assert typed == expected
    assert type(typed) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("float", float("nan")),
        ("float", float("inf")),
        ("float", "far"),
        ("float", True),
        ("int", 1.5),
        ("int", "1.5"),
        ("int", [1]),
        ("str", 1.5),
        ("str", "Küche"),
        ("str", "two\nlines"),
        ("str", "x" * 69),
        ("str", "'" * 35),
        ("bool", 2),
    ],
)
def test_what_a_card_cannot_hold_is_rejected(kind: str, value: Any) -> None:
    with pytest.raises(RejectedValueError):
        typed_value("K", kind, value)


def test_a_hierarchical_keyword_leaves_less_room_for_text() -> None:
    keyword = "HIERARCH SHUTTER OPEN MODEL"
    assert typed_value(keyword, "str", "x" * 48) == "x" * 48
    with pytest.raises(RejectedValueError):
        typed_value(keyword, "str", "x" * 49)


def row_with(limits: str) -> Keyword:
    text = (
        "keyword,section,group,type,unit,capture,source,default,required,absent,limits,max_age_s,"
        f'sets,comment\nK,PRIMARY,date,str,,S,A.t.f,,no,undefined,"{limits}",,*,c\n'
    )
    return parse_keywords(text)[0]


@pytest.mark.parametrize(
    ("limits", "good", "bad"),
    [
        ("range(1..100)", 1, 0.999),
        ("range(-90..90)", -90.0, 90.1),
        ("range(0..)", 1e9, -1e-9),
        ("length(16)", "x" * 16, "x" * 17),
        ("length(32)", "x" * 32, "x" * 33),
        ("length(64)", "x" * 64, "x" * 65),
        ("values(NO, FULLY)", "FULLY", "PARTLY"),
        ("pattern(raft)", "R22", "R22 "),
        ("pattern(slot)", "SG0", "SG"),
        ("time", "2025-04-16T00:53:13.573", "2025-04-16T00:53:13"),
        ("time", "2025-04-16T00:53:13.573", "2025-13-16T00:53:13.573"),
        ("day", "20250415", "2025-04-15"),
        ("day", "20240229", "20250229"),
        ("range(0..); length(3)", 123, 1234),
    ],
)
def test_limits_hold_up_to_their_ends(limits: str, good: HeaderValue, bad: HeaderValue) -> None:
    assert check_limits(row_with(limits), good) == ""
    assert check_limits(row_with(limits), bad) != ""
    assert check_limits(row_with(limits), None) == ""


def test_a_limit_on_numbers_refuses_text() -> None:
    row = row_with("range(0..)")
    assert row.limits == (Limit("range", ("0..",)),)
    assert check_limits(row, "text") != ""


def test_a_consistent_header_has_no_contradiction() -> None:
    assert contradictions(GOOD, COMCAM, IMAGE) == {}


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"SEQNUM": 61}, {"SEQNUM"}),
        ({"DAYOBS": "20250416"}, {"DAYOBS"}),
        ({"CONTRLLR": "C"}, {"CONTRLLR"}),
        ({"CAMCODE": "MC"}, {"CAMCODE"}),
        ({"OBSID": "CC_O_20250415_000061"}, {"OBSID"}),
        ({"DATE-END": "2025-04-16T00:53:13.572"}, {"DATE-END", "MJD-END"}),
        ({"MJD": 60781.0372}, {"MJD"}),
        ({"DARKTIME": 14.999}, {"DARKTIME"}),
        ({"FILTER": "r_57"}, {"FILTER"}),
        ({"DEC": 0.0}, {"RA", "DEC"}),
        ({"CURINDEX": 3}, {"CURINDEX"}),
    ],
)
def test_a_contradiction_blames_the_value_that_cannot_be(
    changes: dict[str, HeaderValue], blamed: set[str]
) -> None:
    assert contradictions({**GOOD, **changes}, COMCAM, IMAGE).keys() == blamed


def test_a_bias_may_begin_and_end_at_once() -> None:
    bias = {**GOOD, "DATE-END": GOOD["DATE-BEG"], "EXPTIME": 0.0, "DARKTIME": 0.0}
    assert contradictions(bias, COMCAM, IMAGE) == {}


@pytest.mark.parametrize(
    ("camera", "name", "grating", "known"),
    [
        ("comcam", "r_03", "", True),
        ("comcam", "r_57", "", False),
        ("lsstcam", "NONE", "", True),
        ("latiss", "SDSSr_65mm", "empty_1", True),
        ("latiss", "empty_2", "holo4_003", True),
        ("latiss", "SDSSr_65mm", "holo9", False),
        ("latiss", "X", "empty_1", False),
    ],
)
def test_a_filter_must_be_registered_with_its_grating(
    camera: str, name: str, grating: str, known: bool
) -> None:
    assert registered_filter(load_camera(camera), name, grating) is known


def test_an_unknown_grating_is_blamed_and_not_the_filter() -> None:
    latiss = load_camera("latiss")
    found = contradictions({"FILTER": "SDSSr_65mm", "GRATING": "holo9"}, latiss, "")
    assert found.keys() == {"GRATING"}
