"""Two OODS processes of one camera over PostgreSQL and RabbitMQ: each file goes in exactly once."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import yaml
from lsst.daf.butler import Butler

from platevault.adapters.postgres import PostgresFileLedger
from platevault.adapters.rabbitmq import RabbitWorkQueue
from platevault.adapters.system_clock import SystemClock
from platevault.compose.cameras import format_camera
from platevault.compose.server_context import Part, Servers
from platevault.compose.settings import Settings, load_settings
from platevault.domain.camera import Camera
from platevault.domain.ids import FileKey, FileKind, ImageName
from platevault.domain.inventory import Exposure
from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.messages import ImageInOods, IngestRequest, singles
from platevault.domain.places import archiver_queue, exposure_directory, oods_queue
from platevault.ports.file_ledger import Change
from platevault.ports.work_queue import QueueUnavailableError
from platevault.testing.cameras import tiny_camera
from platevault.testing.command_line import serving
from platevault.testing.dds_domains import own_domain
from platevault.testing.message_servers import rabbitmqctl
from platevault.testing.raw_files import some_counts, write_raw_file
from platevault.testing.servers import (
    PostgresServer,
    RabbitServer,
    RedisServer,
    ServerMissingError,
    free_port,
)

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]
IMAGES = [f"TC_O_20250415_{number:06d}" for number in range(100, 124)]
_hosts = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A site that has servers and files, and no OODS yet."""

    config: Path
    camera: Camera
    document: Path
    settings: Settings
    ledger: PostgresFileLedger
    queue: RabbitWorkQueue

    def oods(self, name: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return serving(
            "oods", "--config", str(self.config), "--camera", str(self.document),
            "--name", name, "--state", "enabled", log=self.log(name),
        )  # fmt: skip

    def log(self, name: str) -> Path:
        return self.config.with_name(f"{name}.jsonl")

    def catalogued_by(self, name: str) -> list[str]:
        """Name the exposures of which an OODS says that it catalogued them."""
        lines = [json.loads(line) for line in self.log(name).read_text().splitlines() if line]
        return [line["image"] for line in lines if line["event"] == "Exposure catalogued"]

    async def until_ready(self, *names: str) -> None:
        async def are_ready() -> bool:
            sign = '"service": "readiness", "event": "Service ready"'
            return all(sign in self.log(name).read_text() for name in names)

        await self.until(are_ready)

    async def arrive(self, image: str) -> None:
        """Let the files of an exposure come into the OODS area, and tell of each."""
        folder = self.settings.oods_dir / exposure_directory(self.camera.name, image)
        sensors = {one.name: one.purpose.value for one in self.camera.detectors}
        keys = [
            FileKey(image, sensor, kind)
            for sensor in sensors
            for kind in (FileKind.RAW, FileKind.SIDECAR)
        ]
        now_tai = SystemClock().now_tai()
        await self.ledger.register(
            Exposure(
                image=image,
                camera=self.camera.name,
                day_obs=ImageName.parse(image).day_obs,
                exposure_id=ImageName.parse(image).exposure_id,
                sensors=sensors,
            ),
            files=keys,
            now_tai=now_tai,
        )
        await asyncio.to_thread(self._write, folder, image)
        await self.ledger.begin(keys, Destination.OODS, worker="test", fence=0, now_tai=now_tai)
        for state in (FileState.SENT, FileState.VERIFIED):
            changes = [self._change(folder, key, state) for key in keys]
            await self.ledger.apply(changes, now_tai=now_tai)
        for sensor in sensors:
            await self.queue.send(
                oods_queue(self.camera.name),
                IngestRequest(
                    camera=self.camera.name,
                    image=image,
                    sensor=sensor,
                    path=str(folder / FileKey(image, sensor, FileKind.RAW).file_name),
                ),
            )

    def _write(self, folder: Path, image: str) -> None:
        for detector in self.camera.detectors:
            write_raw_file(folder, self.camera, image, detector.name, seed=detector.id)

    def _change(self, folder: Path, key: FileKey, state: FileState) -> Change:
        path = folder / key.file_name
        body = path.read_bytes()
        return Change(
            key,
            Destination.OODS,
            state,
            path=str(path),
            size_bytes=len(body),
            digest=f"sha256:{hashlib.sha256(body).hexdigest()}",
        )

    async def count(self, state: FileState) -> int:
        """Count raw files in a state."""
        rows = await self.ledger.files(destination=Destination.OODS, states={state})
        return sum(row.key.kind is FileKind.RAW for row in rows)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(120):
            while not await holds():  # noqa: ASYNC110 - other processes have no event
                await asyncio.sleep(0.02)

    async def is_all_done(self) -> bool:
        """Tell whether every file is catalogued and no request waits."""
        if await self.count(FileState.CATALOGUED) < len(IMAGES) * len(self.camera.detectors):
            return False
        try:
            return not await self.queue.depth(oods_queue(self.camera.name))
        except QueueUnavailableError:  # the broker still counts on the one that was killed
            return False


@pytest.fixture(scope="module")
def postgres(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[PostgresServer]:
    try:
        with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
            server.add_extension("btree_gist")
            yield server
    except ServerMissingError as error:
        service_missing(str(error))


@pytest.fixture
async def scene(
    tmp_path: Path,
    postgres: PostgresServer,
    rabbit_server: RabbitServer,
    redis_server: RedisServer,
) -> AsyncIterator[Scene]:
    site = f"oods{next(_hosts)}x{free_port()}"
    rabbitmqctl(rabbit_server, "add_vhost", site)
    rabbitmqctl(rabbit_server, "set_permissions", "-p", site, "guest", ".*", ".*", ".*")
    camera = tiny_camera()
    document = tmp_path / "tiny.yaml"
    document.write_text(format_camera(camera))
    config = tmp_path / "site.yaml"
    config.touch(mode=0o600)
    content = {
        "root": str(tmp_path / "data"),
        "bus": "dds",
        "dds": {"domain_id": own_domain()},
        "queue": "rabbitmq",
        "leases": "redis",
        "ledger": "postgres",
        "oods": {"registry": "postgres"},
        "rabbitmq": {
            "hosts": [rabbit_server.host], "port": rabbit_server.port, "virtual_host": site,
            "user": "guest", "password": "guest",
        },
        "redis": {"port": redis_server.port, "namespace": site},
        "postgres": {
            "host": postgres.host, "port": postgres.port, "ledger_schema": f"ledger_{site}",
            "registry_schema": f"butler_{site}",
        },
    }  # fmt: skip
    config.write_text(yaml.safe_dump(content))
    settings = load_settings(config)
    parts = frozenset({Part.QUEUE, Part.LEDGER})
    async with AsyncExitStack() as stack:
        servers = Servers(settings=settings, clock=SystemClock(), stack=stack, parts=parts)
        queue, ledger = await servers.queue(), await servers.ledger()
        assert isinstance(queue, RabbitWorkQueue)
        assert isinstance(ledger, PostgresFileLedger)
        yield Scene(
            config=config,
            camera=camera,
            document=document,
            settings=settings,
            ledger=ledger,
            queue=queue,
        )
    rabbitmqctl(rabbit_server, "delete_vhost", site)


async def check(scene: Scene) -> None:
    """Read back with the Butler: each file once, where it is, with its own pixels."""
    camera, files = scene.camera, len(IMAGES) * len(scene.camera.detectors)
    assert await scene.count(FileState.CATALOGUED) == files
    with Butler.from_config(str(scene.settings.butler_dir)) as butler:
        refs = butler.query_datasets("raw", collections="*", find_first=False, limit=None)
        places = Counter((ref.dataId["exposure"], ref.dataId["detector"]) for ref in refs)
        assert places == Counter(
            (ImageName.parse(image).exposure_id, detector.id)
            for image in IMAGES
            for detector in camera.detectors
        )
        assert len({butler.getURI(ref).ospath for ref in refs}) == files
        assert len(butler.query_dimension_records("exposure", limit=None)) == len(IMAGES)
        for detector in camera.detectors:
            raw = butler.get(
                "raw",
                instrument=camera.name,
                detector=detector.id,
                exposure=ImageName.parse(IMAGES[0]).exposure_id,
                collections=f"{camera.name}/raw/all",
            )
            truth = some_counts(detector.type, seed=detector.id)
            np.testing.assert_array_equal([one.pixels for one in raw.amplifiers], truth)
    assert await scene.queue.dead_letters() == []
    assert not scene.settings.quarantine_dir.exists()
    # The Archiver hears that each file is in, and of no failure.
    told: Counter[tuple[str, str]] = Counter()
    name = archiver_queue(camera.name)
    async with scene.queue.consume(name, prefetch=100) as deliveries:
        while len(told) < files:
            async with asyncio.timeout(10):
                delivery = await anext(deliveries)
            for message in singles(delivery.message):
                assert isinstance(message, ImageInOods)
                assert message.status_code == 0, message
                told[message.image, message.sensor] += 1
            await delivery.ack()
    assert {*told} == {(image, one.name) for image in IMAGES for one in camera.detectors}


async def test_two_that_share_a_camera_catalogue_each_file_once(scene: Scene) -> None:
    with scene.oods("one"), scene.oods("two"):
        await scene.until_ready("one", "two")
        for image in IMAGES:
            await scene.arrive(image)
        await scene.until(scene.is_all_done)
    await check(scene)
    assert scene.catalogued_by("one")
    assert scene.catalogued_by("two")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
async def test_one_that_is_killed_leaves_its_work_to_the_other(scene: Scene, share: float) -> None:
    files = len(IMAGES) * len(scene.camera.detectors)

    async def is_so_far() -> bool:
        done = await scene.count(FileState.CATALOGUED)
        return done >= share * files and bool(scene.catalogued_by("one"))

    async def feed() -> None:
        for image in IMAGES:
            await scene.arrive(image)

    with scene.oods("one") as killed, scene.oods("two"):
        await scene.until_ready("one", "two")
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            await scene.until(is_so_far)
            killed.kill()
            # Otherwise it was killed too late to prove anything.
            assert await scene.count(FileState.CATALOGUED) < files
        await scene.until(scene.is_all_done)
    await check(scene)
    assert scene.catalogued_by("two")
