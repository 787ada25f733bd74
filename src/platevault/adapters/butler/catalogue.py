"""What one thread does with a Butler: register cameras, ingest exposures, tell what is there.

Calls block. `platevault.adapters.butler.ingest` keeps them off the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
from lsst.daf.butler import Butler, DatasetIdGenEnum, DatasetRef, DatasetType, FileDataset
from lsst.daf.butler.registry import ConflictingDefinitionError
from lsst.resources import ResourcePath
from sqlalchemy import exc

from platevault.adapters.butler.batch import Batch
from platevault.adapters.butler.configuration import (
    RAW_DATASET_TYPE,
    RAW_DIMENSIONS,
    CataloguedFile,
    RepositoryMismatchError,
    RepositorySettings,
)
from platevault.adapters.butler.exposures import register_exposure
from platevault.adapters.butler.facts import allows_visit
from platevault.adapters.butler.instrument import CameraInstrument
from platevault.adapters.butler.repository import database_errors, open_butler
from platevault.adapters.butler.turns import RegistryTurns
from platevault.adapters.butler.visits import define_visits
from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.ports.ingest import (
    BadFileError,
    CatalogueUnavailableError,
    IngestFile,
    IngestResult,
)

#: How often an ingest begins again after another writer, or a file that vanished, got in its way.
_ROUNDS = 5

_log = structlog.get_logger(__name__)


class Catalogue:
    """A Butler repository in the hands of one thread.

    Parameters
    ----------
    settings
        Which repository.
    butler
        The Butler, for use by this object alone.
    """

    def __init__(self, *, settings: RepositorySettings, butler: Butler) -> None:
        self._settings = settings
        self._butler = butler
        self._turns = RegistryTurns(settings=settings)
        self._instruments: dict[str, CameraInstrument] = {}

    @classmethod
    def open(cls, settings: RepositorySettings) -> Catalogue:
        """Open the repository; make it first if there is none. Errors as of `open_butler`."""
        return cls(settings=settings, butler=open_butler(settings))

    def close(self) -> None:
        """Let go of the database."""
        self._turns.close()
        self._butler.close()

    def register_camera(self, camera: Camera) -> None:
        """Register instrument, visit systems, detectors, filters, dataset type and run."""
        instrument = CameraInstrument(camera, self._settings.compatibility)
        registry = self._butler.registry
        with self._database(), self._turns.turn("camera", camera.name):
            try:
                registry.registerDatasetType(
                    DatasetType(
                        RAW_DATASET_TYPE,
                        RAW_DIMENSIONS,
                        instrument.storage_class,
                        universe=self._butler.dimensions,
                    )
                )
                registry.syncDimensionData("instrument", instrument.instrument_record())
            except ConflictingDefinitionError as error:
                raise RepositoryMismatchError(
                    "Repository has another definition of the camera",
                    repository=str(self._settings.root),
                    camera=camera.name,
                    problem=str(error),
                ) from error
            for element, records in (
                ("visit_system", instrument.visit_system_records()),
                ("detector", instrument.detector_records()),
                ("physical_filter", instrument.filter_records()),
            ):
                registry.insertDimensionData(element, *records, skip_existing=True)
            self._check_detectors(instrument)
            registry.registerRun(instrument.run)
        self._instruments[camera.name] = instrument

    def ingest(self, camera: Camera, image: str, files: Sequence[IngestFile]) -> list[IngestResult]:
        """Ingest files of one exposure; see `platevault.ports.ingest.Ingest.ingest`."""
        name = ImageName.parse(image)
        instrument = self._instrument(camera)
        batch = Batch.inspect(camera, name, files)
        turn = self._turns.turn("exposure", camera.name, name.exposure_id)
        with self._database(), turn:
            for _ in range(_ROUNDS):
                try:
                    return batch.results(self._ingest(instrument, batch))
                except (ConflictingDefinitionError, exc.IntegrityError) as error:
                    _log.info("Another writer was faster", image=image, problem=str(error))
                except FileNotFoundError:
                    batch.reject_missing()
        raise CatalogueUnavailableError(
            "Other writers were always faster", image=image, rounds=_ROUNDS
        )

    def datasets(self, camera: Camera, image: str) -> dict[str, CataloguedFile]:
        """Tell which sensors of an image are catalogued, and what is recorded of their files."""
        name = ImageName.parse(image)
        instrument = self._instrument(camera)
        with self._database():
            refs = self._refs(instrument, name.exposure_id)
            sensors = {detector.id: detector.name for detector in camera.detectors}
            # The public calls ask the database once for each dataset.
            records = self._butler._datastore.export_records(refs)  # noqa: SLF001
        found = {}
        for ref in refs:
            for store in records.values():
                for items in store.records.get(ref.id, {}).values():
                    item = items[0]
                    found[sensors[ref.dataId["detector"]]] = CataloguedFile(
                        dataset_id=str(ref.id),
                        path=Path(ResourcePath(item.path).ospath),
                        size_bytes=item.file_size,
                        checksum=item.checksum or "",
                    )
        return found

    @contextmanager
    def _database(self) -> Iterator[None]:
        with database_errors(self._settings.root):
            yield

    def _instrument(self, camera: Camera) -> CameraInstrument:
        if camera.name not in self._instruments:
            self.register_camera(camera)
        return self._instruments[camera.name]

    def _check_detectors(self, instrument: CameraInstrument) -> None:
        """Find detectors that the repository knows otherwise; nothing could be done about them."""
        known = {
            record.id: record
            for record in self._butler.query_dimension_records(
                "detector", instrument=instrument.camera.name, limit=None, explain=False
            )
        }
        for wanted in instrument.detector_records():
            record = known[wanted["id"]]
            for name, value in wanted.items():
                if getattr(record, name) != value:
                    raise RepositoryMismatchError(
                        "Repository has another detector under this id",
                        repository=str(self._settings.root),
                        detector=wanted["id"],
                        field=name,
                        value=getattr(record, name),
                        expected=value,
                    )

    def _ingest(self, instrument: CameraInstrument, batch: Batch) -> dict[int, str]:
        """Register the exposure, its visits and the files of a batch; give the dataset ids."""
        exposure = register_exposure(self._butler, instrument.camera, batch)
        if exposure is None:
            return {}
        if allows_visit(batch.candidates[0].facts):
            define_visits(self._butler, instrument.camera, exposure)
        data_ids = instrument.data_ids(self._butler.dimensions, exposure)
        dataset_type = self._butler.get_dataset_type(RAW_DATASET_TYPE)
        formatter = instrument.formatter()
        datasets = {}
        for candidate in batch.candidates:
            ref = DatasetRef(
                dataset_type,
                data_ids(candidate.detector.id),
                instrument.run,
                id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
            )
            path = str(candidate.file.path)
            datasets[candidate.detector.id] = FileDataset(path, [ref], formatter=formatter)
        ids = {number: str(dataset.refs[0].id) for number, dataset in datasets.items()}
        try:
            # Without skip_existing the usual case, all new, needs no question for known paths.
            self._butler.ingest(*datasets.values(), transfer="direct")
        except ConflictingDefinitionError:
            self._reject_displaced(instrument, batch)
            left = [datasets[candidate.detector.id] for candidate in batch.candidates]
            self._butler.ingest(*left, transfer="direct", skip_existing=True)
        return ids

    def _reject_displaced(self, instrument: CameraInstrument, batch: Batch) -> None:
        """Take files out that are catalogued already under another path."""
        image = batch.candidates[0].facts.obs_id
        known = self.datasets(instrument.camera, image)
        for candidate in tuple(batch.candidates):
            present = known.get(candidate.file.sensor)
            if present is not None and present.path != candidate.file.path:
                batch.reject(
                    candidate,
                    BadFileError(
                        "Sensor is catalogued under another path",
                        file=str(candidate.file.path),
                        expected=str(present.path),
                    ),
                )

    def _refs(self, instrument: CameraInstrument, exposure_id: int) -> Sequence[DatasetRef]:
        refs: Sequence[DatasetRef] = self._butler.query_datasets(
            RAW_DATASET_TYPE,
            collections=instrument.run,
            instrument=instrument.camera.name,
            exposure=exposure_id,
            limit=None,
            explain=False,
        )
        return refs
