"""Forms of a header object: YAML in the historical layout, JSON, FITS header text.

The YAML is a mapping of section to a list of ``{keyword, value, comment}``. Each card stands on
one line in flow style that is JSON at the same time, so that any YAML reader loads it and ours
needs none: text is always quoted and stays text, floats always have a point. Two sections more
than the historical layout has, ``HEADER`` and ``RECORDS``, tell version, completeness and where
each value came from; readers of that layout pass over them.

References
----------
Header contract, sections A5 and B7; FITS 4.0 sec. 4 and the HIERARCH convention.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from platevault.domain.errors import PermanentError
from platevault.domain.headers import (
    Card,
    Collected,
    HeaderDocument,
    HeaderStatus,
    HeaderValue,
    KeywordRecord,
)

#: Name and version of the JSON form.
FORMAT = "platevault-header"
FORMAT_VERSION = 1
_FACTS = "HEADER"
_RECORDS = "RECORDS"
_SECTION_LINE = re.compile(r"^([A-Za-z0-9_]+):( \[\])?$")
#: YAML's mark of the end: a header that was cut off does not have it.
_END = "..."
_FITS_BLOCK = 2880
_CARD = 80
#: Room of a text between the quotes of a fixed-format card, and of any other value.
_VALUE_WIDTH = 20


class MalformedHeaderError(PermanentError):
    """Bytes are no header object: do not retry; treat the header as missing."""


# --- writing --------------------------------------------------------------------------------------


def format_yaml(document: HeaderDocument) -> bytes:
    """Write the header in the historical YAML layout; the same document gives the same bytes."""
    lines = [f"{_FACTS}:"]
    lines += [_line({"keyword": name, "value": value}) for name, value in _facts(document)]
    for section, cards in document.sections.items():
        lines.append(f"{section}:" if cards else f"{section}: []")
        lines += [_card_line(card) for card in cards]
    lines.append(f"{_RECORDS}:" if document.records else f"{_RECORDS}: []")
    lines += [_line(plain) for plain in _plain_records(document.records)]
    lines += [_END, ""]
    return "\n".join(lines).encode("ascii")


def format_json(document: HeaderDocument) -> bytes:
    """Write the header as JSON: the same content as the YAML."""
    plain = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "image": document.image,
        "camera": document.camera,
        "version": document.version,
        "status": str(document.status),
        "completeness": document.completeness,
        "missing": list(document.missing),
        "changed": list(document.changed),
        "sections": {
            section: [_plain_card(card) for card in cards]
            for section, cards in document.sections.items()
        },
        "records": list(_plain_records(document.records)),
    }
    return json.dumps(plain, allow_nan=False, separators=(",", ":")).encode("ascii")


def format_fits(cards: Sequence[Card]) -> bytes:
    """Write cards as a FITS header without data: 80-byte cards, padded to blocks of 2880."""
    head = (
        Card("SIMPLE", True, "conforms to FITS"),
        Card("BITPIX", 8),
        Card("NAXIS", 0),
        Card("EXTEND", True),
    )
    structure = {card.keyword for card in head}
    text = "".join(
        _fits_card(card) for card in (*head, *(c for c in cards if c.keyword not in structure))
    )
    text += f"{'END':80}"
    return text.ljust(-(-len(text) // _FITS_BLOCK) * _FITS_BLOCK).encode("ascii")


def _facts(document: HeaderDocument) -> Iterator[tuple[str, HeaderValue | list[str]]]:
    yield "FORMAT", FORMAT_VERSION
    yield "IMAGE", document.image
    yield "CAMERA", document.camera
    yield "VERSION", document.version
    yield "STATUS", str(document.status)
    yield "COMPLETENESS", document.completeness
    yield "MISSING", list(document.missing)
    yield "CHANGED", list(document.changed)


def _plain_card(card: Card) -> dict[str, HeaderValue]:
    if card.keyword:
        return {"keyword": card.keyword, "value": card.value, "comment": card.comment}
    if card.comment:
        return {"keyword": None, "value": None, "comment": card.comment}
    return {"keyword": "COMMENT", "value": "", "comment": ""}


def _card_line(card: Card) -> str:
    if not card.keyword:
        return _line(_plain_card(card))
    return (
        f'- {{"keyword": {json.dumps(card.keyword)}, "value": {_scalar(card.value)}, '
        f'"comment": {json.dumps(card.comment)}}}'
    )


def _line(plain: Mapping[str, Any]) -> str:
    parts = (f'"{name}": {_scalar(value)}' for name, value in plain.items())
    return f"- {{{', '.join(parts)}}}"


def _scalar(value: object) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return "null"
        text = repr(value)
        # YAML 1.1 takes 1e-05 for text: it wants a point.
        return text if "." in text else text.replace("e", ".0e")
    return json.dumps(value)


def _plain_records(records: Sequence[KeywordRecord]) -> Iterator[dict[str, Any]]:
    """Join records that follow each other and differ in their section only."""
    held: dict[str, Any] = {}
    for record in records:
        plain = {
            "keyword": record.keyword,
            "value": str(record.collected),
            "comment": record.problem,
            "source": record.source,
            "sample_tai": record.sample_tai,
            "age_s": record.age_s,
        }
        if held and all(held[name] == value for name, value in plain.items()):
            held["sections"].append(record.section)
            continue
        if held:
            yield held
        held = {**plain, "sections": [record.section]}
    if held:
        yield held


def _fits_card(card: Card) -> str:
    if not card.keyword:
        return f"{' ' * 8}{card.comment}"[:_CARD].ljust(_CARD)
    head = f"{card.keyword:8}= " if " " not in card.keyword else f"{card.keyword} = "
    value = card.value
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>{_VALUE_WIDTH}}"
    elif value is None:
        text = " " * _VALUE_WIDTH
    elif isinstance(value, str):
        quoted = value.replace("'", "''")
        text = f"'{quoted:8}'".ljust(_VALUE_WIDTH)
    else:
        text = f"{_scalar(value).upper():>{_VALUE_WIDTH}}"
    line = head + (text if head[8:9] == "=" else text.strip())
    return (f"{line} / {card.comment}" if card.comment else line)[:_CARD].ljust(_CARD)


# --- reading --------------------------------------------------------------------------------------


def parse_header(data: bytes) -> HeaderDocument:
    """Read a header object as `format_yaml` or `format_json` wrote it.

    Raises
    ------
    MalformedHeaderError
        It is neither, or of a later format. Do not retry.
    """
    try:
        text = data.decode("utf-8")
        if text.startswith("{"):
            return _from_json(json.loads(text))
        return header_from_plain(_sections_of(text))
    except MalformedHeaderError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedHeaderError(
            "Not a header object", problem=f"{type(error).__name__}: {error}"[:200]
        ) from error


def header_from_plain(
    sections: Mapping[str, Sequence[Mapping[str, Any]]], *, image: str = "", camera: str = ""
) -> HeaderDocument:
    """Make a header of its loaded YAML; one of another header service lacks our two sections.

    Parameters
    ----------
    sections
        Section -> list of ``{keyword, value, comment}``.
    image, camera
        What to take if the header does not say; the image is also found as OBSID.
    """
    facts = {item["keyword"]: item["value"] for item in sections.get(_FACTS, ())}
    if facts.get("FORMAT", FORMAT_VERSION) != FORMAT_VERSION:
        raise MalformedHeaderError("Header is of an unknown format", value=facts["FORMAT"])
    cards = {
        name: tuple(_card_of(item) for item in items)
        for name, items in sections.items()
        if name not in {_FACTS, _RECORDS}
    }
    found = next((c.value for c in cards.get("PRIMARY", ()) if c.keyword == "OBSID"), None)
    name = facts.get("IMAGE") or found or image
    if not name or "PRIMARY" not in cards:
        raise MalformedHeaderError("Header has no primary section or image name", image=image)
    return HeaderDocument(
        image=str(name),
        camera=str(facts.get("CAMERA", camera)),
        version=int(facts.get("VERSION", 1)),
        status=HeaderStatus(facts.get("STATUS", "complete")),
        sections=cards,
        completeness=float(facts.get("COMPLETENESS", 0.0)),
        records=_records_of(sections.get(_RECORDS, ())),
        changed=tuple(facts.get("CHANGED", ())),
        missing=tuple(facts.get("MISSING", ())),
    )


def _from_json(plain: Mapping[str, Any]) -> HeaderDocument:
    if plain.get("format") != FORMAT or plain["format_version"] != FORMAT_VERSION:
        raise MalformedHeaderError(
            "Header is of an unknown format",
            value=(plain.get("format"), plain.get("format_version")),
            expected=(FORMAT, FORMAT_VERSION),
        )
    return HeaderDocument(
        image=plain["image"],
        camera=plain["camera"],
        version=plain["version"],
        status=HeaderStatus(plain["status"]),
        sections={
            name: tuple(_card_of(item) for item in items)
            for name, items in plain["sections"].items()
        },
        completeness=plain["completeness"],
        records=_records_of(plain["records"]),
        changed=tuple(plain["changed"]),
        missing=tuple(plain["missing"]),
    )


def _sections_of(text: str) -> dict[str, list[dict[str, Any]]]:
    sections: dict[str, list[dict[str, Any]]] = {}
    items: list[dict[str, Any]] | None = None
    lines = text.split("\n")
    if lines[-2:] != [_END, ""]:
        raise MalformedHeaderError("Header is cut off", value=lines[-1][:80], expected=_END)
    for number, line in enumerate(lines[:-2], start=1):
        if line.startswith("- {") and items is not None:
            items.append(json.loads(line[2:]))
            continue
        match = _SECTION_LINE.match(line)
        if match is None:
            raise MalformedHeaderError("Line is not of a header", line=number, value=line[:80])
        items = sections.setdefault(match[1], [])
    return sections


def _card_of(item: Mapping[str, Any]) -> Card:
    keyword, value, comment = item["keyword"], item["value"], item.get("comment") or ""
    if keyword is None:
        return Card("", None, str(comment))
    if keyword == "COMMENT" and not value:
        return Card("")
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    if value is not None and not isinstance(value, bool | int | float | str):
        raise MalformedHeaderError("Value has no form in a header", field=keyword)
    return Card(str(keyword), value, str(comment))


def _records_of(items: Sequence[Mapping[str, Any]]) -> tuple[KeywordRecord, ...]:
    return tuple(
        KeywordRecord(
            section=section,
            keyword=item["keyword"],
            collected=Collected(item["value"]),
            source=item["source"],
            sample_tai=item["sample_tai"],
            age_s=item["age_s"],
            problem=item["comment"],
        )
        for item in items
        for section in item["sections"]
    )
