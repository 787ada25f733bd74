"""The Butler adapter keeps the contract of catalogues with its registry in PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from typing_extensions import override

from platevault.adapters.butler.configuration import RegistryAddressError, RepositorySettings
from platevault.adapters.butler.ingest import ButlerIngest
from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.ports.ingest import CatalogueUnavailableError, Ingest
from platevault.testing.butler_datasets import stored_datasets
from platevault.testing.cameras import tiny_camera
from platevault.testing.ingest_contract import IMAGE, IngestContract, write_files
from platevault.testing.servers import PostgresServer, ServerMissingError

pytestmark = pytest.mark.servers
_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[PostgresServer]:
    try:
        with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION btree_gist")
            yield server
    except ServerMissingError as error:
        service_missing(str(error))


class TestButlerIngestOnPostgres(IngestContract):
    @pytest.fixture(autouse=True)
    def _address(self, server: PostgresServer) -> None:
        self._url = server.url.replace("postgresql://", "postgresql+psycopg://")
        self._namespaces: dict[Path, str] = {}

    @override
    def open_ingest(self, directory: Path) -> AbstractAsyncContextManager[Ingest]:
        namespace = self._namespaces.setdefault(directory, f"butler_{next(_numbers)}")
        return ButlerIngest(
            repository=RepositorySettings(
                root=directory / "repo",
                registry_url=self._url,
                registry_namespace=namespace,
            )
        )

    @override
    def stored(self, directory: Path, camera: Camera, image: str) -> Mapping[str, tuple[str, str]]:
        return stored_datasets(directory / "repo", camera, image)


@pytest.fixture
def settings(server: PostgresServer, tmp_path: Path) -> RepositorySettings:
    return RepositorySettings(
        root=tmp_path / "repo",
        registry_url=server.url.replace("postgresql://", "postgresql+psycopg://"),
        registry_namespace=f"butler_{next(_numbers)}",
    )


async def test_two_may_make_the_repository_at_once(settings: RepositorySettings) -> None:
    camera = tiny_camera()
    async with (
        ButlerIngest(repository=settings) as one,
        ButlerIngest(repository=settings) as two,
        asyncio.TaskGroup() as group,
    ):
        for each in (one, two):
            group.create_task(each.register_camera(camera))


async def test_two_that_ingest_the_same_exposure_catalogue_each_file_once(
    settings: RepositorySettings, tmp_path: Path
) -> None:
    camera = tiny_camera()
    files = write_files(tmp_path, camera)
    async with (
        ButlerIngest(repository=settings) as one,
        ButlerIngest(repository=settings) as two,
    ):
        await one.register_camera(camera)
        await two.register_camera(camera)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each.ingest(camera, IMAGE, part))
                for each, part in ((one, files), (two, files[::-1]), (one, files[:2]))
            ]
        results = [{item.sensor: item for item in task.result()} for task in tasks]
        assert results[0] == results[1]
        assert results[2].items() <= results[0].items()
        assert {item.problem for item in results[0].values()} == {""}
        assert await one.catalogued(camera, IMAGE) == {
            file.sensor: str(file.path) for file in files
        }


async def test_a_registry_that_another_repository_uses_is_refused(
    settings: RepositorySettings,
) -> None:
    camera = tiny_camera()
    async with ButlerIngest(repository=settings) as ingest:
        await ingest.register_camera(camera)
    other = replace(settings, root=settings.root.with_name("other"))
    async with ButlerIngest(repository=other) as ingest:
        with pytest.raises(RegistryAddressError):
            await ingest.register_camera(camera)
    assert not other.root.exists()


async def test_an_ingest_waits_for_its_turn_at_the_exposure(
    server: PostgresServer, settings: RepositorySettings, tmp_path: Path
) -> None:
    camera = tiny_camera()
    files = write_files(tmp_path, camera)
    name = (
        f"platevault {settings.registry_namespace} exposure {camera.name}"
        f" {ImageName.parse(IMAGE).exposure_id}"
    )
    async with ButlerIngest(repository=settings) as ingest, asyncio.TaskGroup() as group:
        await ingest.register_camera(camera)
        async with await psycopg.AsyncConnection.connect(server.url) as holder:
            await holder.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
            task = group.create_task(ingest.ingest(camera, IMAGE, files))
            async with asyncio.timeout(20):
                while not await _waiters(server):
                    assert not task.done()
        assert [result.problem for result in await task] == [""] * len(files)


async def _waiters(server: PostgresServer) -> int:
    async with await psycopg.AsyncConnection.connect(server.url) as connection:
        found = await connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        )
        (count,) = await found.fetchone() or (0,)
        return int(count)


async def test_a_registry_that_is_down_is_unavailable_and_works_when_it_is_back(
    server: PostgresServer, settings: RepositorySettings, tmp_path: Path
) -> None:
    camera = tiny_camera()
    files = write_files(tmp_path, camera)
    async with ButlerIngest(repository=settings) as ingest:
        await ingest.register_camera(camera)
        await asyncio.to_thread(server.stop)
        try:
            for _ in range(2):
                with pytest.raises(CatalogueUnavailableError):
                    await ingest.ingest(camera, IMAGE, files)
        finally:
            await asyncio.to_thread(server.start)
        results = await ingest.ingest(camera, IMAGE, files)
        assert [result.problem for result in results] == [""] * len(files)
        await asyncio.to_thread(server.restart)
        assert await ingest.ingest(camera, IMAGE, files) == results
