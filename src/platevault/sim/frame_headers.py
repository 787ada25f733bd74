"""Headers of real frames: what was observed, and the values that files made of them carry.

References
----------
FITS 4.0 sec. 9 (times) and app. C; keywords of other observatories as seen in frames of Las
Cumbres Observatory, the NOAO image keyword dictionary and raw files of the Rubin cameras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from astropy.io import fits

from platevault.domain.camera import Camera
from platevault.domain.headers import HeaderValue
from platevault.domain.timescales import MJD_UNIX_EPOCH, tai_from_utc

#: Texts by which observatories say that there is no value.
_NO_VALUE = frozenset({"", "N/A", "NA", "UNKNOWN", "UNSPECIFIED", "UNDEFINED", "NONE", "NAN"})
#: IMGTYPE by what other observatories write in OBSTYPE, IMAGETYP and the like.
_IMAGE_TYPES = {
    "BIAS": "BIAS", "ZERO": "BIAS",
    "DARK": "DARK",
    "FLAT": "FLAT", "SKYFLAT": "FLAT", "SKY FLAT": "FLAT", "LAMPFLAT": "FLAT",
    "DOMEFLAT": "FLAT", "DOME FLAT": "FLAT", "FLAT FIELD": "FLAT",
    "OBJECT": "OBJECT", "EXPOSE": "OBJECT", "SCIENCE": "OBJECT", "LIGHT": "OBJECT",
    "STANDARD": "OBJECT", "TARGET": "OBJECT", "SKY": "SKYEXP", "SKYEXP": "SKYEXP",
    "EXPERIMENTAL": "ENGTEST", "ENGTEST": "ENGTEST", "ENGINEERING": "ENGTEST",
    "FOCUS": "FOCUS", "ACQ": "ACQ", "ACQUISITION": "ACQ", "CWFS": "CWFS",
}  # fmt: skip
_STRUCTURE = re.compile(
    r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|END|INHERIT"
    r"|EXTNAME|EXTVER|EXTLEVEL|CHECKSUM|DATASUM|TFIELDS|T(TYPE|FORM|UNIT|DIM|NULL|SCAL|ZERO)\d+"
    r"|THEAP|Z[A-Z]+\d*|COMMENT|HISTORY|)$"
)
#: Keywords that in our files speak of our exposure, detector or time scale.
_OURS = frozenset({
    "OBSID", "GROUPID", "DAYOBS", "DAY-OBS", "SEQNUM", "CAMCODE", "TELCODE", "CONTRLLR",
    "CURINDEX", "MAXINDEX", "INSTRUME", "TELESCOP", "FACILITY", "ORIGIN", "OBSERVER", "FILENAME",
    "HEADVER", "IMAGETAG", "RAFTBAY", "CCDSLOT", "LSST_NUM", "DETSIZE", "DETSEC", "DATASEC",
    "BIASSEC", "TRIMSEC", "CCDSEC", "CCDSUM", "CHANNEL", "DATE", "MJD", "TIMESYS", "DATE-OBS",
    "DATE-BEG", "DATE-END", "DATE-TRG", "MJD-OBS", "MJD-BEG", "MJD-END", "MJD-TRG", "RA", "DEC",
    "RASTART", "DECSTART", "RAEND", "DECEND", "IMGTYPE", "EXPTIME", "FILTER", "OBJECT", "BUNIT",
})  # fmt: skip
_FRAME = "HIERARCH FRAME"
_SEXAGESIMAL = re.compile(
    r"^([+-]?)(\d{1,3})[:hd\s]\s*(\d{1,2})[:m'\s]\s*(\d{1,2}(?:\.\d*)?)[s\"]?$"
)
_HOUR_DEG = 15.0
_FULL_CIRCLE_DEG, _POLE_DEG = 360.0, 90.0
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class FrameSubject:
    """What a frame shows, as far as its header tells.

    Attributes
    ----------
    image_type
        IMGTYPE; ``OBJECT`` if the header has none, its own word if that is not known.
    target, program
        OBJECT and PROGRAM; empty if there are none.
    filter
        Physical filter of the camera; ``unknown`` or empty if the camera lacks the frame's.
    exposure_s
        Exposure time [s]; 0 if the header has none.
    begin_tai
        Start of the exposure [s, TAI]; ``None`` if the header has none.
    ra_deg, dec_deg
        Where the telescope pointed [deg]; ``None`` if the header does not tell.
    """

    image_type: str
    target: str
    program: str
    filter: str
    exposure_s: float
    begin_tai: float | None
    ra_deg: float | None
    dec_deg: float | None


def facts_of(headers: Sequence[fits.Header]) -> tuple[dict[str, HeaderValue], list[str]]:
    """Give the cards of a frame by keyword, later headers over earlier ones, and what was unfit.

    Structure and comments are left out. Keywords that in our files would speak of our exposure,
    detector or time scale become ``HIERARCH FRAME <keyword>``, value unchanged.
    """
    facts: dict[str, HeaderValue] = {}
    problems: list[str] = []
    for header in headers:
        for card in header.cards:
            try:
                keyword, value = str(card.keyword), card.value
            except (fits.VerifyError, ValueError, TypeError) as error:
                problems.append(f"card is not legal: {' '.join(str(error).split())}")
                continue
            if _STRUCTURE.match(keyword):
                continue
            if isinstance(value, fits.card.Undefined):
                value = None
            if value is not None and not isinstance(value, bool | int | float | str):
                problems.append(f"value of {keyword} is of no kind that files carry")
                continue
            if keyword in _OURS:
                keyword = f"{_FRAME} {keyword}"
            elif " " in keyword or len(keyword) > 8:  # noqa: PLR2004 - longest standard keyword
                keyword = f"HIERARCH {keyword}"
            facts[keyword] = value
    return facts, problems


def subject_of(headers: Sequence[fits.Header], camera: Camera) -> tuple[FrameSubject, list[str]]:
    """Read from a frame's headers what is needed to observe the same again, and what was unfit."""
    values = _values(headers)
    problems: list[str] = []
    ra, dec = _position(values, problems)
    word = _text(values, "IMGTYPE", "OBSTYPE", "IMAGETYP", "OBS_TYPE").upper()
    subject = FrameSubject(
        image_type=_IMAGE_TYPES.get(word, word[:16] or "OBJECT"),
        target=_text(values, "OBJECT"),
        program=_text(values, "PROGRAM", "PROPID", "PROP-ID"),
        filter=_filter(values, camera, problems),
        exposure_s=_exposure_s(values, problems),
        begin_tai=_begin_tai(values, problems),
        ra_deg=ra,
        dec_deg=dec,
    )
    return subject, problems


def _values(headers: Sequence[fits.Header]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for header in headers:
        for card in header.cards:
            try:
                value = card.value
            except (fits.VerifyError, ValueError, TypeError):
                continue  # `facts_of` reports it
            known = not isinstance(value, str) or value.strip().upper() not in _NO_VALUE
            if known and value is not None and not isinstance(value, fits.card.Undefined):
                values[str(card.keyword)] = value
    return values


def _text(values: Mapping[str, Any], *keywords: str) -> str:
    return next((str(values[key]).strip() for key in keywords if key in values), "")


def _filter(values: Mapping[str, Any], camera: Camera, problems: list[str]) -> str:
    known = {one.name for one in camera.filters}
    name, grating = _text(values, "FILTER"), _text(values, "GRATING")
    for candidate in (f"{name}~{grating}", name):
        if name and candidate in known:
            return candidate
    if name:
        problems.append(f"filter {name} is not in the camera")
    return "unknown" if "unknown" in known else ""


def _exposure_s(values: Mapping[str, Any], problems: list[str]) -> float:
    for keyword in ("EXPTIME", "EXPOSURE", "EXP_TIME"):
        if keyword in values:
            try:
                seconds = float(values[keyword])
            except (TypeError, ValueError):
                seconds = -1.0
            if 0.0 <= seconds < _DAY_S:
                return seconds
            problems.append(f"{keyword} is no exposure time: {values[keyword]!r}")
    return 0.0


def _begin_tai(values: Mapping[str, Any], problems: list[str]) -> float | None:
    is_tai = _text(values, "TIMESYS").upper() == "TAI"
    for keyword in ("DATE-BEG", "DATE-OBS"):
        if keyword not in values:
            continue
        moment = _moment(str(values[keyword]).strip(), _text(values, "UTSTART", "TIME-OBS", "UT"))
        if moment is not None:
            return moment if is_tai else tai_from_utc(moment)
        problems.append(f"{keyword} is no date: {values[keyword]!r}")
    for keyword in ("MJD-BEG", "MJD-OBS"):
        if isinstance(values.get(keyword), int | float):
            seconds = (float(values[keyword]) - MJD_UNIX_EPOCH) * _DAY_S
            return seconds if is_tai else tai_from_utc(seconds)
    return None


def _moment(text: str, clock: str) -> float | None:
    """Give the seconds since 1970 in the scale of the text; a bare date takes its clock time."""
    try:
        if "T" not in text:
            hour = time.fromisoformat(clock) if clock else time()
            moment = datetime.combine(date.fromisoformat(text), hour)
        else:
            moment = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        return None
    return (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)


def _position(values: Mapping[str, Any], problems: list[str]) -> tuple[float | None, float | None]:
    for ra_keyword, dec_keyword in (
        ("RASTART", "DECSTART"), ("RA", "DEC"), ("TELRA", "TELDEC"), ("OBJCTRA", "OBJCTDEC"),
    ):  # fmt: skip
        if ra_keyword not in values or dec_keyword not in values:
            continue
        ra = _angle_deg(values[ra_keyword], _HOUR_DEG)
        dec = _angle_deg(values[dec_keyword], 1.0)
        if (
            ra is not None
            and dec is not None
            and 0.0 <= ra < _FULL_CIRCLE_DEG
            and abs(dec) <= _POLE_DEG
        ):
            return ra, dec
        problems.append(
            f"{ra_keyword}, {dec_keyword} are no position: "
            f"{values[ra_keyword]!r}, {values[dec_keyword]!r}"
        )
    return None, None


def _angle_deg(value: object, unit_deg: float) -> float | None:
    """Give an angle [deg]; sexagesimal text counts in ``unit_deg``, numbers are degrees."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _SEXAGESIMAL.match(str(value).strip())
    if match is None:
        try:
            return float(str(value))
        except ValueError:
            return None
    minutes, seconds = int(match[3]), float(match[4])
    if minutes >= 60 or seconds >= 60:  # noqa: PLR2004 - sexagesimal
        return None
    size = (int(match[2]) + minutes / 60 + seconds / 3600) * unit_deg
    return -size if match[1] == "-" else size
