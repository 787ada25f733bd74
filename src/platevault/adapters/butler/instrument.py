"""A camera as the Butler knows it: instrument, detectors, filters, dataset type, run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lsst.daf.butler import DataCoordinate, DimensionRecord, DimensionUniverse, FormatterV2

from platevault.adapters.butler.configuration import (
    BY_SEQ_START_END,
    OBS_STORAGE_CLASS,
    RAW_STORAGE_CLASS,
    VISIT_SYSTEMS,
    Compatibility,
    RepositoryMismatchError,
)
from platevault.adapters.butler.dimension_records import day_obs_record, physical_filters
from platevault.adapters.butler.formatter import RawFormatter
from platevault.domain.camera import Camera, Detector

#: Raft names that obs_lsst has instead of those in names and keywords (raw-file contract, sec. 4).
_OBS_RAFTS: Mapping[tuple[str, str], str] = {("LATISS", "R00"): "RXX"}


class CameraInstrument:
    """Dimension records of a camera; its class name stands in the instrument record.

    Parameters
    ----------
    camera
        The camera.
    compatibility
        Whose names to record.
    """

    def __init__(self, camera: Camera, compatibility: Compatibility) -> None:
        self.camera = camera
        self._bands = physical_filters(camera)
        self._obs = compatibility is Compatibility.OBS_LSST
        if self._obs and not (camera.obs_class and camera.obs_formatter):
            raise RepositoryMismatchError(
                "Camera has no names in obs_lsst",
                field="obs_class",
                camera=camera.name,
                expected="compatibility: platevault",
            )

    @property
    def run(self) -> str:
        """Run of raw images."""
        return f"{self.camera.name}/raw/all"

    @property
    def storage_class(self) -> str:
        """Storage class of raw images."""
        return OBS_STORAGE_CLASS if self._obs else RAW_STORAGE_CLASS

    @property
    def class_name(self) -> str:
        """Class name in the instrument record."""
        if self._obs:
            return self.camera.obs_class
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def detector_name(self, detector: Detector) -> str:
        """Give the full name of a detector in its record."""
        return f"{self._raft(detector)}_{detector.slot}"

    def formatter(self) -> type[Any]:
        """Give the formatter class to record with a dataset.

        Without obs_lsst installed, a stand-in bears the name of its formatter; it is only ever
        recorded, never used to read.
        """
        if not self._obs:
            return RawFormatter
        module_name, _, class_name = self.camera.obs_formatter.rpartition(".")
        try:
            found: type[Any] = getattr(import_module(module_name), class_name)
        except ImportError:
            found = type(class_name, (FormatterV2,), {"__module__": module_name})
        return found

    def instrument_record(self) -> dict[str, Any]:
        """Give the fields of the instrument record."""
        return {
            "name": self.camera.name,
            "class_name": self.class_name,
            "detector_max": self.camera.detector_max,
            "exposure_max": self.camera.exposure_max,
            "visit_max": self.camera.exposure_max,
            "visit_system": BY_SEQ_START_END,
        }

    def visit_system_records(self) -> list[dict[str, Any]]:
        """Give the fields of the visit system records."""
        return [
            {"instrument": self.camera.name, "id": number, "name": name}
            for number, name in VISIT_SYSTEMS.items()
        ]

    def detector_records(self) -> list[dict[str, Any]]:
        """Give the fields of the detector records."""
        return [
            {
                "instrument": self.camera.name,
                "id": detector.id,
                "full_name": self.detector_name(detector),
                "name_in_raft": detector.slot,
                "raft": self._raft(detector),
                "purpose": detector.purpose.value,
            }
            for detector in self.camera.detectors
        ]

    def filter_records(self) -> list[dict[str, Any]]:
        """Give the fields of the filter records; a filter without a band is its own band."""
        return [
            {"instrument": self.camera.name, "name": name, "band": band}
            for name, band in self._bands.items()
        ]

    def data_ids(
        self, universe: DimensionUniverse, exposure: DimensionRecord
    ) -> Callable[[int], DataCoordinate]:
        """Give a function from detector id to the data id of a raw image, records attached.

        With its records a data id needs no question to the database when it is ingested.
        """
        shared = {
            "instrument": self.instrument_record(),
            "band": {"name": self._bands[exposure.physical_filter]},
            "physical_filter": {
                "instrument": self.camera.name,
                "name": exposure.physical_filter,
                "band": self._bands[exposure.physical_filter],
            },
            "day_obs": day_obs_record(exposure.day_obs, self.camera),
            "group": {"instrument": self.camera.name, "name": exposure.group},
        }
        records = {name: universe[name].RecordClass(**fields) for name, fields in shared.items()}
        records["exposure"] = exposure
        detectors = {fields["id"]: fields for fields in self.detector_records()}
        detector_record = universe["detector"].RecordClass

        def data_id(detector_id: int) -> DataCoordinate:
            plain = DataCoordinate.standardize(
                instrument=self.camera.name,
                detector=detector_id,
                exposure=exposure.id,
                universe=universe,
            )
            return plain.expanded(
                {**records, "detector": detector_record(**detectors[detector_id])}
            )

        return data_id

    def _raft(self, detector: Detector) -> str:
        if self._obs:
            return _OBS_RAFTS.get((self.camera.name, detector.raft), detector.raft)
        return detector.raft
