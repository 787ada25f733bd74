"""Visit records of an exposure: what is there is left alone, what is missing is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from lsst.daf.butler import Butler, DimensionRecord
from lsst.daf.butler.registry import ConflictingDefinitionError

from platevault.adapters.butler.dimension_records import VisitPlan, plan_visits, visit_record
from platevault.adapters.butler.regions import VisitRegions, visit_regions
from platevault.domain.camera import Camera

_log = structlog.get_logger(__name__)


def define_visits(butler: Butler, camera: Camera, exposure: DimensionRecord) -> None:
    """Define the visits that an exposure on sky belongs to, with the regions of all detectors.

    A visit that holds the exposure already, defined here before or by another tool, stays as it
    is. Each visit is one transaction.

    Parameters
    ----------
    butler
        Open for writing.
    camera
        Detector places.
    exposure
        Record with pointing and sky angle.
    """
    others: Sequence[DimensionRecord] = ()
    if exposure.seq_start != exposure.seq_end:
        others = [record for record in _sequence(butler, exposure) if record.id != exposure.id]
    for plan in plan_visits(exposure, others):
        alone = exposure.seq_start == exposure.seq_end
        if alone or not _is_defined(butler, plan):
            _define(butler, camera, plan, grows=not alone)


def _sequence(butler: Butler, exposure: DimensionRecord) -> list[DimensionRecord]:
    """Give the exposures of a sequence of snaps that may be in a visit."""
    records = butler.query_dimension_records(
        "exposure",
        where=(
            f"exposure.day_obs = {exposure.day_obs} AND "
            f"exposure.seq_start = {exposure.seq_start} AND "
            f"exposure.seq_end = {exposure.seq_end}"
        ),
        instrument=exposure.instrument,
        limit=None,
        explain=False,
    )
    return [
        record
        for record in records
        if record.tracking_ra is not None
        and record.sky_angle is not None
        and record.can_see_sky is not False
    ]


def _is_defined(butler: Butler, plan: VisitPlan) -> bool:
    definitions = butler.query_dimension_records(
        "visit_definition",
        instrument=plan.exposures[0].instrument,
        visit=plan.visit_id,
        limit=None,
        explain=False,
    )
    members = {record.exposure for record in definitions}
    return members.issuperset(record.id for record in plan.exposures)


def _define(butler: Butler, camera: Camera, plan: VisitPlan, *, grows: bool) -> None:
    registry = butler.registry
    first = plan.exposures[0]
    ids = {"instrument": first.instrument, "visit": plan.visit_id}
    regions = visit_regions(
        camera,
        ra_deg=first.tracking_ra,
        dec_deg=first.tracking_dec,
        sky_angle_deg=first.sky_angle,
    )
    fields = {**visit_record(plan), "region": regions.visit}
    try:
        with butler.transaction():
            # A snap that comes later changes the visit of its sequence, but not where it looks.
            if not registry.syncDimensionData("visit", fields, update=grows):
                return
            _insert_parts(butler, plan, ids, regions)
    except ConflictingDefinitionError as error:
        if not _is_defined(butler, plan):
            raise
        _log.warning("Visit is defined otherwise", visit=plan.visit_id, problem=str(error))


def _insert_parts(
    butler: Butler, plan: VisitPlan, ids: Mapping[str, Any], regions: VisitRegions
) -> None:
    for element, records in (
        ("visit_definition", [{**ids, "exposure": record.id} for record in plan.exposures]),
        ("visit_system_membership", [{**ids, "visit_system": system} for system in plan.systems]),
        (
            "visit_detector_region",
            [
                {**ids, "detector": number, "region": region}
                for number, region in regions.detectors.items()
            ],
        ),
    ):
        butler.registry.insertDimensionData(element, *records, skip_existing=True)
