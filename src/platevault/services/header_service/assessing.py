"""How complete a header is, and what one version has that another has not.

References
----------
Header contract, sections B2 and B3; raw-fits contract, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from platevault.domain.header_cards import (
    PRIMARY,
    cards_by_keyword,
    free_card,
    groups_of,
    lay_out,
)
from platevault.domain.header_sources import FixedKind, FixedSource, TopicMode, TopicSource
from platevault.domain.header_validation import RejectedValueError, check_limits, typed_value
from platevault.domain.headers import (
    Card,
    Collected,
    HeaderDocument,
    HeaderStatus,
    HeaderValue,
    KeywordRecord,
)
from platevault.domain.keywords import Keyword, KeywordSet, Required, Section
from platevault.services.header_service.exposures import Correction

#: Image types of exposures that do not look at the sky; their pointing is not needed.
OFF_SKY = frozenset({"BIAS", "DARK", "FLAT", "INDOME", "SFLAT", "DFLAT", "CBP"})
#: Source of a value that was corrected.
CORRECTION = "correction"
_SKY_TRACKING = frozenset({"RADEC", "SIDEREAL", None})
_THERE = frozenset({Collected.OK, Collected.DEFAULTED})
#: The creation time of the first version stays that of all.
_CONSTANT = frozenset({"DATE", "MJD"})


def assessed(document: HeaderDocument, keywords: KeywordSet) -> HeaderDocument:
    """Give the header with its status, completeness and missing keywords, from its records."""
    on_sky = _on_sky(cards_by_keyword(document.sections.get(PRIMARY, ())))
    needed = fine = 0
    missing: list[str] = []
    outside: list[Collected] = []
    for record in document.records:
        row = _row_of(record.section, record.keyword, keywords)
        if row is None:
            continue
        source = row.source
        if isinstance(source, TopicSource) and source.component != keywords.camera_component:
            outside.append(record.collected)
        if row.required is Required.NO or not (on_sky or row.group != "pointing"):
            continue
        needed += 1
        fine += record.collected is Collected.OK
        if record.collected not in _THERE:
            name = record.section.removesuffix("_PRIMARY")
            missing.append(record.keyword if name == PRIMARY else f"{name}.{record.keyword}")
    if not missing:
        status = HeaderStatus.COMPLETE
    elif outside and Collected.OK not in outside:
        status = HeaderStatus.MINIMAL
    else:
        status = HeaderStatus.PARTIAL
    return replace(
        document,
        status=status,
        completeness=fine / needed if needed else 1.0,
        missing=tuple(missing),
    )


def amended(
    old: HeaderDocument, new: HeaderDocument, keywords: KeywordSet
) -> HeaderDocument | None:
    """Give the next version of a header, ``None`` if ``new`` knows nothing better.

    A value that came out well is replaced only by a correction, or by what the camera said later
    of the same image: telemetry that is evaluated again with more, or fewer, samples would make
    versions that say the same. A value that was known is never lost.
    """
    known = {(record.section, record.keyword): record for record in new.records}
    kept = {(record.section, record.keyword): record for record in old.records}
    changed: list[str] = []
    sections: dict[str, tuple[Card, ...]] = {}
    for name in [*old.sections, *(name for name in new.sections if name not in old.sections)]:
        groups = groups_of(old.sections.get(name, ()))
        before = cards_by_keyword(old.sections.get(name, ()))
        for group, cards in groups_of(new.sections.get(name, ())).items():
            for keyword, card in cards.items():
                record = known.get((name, keyword))
                value = before.get(keyword)
                if keyword in _CONSTANT and value is not None:
                    continue
                if not _differs(card.value, value):
                    if record is not None and record.collected is Collected.OK:
                        kept[name, keyword] = record
                elif _may_replace(card.value, value, record, kept.get((name, keyword)), keywords):
                    groups.setdefault(group, {})[keyword] = card
                    if record is not None:
                        kept[name, keyword] = record
                    changed.append(_changed_name(name, keyword))
        sections[name] = lay_out({group: cards.values() for group, cards in groups.items()})
    if not changed:
        return None
    document = replace(
        old,
        version=old.version + 1,
        sections=sections,
        records=tuple(kept.values()),
        changed=tuple(changed),
    )
    return assessed(document, keywords)


def _differs(value: HeaderValue, before: HeaderValue) -> bool:
    return value != before or type(value) is not type(before)


def _may_replace(
    value: HeaderValue,
    before: HeaderValue,
    record: KeywordRecord | None,
    old: KeywordRecord | None,
    keywords: KeywordSet,
) -> bool:
    if record is not None and record.source == CORRECTION:
        return True
    if value is None:
        return False
    if before is None or record is None:
        return True
    if record.collected is not Collected.OK:
        return False
    was_fine = old is None or old.collected is Collected.OK
    return not was_fine or _follows_events(record, keywords)


def _follows_events(record: KeywordRecord, keywords: KeywordSet) -> bool:
    """Tell whether a value comes from the events of the image alone."""
    row = _row_of(record.section, record.keyword, keywords)
    if row is None:
        return False
    source = row.source
    if isinstance(source, FixedSource):
        return source.kind is FixedKind.RULE
    return keywords.policy(source.address).mode is TopicMode.IMAGE


def _changed_name(section: str, keyword: str) -> str:
    name = section.removesuffix("_PRIMARY")
    return keyword if name == PRIMARY else f"{name}.{keyword}"


def checked_correction(
    values: Mapping[str, object], keywords: KeywordSet
) -> dict[str, HeaderValue]:
    """Give the values of a correction their types.

    Raises
    ------
    RejectedValueError
        A value may not stand in a header, or its keyword is none. Mend it; nothing was changed.
    """
    checked: dict[str, HeaderValue] = {}
    for name, value in values.items():
        keyword = name if name.startswith("HIERARCH ") else name.upper()
        row = keywords.by_keyword.get((Section.PRIMARY, keyword))
        if row is None:
            card = free_card(keyword, value if isinstance(value, int | float | str) else None)
            if card is None:
                raise RejectedValueError("Not a keyword of the header", keyword=name, value=value)
            checked[card.keyword] = card.value
            continue
        typed = typed_value(keyword, row.type, value)
        problem = check_limits(row, typed)
        if problem:
            raise RejectedValueError("Value is out of its limits", keyword=name, problem=problem)
        checked[keyword] = typed
    return checked


def corrected(
    document: HeaderDocument, correction: Correction, keywords: KeywordSet
) -> HeaderDocument | None:
    """Give the next version of a finished header with a correction; ``None`` if nothing changes."""
    groups = groups_of(document.sections[PRIMARY])
    records = []
    for keyword, value in correction.values.items():
        row = keywords.by_keyword.get((Section.PRIMARY, keyword))
        group = row.group if row is not None else "keys"
        comment = row.comment if row is not None else correction.reason
        old = groups.get(group, {}).get(keyword)
        card = Card(keyword, value, comment) if old is None else replace(old, value=value)
        groups.setdefault(group, {})[keyword] = card
        records.append(
            KeywordRecord(
                PRIMARY,
                keyword,
                Collected.OK,
                CORRECTION,
                problem=f"{correction.reason} ({correction.author})",
            )
        )
    new = replace(
        document,
        sections={PRIMARY: lay_out({group: cards.values() for group, cards in groups.items()})},
        records=tuple(records),
    )
    return amended(document, new, keywords)


def _row_of(section: str, keyword: str, keywords: KeywordSet) -> Keyword | None:
    kind = Section.PRIMARY if section == PRIMARY else Section.SENSOR
    return keywords.by_keyword.get((kind, keyword))


def _on_sky(values: Mapping[str, HeaderValue]) -> bool:
    tracking = values.get("TRACKSYS")
    return values.get("IMGTYPE") not in OFF_SKY and tracking in _SKY_TRACKING


def describe_missing(missing: Iterable[str], *, limit: int = 12) -> str:
    """Name what is missing in one line, the first few by name."""
    names = list(missing)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
