"""What the telescopes and the weather tower say, as plain samples from one consistent state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platevault.domain.timescales import utc_from_tai
from platevault.sim.telescope import Target, Track
from platevault.sim.weather import WeatherReport

#: Pointing noise of a tracking mount [deg]; rough.
_JITTER_DEG = 2.0e-5
#: Samples in one block of ATPtg.mountPositions, over the second from cRioTimestamp.
_BLOCK = 100
#: Index of the weather tower's sensors.
WEATHER_TOWER = 301
#: Validity of a seeing measurement [s].
_SEEING_VALID_S = 600.0
_NO, _FULLY = 1, 3
_RADEC, _AZEL = 1, 2
_FRAME_ICRS, _FRAME_AZEL = 2, 3


@dataclass(frozen=True, slots=True)
class Said:
    """A sample to be published.

    Attributes
    ----------
    component, index
        Who says it.
    topic
        Name without the prefix of its family.
    fields
        Its values.
    """

    component: str
    topic: str
    fields: Mapping[str, Any]
    index: int = 0


def target_events(
    telescope: str, target: Target | None, now_tai: float, *, dome_open: bool
) -> Iterator[Said]:
    """Say where the telescope ``main`` or ``aux`` was sent; ``None`` is the dome."""
    prefix = "MT" if telescope == "main" else "AT"
    sky = target is not None
    yield Said(
        f"{prefix}Ptg",
        "currentTarget",
        {
            "timestamp": now_tai,
            "targetType": _RADEC if sky else _AZEL,
            "targetName": target.name if target is not None else "FlatField position",
            "ra": float(np.radians(target.ra_deg)) if target is not None else 0.0,
            "declination": float(np.radians(target.dec_deg)) if target is not None else 0.0,
            "frame": _FRAME_ICRS if sky else _FRAME_AZEL,
            "rotPA": target.sky_angle_deg if target is not None else 0.0,
        },
    )
    blocked = _NO if dome_open else _FULLY
    yield Said(
        f"{prefix}DomeTrajectory",
        "telescopeVignetted",
        {"vignetted": blocked, "azimuth": blocked, "shutter": blocked},
    )
    if telescope == "aux":
        yield Said(
            "ATMCS",
            "target",
            {
                "taiTime": now_tai,
                "trackId": target.track_id if target is not None else 0,
                "tracksys": "SIDEREAL" if sky else "LOCAL",
                "radesys": "ICRS" if sky else "",
            },
        )
        yield Said("ATMCS", "m3PortSelected", {"selected": 2})
        yield Said("ATAOS", "focusOffsetSummary", {"total": 0.05, "userApplied": 0.05})


def main_telescope(track: Track, target: Target | None, at: int) -> Iterator[Said]:
    """Say what the main telescope measures at element ``at`` of its track."""
    azimuth, elevation = float(track.azimuth_deg[at]), float(track.elevation_deg[at])
    rotator, now = float(track.rotator_deg[at]), float(track.tai[at])
    ra, dec, sky_angle = _sky(target, now)
    yield Said(
        "MTPtg",
        "mountPosition",
        {
            "timestamp": now,
            "azimuthActualPosition": azimuth,
            "elevationActualPosition": elevation,
            "rotatorActualPosition": rotator,
            "ra": ra,
            "declination": dec,
            "skyAngle": sky_angle,
        },
    )
    yield Said("MTPtg", "currentTargetStatus", _target_status(track, target, at))
    for axis, angle in (("azimuth", azimuth), ("elevation", elevation)):
        yield Said(
            "MTMount",
            axis,
            {
                "actualPosition": angle,
                "demandPosition": angle,
                "actualPositionTimestamp": now,
                "timestamp": now,
            },
        )
    yield Said(
        "MTRotator",
        "rotation",
        {"demandPosition": rotator, "actualPosition": rotator, "timestamp": now},
    )
    # Focus follows the elevation: the tube sags.
    sag_um = -2600.0 - 400.0 * float(np.sin(np.radians(elevation)))
    hexapod = [0.0, 0.0, sag_um, 0.0, 0.0, 0.0]
    yield Said("MTHexapod", "application", {"demand": hexapod, "position": hexapod}, index=1)


def aux_telescope(track: Track, target: Target | None, at: int) -> Iterator[Said]:
    """Say what the auxiliary telescope measured in the second before element ``at``."""
    end = float(track.tai[at])
    begin = end - 1.0
    moments = begin + np.arange(_BLOCK) / _BLOCK
    azimuth = _between(moments, track.tai, track.azimuth_deg)
    elevation = np.interp(moments, track.tai, track.elevation_deg)
    ra, dec, sky_angle = _sky(target, end)
    yield Said(
        "ATPtg",
        "mountPositions",
        {
            "cRioTimestamp": begin,
            "azimuthCalculatedAngle": azimuth.tolist(),
            "elevationCalculatedAngle": elevation.tolist(),
            "nasmythCalculatedAngle": _between(moments, track.tai, track.rotator_deg).tolist(),
            "ra": [ra] * _BLOCK,
            "declination": [dec] * _BLOCK,
            "skyAngle": [sky_angle] * _BLOCK,
        },
    )
    yield Said("ATPtg", "currentTargetStatus", _target_status(track, target, at))
    yield Said(
        "ATDome",
        "position",
        {
            "azimuthPosition": float(azimuth[-1]),
            "dropoutDoorOpeningPercentage": 100.0 if target is not None else 0.0,
            "mainDoorOpeningPercentage": 100.0 if target is not None else 0.0,
        },
    )


def weather_tower(report: WeatherReport, now_tai: float) -> Iterator[Said]:
    """Say what the weather tower measures."""
    common = {"sensorName": "WeatherTower", "timestamp": now_tai, "location": "tower"}
    yield Said(
        "ESS",
        "temperature",
        {
            **common,
            "numChannels": 1,
            "temperatureItem": [report.temperature_deg_c] + [float("nan")] * 15,
        },
        index=WEATHER_TOWER,
    )
    yield Said(
        "ESS",
        "pressure",
        {**common, "numChannels": 1, "pressureItem": [report.pressure_pa] + [float("nan")] * 7},
        index=WEATHER_TOWER,
    )
    yield Said(
        "ESS",
        "relativeHumidity",
        {**common, "relativeHumidityItem": report.humidity_percent},
        index=WEATHER_TOWER,
    )
    yield Said(
        "ESS",
        "airFlow",
        {
            **common,
            "direction": report.wind_deg,
            "speed": report.wind_m_s,
            "maxSpeed": report.wind_m_s * 1.3,
        },
        index=WEATHER_TOWER,
    )


def seeing_monitor(report: WeatherReport, now_tai: float) -> Iterator[Said]:
    """Say what the seeing monitor measured."""
    yield Said(
        "DIMM",
        "dimmMeasurement",
        {
            "timestamp": now_tai,
            "expiresAt": utc_from_tai(now_tai) + _SEEING_VALID_S,
            "expiresIn": _SEEING_VALID_S,
            "secz": 1.0,
            "fwhm": report.seeing_arcsec,
            "fwhmx": report.seeing_arcsec,
            "fwhmy": report.seeing_arcsec,
        },
        index=1,
    )


#: Components whose simulationMode goes into headers: (component, index).
SIMULATED: Mapping[str, tuple[tuple[str, int], ...]] = {
    "main": (
        ("MTMount", 0), ("MTM1M3", 0), ("MTM2", 0), ("MTHexapod", 1), ("MTHexapod", 2),
        ("MTRotator", 0), ("MTDome", 0), ("MTDomeTrajectory", 0),
    ),
    "aux": (
        ("ATMCS", 0), ("ATHexapod", 0), ("ATPneumatics", 0), ("ATDome", 0), ("ATSpectrograph", 0),
    ),
}  # fmt: skip


def _target_status(track: Track, target: Target | None, at: int) -> dict[str, float]:
    return {
        "timestamp": float(track.tai[at]),
        "demandAz": float(track.azimuth_deg[at]),
        "demandEl": float(track.elevation_deg[at]),
        "demandRot": float(track.rotator_deg[at]),
        "ha": float(track.hour_angle_h[at]),
        "parAngle": float(track.parallactic_deg[at]),
        "airmass": float(track.airmass[at]),
        "demandRa": target.ra_deg / 15.0 if target is not None else 0.0,
        "demandDec": target.dec_deg if target is not None else 0.0,
    }


def _sky(target: Target | None, now_tai: float) -> tuple[float, float, float]:
    if target is None:
        return 0.0, 0.0, 0.0
    # Repeatable jitter: a function of time, not of a generator's state.
    phase = now_tai % 1000.0
    return (
        (target.ra_deg + _JITTER_DEG * float(np.sin(3.1 * phase))) % 360.0,
        target.dec_deg + _JITTER_DEG * float(np.cos(2.3 * phase)),
        target.sky_angle_deg % 360.0,
    )


def _between(
    moments: NDArray[np.float64], tai: NDArray[np.float64], angle_deg: NDArray[np.float64]
) -> NDArray[np.float64]:
    unwrapped = np.unwrap(angle_deg, period=360.0)
    return np.asarray(np.interp(moments, tai, unwrapped), dtype=np.float64)
