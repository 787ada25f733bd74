"""Registering the exposure of a batch: one record for all sensors."""

from __future__ import annotations

from lsst.daf.butler import Butler, DimensionRecord
from lsst.daf.butler.registry import ConflictingDefinitionError
from sqlalchemy import exc

from platevault.adapters.butler.batch import Batch
from platevault.adapters.butler.dimension_records import day_obs_record, exposure_record
from platevault.adapters.butler.facts import BadMetadataError, ExposureFacts
from platevault.domain.camera import Camera


def register_exposure(butler: Butler, camera: Camera, batch: Batch) -> DimensionRecord | None:
    """Register day, group and exposure; files that say something else leave the batch.

    What was registered before counts, else what most of the files say.

    Parameters
    ----------
    butler
        Open for writing; the camera is registered.
    camera, batch
        Whose files.

    Returns
    -------
    DimensionRecord
        The exposure; ``None`` if no file is left.

    Raises
    ------
    ConflictingDefinitionError
        Another writer came between. Begin again.
    """
    while batch.candidates:
        facts = batch.usual_facts()
        try:
            record = butler.dimensions["exposure"].RecordClass(**exposure_record(facts, camera))
            _insert(butler, camera, facts, record)
        except BadMetadataError as error:
            batch.reject_facts(facts, error)
        except exc.DataError as error:
            refusal = BadMetadataError("Database refuses the record", error=str(error.orig))
            batch.reject_facts(facts, refusal)
        except ConflictingDefinitionError:
            known = find_exposure(butler, camera, facts.exposure_id)
            if known is None:
                raise
            return _compare(camera, batch, known)
        else:
            for candidate in tuple(batch.candidates):
                if candidate.facts != facts:
                    batch.reject(candidate, _difference(candidate.facts, facts))
            return record
    return None


def find_exposure(butler: Butler, camera: Camera, exposure_id: int) -> DimensionRecord | None:
    """Give the record of an exposure, ``None`` if there is none."""
    records = butler.query_dimension_records(
        "exposure", instrument=camera.name, exposure=exposure_id, explain=False
    )
    return records[0] if records else None


def _insert(butler: Butler, camera: Camera, facts: ExposureFacts, record: DimensionRecord) -> None:
    registry = butler.registry
    group = {"instrument": camera.name, "name": facts.group}
    with butler.transaction():
        registry.insertDimensionData(
            "day_obs", day_obs_record(facts.day_obs, camera), skip_existing=True
        )
        registry.insertDimensionData("group", group, skip_existing=True)
        registry.syncDimensionData("exposure", record)


def _compare(camera: Camera, batch: Batch, known: DimensionRecord) -> DimensionRecord | None:
    for facts in {candidate.facts for candidate in batch.candidates}:
        try:
            for name, value in exposure_record(facts, camera).items():
                if getattr(known, name) != value:
                    raise BadMetadataError(
                        "Exposure was registered with another value",
                        field=name,
                        value=value,
                        expected=getattr(known, name),
                    )
        except BadMetadataError as error:
            batch.reject_facts(facts, error)
    return known if batch.candidates else None


def _difference(facts: ExposureFacts, reference: ExposureFacts) -> BadMetadataError:
    name = next(
        name
        for name in ExposureFacts.__dataclass_fields__
        if getattr(facts, name) != getattr(reference, name)
    )
    return BadMetadataError(
        "Sensors of the exposure disagree",
        field=name,
        value=getattr(facts, name),
        expected=getattr(reference, name),
    )
