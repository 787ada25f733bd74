"""How long our ingest takes against a bare batched one of the same files."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from platevault.adapters.butler.configuration import RepositorySettings
from platevault.adapters.butler.ingest import ButlerIngest
from platevault.adapters.butler.raw_file import BLOCK_BYTES
from platevault.domain.camera import Camera, Detector, SensorPurpose
from platevault.domain.ids import ImageName
from platevault.ports.ingest import IngestFile

_DAY_OBS = 20250415


@dataclass(frozen=True, slots=True)
class IngestMeasurement:
    """Times of both ways, one value per exposure.

    Attributes
    ----------
    camera, files
        Camera, and files in each exposure.
    ours_s
        `ButlerIngest.ingest`: look at each file, read its sidecar, register exposure and visit
        with regions, ingest [s].
    bare_s
        ``Butler.ingest`` alone, one direct batch, exposure registered before [s].
    """

    camera: str
    files: int
    ours_s: tuple[float, ...]
    bare_s: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of ours over median of bare."""
        return median(self.ours_s) / median(self.bare_s)


async def measure_ingest(
    directory: Path, camera: Camera, *, exposures: int = 7, science_only: bool = True
) -> IngestMeasurement:
    """Ingest the same small files our way and by a bare call, each into its own new repository.

    The two ways take turns, so that a busy machine disturbs both; the first exposure of each only
    warms up and is not counted.

    Parameters
    ----------
    directory
        Empty directory; files of 2880 bytes and two repositories are left there.
    camera
        Whose exposures; LSSTComCam has 9 science detectors, LSSTCam 189.
    exposures
        How many to count.
    science_only
        Leave guiders and wavefront sensors out.
    """
    detectors = [
        detector
        for detector in camera.detectors
        if detector.purpose is SensorPurpose.SCIENCE or not science_only
    ]
    images = [f"{camera.code}_O_{_DAY_OBS}_{number:06d}" for number in range(1, exposures + 2)]
    files = {
        image: await asyncio.to_thread(_write_exposure, directory, camera, image, detectors)
        for image in images
    }
    ours, bare = [], []
    bare_repository = RepositorySettings(root=directory / "bare")
    async with ButlerIngest(repository=directory / "ours") as ingest:
        await ingest.register_camera(camera)
        steps = _BareIngest(bare_repository, camera).times(list(files.items()))
        for image, batch in files.items():
            begin = time.perf_counter()
            results = await ingest.ingest(camera, image, batch)
            ours.append(time.perf_counter() - begin)
            problems = [result.problem for result in results if result.problem]
            assert not problems, problems[0]
            bare.append(await asyncio.to_thread(next, steps))
    return IngestMeasurement(camera.name, len(detectors), tuple(ours[1:]), tuple(bare[1:]))


class _BareIngest:
    """The least that must be done with a Butler."""

    def __init__(self, settings: RepositorySettings, camera: Camera) -> None:
        self._settings = settings
        self._camera = camera

    def times(self, exposures: Sequence[tuple[str, Sequence[IngestFile]]]) -> Iterator[float]:
        from lsst.daf.butler import DataCoordinate, DatasetIdGenEnum, DatasetRef, FileDataset

        from platevault.adapters.butler.catalogue import Catalogue
        from platevault.adapters.butler.formatter import RawFormatter
        from platevault.adapters.butler.repository import open_butler

        camera = self._camera
        butler = open_butler(self._settings)
        registering = Catalogue(settings=self._settings, butler=butler)
        registering.register_camera(camera)
        for image, files in exposures:
            exposure_id = ImageName.parse(image).exposure_id
            own = {"instrument": camera.name}
            registry = butler.registry
            registry.syncDimensionData("day_obs", {**own, "id": _DAY_OBS})
            registry.syncDimensionData("group", {**own, "name": image})
            registry.syncDimensionData(
                "exposure",
                {
                    **own,
                    "id": exposure_id,
                    "obs_id": image,
                    "physical_filter": camera.filters[0].name,
                    "group": image,
                    "day_obs": _DAY_OBS,
                },
            )
            begin = time.perf_counter()
            datasets = []
            for file in files:
                data_id = DataCoordinate.standardize(
                    instrument=camera.name,
                    detector=camera.detector_by_name[file.sensor].id,
                    exposure=exposure_id,
                    universe=butler.dimensions,
                )
                ref = DatasetRef(
                    butler.get_dataset_type("raw"),
                    data_id,
                    f"{camera.name}/raw/all",
                    id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
                )
                datasets.append(FileDataset(str(file.path), [ref], formatter=RawFormatter))
            butler.ingest(*datasets, transfer="direct", skip_existing=True)
            yield time.perf_counter() - begin
        registering.close()


def _write_exposure(
    directory: Path, camera: Camera, image: str, detectors: Sequence[Detector]
) -> list[IngestFile]:
    """Write files that are a first block only, with sidecars of a real length."""
    name = ImageName.parse(image)
    folder = directory / "files" / image
    folder.mkdir(parents=True)
    first_block = f"{'SIMPLE  =                    T':80}{'END':80}".ljust(BLOCK_BYTES).encode()
    files = []
    for detector in detectors:
        header = {
            "OBSID": image,
            "CONTRLLR": name.controller,
            "DAYOBS": str(name.day_obs),
            "SEQNUM": name.sequence,
            "GROUPID": image,
            "INSTRUME": camera.header_name,
            "RAFTBAY": detector.raft,
            "CCDSLOT": detector.slot,
            "IMGTYPE": "OBJECT",
            "DATE": "2025-04-16T01:30:00.000",
            "DATE-OBS": "2025-04-16T01:23:45.678",
            "MJD-BEG": 60781.05816756944,
            "DATE-END": "2025-04-16T01:24:15.678",
            "TIMESYS": "TAI",
            "EXPTIME": 30.0,
            "FILTER": camera.filters[0].name.partition("~")[0],
            "GRATING": camera.filters[0].name.partition("~")[2] or None,
            "RASTART": 53.125,
            "DECSTART": -28.0,
            "TRACKSYS": "RADEC",
            "RADESYS": "ICRS",
            "ROTPA": 33.0,
            "ROTCOORD": "sky",
            "VIGN_MIN": "NO",
            "SHUTTIME": 30.0,
            **{f"FILL{number:04d}": number for number in range(260)},
        }
        path = folder / f"{image}_{detector.name}.fits"
        path.write_bytes(first_block)
        sidecar = path.with_suffix(".json")
        sidecar.write_text(json.dumps(header), encoding="utf-8")
        files.append(IngestFile(path, detector.name, sidecar))
    return files
