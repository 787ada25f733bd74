"""Exposure and visit records from the facts of a header.

References
----------
Fields and their rules: dimension universe of lsst-daf-butler; grouping of snaps into visits:
obs_base, ``one-to-one-and-by-counter``.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from astropy import units
from astropy.coordinates import FK5, ICRS, AltAz, EarthLocation, SkyCoord
from astropy.time import ScaleValueError, Time
from astropy.utils import iers
from lsst.daf.butler import DimensionRecord, Timespan

from platevault.adapters.butler.configuration import BY_SEQ_START_END, ONE_TO_ONE
from platevault.adapters.butler.facts import BadMetadataError, ExposureFacts, Moment
from platevault.domain.camera import Camera
from platevault.domain.timescales import DAY_OBS_ROLLOVER_H

#: Before the id of the one-to-one visit of a first snap, for the whole sequence has its plain id.
_FIRST_SNAP_PREFIX = "9"


@dataclass(frozen=True, slots=True)
class VisitPlan:
    """One visit that an exposure belongs to.

    Attributes
    ----------
    visit_id, name
        Identity of the visit.
    systems
        Visit systems it belongs to.
    exposures
        Records of its exposures, by sequence number.
    """

    visit_id: int
    name: str
    systems: tuple[int, ...]
    exposures: tuple[DimensionRecord, ...]


def exposure_record(facts: ExposureFacts, camera: Camera) -> dict[str, Any]:
    """Give the fields of an exposure record.

    Raises
    ------
    BadMetadataError
        Times cannot be read, the end is before the begin, or the filter is not of the camera.
    """
    if facts.physical_filter not in physical_filters(camera):
        raise BadMetadataError(
            "Filter is not one of the camera",
            field="FILTER",
            value=facts.physical_filter,
            camera=camera.name,
        )
    timespan, begin = _timespan(facts)
    ra, dec = _pointing(facts, camera, begin)
    return {
        "instrument": camera.name,
        "id": facts.exposure_id,
        "obs_id": facts.obs_id,
        "physical_filter": facts.physical_filter,
        "group": facts.group,
        "day_obs": facts.day_obs,
        "exposure_time": facts.exposure_s,
        "dark_time": facts.dark_s,
        "observation_type": facts.observation_type,
        "observation_reason": facts.observation_reason,
        "seq_num": facts.seq_num,
        "seq_start": facts.seq_start,
        "seq_end": facts.seq_end,
        "target_name": facts.target_name,
        "science_program": facts.science_program,
        "tracking_ra": ra,
        "tracking_dec": dec,
        "sky_angle": facts.sky_angle_deg,
        "azimuth": facts.azimuth_deg,
        "zenith_angle": facts.zenith_deg,
        "has_simulated": facts.simulated,
        "can_see_sky": facts.can_see_sky,
        "timespan": timespan,
    }


def physical_filters(camera: Camera) -> dict[str, str]:
    """Give the band of each physical filter; a filter without one is its own band.

    What a header without a filter gives is one of them: it must not keep an exposure out.
    """
    unknown = "unknown~unknown" if camera.keyword_set == "LATISS" else "unknown"
    bands = {physical.name: physical.band or physical.name for physical in camera.filters}
    return {unknown: "unknown"} | bands


def day_obs_record(day_obs: int, camera: Camera) -> dict[str, Any]:
    """Give the fields of an observing day's record; a day runs from noon to noon TAI."""
    return {
        "instrument": camera.name,
        "id": day_obs,
        "timespan": Timespan.from_day_obs(day_obs, offset=DAY_OBS_ROLLOVER_H * 3600),
    }


def plan_visits(exposure: DimensionRecord, others: Sequence[DimensionRecord]) -> list[VisitPlan]:
    """Plan the visits that an exposure belongs to.

    Parameters
    ----------
    exposure
        Its record.
    others
        Records of the other exposures of its sequence that are there already.

    Returns
    -------
    list
        Its one-to-one visit; for a sequence of snaps whose first is there also that of the
        sequence.
    """
    if exposure.seq_start == exposure.seq_end:
        both = (ONE_TO_ONE, BY_SEQ_START_END)
        return [VisitPlan(exposure.id, exposure.obs_id, both, (exposure,))]
    plans = []
    group = tuple(sorted((exposure, *others), key=lambda record: int(record.seq_num)))
    first = group[0]
    complete_so_far = first.seq_num == first.seq_start
    if complete_so_far and first is exposure:
        number, name = int(f"{_FIRST_SNAP_PREFIX}{exposure.id}"), f"{exposure.obs_id}_first"
    else:
        number, name = exposure.id, exposure.obs_id
    plans.append(VisitPlan(number, name, (ONE_TO_ONE,), (exposure,)))
    if complete_so_far:
        plans.append(VisitPlan(first.id, first.obs_id, (BY_SEQ_START_END,), group))
    return plans


def visit_record(plan: VisitPlan) -> dict[str, Any]:
    """Give the fields of a visit record, but its region."""
    exposures = plan.exposures
    first = exposures[0]
    zenith = [record.zenith_angle for record in exposures]
    return {
        "instrument": first.instrument,
        "id": plan.visit_id,
        "name": plan.name,
        "physical_filter": _common(record.physical_filter for record in exposures),
        "day_obs": min(record.day_obs for record in exposures),
        "seq_num": min(record.seq_num for record in exposures),
        "exposure_time": _total([record.exposure_time for record in exposures]),
        "target_name": _common(record.target_name for record in exposures),
        "observation_reason": _common(r.observation_reason for r in exposures) or "various",
        "science_program": _common(record.science_program for record in exposures),
        "azimuth": _mean_angle([record.azimuth for record in exposures]),
        "zenith_angle": None if None in zenith else sum(zenith) / len(zenith),
        "timespan": Timespan(
            min(record.timespan.begin for record in exposures),
            max(record.timespan.end for record in exposures),
        ),
    }


#: Resolution of dates in headers [s] (raw-fits contract: ISO with milliseconds).
_DATE_STEP_S = 1e-3


def _timespan(facts: ExposureFacts) -> tuple[Timespan, Time]:
    begin = _time(facts.begin, "DATE-BEG")
    if facts.end is not None:
        end = _time(facts.end, "DATE-END")
    elif facts.exposure_s is not None and facts.exposure_s > 0.0:
        end = begin + facts.exposure_s * units.s
    else:
        end = begin
    if begin - _DATE_STEP_S * units.s <= end < begin:
        # A bias: the date is rounded to milliseconds, the MJD is not.
        end = begin
    if end < begin:
        raise BadMetadataError(
            "Exposure ends before it begins",
            field="DATE-END",
            value=end.tai.isot,
            expected=f"not before {begin.tai.isot}",
        )
    return Timespan(begin, end), begin


def _time(moment: Moment, field: str) -> Time:
    form = "fits" if isinstance(moment.value, str) else "mjd"
    try:
        return Time(moment.value, format=form, scale=moment.scale)
    except (ValueError, ScaleValueError) as error:
        raise BadMetadataError(
            "Time cannot be read", field=field, value=moment.value, scale=moment.scale
        ) from error


def _pointing(
    facts: ExposureFacts, camera: Camera, begin: Time
) -> tuple[float | None, float | None]:
    pointing = facts.pointing
    if pointing is None:
        return None, None
    if pointing.frame == "icrs":
        return pointing.ra_deg, pointing.dec_deg
    if pointing.frame == "fk5":
        sky = SkyCoord(pointing.ra_deg, pointing.dec_deg, unit="deg", frame=FK5()).icrs
    else:
        sky = _from_azimuth(facts, camera, begin)
    return float(sky.ra.deg), float(sky.dec.deg)


def _from_azimuth(facts: ExposureFacts, camera: Camera, begin: Time) -> Any:
    place = EarthLocation.from_geodetic(
        camera.longitude_deg, camera.latitude_deg, camera.elevation_m
    )
    assert facts.azimuth_deg is not None
    assert facts.zenith_deg is not None
    local = AltAz(
        az=facts.azimuth_deg * units.deg,
        alt=(90.0 - facts.zenith_deg) * units.deg,
        obstime=begin,
        location=place,
    )
    # An archive host may have no way out, and an arc second is as good as the mount here.
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
    ):
        return local.transform_to(ICRS())


def _common(values: Any) -> Any:
    different = set(values)
    return different.pop() if len(different) == 1 else None


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _mean_angle(angles: Sequence[float | None]) -> float | None:
    known = [angle for angle in angles if angle is not None]
    if len(known) != len(angles):
        return None
    if len(known) == 1:
        return known[0]
    mean = sum(cmath.rect(1.0, math.radians(angle)) for angle in known) / len(known)
    return math.degrees(cmath.phase(mean))
