"""What every catalogue of raw images must do; subclass `IngestContract` in a test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from platevault.domain.camera import Camera
from platevault.ports.ingest import Ingest, IngestFile, IngestResult
from platevault.testing.cameras import tiny_camera
from platevault.testing.raw_files import write_raw_file

IMAGE = "TC_O_20250415_000060"
OTHER_IMAGE = "TC_O_20250415_000061"


class IngestContract(ABC):
    """Promises of the `Ingest` port.

    A subclass opens an adapter on a catalogue that outlives it and reads that catalogue without
    the adapter, so that the adapter does not vouch for itself.
    """

    @abstractmethod
    def open_ingest(self, directory: Path) -> AbstractAsyncContextManager[Ingest]:
        """Open an adapter; its catalogue is kept below ``directory`` between openings."""

    @abstractmethod
    def stored(self, directory: Path, camera: Camera, image: str) -> Mapping[str, tuple[str, str]]:
        """Read the catalogue by other means: sensor -> (dataset id, path)."""

    @pytest.fixture
    def camera(self) -> Camera:
        return tiny_camera()

    @pytest.fixture
    async def ingest(self, tmp_path: Path, camera: Camera) -> AsyncIterator[Ingest]:
        async with self._opened(tmp_path, camera) as ingest:
            yield ingest

    @asynccontextmanager
    async def _opened(self, directory: Path, camera: Camera) -> AsyncIterator[Ingest]:
        async with self.open_ingest(directory) as ingest:
            await ingest.register_camera(camera)
            yield ingest

    async def test_every_file_of_a_batch_is_catalogued_where_it_is(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        results = await ingest.ingest(camera, IMAGE, files)
        assert [result.sensor for result in results] == [file.sensor for file in files]
        assert [result.problem for result in results] == [""] * len(files)
        assert self.stored(tmp_path, camera, IMAGE) == {
            file.sensor: (result.dataset_id, str(file.path))
            for file, result in zip(files, results, strict=True)
        }

    async def test_the_catalogue_tells_what_it_has(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        await ingest.ingest(camera, IMAGE, files[:3])
        assert await ingest.catalogued(camera, IMAGE) == {
            file.sensor: str(file.path) for file in files[:3]
        }
        assert await ingest.catalogued(camera, OTHER_IMAGE) == {}

    async def test_registering_a_camera_again_is_success(
        self, ingest: Ingest, camera: Camera
    ) -> None:
        await ingest.register_camera(camera)

    async def test_ingesting_again_gives_the_same_datasets_once(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        first = await ingest.ingest(camera, IMAGE, files)
        assert await ingest.ingest(camera, IMAGE, files) == first
        assert len(self.stored(tmp_path, camera, IMAGE)) == len(files)

    async def test_a_straggler_joins_its_exposure(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        early = await ingest.ingest(camera, IMAGE, files[1:])
        late = await ingest.ingest(camera, IMAGE, files[:1])
        assert [result.problem for result in early + late] == [""] * len(files)
        assert set(self.stored(tmp_path, camera, IMAGE)) == {file.sensor for file in files}

    async def test_what_is_catalogued_outlives_the_adapter(
        self, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        async with self._opened(tmp_path, camera) as ingest:
            first = await ingest.ingest(camera, IMAGE, files)
        async with self._opened(tmp_path, camera) as ingest:
            assert set(await ingest.catalogued(camera, IMAGE)) == {file.sensor for file in files}
            assert await ingest.ingest(camera, IMAGE, files) == first

    async def test_another_catalogue_gives_the_same_dataset_ids(
        self, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        ids = []
        for site in ("summit", "base"):
            async with self._opened(tmp_path / site, camera) as ingest:
                results = await ingest.ingest(camera, IMAGE, files)
                ids.append([result.dataset_id for result in results])
        assert ids[0] == ids[1]
        assert len(set(ids[0])) == len(files)

    async def test_a_missing_file_does_not_stop_the_others(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        files[1].path.unlink()
        results = await ingest.ingest(camera, IMAGE, files)
        self._only_the_second_is_bad(results, tmp_path, camera, bad_metadata=False)

    @pytest.mark.parametrize("contents", [b"", b"no FITS file", b"cut off"])
    async def test_a_file_that_is_no_raw_image_does_not_stop_the_others(
        self, ingest: Ingest, camera: Camera, tmp_path: Path, contents: bytes
    ) -> None:
        files = write_files(tmp_path, camera)
        if contents == b"cut off":
            contents = files[1].path.read_bytes()[:-1000]
        files[1].path.write_bytes(contents)
        results = await ingest.ingest(camera, IMAGE, files)
        self._only_the_second_is_bad(results, tmp_path, camera, bad_metadata=False)

    @pytest.mark.parametrize("sidecar", [b"", b"[1, 2]", b'{"OBSID": ', b"\xff\xfe"])
    async def test_a_broken_sidecar_does_not_stop_the_others(
        self, ingest: Ingest, camera: Camera, tmp_path: Path, sidecar: bytes
    ) -> None:
        files = write_files(tmp_path, camera)
        assert files[1].sidecar is not None
        files[1].sidecar.write_bytes(sidecar)
        results = await ingest.ingest(camera, IMAGE, files)
        self._only_the_second_is_bad(results, tmp_path, camera, bad_metadata=True)

    async def test_a_sensor_that_tells_another_story_does_not_stop_the_others(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        files[1] = write_raw_file(tmp_path, camera, IMAGE, files[1].sensor, DARKTIME=30.6)
        results = await ingest.ingest(camera, IMAGE, files)
        self._only_the_second_is_bad(results, tmp_path, camera, bad_metadata=True)

    @pytest.mark.parametrize("alone", [True, False])
    async def test_a_straggler_that_tells_another_story_is_refused(
        self, ingest: Ingest, camera: Camera, tmp_path: Path, *, alone: bool
    ) -> None:
        files = write_files(tmp_path, camera)
        files[1] = write_raw_file(tmp_path, camera, IMAGE, files[1].sensor, RASTART=53.126)
        results = await ingest.ingest(camera, IMAGE, [files[0], *files[2:]])
        again = await ingest.ingest(camera, IMAGE, files[1:2] if alone else files)
        results.insert(1, again[0 if alone else 1])
        self._only_the_second_is_bad(results, tmp_path, camera, bad_metadata=True)

    async def test_a_file_of_another_sensor_is_refused(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        files[1] = IngestFile(files[0].path, files[1].sensor, files[0].sidecar)
        results = await ingest.ingest(camera, IMAGE, files)
        self._only_the_second_is_bad(results, tmp_path, camera, bad_metadata=True)

    async def test_a_mended_file_is_taken(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera)
        whole = files[1].path.read_bytes()
        files[1].path.write_bytes(whole[:100])
        assert (await ingest.ingest(camera, IMAGE, files))[1].problem != ""
        files[1].path.write_bytes(whole)
        assert (await ingest.ingest(camera, IMAGE, files[1:2]))[0].problem == ""
        assert set(self.stored(tmp_path, camera, IMAGE)) == {file.sensor for file in files}

    async def test_files_without_sidecars_are_read_themselves(
        self, ingest: Ingest, camera: Camera, tmp_path: Path
    ) -> None:
        files = write_files(tmp_path, camera, sidecar=False)
        results = await ingest.ingest(camera, IMAGE, files)
        assert [result.problem for result in results] == [""] * len(files)

    async def test_nothing_to_ingest_gives_no_results(self, ingest: Ingest, camera: Camera) -> None:
        assert await ingest.ingest(camera, IMAGE, []) == []

    def _only_the_second_is_bad(
        self, results: list[IngestResult], directory: Path, camera: Camera, *, bad_metadata: bool
    ) -> None:
        bad = results[1]
        assert bad.problem
        assert (bad.dataset_id, bad.bad_metadata) == ("", bad_metadata)
        good = [result for result in results if result is not bad]
        assert [result.problem for result in good] == [""] * 3
        stored = self.stored(directory, camera, IMAGE)
        assert {sensor: number for sensor, (number, _) in stored.items()} == {
            result.sensor: result.dataset_id for result in good
        }


def write_files(directory: Path, camera: Camera, *, sidecar: bool = True) -> list[IngestFile]:
    """Write the files of `IMAGE`, one for each detector."""
    return [
        write_raw_file(directory, camera, IMAGE, detector.name, seed=detector.id, sidecar=sidecar)
        for detector in camera.detectors
    ]
