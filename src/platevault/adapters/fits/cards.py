"""Header cards as text: FITS 4.0 cards, HIERARCH, CONTINUE, undefined values.

Rules for what FITS cannot hold:

* NaN and infinities become undefined values.
* Characters outside 0x20-0x7E become ``?``; trailing blanks of a text are dropped. Neither loses
  the image; `clean_card` tells what is really written.
* A keyword that cannot be written is an `InvalidCardError`; the writer leaves the card out and
  logs it.
* A comment is cut where its card ends.

References
----------
FITS 4.0 sec. 4.1, 4.2 and the ESO HIERARCH convention (FITS registry).
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from platevault.domain.errors import UsageError
from platevault.domain.headers import Card, HeaderValue

#: Size of a card [byte], FITS 4.0 sec. 4.1.
CARD_BYTES = 80
#: Size of a block [byte], FITS 4.0 sec. 3.1.
BLOCK_BYTES = 2880
#: Text in columns 9-80 of a commentary card.
_COMMENTARY_TEXT = 72
#: Text between the quotes of a continuation card, without its ``&``.
_CONTINUED_TEXT = 67
_COMMENTARY = frozenset({"", "COMMENT", "HISTORY"})
_STANDARD = re.compile(r"[A-Z0-9_-]{1,8}")
_HIERARCHICAL = re.compile(r"[A-Z0-9_-]+(?: [A-Z0-9_-]+)*")
_UNPRINTABLE = re.compile(r"[^ -~]")
_HIERARCH = "HIERARCH "
#: Longest hierarchical keyword with room for ``=``, a blank and a text of eight characters.
_HIERARCH_LIMIT = CARD_BYTES - 3 - 10
#: Keywords whose form is kept.
_KEYWORDS = 4096


class InvalidCardError(UsageError):
    """A keyword or value cannot stand in a FITS header: mend the named card."""


def clean_card(card: Card) -> Card:
    """Give the card as a reader will see it; `InvalidCardError` if it cannot be written."""
    return render_card(card)[1]


def format_card(card: Card) -> str:
    """Write one card as text of one or more times 80 characters.

    Raises
    ------
    InvalidCardError
        The keyword, or the type of the value, cannot be written. Leave the card out, or mend it.
    """
    return render_card(card)[0]


def render_card(card: Card) -> tuple[str, Card]:
    """Do both at once: the text of `format_card` and the card of `clean_card`."""
    keyword, value, comment = card.keyword, card.value, card.comment
    if keyword in _COMMENTARY:
        return _render_commentary(card)
    head = _written_keyword(keyword)
    clean = value
    if not (comment.isascii() and comment.isprintable()):
        comment = _UNPRINTABLE.sub("?", comment)
    if isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            value = _UNPRINTABLE.sub("?", value)
        clean = value = value.rstrip(" ")
        if "'" in value:
            value = value.replace("'", "''")
        if len(head) + len(value) + 2 > CARD_BYTES:
            return _format_continued(head, value, comment), _as_written(card, clean, comment)
        field = f"'{value:8}'"
        line = f"{head}{field:20}" if head[8] == "=" else head + field
    else:
        field = format_number(keyword, value)
        if not field:
            clean = None
        line = f"{head}{field:>20}" if head[8] == "=" else head + field
        if len(line) > CARD_BYTES:
            raise InvalidCardError("Value is too long for a card", keyword=keyword, value=value)
    return f"{_commented(line, comment):80.80}", _as_written(card, clean, comment)


def _as_written(card: Card, value: HeaderValue, comment: str) -> Card:
    if (value is card.value or value == card.value) and comment is card.comment:
        return card
    return Card(card.keyword, value, comment)


def format_number(keyword: str, value: HeaderValue) -> str:
    """Write a value other than text; empty if it is undefined."""
    match value:
        case None:
            return ""
        case float():
            if not math.isfinite(value):
                return ""
            text = float.__repr__(value)
            if "e" not in text:
                return text
            mantissa, _, exponent = text.partition("e")
            return f"{mantissa}E{exponent}" if "." in mantissa else f"{mantissa}.0E{exponent}"
        case bool():
            return "T" if value else "F"
        case int():
            return int.__repr__(value)
        case _:
            raise InvalidCardError("Value has no form in FITS", keyword=keyword, value=repr(value))


@lru_cache(_KEYWORDS)
def _written_keyword(keyword: str) -> str:
    """Give keyword and value indicator, columns 1-10 or more."""
    if _STANDARD.fullmatch(keyword):
        return f"{keyword:8}= "
    name = keyword.removeprefix(_HIERARCH)
    if _HIERARCHICAL.fullmatch(name) and len(name) + len(_HIERARCH) <= _HIERARCH_LIMIT:
        return f"{_HIERARCH}{name} = "
    raise InvalidCardError(
        "Keyword has no form in FITS",
        keyword=keyword,
        expected="A-Z 0-9 _ -, up to 8, or HIERARCH and several",
    )


def _render_commentary(card: Card) -> tuple[str, Card]:
    given = card.value if isinstance(card.value, str) else card.comment
    text = _UNPRINTABLE.sub("?", given)
    if text is not given and text != given:
        card = Card(card.keyword, None, text)
    return _format_commentary(card.keyword, text), card


def _format_commentary(keyword: str, text: str) -> str:
    parts = [text[at : at + _COMMENTARY_TEXT] for at in range(0, len(text), _COMMENTARY_TEXT)]
    return "".join(f"{keyword:8}{part:72}" for part in parts or [""])


def _format_continued(head: str, text: str, comment: str) -> str:
    """Cut a quoted text over CONTINUE cards; a doubled quote is never cut apart."""
    lines = []
    room = CARD_BYTES - len(head) - 3
    rest = text
    start = head
    # A text that ends with "&" takes one more, empty card: readers drop a last "&" otherwise.
    while len(rest) > room or rest.endswith("&"):
        part = rest[:room]
        if (len(part) - len(part.rstrip("'"))) % 2:
            part = part[:-1]
        lines.append(f"{start}'{part}&'")
        rest = rest[len(part) :]
        start, room = "CONTINUE  ", _CONTINUED_TEXT
    line = f"{start}'{rest}'"
    lines.append(_commented(line, comment))
    return "".join(f"{line:80.80}" for line in lines)


def _commented(line: str, comment: str) -> str:
    """Add as much of a comment as fits."""
    return f"{line} / {comment}" if comment and len(line) < CARD_BYTES - 3 else line
