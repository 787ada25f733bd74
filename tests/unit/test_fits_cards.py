"""Cards are read back equal by astropy, and what FITS cannot hold is changed as documented."""

from __future__ import annotations

import math
import string

import pytest
from astropy.io import fits
from hypothesis import example, given
from hypothesis import strategies as st

from platevault.adapters.fits.cards import (
    CARD_BYTES,
    InvalidCardError,
    clean_card,
    format_card,
    render_card,
)
from platevault.adapters.fits.headers import CardFormatter
from platevault.domain.headers import Card, HeaderValue

PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F))
KEYWORDS = st.text(string.ascii_uppercase + string.digits + "_-", min_size=1, max_size=8).filter(
    lambda name: name not in {"COMMENT", "HISTORY", "CONTINUE", "END", "HIERARCH", "XTENSION"}
)
HIERARCHICAL = st.lists(
    st.text(string.ascii_uppercase + string.digits, min_size=1, max_size=9),
    min_size=2,
    max_size=4,
).map(lambda words: "HIERARCH " + " ".join(words))
TEXTS = st.text(PRINTABLE, max_size=300).map(lambda text: text.rstrip(" "))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(10**18), 10**18), FLOATS, TEXTS)
COMMENTS = st.text(string.ascii_letters + " /'&", max_size=60)


def read_back(text: str) -> fits.Card:
    """Read one card with astropy; anything odd raises."""
    assert len(text) % CARD_BYTES == 0
    card = fits.Card.fromstring(text.encode("ascii"))
    card.verify("exception")
    return card


def value_of(card: fits.Card) -> HeaderValue:
    value: HeaderValue = None if isinstance(card.value, fits.Undefined) else card.value
    return value


@given(keyword=KEYWORDS | HIERARCHICAL, value=VALUES, comment=COMMENTS)
@example(keyword="A", value="x" * 68, comment="")
@example(keyword="A", value="x" * 67 + "'", comment="no room")
@example(keyword="A", value="'" * 200, comment="quotes")
@example(keyword="A", value="ends with &", comment="")
@example(keyword="A", value="&" * 150, comment="")
@example(keyword="A", value=-1.2345678901234567e-300, comment="longer than twenty characters")
@example(keyword="A", value=5e-324, comment="")
@example(keyword="A", value="", comment="")
def test_astropy_reads_every_card_back_equal(
    keyword: str, value: HeaderValue, comment: str
) -> None:
    text = format_card(Card(keyword, value, comment))
    card = read_back(text)
    assert card.keyword == keyword.removeprefix("HIERARCH ")
    found = value_of(card)
    assert found == value
    assert type(found) is type(value)
    assert comment.strip().startswith(card.comment.strip())


@given(keyword=KEYWORDS, value=VALUES)
def test_a_card_read_by_astropy_is_written_again_equal(keyword: str, value: HeaderValue) -> None:
    foreign = fits.Card(keyword, value, "a comment" if not isinstance(value, str) else "")
    text = str(foreign)
    reading = read_back(text)
    written = format_card(Card(keyword, value_of(reading), reading.comment))
    again = read_back(written)
    assert (again.keyword, value_of(again), again.comment) == (
        reading.keyword,
        value_of(reading),
        reading.comment,
    )


@given(value=FLOATS)
def test_a_float_keeps_every_bit(value: float) -> None:
    found = read_back(format_card(Card("F", value))).value
    assert math.copysign(1, found) == math.copysign(1, value)
    assert found == value


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, "                   T"),
        (False, "                   F"),
        (-7, "                  -7"),
        (30.0, "                30.0"),
        (None, "                    "),
        ("ab", "'ab      '          "),
        ("it's", "'it''s   '          "),
    ],
)
def test_values_stand_in_the_columns_of_the_fixed_format(value: HeaderValue, field: str) -> None:
    text = format_card(Card("KEY", value, "why"))
    assert text == f"KEY     = {field} / why".ljust(80)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_undefined(value: float) -> None:
    text, written = render_card(Card("RA", value, "deg"))
    assert isinstance(read_back(text).value, fits.Undefined)
    assert written == Card("RA", None, "deg")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Café", "Caf?"), ("a\nb\tc", "a?b?c"), ("\u2003x", "?x"), ("blank  ", "blank")],
)
def test_what_is_not_printable_ascii_becomes_a_question_mark(value: str, expected: str) -> None:
    assert clean_card(Card("OBJECT", value)).value == expected
    assert read_back(format_card(Card("OBJECT", value))).value == expected


@given(value=st.text(max_size=200), comment=st.text(max_size=100))
def test_any_text_can_be_written_and_reads_back_as_told(value: str, comment: str) -> None:
    text, written = render_card(Card("OBJECT", value, comment))
    assert read_back(text).value == written.value


@pytest.mark.parametrize(
    "keyword", ["lower", "A.B", "WITH BLANK ", "Ä", "HIERARCH ", "X" * 90, "A\nB", " A"]
)
def test_a_keyword_without_a_form_is_refused_by_name(keyword: str) -> None:
    with pytest.raises(InvalidCardError) as raised:
        format_card(Card(keyword, 1))
    assert raised.value.context["keyword"] == keyword


def test_a_value_without_a_form_is_refused_by_name() -> None:
    with pytest.raises(InvalidCardError, match="LIST"):
        format_card(Card("LIST", [1, 2]))  # type: ignore[arg-type]
    with pytest.raises(InvalidCardError, match="BIG"):
        format_card(Card("BIG", 10**80))


@given(text=st.text(PRINTABLE, max_size=200))
@pytest.mark.parametrize("keyword", ["", "COMMENT", "HISTORY"])
def test_commentary_is_cut_over_cards_and_loses_nothing(keyword: str, text: str) -> None:
    lines = format_card(Card(keyword, None, text))
    parts = [lines[at : at + 80] for at in range(0, len(lines), 80)]
    assert all(part[:8].rstrip() == keyword for part in parts)
    assert "".join(part[8:] for part in parts).rstrip() == text.rstrip()


CARDS = st.lists(st.builds(Card, KEYWORDS, VALUES, COMMENTS), max_size=12)


@given(lists=st.lists(CARDS, min_size=1, max_size=5))
def test_a_list_is_written_the_same_whatever_was_written_before(lists: list[list[Card]]) -> None:
    used = CardFormatter()
    for cards in lists:
        body = used.format(cards, detector_type="ITL", hdu=1)
        assert body == CardFormatter().format(cards, detector_type="ITL", hdu=1)


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, True), (1.0, 1), (0.0, -0.0), (0, False), ("", None), (0.0, 0), (float("nan"), None)],
)
def test_values_that_are_equal_but_look_different_are_written_anew(
    first: HeaderValue, second: HeaderValue
) -> None:
    used = CardFormatter()
    used.format([Card("A", first)], detector_type="ITL", hdu=1)
    text = used.format([Card("A", second)], detector_type="ITL", hdu=1).text
    assert text == format_card(Card("A", second))


def test_a_long_text_is_announced_by_longstrn() -> None:
    body = CardFormatter().format([Card("A", "x" * 100)], detector_type="ITL", hdu=0)
    assert body.text.startswith("LONGSTRN= 'OGIP 1.0'")
    assert [card.keyword for card in body.written] == ["LONGSTRN", "A"]


def test_lists_of_other_length_or_hdu_do_not_mix() -> None:
    used = CardFormatter()
    one = used.format([Card("A", 1)], detector_type="ITL", hdu=1).text
    two = used.format([Card("A", 1), Card("B", 2)], detector_type="ITL", hdu=1).text
    assert two == one + format_card(Card("B", 2))
    assert used.format([Card("A", 1)], detector_type="ITL", hdu=2).text == one
