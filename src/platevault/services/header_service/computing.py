"""Keywords that follow from others: dates, sums, names.

References
----------
Header contract, section A3; WGS84 (NIMA TR8350.2) for geocentric coordinates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from platevault.domain.camera import Camera
from platevault.domain.header_fallback import HEADER_LAYOUT_VERSION
from platevault.domain.header_validation import seconds_of
from platevault.domain.headers import HeaderValue
from platevault.domain.timescales import isot, mjd, utc_from_tai

_RULE = re.compile(r"^(\w+)(?:\(([^)]*)\))?$")
#: WGS84: semi-major axis [m] and flattening.
_AXIS_M = 6378137.0
_FLATTENING = 1 / 298.257223563


def computed_value(
    rule: str,
    values: Mapping[str, HeaderValue],
    *,
    image: str,
    created_tai: float,
    camera: Camera,
) -> HeaderValue:
    """Compute a keyword.

    Parameters
    ----------
    rule
        ``created``, ``mjd(DATE-OBS)``, ``same(DARKTIME)``, ``effective_exposure``,
        ``geocentric(x)``, ``header_version`` or ``file_name``.
    values
        Values of the primary section so far, by keyword.
    image
        Image name.
    created_tai
        Creation of the header [s, TAI].
    camera
        The camera, for its place on Earth.

    Returns
    -------
    HeaderValue
        ``None`` if an input is missing or the rule is none of these.
    """
    match = _RULE.match(rule)
    name, argument = (match[1], match[2] or "") if match else ("", "")
    match name:
        case "created":
            return isot(utc_from_tai(created_tai))
        case "mjd":
            date = values.get(argument)
            return mjd(seconds_of(date)) if isinstance(date, str) else None
        case "same":
            return values.get(argument)
        case "effective_exposure":
            shutter = values.get("SHUTTIME")
            opened = isinstance(shutter, float) and shutter > 0
            return shutter if opened else values.get("EXPTIME")
        case "geocentric":
            return round(geocentric_m(camera)["xyz".index(argument)], 2)
        case "header_version":
            return HEADER_LAYOUT_VERSION
        case "file_name":
            return f"{image}.fits"
        case _:
            return None


def geocentric_m(camera: Camera) -> tuple[float, float, float]:
    """Give the geocentric place of a telescope [m]."""
    longitude, latitude = math.radians(camera.longitude_deg), math.radians(camera.latitude_deg)
    squared = _FLATTENING * (2 - _FLATTENING)
    radius = _AXIS_M / math.sqrt(1 - squared * math.sin(latitude) ** 2)
    across = (radius + camera.elevation_m) * math.cos(latitude)
    return (
        across * math.cos(longitude),
        across * math.sin(longitude),
        (radius * (1 - squared) + camera.elevation_m) * math.sin(latitude),
    )
