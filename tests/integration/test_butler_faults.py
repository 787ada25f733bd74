"""What goes wrong around a Butler repository has its own class, and nothing is lost."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import Butler
from lsst.daf.butler.registry import ConflictingDefinitionError

from platevault.adapters.butler.catalogue import Catalogue
from platevault.adapters.butler.configuration import (
    Compatibility,
    RegistryAddressError,
    RepositoryMismatchError,
    RepositorySettings,
)
from platevault.adapters.butler.ingest import ButlerIngest
from platevault.adapters.butler.repository import open_butler
from platevault.domain.errors import UsageError
from platevault.domain.ids import InvalidNameError
from platevault.ports.ingest import CatalogueUnavailableError, IngestFile, IngestResult
from platevault.testing.cameras import tiny_camera
from platevault.testing.raw_files import write_raw_file

CAMERA = tiny_camera()
IMAGE = "TC_O_20250415_000060"


def write(directory: Path, image: str = IMAGE, **changes: Any) -> list[IngestFile]:
    return [
        write_raw_file(directory, CAMERA, image, detector.name, compressed=False, **changes)
        for detector in CAMERA.detectors
    ]


@pytest.fixture(scope="module")
def made_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without images; copying it is faster than making another."""
    settings = RepositorySettings(root=tmp_path_factory.mktemp("made") / "repo")
    catalogue = Catalogue.open(settings)
    catalogue.register_camera(CAMERA)
    catalogue.close()
    return settings.root


@pytest.fixture
def no_repository() -> None:
    """Begin without a repository."""


@pytest.fixture(autouse=True)
def _repository(request: pytest.FixtureRequest, tmp_path: Path, made_repository: Path) -> None:
    if "no_repository" not in request.fixturenames:
        shutil.copytree(made_repository, tmp_path / "repo")


def problems(results: Sequence[IngestResult]) -> dict[str, str]:
    return {result.sensor: result.problem for result in results if result.problem}


def names_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


class InterruptedButler:
    """A Butler of which something happens before the first ingest calls."""

    def __init__(self, butler: Butler, *interruptions: Callable[[], None]) -> None:
        self._butler = butler
        self._interruptions = list(interruptions)
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._butler, name)

    def ingest(self, *datasets: Any, **options: Any) -> None:
        self.calls += 1
        if self._interruptions:
            self._interruptions.pop(0)()
        self._butler.ingest(*datasets, **options)


def interrupted(root: Path, *interruptions: Callable[[], None]) -> tuple[Catalogue, Any]:
    settings = RepositorySettings(root=root / "repo")
    butler = InterruptedButler(open_butler(settings), *interruptions)
    return Catalogue(settings=settings, butler=butler), butler


def another_writer() -> None:
    raise ConflictingDefinitionError("somebody was faster")


async def test_a_file_that_vanishes_during_the_call_does_not_stop_the_others(
    tmp_path: Path,
) -> None:
    files = write(tmp_path)
    catalogue, _ = interrupted(tmp_path, files[2].path.unlink)
    results = catalogue.ingest(CAMERA, IMAGE, files)
    assert list(problems(results)) == [files[2].sensor]
    assert set(catalogue.datasets(CAMERA, IMAGE)) == {f.sensor for f in files} - {files[2].sensor}
    catalogue.close()


async def test_another_writer_of_the_same_files_is_no_problem(tmp_path: Path) -> None:
    files = write(tmp_path)
    other = Catalogue.open(RepositorySettings(root=tmp_path / "repo"))
    catalogue, butler = interrupted(
        tmp_path, partial(_ignore, other.ingest, CAMERA, IMAGE, files[1:3])
    )
    results = catalogue.ingest(CAMERA, IMAGE, files)
    assert problems(results) == {}
    assert len(catalogue.datasets(CAMERA, IMAGE)) == 4
    assert butler.calls > 1
    catalogue.close()
    other.close()


def _ignore(call: Callable[..., object], *args: object) -> None:
    call(*args)


async def test_races_are_run_again_but_not_for_ever(tmp_path: Path) -> None:
    files = write(tmp_path)
    catalogue, _ = interrupted(tmp_path, *[another_writer] * 4)
    assert problems(catalogue.ingest(CAMERA, IMAGE, files)) == {}
    catalogue.close()
    catalogue, _ = interrupted(tmp_path, *[another_writer] * 100)
    with pytest.raises(CatalogueUnavailableError):
        catalogue.ingest(CAMERA, IMAGE, files)
    catalogue.close()


async def test_the_story_of_most_sensors_counts(tmp_path: Path) -> None:
    files = write(tmp_path)
    odd = write_raw_file(tmp_path, CAMERA, IMAGE, "R22_S00", DARKTIME=31.0)
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        results = await ingest.ingest(CAMERA, IMAGE, [odd, *files[1:]])
    assert list(problems(results)) == ["R22_S00"]
    assert "dark_s" in results[0].problem
    assert "31.0" in results[0].problem
    assert "30.5" in results[0].problem


async def test_a_filter_the_camera_has_not_is_named(tmp_path: Path) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        results = await ingest.ingest(CAMERA, IMAGE, write(tmp_path, FILTER="z_99"))
        assert all("z_99" in result.problem and result.bad_metadata for result in results)
        # Nothing of the bad exposure stands in the way of the mended one.
        assert problems(await ingest.ingest(CAMERA, IMAGE, write(tmp_path))) == {}


async def test_a_header_without_a_filter_keeps_no_exposure_out(tmp_path: Path) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        assert problems(await ingest.ingest(CAMERA, IMAGE, write(tmp_path, FILTER=None))) == {}


async def test_an_end_before_the_begin_is_named(tmp_path: Path) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        files = write(tmp_path, DATE_END="2025-04-16T01:00:00.000")
        results = await ingest.ingest(CAMERA, IMAGE, files)
    assert all("ends before it begins" in result.problem for result in results)


async def test_a_time_that_is_none_is_named(tmp_path: Path) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        files = write(tmp_path, MJD_BEG=None, DATE_BEG="yesterday")
        results = await ingest.ingest(CAMERA, IMAGE, files)
    assert all("yesterday" in result.problem for result in results)


@pytest.mark.parametrize(
    ("changes", "ra", "dec", "within_arcsec"),
    [
        ({"RADESYS": "FK5"}, 53.125, -28.0, 0.1),
        # By hand from azimuth 120, elevation 60 at this site and time; see the test below.
        ({"DATE": "2025-04-16T01:23:45.678", "AZSTART": 120.0, "ELSTART": 60.0}, None, None, 0.0),
    ],
)
async def test_other_frames_become_icrs(
    tmp_path: Path,
    changes: dict[str, Any],
    ra: float | None,
    dec: float | None,
    within_arcsec: float,
) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        assert problems(await ingest.ingest(CAMERA, IMAGE, write(tmp_path, **changes))) == {}
    with Butler.from_config(str(tmp_path / "repo")) as butler:
        (record,) = butler.query_dimension_records("exposure", instrument="TinyCam")
    if ra is not None and dec is not None:
        offset = np.hypot(
            (record.tracking_ra - ra) * np.cos(np.radians(dec)), record.tracking_dec - dec
        )
        assert 0 < offset * 3600 < within_arcsec
        return
    # Spherical astronomy without refraction: sin(dec) from azimuth, elevation and latitude.
    azimuth, elevation, latitude = np.radians([120.0, 60.0, CAMERA.latitude_deg])
    sine = np.sin(elevation) * np.sin(latitude) + np.cos(elevation) * np.cos(latitude) * np.cos(
        azimuth
    )
    # Precession since 2000 moves a declination by up to a seventh of a degree.
    assert abs(record.tracking_dec - np.degrees(np.arcsin(sine))) < 0.15


async def test_a_file_under_another_path_is_refused(tmp_path: Path) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.ingest(CAMERA, IMAGE, write(tmp_path / "one")[:2])
        results = await ingest.ingest(CAMERA, IMAGE, write(tmp_path / "two"))
        assert list(problems(results)) == ["R22_S00", "R22_S01"]
        paths = await ingest.catalogued(CAMERA, IMAGE)
    assert [Path(path).parent.name for _, path in sorted(paths.items())] == [
        "two", "two", "one", "one",
    ]  # fmt: skip


async def test_a_sensor_given_twice_is_told(tmp_path: Path) -> None:
    files = write(tmp_path)
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        results = await ingest.ingest(CAMERA, IMAGE, [*files, files[0]])
    assert [bool(result.problem) for result in results] == [False] * 4 + [True]


async def test_a_sensor_of_another_camera_is_told(tmp_path: Path) -> None:
    files = write(tmp_path)
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        strange = IngestFile(files[0].path, "R99_S99")
        results = await ingest.ingest(CAMERA, IMAGE, [strange, *files])
    assert list(problems(results)) == ["R99_S99"]


async def test_an_image_name_that_is_none_is_refused(tmp_path: Path) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        with pytest.raises(InvalidNameError):
            await ingest.ingest(CAMERA, "no image", [])


async def test_a_catalogue_that_goes_away_comes_back(tmp_path: Path) -> None:
    files = write(tmp_path)
    database, away = tmp_path / "repo" / "gen3.sqlite3", tmp_path / "away"
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(CAMERA)
        database.rename(away)
        database.mkdir()
        with pytest.raises(CatalogueUnavailableError):
            await ingest.ingest(CAMERA, IMAGE, files)
        with pytest.raises(CatalogueUnavailableError):
            await ingest.catalogued(CAMERA, IMAGE)
        database.rmdir()
        away.rename(database)
        assert problems(await ingest.ingest(CAMERA, IMAGE, files)) == {}


async def test_a_damaged_database_is_not_taken_for_bad_files(tmp_path: Path) -> None:
    files = write(tmp_path)
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(CAMERA)
        (tmp_path / "repo" / "gen3.sqlite3").write_bytes(b"garbage" * 1000)
        with pytest.raises(CatalogueUnavailableError):
            await ingest.ingest(CAMERA, IMAGE, files)


@pytest.mark.usefixtures("no_repository")
async def test_adapters_that_start_together_share_one_repository(tmp_path: Path) -> None:
    files = write(tmp_path)

    async def run(batch: list[IngestFile]) -> list[IngestResult]:
        async with ButlerIngest(repository=tmp_path / "repo") as ingest:
            return await ingest.ingest(CAMERA, IMAGE, batch)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(files)) for _ in range(3)]
    results = [task.result() for task in tasks]
    assert [problems(result) for result in results] == [{}, {}, {}]
    assert results[0] == results[1] == results[2]
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        assert len(await ingest.catalogued(CAMERA, IMAGE)) == 4


async def test_other_names_than_the_repository_has_are_refused(tmp_path: Path) -> None:
    obs = replace(CAMERA, obs_class="lsst.obs.lsst.X", obs_formatter="lsst.obs.lsst.rf.Y")
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(CAMERA)
    async with ButlerIngest(repository=tmp_path / "repo", compatibility="obs_lsst") as ingest:
        with pytest.raises(RepositoryMismatchError):
            await ingest.register_camera(obs)
        with pytest.raises(RepositoryMismatchError, match="no names in obs_lsst"):
            await ingest.register_camera(CAMERA)


async def test_a_detector_that_changed_its_name_is_refused(tmp_path: Path) -> None:
    renamed = replace(
        CAMERA, detectors=(replace(CAMERA.detectors[0], slot="S22"), *CAMERA.detectors[1:])
    )
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(CAMERA)
        with pytest.raises(RepositoryMismatchError) as caught:
            await ingest.register_camera(renamed)
    assert caught.value.context["detector"] == 0


async def test_a_new_filter_of_a_camera_is_added(tmp_path: Path) -> None:
    from platevault.domain.camera import Filter

    grown = replace(CAMERA, filters=(*CAMERA.filters, Filter("z_tiny", "z")))
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(CAMERA)
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(grown)
        assert problems(await ingest.ingest(grown, IMAGE, write(tmp_path, FILTER="z_tiny"))) == {}


@pytest.mark.usefixtures("no_repository")
async def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "letter.txt").write_text("mine")
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        with pytest.raises(RepositoryMismatchError):
            await ingest.register_camera(CAMERA)
    assert names_below(tmp_path) == ["repo", "repo/letter.txt"]


@pytest.mark.usefixtures("no_repository")
async def test_a_repository_of_others_needs_our_storage_class(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "repo"))
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        with pytest.raises(RepositoryMismatchError) as caught:
            await ingest.register_camera(CAMERA)
    assert caught.value.context["field"] == "storageClasses.PlatevaultRawImage"


async def test_an_adapter_that_is_not_open_says_so(tmp_path: Path) -> None:
    ingest = ButlerIngest(repository=tmp_path / "repo")
    with pytest.raises(UsageError, match="async with"):
        await ingest.register_camera(CAMERA)


async def test_the_event_loop_runs_on_during_a_call(tmp_path: Path) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async with ButlerIngest(repository=tmp_path / "repo") as ingest, asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        await ingest.register_camera(CAMERA)
        await ingest.ingest(CAMERA, IMAGE, write(tmp_path))
        ticking.cancel()
    assert ticks > 20


async def test_a_cancelled_call_may_be_made_again(tmp_path: Path) -> None:
    files = write(tmp_path)
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(CAMERA)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(ingest.ingest(CAMERA, IMAGE, files))
            await asyncio.sleep(0)
            call.cancel()
        assert problems(await ingest.ingest(CAMERA, IMAGE, files)) == {}


@pytest.mark.usefixtures("no_repository")
async def test_the_butler_takes_checksums_if_asked(tmp_path: Path) -> None:
    from hashlib import blake2b

    files = write(tmp_path)
    settings = RepositorySettings(root=tmp_path / "repo", checksum=True)
    async with ButlerIngest(repository=settings) as ingest:
        results = await ingest.ingest(CAMERA, IMAGE, files)
        known = await ingest.datasets(CAMERA, IMAGE)
    for file, result in zip(files, results, strict=True):
        found = known[file.sensor]
        assert found.dataset_id == result.dataset_id
        assert found.path == file.path
        assert found.size_bytes == file.path.stat().st_size
        assert found.checksum == blake2b(file.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("url", "namespace"), [("", "nowhere"), ("no address", "")])
@pytest.mark.usefixtures("no_repository")
async def test_a_repository_appears_whole_or_not_at_all(
    tmp_path: Path, url: str, namespace: str
) -> None:
    settings = RepositorySettings(
        root=tmp_path / "repo", registry_url=url, registry_namespace=namespace
    )
    async with ButlerIngest(repository=settings) as ingest:
        with pytest.raises(RegistryAddressError):
            await ingest.register_camera(CAMERA)
    assert names_below(tmp_path) == []


def test_settings_take_only_known_names() -> None:
    with pytest.raises(ValueError, match="obs_subaru"):
        ButlerIngest(repository=Path("x"), compatibility="obs_subaru")
    assert Compatibility("obs_lsst") is Compatibility.OBS_LSST


async def test_a_database_that_somebody_locked_is_waited_for(tmp_path: Path) -> None:
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(CAMERA)
        files = write(tmp_path)
        lock = sqlite3.connect(tmp_path / "repo" / "gen3.sqlite3")
        try:
            lock.execute("BEGIN EXCLUSIVE")
            async with asyncio.TaskGroup() as group:
                call = group.create_task(ingest.ingest(CAMERA, IMAGE, files))
                done, _ = await asyncio.wait({call}, timeout=0.3)
                assert not done
                lock.rollback()
        finally:
            lock.close()
        assert problems(call.result()) == {}


async def test_a_bias_ends_when_it_begins_whatever_its_dates_are_rounded_to(
    tmp_path: Path,
) -> None:
    # DATE-END has milliseconds, MJD-BEG the whole moment: 01:02:03.0004 ends at 01:02:03.000.
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        files = write(
            tmp_path,
            MJD_BEG=60781.04309027778 + 4e-4 / 86400,
            DATE_END="2025-04-16T01:02:03.000",
            EXPTIME=0.0,
        )
        assert problems(await ingest.ingest(CAMERA, IMAGE, files)) == {}
