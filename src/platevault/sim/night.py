"""What is observed in a simulated night: calibrations first, then science visits with snaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from platevault.domain.camera import Camera
from platevault.sim.telescope import Target, Telescope

#: Requested exposure times [s] by image type.
_EXPOSURE_S = {"BIAS": 0.0, "DARK": 30.0, "FLAT": 4.0, "OBJECT": 15.0}
#: Every night begins with one of each, in this order.
_CALIBRATIONS = ("BIAS", "DARK", "FLAT")
#: Science fields lie within this distance of the zenith [deg].
_ZENITH_DISTANCE_DEG = 35.0
_SURVEY_BANDS = ("u", "g", "r", "i", "z", "y")


@dataclass(frozen=True, slots=True)
class Visit:
    """One or more exposures of the same field and filter.

    Attributes
    ----------
    image_type
        BIAS, DARK, FLAT or OBJECT.
    exposure_s
        Requested time of each exposure [s].
    snaps
        Number of exposures.
    filter_name
        Physical filter.
    target
        Where the telescope points; ``None`` for the dome.
    program, reason
        PROGRAM and REASON.
    """

    image_type: str
    exposure_s: float
    snaps: int
    filter_name: str
    target: Target | None
    program: str
    reason: str


def plan_night(
    camera: Camera, telescope: Telescope, *, begin_tai: float, exposures: int, seed: int
) -> Iterator[Visit]:
    """Plan visits that give exactly ``exposures`` exposures.

    Every third science visit has two snaps. The same arguments give the same plan.
    """
    random = np.random.default_rng([seed, *camera.name.encode()])
    filters = _survey_filters(camera)
    left, visits = exposures, 0
    moment_tai = begin_tai
    for image_type in _CALIBRATIONS[: max(0, exposures - 1)]:
        name = filters[int(random.integers(len(filters)))]
        yield Visit(
            image_type, _EXPOSURE_S[image_type], 1, name, None, "BLOCK-T1", image_type.lower()
        )
        moment_tai += _EXPOSURE_S[image_type] + camera.readout_s
        left -= 1
    while left > 0:
        snaps = min(left, 2 if visits % 3 == 2 else 1)  # noqa: PLR2004 - the third of three
        yield Visit(
            "OBJECT",
            _EXPOSURE_S["OBJECT"],
            snaps,
            filters[int(random.integers(len(filters)))],
            _field(telescope, moment_tai, random, visits),
            "BLOCK-365",
            "science",
        )
        moment_tai += snaps * (_EXPOSURE_S["OBJECT"] + camera.readout_s) + 5.0
        left -= snaps
        visits += 1


def _survey_filters(camera: Camera) -> list[str]:
    """Choose filters with a band; of a filter and a grating only those without grating."""
    banded = [item.name for item in camera.filters if item.band in _SURVEY_BANDS]
    plain = [name for name in banded if name.endswith("~empty")]
    return plain or banded or [item.name for item in camera.filters]


def _field(
    telescope: Telescope, moment_tai: float, random: np.random.Generator, number: int
) -> Target:
    zenith_ra, zenith_dec = telescope.overhead_position(moment_tai)
    distance = _ZENITH_DISTANCE_DEG * np.sqrt(random.uniform(0.05, 1.0))
    bearing = np.radians(random.uniform(0.0, 360.0))
    dec = float(np.clip(zenith_dec + distance * np.cos(bearing), -85.0, 85.0))
    ra = float((zenith_ra + distance * np.sin(bearing) / np.cos(np.radians(dec))) % 360.0)
    return Target(
        name=f"field_{number + 1:04d}",
        ra_deg=ra,
        dec_deg=dec,
        sky_angle_deg=float(random.uniform(0.0, 360.0)),
    )
