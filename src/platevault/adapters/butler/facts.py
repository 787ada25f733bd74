"""What the header of a raw image says of its exposure, in the terms of the Butler.

Pure: no library of dates or of the sky, so that sensors can be compared value by value before
anything is computed from the values.

References
----------
Raw-file contract, sections 5, 6, 7 and 14; translators of obs_lsst, whose answers these equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from platevault.domain.camera import Camera
from platevault.domain.headers import HeaderValue
from platevault.domain.ids import ImageName
from platevault.ports.ingest import BadFileError

#: Keywords of the begin time, in the order in which readers try them.
BEGIN_KEYS = ("MJD-BEG", "DATE-BEG", "MJD-OBS", "DATE-OBS")
#: Pairs of keywords of the pointing, in the order in which readers try them.
POINTING_KEYS = (("RASTART", "DECSTART"), ("RA", "DEC"))
#: Image types for which nobody looks at the sky; darks may track all the same.
OFF_SKY_TYPES = frozenset({"bias", "dark", "flat"})
#: Longest texts of an exposure record [characters], from the dimension universe.
TEXT_LIMITS: Mapping[str, int] = {
    "observation_type": 16,
    "physical_filter": 32,
    "group": 64,
    "obs_id": 64,
    "target_name": 64,
    "science_program": 64,
    "observation_reason": 68,
}
#: Elevations beyond the zenith and below the horizon that encoders do give [deg].
ELEVATION_RANGE_DEG = (-5.55, 95.55)
_SIMULATED_CONTROLLERS = frozenset("HPQS")
#: Keyword sets of cameras whose laboratory filters are joined to FILTER by ``~``.
_LAB_WHEELS = frozenset({"LSSTCam", "ComCam"})
_EMPTY_FILTER = re.compile(r"empty_?\d*$", re.IGNORECASE)
_FRAMES = frozenset({"icrs", "fk5"})


class BadMetadataError(BadFileError):
    """A header value does not allow an exposure record: set the file aside, mend its source."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as the header gives it.

    Attributes
    ----------
    value
        Modified Julian date [d] or ISO text.
    scale
        ``tai`` or ``utc``.
    """

    value: float | str
    scale: str = "tai"


@dataclass(frozen=True, slots=True)
class Pointing:
    """Where the boresight pointed.

    Attributes
    ----------
    frame
        ``icrs`` or ``fk5``; ``azel`` says that both angles follow from azimuth and elevation.
    ra_deg, dec_deg
        Right ascension and declination in ``frame`` [deg]; 0 with ``azel``.
    """

    frame: str
    ra_deg: float = 0.0
    dec_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class ExposureFacts:
    """An exposure as one header tells it; equal for all sensors of a sound exposure.

    Attributes
    ----------
    obs_id, exposure_id, day_obs, seq_num
        Image name, integer id, observing day YYYYMMDD, number within the day.
    seq_start, seq_end
        First and last number of the sequence of snaps it belongs to.
    group
        GROUPID, else the exposure id as text.
    physical_filter, observation_type, observation_reason, science_program, target_name
        As in the exposure record.
    begin, end
        Times of integration; ``end`` is ``None`` if it is begin plus exposure time.
    exposure_s, dark_s
        Shutter open time and dark time [s]; ``None`` if unknown.
    pointing
        Tracked position; ``None`` if it did not track the sky.
    sky_angle_deg
        Position angle of the focal plane's y axis, north through east [deg].
    azimuth_deg, zenith_deg
        At the begin [deg].
    simulated, can_see_sky
        Something in it was simulated; sky light could reach the detectors (``None``: unknown).
    """

    obs_id: str
    exposure_id: int
    day_obs: int
    seq_num: int
    seq_start: int
    seq_end: int
    group: str
    physical_filter: str
    observation_type: str
    observation_reason: str
    science_program: str
    target_name: str
    begin: Moment
    end: Moment | None
    exposure_s: float | None
    dark_s: float | None
    pointing: Pointing | None
    sky_angle_deg: float | None
    azimuth_deg: float | None
    zenith_deg: float | None
    simulated: bool
    can_see_sky: bool | None


def exposure_facts(
    metadata: Mapping[str, HeaderValue], *, camera: Camera, image: ImageName
) -> ExposureFacts:
    """Read the facts of an exposure from the header of one of its sensors.

    Parameters
    ----------
    metadata
        Values of HDU 0 by keyword.
    camera
        Camera that took it; its ``keyword_set`` chooses the rules of the instrument.
    image
        Name under which the file came. DAYOBS, SEQNUM and CONTRLLR must agree with it and are
        taken from it when absent.

    Raises
    ------
    BadMetadataError
        A value is missing, contradicts the image name, has the wrong type or is too long. Do not
        retry; the error names field, value and expectation.
    """
    header = _Header(metadata)
    _check_identity(header, camera, image)
    latiss = camera.keyword_set == "LATISS"
    kind = _observation_type(header)
    exposure_s, dark_s = _times(header, latiss=latiss)
    begin = _begin(header)
    azimuth, zenith = _azimuth_and_zenith(header)
    pointing = _pointing(header, kind, latiss=latiss, mounted=azimuth is not None)
    facts = ExposureFacts(
        obs_id=str(image),
        exposure_id=image.exposure_id,
        day_obs=image.day_obs,
        seq_num=image.sequence,
        seq_start=_seq_start(header, image),
        seq_end=_seq_end(header, image),
        group=header.text("GROUPID") or str(image.exposure_id),
        physical_filter=_physical_filter(
            header, latiss=latiss, lab_wheels=camera.keyword_set in _LAB_WHEELS
        ),
        observation_type=kind,
        observation_reason=_reason(header, kind),
        science_program=header.text("PROGRAM") or header.text("RUNNUM") or "unknown",
        target_name=header.text("OBJECT") or "UNKNOWN",
        begin=begin,
        end=_end(header),
        exposure_s=exposure_s,
        dark_s=dark_s,
        pointing=pointing,
        sky_angle_deg=_sky_angle(header, kind, camera) if pointing is not None else None,
        azimuth_deg=azimuth,
        zenith_deg=zenith,
        simulated=_simulated(metadata, image),
        can_see_sky=_can_see_sky(header, kind, camera),
    )
    for name, limit in TEXT_LIMITS.items():
        text: str = getattr(facts, name)
        if len(text) > limit:
            raise BadMetadataError(
                "Text is too long for the exposure record",
                field=name,
                value=text,
                expected=f"at most {limit} characters",
            )
    return facts


def allows_visit(facts: ExposureFacts) -> bool:
    """Tell whether an exposure becomes a visit: on sky, with a pointing and a sky angle."""
    return (
        facts.pointing is not None
        and facts.sky_angle_deg is not None
        and facts.can_see_sky is not False
    )


class _Header:
    """Typed access; undefined, not-a-number and absent are all ``None``."""

    def __init__(self, metadata: Mapping[str, HeaderValue]) -> None:
        self._metadata = metadata

    def has(self, keyword: str) -> bool:
        return keyword in self._metadata

    def text(self, keyword: str) -> str | None:
        value = self._metadata.get(keyword)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(keyword, value, "text")
        return value.rstrip()

    def number(self, keyword: str) -> float | None:
        value = self._metadata.get(keyword)
        if value is None:
            return None
        if isinstance(value, (bool, str)):
            raise self._wrong(keyword, value, "a number")
        return float(value) if math.isfinite(value) else None

    def integer(self, keyword: str) -> int | None:
        value = self._metadata.get(keyword)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(keyword, value, "an integer")
        return value

    @staticmethod
    def _wrong(keyword: str, value: object, expected: str) -> BadMetadataError:
        return BadMetadataError(
            "Header value has the wrong type", field=keyword, value=value, expected=expected
        )


def _check_identity(header: _Header, camera: Camera, image: ImageName) -> None:
    expected: list[tuple[str, str | None, str]] = [
        ("OBSID", header.text("OBSID"), str(image)),
        ("DAYOBS", header.text("DAYOBS"), f"{image.day_obs:08d}"),
        ("CONTRLLR", header.text("CONTRLLR"), image.controller),
    ]
    sequence = header.integer("SEQNUM")
    if sequence is not None:
        expected.append(("SEQNUM", str(sequence), str(image.sequence)))
    for keyword, value, wanted in expected:
        if value is not None and value != wanted:
            raise BadMetadataError(
                "Header is of another exposure", field=keyword, value=value, expected=wanted
            )
    if header.text("OBSID") is None:
        raise BadMetadataError("Header value is missing", field="OBSID", expected=str(image))
    instrument = header.text("INSTRUME")
    if instrument is None or instrument.lower() != camera.header_name.lower():
        raise BadMetadataError(
            "Header is of another camera",
            field="INSTRUME",
            value=instrument,
            expected=camera.header_name,
        )


def _observation_type(header: _Header) -> str:
    kind = (header.text("IMGTYPE") or "unknown").lower()
    return "science" if kind in ("object", "skyexp") else kind


def _reason(header: _Header, kind: str) -> str:
    given = header.text("REASON") or header.text("TESTTYPE")
    if given:
        return given.lower()
    return "science" if kind == "science" else "unknown"


def _begin(header: _Header) -> Moment:
    for keyword in BEGIN_KEYS:
        value = header.number(keyword) if keyword.startswith("MJD") else header.text(keyword)
        if value:
            return Moment(value)
    raise BadMetadataError("Header value is missing", field="DATE-BEG", expected="time of begin")


def _end(header: _Header) -> Moment | None:
    value = header.text("DATE-END")
    if not value:
        return None
    return Moment(value, (header.text("TIMESYS") or "utc").lower())


def _times(header: _Header, *, latiss: bool) -> tuple[float | None, float | None]:
    exposure = header.number("EXPTIME")
    shutter = header.number("SHUTTIME")
    if latiss:
        exposure = -1.0 if exposure is None else exposure
    elif shutter is not None and shutter > 0.0:
        exposure = shutter
    dark = header.number("DARKTIME")
    if dark is None or (latiss and exposure is not None and dark < exposure):
        dark = exposure
    return exposure, dark


def _seq_start(header: _Header, image: ImageName) -> int:
    index = header.integer("CURINDEX")
    if index is None:
        return image.sequence or image.exposure_id
    return image.sequence - index + 1


def _seq_end(header: _Header, image: ImageName) -> int:
    index, last = header.integer("CURINDEX"), header.integer("MAXINDEX")
    if index is None or last is None:
        return image.sequence or image.exposure_id
    return image.sequence + last - index


def _physical_filter(header: _Header, *, latiss: bool, lab_wheels: bool) -> str:
    if latiss:
        names = [header.text("FILTER") or "unknown", header.text("GRATING") or "unknown"]
        return "~".join("empty" if _EMPTY_FILTER.match(name) else name for name in names)
    # FILTER1 and FILTER2 are the wheels of the laboratory; elsewhere they may mean anything.
    wheels = ("FILTER1", "FILTER2") if lab_wheels else ()
    values = [header.text(keyword) for keyword in ("FILTER", *wheels)]
    joined = "~".join(value for value in values if value)
    joined = (joined or "unknown").replace("NONE", "none")
    while joined.endswith("~empty"):
        joined = joined.removesuffix("~empty")
    return joined


def _tracking_system(header: _Header, *, latiss: bool) -> str:
    system = header.text("TRACKSYS")
    if system is None:
        return "RADEC"
    if latiss:
        return {"": "RADEC", "SIDEREAL": "RADEC"}.get(system, system)
    return system


def _pointing(header: _Header, kind: str, *, latiss: bool, mounted: bool) -> Pointing | None:
    if kind in OFF_SKY_TYPES - {"dark"} or _tracking_system(header, latiss=latiss) != "RADEC":
        return None
    if not header.has("DATE") or not header.has("DATE-OBS"):
        return None
    if header.text("DATE") == header.text("DATE-OBS") is not None:
        return Pointing("azel") if mounted else None
    frame = (header.text("RADESYS") or "ICRS").strip().lower()
    if frame not in _FRAMES:
        return None
    for ra_key, dec_key in POINTING_KEYS:
        ra, dec = header.number(ra_key), header.number(dec_key)
        if ra is not None and dec is not None:
            _check_angles(ra_key, ra, dec_key, dec)
            return Pointing(frame, ra % 360.0, dec)
    return None


def _check_angles(ra_key: str, ra: float, dec_key: str, dec: float) -> None:
    if not -360.0 <= ra <= 360.0:  # noqa: PLR2004 - a full turn
        raise BadMetadataError(
            "Angle is out of range", field=ra_key, value=ra, expected="-360 to 360 deg"
        )
    if not -90.0 <= dec <= 90.0:  # noqa: PLR2004 - the poles
        raise BadMetadataError(
            "Angle is out of range", field=dec_key, value=dec, expected="-90 to 90 deg"
        )


def _sky_angle(header: _Header, kind: str, camera: Camera) -> float | None:
    if kind in OFF_SKY_TYPES or header.text("ROTCOORD") != "sky":
        return None
    angle = header.number("ROTPA")
    if angle is None:
        angle = header.number("ROTANGLE")
    if angle is None and camera.keyword_set == "ComCam":
        return 0.0
    return angle


def _azimuth_and_zenith(header: _Header) -> tuple[float | None, float | None]:
    azimuth, elevation = header.number("AZSTART"), header.number("ELSTART")
    if azimuth is None or elevation is None:
        return None, None
    low, high = ELEVATION_RANGE_DEG
    if not low <= elevation <= high:
        return None, None
    return azimuth % 360.0, 90.0 - min(elevation, 90.0)


def _simulated(metadata: Mapping[str, HeaderValue], image: ImageName) -> bool:
    if image.controller in _SIMULATED_CONTROLLERS:
        return True
    if "SIMULATE" not in "\n".join(metadata):  # most headers, at a tenth of the time
        return False
    return any("SIMULATE" in keyword and bool(value) for keyword, value in metadata.items())


def _can_see_sky(header: _Header, kind: str, camera: Camera) -> bool | None:
    # LATISS readers drop SHUTTIME, but not its zero.
    if header.number("SHUTTIME") == 0.0:
        return False
    vignetted = header.text("VIGN_MIN")
    if vignetted is not None:
        return vignetted != "FULLY"
    if camera.keyword_set == "LSSTCam":
        return None
    if kind == "science":
        return True
    return False if kind in OFF_SKY_TYPES else None
