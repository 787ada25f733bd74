"""A header from the camera's own events alone, when the Header Service gave none.

References
----------
Header contract, section B2; raw-fits contract, sections 5 to 7.
"""

from __future__ import annotations

from collections.abc import Mapping

from platevault.domain.camera import Camera
from platevault.domain.header_cards import (
    PRIMARY,
    free_card,
    lay_out,
    sensor_section,
    sensor_values,
)
from platevault.domain.header_validation import RejectedValueError, seconds_of, typed_value
from platevault.domain.headers import (
    Card,
    Collected,
    HeaderDocument,
    HeaderStatus,
    HeaderValue,
    KeywordRecord,
)
from platevault.domain.ids import ImageName
from platevault.domain.keyed_lists import split_pairs
from platevault.domain.timescales import isot, mjd, utc_from_tai

#: Group, keyword, type; ``*`` marks what ingest or a visit needs (raw-fits contract, sec. 5),
#: ``-`` what is left out without a value.
_LAYOUT: tuple[tuple[str, str, str], ...] = (
    ("structure", "ORIGIN-", "str"), ("date", "DATE*", "str"), ("date", "MJD", "float"),
    ("date", "IMGTYPE*", "str"),
    ("date", "DATE-OBS*", "str"), ("date", "MJD-OBS*", "float"), ("date", "DATE-TRG", "str"),
    ("date", "MJD-TRG", "float"), ("date", "OBSID*", "str"), ("date", "DATE-BEG*", "str"),
    ("date", "MJD-BEG*", "float"), ("date", "DATE-END*", "str"), ("date", "MJD-END", "float"),
    ("date", "BUNIT", "str"), ("date", "TIMESYS*", "str"), ("date", "GROUPID*", "str"),
    ("telescope", "INSTRUME*", "str"), ("telescope", "TELESCOP*", "str"),
    ("telescope", "FACILITY", "str"), ("telescope", "OBSERVER-", "str"),
    ("telescope", "OBS-LONG", "float"),
    ("telescope", "OBS-LAT", "float"), ("telescope", "OBS-ELEV", "float"),
    ("telescope", "OBSGEO-X-", "float"), ("telescope", "OBSGEO-Y-", "float"),
    ("telescope", "OBSGEO-Z-", "float"),
    ("pointing", "RA*", "float"), ("pointing", "DEC*", "float"), ("pointing", "RASTART*", "float"),
    ("pointing", "DECSTART*", "float"), ("pointing", "ROTPA*", "float"),
    ("pointing", "ROTCOORD*", "str"), ("pointing", "ELSTART*", "float"),
    ("pointing", "AZSTART*", "float"), ("pointing", "AMSTART*", "float"),
    ("pointing", "TRACKSYS*", "str"), ("pointing", "RADESYS*", "str"),
    ("pointing", "OBJECT*", "str"), ("pointing", "VIGN_MIN*", "str"),
    ("identity", "CAMCODE", "str"), ("identity", "CONTRLLR*", "str"),
    ("identity", "DAYOBS*", "str"), ("identity", "SEQNUM*", "int"),
    ("keys", "TESTTYPE", "str"), ("keys", "PROGRAM*", "str"), ("keys", "REASON*", "str"),
    ("sequence", "CURINDEX*", "int"), ("sequence", "MAXINDEX*", "int"),
    ("stand", "TSTAND-", "str"), ("filter", "FILTER*", "str"), ("exposure", "EXPTIME*", "float"),
    ("exposure", "DARKTIME*", "float"), ("exposure", "SHUTTIME*", "float"),
    ("weather", "AIRTEMP*", "float"), ("weather", "PRESSURE*", "float"),
    ("weather", "HUMIDITY*", "float"), ("header", "HEADVER", "int"),
    ("header", "FILENAME", "str"),
)  # fmt: skip
#: Version of the header's layout: DATE and MJD are UTC from 101 on (raw-fits contract, sec. 6).
HEADER_LAYOUT_VERSION = 201
_BY_FIELD: Mapping[str, str] = {
    "exposureTime": "EXPTIME",
    "requestedExposureTime": "EXPTIME",
    "imageIndex": "CURINDEX",
    "imagesInSequence": "MAXINDEX",
    "imageType": "IMGTYPE",
    "groupId": "GROUPID",
    "testType": "TESTTYPE",
    "program": "PROGRAM",
    "reason": "REASON",
    "darkTime": "DARKTIME",
    "measuredShutterOpenTime": "SHUTTIME",
    "filterName": "FILTER",
}
_BEGIN_FIELDS = ("timestampDateObs", "timestampAcquisitionStart")
_END_FIELDS = ("timestampDateEnd",)
_DONE_FIELDS = ("timestampEndOfReadout", "timestampStartOfReadout")


def fallback_document(
    image: str, camera: Camera, facts: Mapping[str, HeaderValue]
) -> HeaderDocument:
    """Make a header of what the camera knows, status minimal, for a missing one.

    Parameters
    ----------
    image
        Image name.
    camera
        The camera.
    facts
        What is known: fields of camera events (``exposureTime``, ``additionalKeys`` ...) and
        values by FITS keyword. Nothing else goes in, so the same facts give the same header.

    Raises
    ------
    InvalidNameError
        ``image`` is no image name. A bug; do not retry.
    """
    known = _known(image, camera, facts)
    groups: dict[str, list[Card]] = {}
    records = []
    missing = []
    needed = 0
    for group, marked, kind in _LAYOUT:
        keyword = marked.removesuffix("*").removesuffix("-")
        value = _value(keyword, kind, known.get(keyword))
        if value is None and marked.endswith("-"):
            continue
        groups.setdefault(group, []).append(Card(keyword, value))
        if marked.endswith("*"):
            needed += 1
            if value is None:
                missing.append(keyword)
                records.append(
                    KeywordRecord(PRIMARY, keyword, Collected.MISSING, problem="no header arrived")
                )
    listed = {marked.removesuffix("*").removesuffix("-") for _, marked, _ in _LAYOUT}
    for keyword, value in known.items():
        card = free_card(keyword, value)
        if card is not None and card.keyword not in listed:
            groups.setdefault("camera", []).append(card)
    sections = {PRIMARY: lay_out(groups)}
    for detector in camera.detectors:
        cards = [Card(key, value) for key, value in sensor_values(camera, detector).items()]
        sections[sensor_section(detector)] = lay_out({"common": cards})
    return HeaderDocument(
        image=image,
        camera=camera.name,
        version=1,
        status=HeaderStatus.MINIMAL,
        sections=sections,
        completeness=1.0 - len(missing) / needed,
        records=tuple(records),
        missing=tuple(missing),
    )


def _value(keyword: str, kind: str, value: HeaderValue) -> HeaderValue:
    try:
        return typed_value(keyword, kind, value)
    except RejectedValueError:
        return None


def _known(image: str, camera: Camera, facts: Mapping[str, HeaderValue]) -> dict[str, HeaderValue]:
    name = ImageName.parse(image)
    known: dict[str, HeaderValue] = {
        "OBSID": image,
        "CAMCODE": name.source,
        "CONTRLLR": name.controller,
        "DAYOBS": f"{name.day_obs:08d}",
        "SEQNUM": name.sequence,
        "BUNIT": "adu",
        "TIMESYS": "TAI",
        "ROTCOORD": "sky",
        "INSTRUME": camera.header_name,
        "TELESCOP": camera.telescope_name,
        "FACILITY": camera.site,
        "OBS-LONG": camera.longitude_deg,
        "OBS-LAT": camera.latitude_deg,
        "OBS-ELEV": camera.elevation_m,
        "HEADVER": HEADER_LAYOUT_VERSION,
        "FILENAME": f"{image}.fits",
        **camera.constants,
    }
    keys, values = facts.get("additionalKeys"), facts.get("additionalValues")
    given = dict(facts)
    if isinstance(keys, str) and isinstance(values, str):
        given = {**split_pairs(keys, values), **given}
    known.update({_BY_FIELD[field]: value for field, value in given.items() if field in _BY_FIELD})
    known.update(
        {key: value for key, value in given.items() if key.isupper() or key.startswith("HIERARCH ")}
    )
    known.update(_dates(known, given))
    return known


def _dates(
    known: Mapping[str, HeaderValue], facts: Mapping[str, HeaderValue]
) -> dict[str, HeaderValue]:
    begin = _first(facts, _BEGIN_FIELDS)
    end = _first(facts, _END_FIELDS)
    dates: dict[str, HeaderValue] = {}
    if begin is not None:
        dates["DATE-OBS"] = dates["DATE-BEG"] = isot(begin)
    if end is not None:
        dates["DATE-END"] = isot(end)
    created = _first(facts, (*_DONE_FIELDS, *_END_FIELDS))
    exposure = known.get("EXPTIME")
    if created is None and begin is not None and isinstance(exposure, int | float):
        created = begin + exposure
    if created is not None:
        dates["DATE"] = isot(utc_from_tai(created))
    dates = {key: value for key, value in dates.items() if key not in known}
    for suffix in ("", "-OBS", "-BEG", "-END"):
        date = dates.get(f"DATE{suffix}", known.get(f"DATE{suffix}"))
        if isinstance(date, str) and f"MJD{suffix}" not in known:
            dates[f"MJD{suffix}"] = _mjd_of(date)
    return dates


def _mjd_of(date: str) -> float | None:
    try:
        return mjd(seconds_of(date))
    except ValueError:
        return None


def _first(facts: Mapping[str, HeaderValue], fields: tuple[str, ...]) -> float | None:
    for field in fields:
        value = facts.get(field)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None
