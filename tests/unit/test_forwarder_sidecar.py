"""The sidecar says what HDU 0 says, in the form that readers of sidecars know."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from platevault.domain.headers import Card, HeaderValue
from platevault.services.forwarder import encode_sidecar

PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.none(),
)


def sidecar(*cards: Card) -> dict[str, HeaderValue]:
    return dict(json.loads(encode_sidecar(cards)))


def test_values_keep_their_type() -> None:
    cards = (
        Card("SIMPLE", True),
        Card("SEQNUM", 60),
        Card("EXPTIME", 30.0),
        Card("DAYOBS", "20250415"),
    )
    assert encode_sidecar(cards) == (
        b'{"SIMPLE": true, "SEQNUM": 60, "EXPTIME": 30.0, "DAYOBS": "20250415",'
        b' "__CONTENT__": "metadata"}'
    )


def test_undefined_values_and_nan_are_null() -> None:
    found = sidecar(Card("RA", None), Card("DEC", math.nan), Card("AMSTART", math.inf))
    assert found == {"RA": None, "DEC": None, "AMSTART": None, "__CONTENT__": "metadata"}


def test_hierarchical_keywords_have_dots_and_keep_their_prefix() -> None:
    found = sidecar(Card("HIERARCH STUTTER ROWS", 5), Card("HIERARCH SHUTTER OPEN SIDE", "MINUSX"))
    assert list(found) == ["HIERARCH.STUTTER.ROWS", "HIERARCH.SHUTTER.OPEN.SIDE", "__CONTENT__"]


def test_titles_and_comments_are_left_out() -> None:
    found = sidecar(
        Card("", None, "---- Date ----"),
        Card("COMMENT", "text"),
        Card("HISTORY", "x"),
        Card("A", 1),
    )
    assert found == {"A": 1, "__CONTENT__": "metadata"}


def test_text_beyond_ascii_reads_back() -> None:
    assert sidecar(Card("OBSERVER", "Ångström"))["OBSERVER"] == "Ångström"
    assert encode_sidecar([Card("OBSERVER", "Ångström")]).isascii()


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9-]{0,7}", fullmatch=True), PLAIN, max_size=20))
def test_every_keyword_reads_back_in_order(values: dict[str, HeaderValue]) -> None:
    commentary = {"COMMENT", "HISTORY", "CONTINUE", "END"}
    values = {key: value for key, value in values.items() if key not in commentary}
    found = sidecar(*(Card(key, value) for key, value in values.items()))
    assert found.pop("__CONTENT__") == "metadata"
    assert list(found.items()) == list(values.items())
