"""Cards of HDU 0: laid out in groups, merged for one sensor, or made without a header.

References
----------
Raw-fits contract, sections 5, 15 and 16; header contract, sections A5 and B6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from platevault.domain.camera import Camera, Detector
from platevault.domain.header_validation import (
    RejectedValueError,
    seconds_of,
    typed_value,
)
from platevault.domain.headers import Card, HeaderDocument, HeaderValue
from platevault.domain.keywords import GROUP_TITLES, Keyword
from platevault.domain.segments import detector_size
from platevault.domain.timescales import mjd

#: Section of the exposure's own cards.
PRIMARY = "PRIMARY"
_TITLE = re.compile(r"^-+ (.*?) -+$")
#: Group of cards that no group of the contract names.
_OTHER = "camera"
_GROUP_OF_TITLE = {title: group for group, title in GROUP_TITLES.items()}
_GROUP_OF_PREFIX = (
    ("HIERARCH SIMULATE", "simulation"),
    ("HIERARCH STUTTER ", "stutter"),
    ("HIERARCH SHUTTER ", "shutter"),
)
#: Written with the file itself, or by readers' own rules wrong in HDU 0 (raw-fits, sec. 15).
_STRUCTURE = re.compile(
    r"^(SIMPLE|BITPIX|NAXIS\d*|EXTEND|XTENSION|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|END|INHERIT"
    r"|CHECKSUM|DATASUM|TFIELDS|T(TYPE|FORM|UNIT|DIM)\d+|Z\w+|EXTNAME|EXTVER|COMMENT|HISTORY)$"
)
_WORLD_COORDINATES = re.compile(
    r"^(WCSAXES|WCSNAME|CTYPE\d|CUNIT\d|CRVAL\d|CRPIX\d|CDELT\d|CROTA\d|CD\d_\d|PC\d_\d|PV\d_\d+)$"
)
_STANDARD_KEYWORD = re.compile(r"^[A-Z0-9_-]{1,8}$")
_NO_KEYWORD = re.compile(r"[^A-Z0-9_-]+")
#: Prefix of facts of a frame that may not, or need not, stand under their own name.
FRAME_PREFIX = "HIERARCH FRAME "

Groups = dict[str, dict[str, Card]]


def sensor_section(detector: Detector) -> str:
    """Name the section of a sensor, ``R22S01_PRIMARY``."""
    return f"{detector.compact_name}_PRIMARY"


def title_cards(group: str) -> tuple[Card, ...]:
    """Give the blank card and the title of a group; nothing if it has no title."""
    title = GROUP_TITLES[group]
    return (Card(""), Card("", None, f"---- {title} ----")) if title else ()


def card_of(row: Keyword, value: HeaderValue) -> Card:
    """Give the card of a keyword; its unit stands in the comment (FITS 4.0 sec. 4.3.2)."""
    comment = f"[{row.unit}] {row.comment}".rstrip() if row.unit else row.comment
    return Card(row.keyword, value, comment)


def lay_out(groups: Mapping[str, Iterable[Card]]) -> tuple[Card, ...]:
    """Put cards one after the other, groups in the order of the contract, each with its title."""
    cards: list[Card] = []
    for group in GROUP_TITLES:
        members = tuple(groups.get(group, ()))
        if members:
            cards += (*title_cards(group), *members)
    return tuple(cards)


def groups_of(cards: Iterable[Card]) -> Groups:
    """Take laid out cards apart: group -> keyword -> card. Unknown titles become one group."""
    groups: Groups = {}
    group = "structure"
    for card in cards:
        if card.keyword:
            groups.setdefault(group, {})[card.keyword] = card
            continue
        match = _TITLE.match(card.comment)
        if match:
            group = _GROUP_OF_TITLE.get(match[1], _OTHER)
    return groups


def sensor_cards(
    document: HeaderDocument,
    camera: Camera,
    detector: Detector,
    writer_facts: Mapping[str, HeaderValue],
) -> tuple[Card, ...]:
    """Give the cards of HDU 0 of one sensor's file, without structure and checksums.

    Parameters
    ----------
    document
        Header of the exposure. Its primary section is the same on every sensor.
    camera, detector
        Whose file.
    writer_facts
        What only the writer knows, by keyword: ``DATE-TRG``, ``FIRMWARE``, ``DAQVERS``,
        ``DAQFOLD``, ``CONTNUM``, ``IHVERS``, ``SEQFILE`` ... A fact takes the place of a value of
        the sensor, never of a value of the exposure: one that differs from the header stands
        as ``HIERARCH FRAME <keyword>``, and so do world coordinates, which readers would take for
        those of the whole file. Unknown keywords go with the information from the camera.

    Returns
    -------
    tuple
        Cards in the order of the contract, the title of the checksums last. The same input gives
        the same cards.
    """
    exposure = groups_of(document.sections.get(PRIMARY, ()))
    own = groups_of(document.sections.get(sensor_section(detector), ()))
    captured = {record.keyword for record in document.records if record.section == PRIMARY}
    fixed = {
        keyword
        for cards in exposure.values()
        for keyword, card in cards.items()
        if card.value is not None or keyword in captured
    }
    groups: Groups = {group: {} for group in GROUP_TITLES}
    for source in (exposure, own):
        for group, cards in source.items():
            groups[group].update(cards)
    for keyword, value in sensor_values(camera, detector).items():
        _fill(groups, keyword, value)
    for keyword, value in writer_facts.items():
        _add_fact(groups, fixed, keyword, value)
    _derive(groups)
    file_name = f"{document.image}_{detector.name}.fits"
    _set(groups, "FILENAME", file_name, "header")
    kept = {
        group: [card for key, card in cards.items() if not _STRUCTURE.match(key)]
        for group, cards in groups.items()
        if group != "checksums"
    }
    return (*lay_out(kept), *title_cards("checksums"))


def sensor_values(camera: Camera, detector: Detector) -> dict[str, HeaderValue]:
    """Give what the camera's description knows of a sensor, by keyword."""
    board = camera.board_of(detector.name)
    values: dict[str, HeaderValue] = {
        "CCD_MANU": detector.type.vendor,
        "CCD_TYPE": detector.type.model,
        "CCDSLOT": detector.slot,
        "RAFTBAY": detector.raft,
        "PLATFORM": camera.platform,
        "CONTNUM": board.serial or None,
        "DAQPART": camera.partition,
        "LSST_NUM": detector.serial or None,
        "CCD_SERN": detector.maker_serial or None,
        "REBNAME": board.lsst_name or None,
        "RAFTNAME": detector.raft_serial or None,
    }
    return {**values, "DETSIZE": detector_size(detector)}


def _place_of(groups: Groups, keyword: str) -> str:
    return next((group for group, cards in groups.items() if keyword in cards), "")


def _set(groups: Groups, keyword: str, value: HeaderValue, group: str) -> None:
    place = _place_of(groups, keyword) or group
    comment = groups[place][keyword].comment if keyword in groups[place] else ""
    groups[place][keyword] = Card(keyword, value, comment)


def _fill(groups: Groups, keyword: str, value: HeaderValue) -> None:
    place = _place_of(groups, keyword)
    if place and groups[place][keyword].value is None:
        _set(groups, keyword, value, place)
    elif not place and value is not None:
        groups["camera" if keyword == "DETSIZE" else "common"][keyword] = Card(keyword, value)


def _add_fact(groups: Groups, fixed: set[str], keyword: str, value: HeaderValue) -> None:
    card = free_card(keyword, value)
    if card is None:
        return
    place = _place_of(groups, card.keyword)
    if place and card.keyword in fixed:
        if groups[place][card.keyword].value == card.value:
            return
        card = Card(FRAME_PREFIX + card.keyword.removeprefix("HIERARCH "), card.value)
        place = ""
    near = (group for head, group in _GROUP_OF_PREFIX if card.keyword.startswith(head))
    _set(groups, card.keyword, card.value, place or next(near, _OTHER))


def free_card(keyword: str, value: HeaderValue) -> Card | None:
    """Give the card of a keyword from outside; ``None`` if it has no place or no value in HDU 0.

    Keywords that are too long become hierarchical, world coordinates go below `FRAME_PREFIX`.
    """
    name = _fits_keyword(keyword)
    value = _legal(name, value)
    if not name or value is None or _STRUCTURE.match(name):
        return None
    return Card(FRAME_PREFIX + name if _WORLD_COORDINATES.match(name) else name, value)


def _fits_keyword(keyword: str) -> str:
    name = keyword.strip().upper()
    if _STANDARD_KEYWORD.match(name):
        return name
    words = " ".join(_NO_KEYWORD.sub(" ", name.removeprefix("HIERARCH")).split())
    return f"HIERARCH {words}" if words else ""


def _legal(keyword: str, value: HeaderValue) -> HeaderValue:
    """Give the value as a card can hold it; ``None`` if it cannot."""
    kind = type(value).__name__ if isinstance(value, bool | int | float) else "str"
    try:
        return typed_value(keyword, kind, value)
    except RejectedValueError:
        return None


def _derive(groups: Groups) -> None:
    trigger = groups["date"].get("DATE-TRG")
    if trigger is not None and isinstance(trigger.value, str):
        _set(groups, "MJD-TRG", mjd(seconds_of(trigger.value)), "date")
    name, file = groups["common"].get("SEQNAME"), groups["common"].get("SEQFILE")
    if name is not None and file is not None and file.value is None:
        _set(groups, "SEQFILE", name.value, "common")


def extra_key(name: str) -> str:
    """Give the keyword of a key of the take command that the schema does not know."""
    words = " ".join(_NO_KEYWORD.sub(" ", name.upper()).split())
    return f"HIERARCH CAMKEY {words}" if words else ""


def cards_by_keyword(cards: Sequence[Card]) -> dict[str, HeaderValue]:
    """Give the values of cards by keyword."""
    return {card.keyword: card.value for card in cards if card.keyword}
