"""Checks of header values before a header is published.

A value that fails is left undefined and recorded as rejected; it never stops the header.

References
----------
Raw-fits contract, sections 5, 6, 7 and 15; FITS 4.0 sec. 4.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from platevault.domain.camera import Camera
from platevault.domain.errors import UsageError
from platevault.domain.header_sources import Limit
from platevault.domain.headers import Card, HeaderDocument, HeaderValue
from platevault.domain.ids import ImageName, InvalidNameError
from platevault.domain.keywords import Keyword, KeywordSet, Required, Section
from platevault.domain.timescales import mjd

#: Longest text of a string value without continuation cards [character] (FITS 4.0 sec. 4.2.1).
TEXT_LIMIT = 68
#: Length of a card [character] (FITS 4.0 sec. 4.1).
CARD_LENGTH = 80
#: Largest difference between a date and its modified Julian date [d]: half a millisecond.
MJD_TOLERANCE_D = 0.0005 / 86400.0
_NAMES = {"raft": re.compile(r"[A-Z][A-Z0-9]{2}"), "slot": re.compile(r"[A-Z][A-Z0-9]{2}")}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}")
#: A pair of coordinates that are both exactly zero was never measured (raw-fits, sec. 6).
_PAIRS = (("RA", "DEC"), ("RASTART", "DECSTART"), ("RAEND", "DECEND"))


class RejectedValueError(UsageError):
    """A value may not stand in a header: leave the keyword undefined and say why."""


def typed_value(keyword: str, kind: str, value: object) -> HeaderValue:
    """Give a value the type of its keyword.

    Parameters
    ----------
    keyword
        FITS keyword, for the room that its text has.
    kind
        ``bool``, ``int``, ``float`` or ``str``.
    value
        A value as it came from the bus; text is converted, ``None`` stays.

    Raises
    ------
    RejectedValueError
        It has no such form, is not finite, or is text that a FITS card cannot hold.
    """
    if value is None:
        return None
    if hasattr(value, "item"):
        value = value.item()
    try:
        match kind:
            case "bool":
                return _as_bool(value)
            case "int":
                return _as_int(value)
            case "float":
                return _as_float(value)
            case _:
                return checked_text(keyword, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RejectedValueError(
            "Value has the wrong type", keyword=keyword, value=str(value)[:64], expected=kind
        ) from error


def _as_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.upper() in {"T", "TRUE", "F", "FALSE"}:
        return value.upper() in {"T", "TRUE"}
    raise ValueError(value)


def _as_int(value: object) -> int:
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(value)
        return int(value)
    if isinstance(value, int | str):
        return int(value)
    raise TypeError(value)


def _as_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def checked_text(keyword: str, value: object) -> str:
    """Give text without trailing blanks; `RejectedValueError` if a FITS card cannot hold it."""
    if isinstance(value, bool | float) or not isinstance(value, str | int):
        raise TypeError(value)
    text = str(value).rstrip(" ")
    if not text.isascii() or not text.isprintable():
        raise RejectedValueError(
            "Text has characters that FITS does not allow", keyword=keyword, value=ascii(text)[:64]
        )
    room = min(TEXT_LIMIT, CARD_LENGTH - len(f"{keyword} = ''")) if " " in keyword else TEXT_LIMIT
    length = len(text) + text.count("'")
    if length > room:
        raise RejectedValueError(
            "Text is too long for a card", keyword=keyword, value=f"{text[:32]}...", expected=room
        )
    return text


def check_limits(row: Keyword, value: HeaderValue) -> str:
    """Tell which limit of its keyword a typed value breaks; empty if none."""
    if value is None:
        return ""
    for limit in row.limits:
        if not _CHECKS[limit.name](limit, value):
            return f"{value!r} is not in {limit.name}({', '.join(limit.arguments)})"
    return ""


def _in_range(limit: Limit, value: HeaderValue) -> bool:
    low, _, high = limit.arguments[0].partition("..")
    if not isinstance(value, int | float):
        return False
    return (not low or value >= float(low)) and (not high or value <= float(high))


def _is_time(_: Limit, value: HeaderValue) -> bool:
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        return False
    try:
        seconds_of(value)
    except ValueError:
        return False
    return True


def _is_day(_: Limit, value: HeaderValue) -> bool:
    if not isinstance(value, str) or not (len(value) == len("YYYYMMDD") and value.isdigit()):
        return False
    try:
        datetime.strptime(value, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return False
    return True


_CHECKS: Mapping[str, Callable[[Limit, HeaderValue], bool]] = {
    "range": _in_range,
    "length": lambda limit, value: len(str(value)) <= int(limit.arguments[0]),
    "values": lambda limit, value: str(value) in limit.arguments,
    "pattern": lambda limit, value: bool(_NAMES[limit.arguments[0]].fullmatch(str(value))),
    "time": _is_time,
    "day": _is_day,
}


def seconds_of(date: str) -> float:
    """Give unix seconds of ``YYYY-MM-DDThh:mm:ss.sss``, in the scale of the date [s]."""
    return datetime.strptime(date, "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


def contradictions(values: Mapping[str, HeaderValue], camera: Camera, image: str) -> dict[str, str]:
    """Find exposure values that cannot be true together.

    Parameters
    ----------
    values
        Typed values of the primary section by keyword.
    camera
        The camera: its code and its filters.
    image
        Image name.

    Returns
    -------
    dict
        Why, by keyword; these keywords are to be left undefined.
    """
    found: dict[str, str] = {}
    found.update(_identity(values, image))
    found.update(_times(values))
    found.update(_filters(values, camera))
    for first, second in _PAIRS:
        if values.get(first) == 0.0 and values.get(second) == 0.0:
            found[first] = found[second] = f"{first} and {second} are both 0, as if never set"
    exposure, dark = values.get("EXPTIME"), values.get("DARKTIME")
    if isinstance(exposure, float) and isinstance(dark, float) and dark < exposure:
        found["DARKTIME"] = f"{dark} is less than the exposure time {exposure}"
    current, last = values.get("CURINDEX"), values.get("MAXINDEX")
    if isinstance(current, int) and isinstance(last, int) and current > last:
        found["CURINDEX"] = f"{current} is more than MAXINDEX {last}"
    return found


def _identity(values: Mapping[str, HeaderValue], image: str) -> dict[str, str]:
    try:
        name = ImageName.parse(image)
    except InvalidNameError:
        return {}
    expected: dict[str, HeaderValue] = {
        "OBSID": image,
        "CAMCODE": name.source,
        "CONTRLLR": name.controller,
        "DAYOBS": f"{name.day_obs:08d}",
        "SEQNUM": name.sequence,
    }
    return {
        keyword: f"{values[keyword]!r} is not that of the image name, {value!r}"
        for keyword, value in expected.items()
        if values.get(keyword) not in {None, value}
    }


def _times(values: Mapping[str, HeaderValue]) -> dict[str, str]:
    found = {}
    begin, end = values.get("DATE-BEG"), values.get("DATE-END")
    if isinstance(begin, str) and isinstance(end, str) and end < begin:
        found["DATE-END"] = found["MJD-END"] = f"{end} is before DATE-BEG {begin}"
    for suffix in ("", "-OBS", "-BEG", "-END", "-TRG"):
        date, day = values.get(f"DATE{suffix}"), values.get(f"MJD{suffix}")
        if (
            isinstance(date, str)
            and isinstance(day, float)
            and abs(mjd(seconds_of(date)) - day) > MJD_TOLERANCE_D
        ):
            found[f"MJD{suffix}"] = f"{day} is not DATE{suffix} {date}"
    return found


def registered_filter(camera: Camera, filter_name: str, grating: str = "") -> bool:
    """Tell whether a filter, joined with its grating if there is one, is known to the camera.

    Names beginning with ``empty`` stand for ``empty``, ``NONE`` for ``none`` (raw-fits contract,
    sec. 14).
    """
    names = {one.name for one in camera.filters}
    parts = [_canonical(part) for part in (filter_name, grating) if part]
    return not names or "~".join(parts) in names or f"{filter_name}~{grating}" in names


def _canonical(name: str) -> str:
    if name.startswith("empty"):
        return "empty"
    return "none" if name == "NONE" else name


def _filters(values: Mapping[str, HeaderValue], camera: Camera) -> dict[str, str]:
    name, grating = values.get("FILTER"), values.get("GRATING")
    if not isinstance(name, str):
        return {}
    grating = grating if isinstance(grating, str) else ""
    if registered_filter(camera, name, grating):
        return {}
    if grating and registered_filter(camera, name):
        return {"GRATING": f"{name}~{grating} is not a filter of {camera.name}"}
    return {"FILTER": f"{name} is not a filter of {camera.name}"}


def problems_of(document: HeaderDocument, camera: Camera, keywords: KeywordSet) -> list[str]:
    """List what is wrong with a finished header; empty if it may be published.

    Missing values are no fault: they are recorded in the header itself.
    """
    found: list[str] = []
    exposure = {card.keyword: card.value for card in document.sections.get("PRIMARY", ())}
    found += [
        f"{key}: {why}" for key, why in contradictions(exposure, camera, document.image).items()
    ]
    date = exposure.get("DATE")
    if date is not None and date == exposure.get("DATE-OBS"):
        found.append("DATE: equals DATE-OBS, so readers compute the coordinates again")
    for name, cards in document.sections.items():
        section = Section.PRIMARY if name == "PRIMARY" else Section.SENSOR
        found += _card_problems(name, section, cards, keywords)
    found += _absent(exposure, keywords)
    return found


def _card_problems(
    name: str, section: Section, cards: Sequence[Card], keywords: KeywordSet
) -> list[str]:

    found: list[str] = []
    for card in cards:
        if not card.keyword:
            continue
        row = keywords.by_keyword.get((section, card.keyword))
        if row is None or card.value is None:
            continue
        try:
            why = check_limits(row, typed_value(card.keyword, row.type, card.value))
        except RejectedValueError as error:
            why = str(error)
        if why:
            found.append(f"{name} {card.keyword}: {why}")
    return found


def _absent(exposure: Mapping[str, HeaderValue], keywords: KeywordSet) -> list[str]:
    """A required keyword may be undefined, but its card must be there (raw-fits, sec. 5)."""
    return [
        f"{row.keyword}: no card"
        for row in keywords.captured
        if row.section is Section.PRIMARY
        and row.required is not Required.NO
        and not row.omitted
        and row.keyword not in exposure
    ]
