"""The OODS catalogues exposures whole, tells the truth of each file, and loses none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from platevault.adapters.filesystem.durable import SyncPolicy
from platevault.adapters.filesystem.links import FilesystemLinkStore
from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.adapters.sqlite import SqliteFileLedger
from platevault.domain.camera import Camera
from platevault.domain.errors import UsageError
from platevault.domain.ids import FileKey, FileKind, ImageName
from platevault.domain.inventory import Exposure, FileRecord
from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.messages import (
    HealthCheck,
    ImageInOods,
    IngestRequest,
    Message,
    singles,
)
from platevault.domain.places import archiver_queue, exposure_directory, oods_queue
from platevault.ports.file_ledger import Change, FileLedger, LedgerUnavailableError
from platevault.ports.ingest import CatalogueUnavailableError, Ingest, IngestFile, IngestResult
from platevault.runtime.service import Service, StopToken
from platevault.services.oods import OODS_STEPS, Oods
from platevault.testing.cameras import tiny_camera
from platevault.testing.clocks import SteppedClock
from platevault.testing.crashes import Crash, CrashAt

IMAGE = "TC_O_20330517_000001"
OTHER = "TC_O_20330517_000002"
SENSORS = ("R22_S00", "R22_S01", "R00_SG0", "R00_SG1")
DIGEST = "sha256:"


class FakeIngest(Ingest):
    """A catalogue in memory that can be down, hang, or find files bad."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.datasets: dict[tuple[str, str], int] = {}
        self.down = False
        self.refused = 0
        self.errors: dict[str, Exception] = {}
        self.bad: dict[str, tuple[str, bool]] = {}
        self.registered = 0

    @override
    async def register_camera(self, camera: Camera) -> None:
        self._answer()
        self.registered += 1

    @override
    async def ingest(
        self, camera: Camera, image: str, files: Sequence[IngestFile]
    ) -> list[IngestResult]:
        self._answer()
        self.calls.append((image, tuple(file.sensor for file in files)))
        if image in self.errors:
            raise self.errors[image]
        results = []
        for file in files:
            assert file.path.name == f"{image}_{file.sensor}.fits"
            assert file.sidecar == file.path.with_suffix(".json")
            if file.sensor in self.bad:
                problem, bad_metadata = self.bad[file.sensor]
                results.append(
                    IngestResult(file.sensor, problem=problem, bad_metadata=bad_metadata)
                )
            else:
                key = (image, file.sensor)
                self.datasets[key] = self.datasets.get(key, 0) + 1
                results.append(IngestResult(file.sensor, dataset_id=f"{image}/{file.sensor}"))
        return results

    @override
    async def catalogued(self, camera: Camera, image: str) -> Mapping[str, str]:
        return {sensor: "" for known, sensor in self.datasets if known == image}

    def _answer(self) -> None:
        if self.down:
            self.refused += 1
            raise CatalogueUnavailableError("down")


class FlakyLedger:
    """A ledger that does not answer some calls."""

    def __init__(self, ledger: FileLedger) -> None:
        self._ledger = ledger
        self.failing: dict[str, int] = {}
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self.called.append(name)
            if self.failing.get(name, 0) > 0:
                self.failing[name] -= 1
                raise LedgerUnavailableError("busy", call=name)
            return await getattr(self._ledger, name)(*args, **options)

        return call


class OodsRig:
    """Ledger, queue, area and catalogue of one OODS; time moves when the test says so."""

    def __init__(self, root: Path, ledger: FileLedger, links: FilesystemLinkStore) -> None:
        self.camera = tiny_camera()
        self.clock = SteppedClock()
        self.queue = MemoryWorkQueue(clock=self.clock)
        self.ledger = ledger
        self.links = links
        self.ingest = FakeIngest()
        self.area = root / "oods"
        self.quarantine = root / "quarantine"
        self.announced: list[ImageInOods] = []
        self._running: list[tuple[StopToken, asyncio.Task[None]]] = []

    def oods(self, **options: Any) -> Oods:
        return Oods(
            camera=self.camera,
            ingest=self.ingest,
            ledger=options.pop("ledger", self.ledger),
            queue=self.queue,
            links=self.links,
            quarantine=self.quarantine,
            clock=self.clock,
            announce=self._announce,
            **options,
        )

    async def _announce(self, result: ImageInOods) -> None:
        self.announced.append(result)

    async def start(self, **options: Any) -> Oods:
        oods = self.oods(**options)
        await self.start_service(oods)
        return oods

    async def start_service(self, service: Service) -> None:
        ready = asyncio.Event()
        stop = StopToken()
        task = asyncio.get_running_loop().create_task(
            service.run(stop, ready.set), name=f"rig-{service.name}"
        )
        self._running.append((stop, task))
        await self.until(lambda: ready.is_set() or task.done())

    async def stop(self) -> None:
        stop, task = self._running.pop()
        stop.request()
        await self.until(task.done, step_s=0.0)
        task.result()

    async def crashed(self) -> None:
        _, task = self._running[-1]
        await self.until(task.done)
        self._running.pop()
        with pytest.raises(BaseExceptionGroup) as caught:
            task.result()
        assert caught.group_contains(Crash)

    async def close(self) -> None:
        for _, task in self._running:
            task.cancel()
            await asyncio.wait({task})

    async def until(
        self, condition: Callable[[], bool | Awaitable[bool]], *, step_s: float = 0.05
    ) -> None:
        """Let threads work and time pass until a condition holds."""
        for _ in range(2000):
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.001)
            await self.clock.advance(step_s)
        raise AssertionError("It did not come to pass")

    async def rest(self) -> None:
        """Let threads and tasks come to rest, while time stands still."""
        for _ in range(30):
            await asyncio.sleep(0.002)
            await self.clock.settle()

    async def arrive(
        self,
        image: str = IMAGE,
        sensors: Collection[str] = SENSORS,
        *,
        announce: bool = True,
        expected: Collection[str] = SENSORS,
    ) -> None:
        """Bring files into the OODS area, and say so."""
        await self.register(image, expected)
        for sensor in sensors:
            await self._verify(image, sensor)
        if announce:
            for sensor in sensors:
                await self.announce(image, sensor)

    async def register(self, image: str, expected: Collection[str] = SENSORS) -> None:
        name = ImageName.parse(image)
        exposure = Exposure(
            image, self.camera.name, name.day_obs, name.exposure_id, dict.fromkeys(expected, "S")
        )
        keys = [
            FileKey(image, sensor, kind)
            for sensor in expected
            for kind in (FileKind.RAW, FileKind.SIDECAR)
        ]
        await self.ledger.register(
            exposure,
            files=[*keys, FileKey(image, "", FileKind.MANIFEST)],
            now_tai=self.clock.now_tai(),
        )

    async def _verify(self, image: str, sensor: str) -> None:
        import hashlib

        folder = self.area / exposure_directory(self.camera.name, image)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        for kind in (FileKind.SIDECAR, FileKind.RAW):
            key = FileKey(image, sensor, kind)
            path = folder / key.file_name
            body = f"{image} {sensor} {kind}".encode()
            await asyncio.to_thread(path.write_bytes, body)
            digest = DIGEST + hashlib.sha256(body).hexdigest()
            now_tai = self.clock.now_tai()
            await self.ledger.begin(
                [key], Destination.OODS, worker="test", fence=0, now_tai=now_tai
            )
            for state in (FileState.SENT, FileState.VERIFIED):
                change = Change(
                    key, Destination.OODS, state, path=str(path), size_bytes=9, digest=digest
                )
                await self.ledger.apply([change], now_tai=now_tai)

    async def announce(self, image: str, sensor: str, **changes: Any) -> None:
        folder = self.area / exposure_directory(self.camera.name, image)
        fields = {
            "camera": self.camera.name,
            "image": image,
            "sensor": sensor,
            "path": str(folder / f"{image}_{sensor}.fits"),
            **changes,
        }
        await self.queue.send(oods_queue(self.camera.name), IngestRequest(**fields))

    async def raws(self, image: str = IMAGE) -> dict[str, FileRecord]:
        rows = await self.ledger.files(image=image, destination=Destination.OODS)
        return {row.key.sensor: row for row in rows if row.key.kind is FileKind.RAW}

    async def states(self, image: str = IMAGE) -> set[FileState]:
        return {row.state for row in (await self.raws(image)).values()}

    async def is_done(self, image: str = IMAGE) -> bool:
        done = await self.states(image) == {FileState.CATALOGUED}
        return done and await self.waiting() == 0

    async def waiting(self) -> int:
        return await self.queue.depth(oods_queue(self.camera.name))

    async def answers(self) -> list[ImageInOods]:
        """Take what the Archiver was told."""
        name = archiver_queue(self.camera.name)
        found: list[ImageInOods] = []
        async with self.queue.consume(name, prefetch=1000) as deliveries:
            for _ in range(await self.queue.depth(name)):
                delivery = await anext(deliveries)
                for message in singles(delivery.message):
                    assert isinstance(message, ImageInOods)
                    found.append(message)
                await delivery.ack()
        return found

    def calls(self, image: str = IMAGE) -> list[set[str]]:
        return [set(sensors) for known, sensors in self.ingest.calls if known == image]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[OodsRig]:
    async with (
        SqliteFileLedger(tmp_path / "ledger.sqlite") as ledger,
        FilesystemLinkStore(sync=SyncPolicy.RAMDISK) as links,
    ):
        rig = OodsRig(tmp_path, ledger, links)
        yield rig
        await rig.close()


async def test_an_exposure_is_catalogued_in_one_call(rig: OodsRig) -> None:
    await rig.start()
    await rig.arrive()
    await rig.until(rig.is_done)
    assert rig.calls() == [set(SENSORS)]
    rows = await rig.raws()
    assert all(row.digest.startswith(DIGEST) and row.reason == "" for row in rows.values())
    answers = await rig.answers()
    assert {(a.sensor, a.status_code) for a in answers} == {(sensor, 0) for sensor in SENSORS}
    assert len(answers) == len(SENSORS)
    assert rig.announced == answers
    assert "ingested" in answers[0].description


async def test_what_may_still_come_is_looked_up_once_for_a_batch(rig: OodsRig) -> None:
    ledger = FlakyLedger(rig.ledger)
    await rig.start(ledger=ledger)
    await rig.rest()
    before = ledger.called.count("files")
    await rig.arrive()
    await rig.until(rig.is_done)
    assert len(SENSORS) > 2
    assert rig.calls() == [set(SENSORS)]
    assert ledger.called.count("files") - before == 2  # once before the batch, once to settle it


async def test_sidecars_and_manifest_stay_verified(rig: OodsRig) -> None:
    await rig.start()
    await rig.arrive()
    await rig.until(rig.is_done)
    rows = await rig.ledger.files(image=IMAGE, destination=Destination.OODS)
    sidecars = {row.state for row in rows if row.key.kind is FileKind.SIDECAR}
    assert sidecars == {FileState.VERIFIED}


async def test_a_complete_exposure_does_not_wait(rig: OodsRig) -> None:
    await rig.start()
    await rig.rest()
    began_tai = rig.clock.now_tai()
    await rig.arrive()
    await rig.until(rig.is_done, step_s=0.0)
    assert rig.clock.now_tai() == began_tai


async def test_an_incomplete_exposure_waits_for_a_quiet_moment(rig: OodsRig) -> None:
    await rig.start(gather_s=0.5)
    await rig.arrive(sensors=SENSORS[:2])
    await rig.rest()
    await rig.clock.advance(0.4)
    await rig.rest()
    assert rig.calls() == []
    await rig.clock.advance(0.2)
    await rig.until(lambda: rig.calls() == [set(SENSORS[:2])], step_s=0.0)
    await rig.arrive(sensors=SENSORS[2:])
    await rig.until(rig.is_done, step_s=0.0)
    assert rig.calls() == [set(SENSORS[:2]), set(SENSORS[2:])]


async def test_files_that_trickle_in_are_not_waited_for_for_ever(rig: OodsRig) -> None:
    await rig.start(gather_s=0.5, gather_limit_s=1.0)
    for sensor in SENSORS[:3]:
        await rig.arrive(sensors=[sensor])
        await rig.rest()
        await rig.clock.advance(0.3)
        await rig.rest()
    assert rig.calls() == []
    await rig.clock.advance(0.15)
    await rig.until(lambda: rig.calls() == [set(SENSORS[:3])], step_s=0.0)


async def test_a_clock_that_is_set_back_holds_nothing_up(rig: OodsRig) -> None:
    await rig.start()
    await rig.arrive(sensors=SENSORS[:1])
    await rig.rest()
    rig.clock.step(-3600.0)
    await rig.announce(IMAGE, SENSORS[0])
    await rig.until(lambda: len(rig.calls()) == 1, step_s=0.0)


async def test_files_that_arrived_unannounced_go_with_the_others(rig: OodsRig) -> None:
    await rig.start()
    await rig.arrive(announce=False)
    await rig.announce(IMAGE, SENSORS[0])
    await rig.until(rig.is_done)
    assert rig.calls() == [set(SENSORS)]
    for sensor in SENSORS[1:]:
        await rig.announce(IMAGE, sensor)
    await rig.until(rig.is_done)
    assert rig.calls() == [set(SENSORS)]
    assert len(await rig.answers()) == len(SENSORS)


async def test_two_exposures_do_not_mix(rig: OodsRig) -> None:
    await rig.start()
    await rig.arrive(IMAGE, SENSORS[:2])
    await rig.arrive(OTHER)
    await rig.until(lambda: rig.is_done(OTHER))
    await rig.arrive(IMAGE, SENSORS[2:])
    await rig.until(lambda: rig.is_done(IMAGE))
    assert rig.calls(OTHER) == [set(SENSORS)]


@pytest.mark.parametrize(("bad_metadata", "status"), [(False, 1), (True, 2)])
async def test_a_bad_file_is_set_aside_and_the_rest_goes_in(
    rig: OodsRig, bad_metadata: bool, status: int
) -> None:
    rig.ingest.bad["R22_S01"] = ("no FITS", bad_metadata)
    await rig.start()
    await rig.arrive()
    await rig.until(lambda: _is(rig.waiting(), 0))
    rows = await rig.raws()
    bad = rows.pop("R22_S01")
    assert {row.state for row in rows.values()} == {FileState.CATALOGUED}
    assert bad.state is FileState.DEAD
    assert bad.reason == ("metadata: " if bad_metadata else "file: ") + "no FITS"
    answers = {answer.sensor: answer for answer in await rig.answers()}
    assert answers.pop("R22_S01").status_code == status
    assert {answer.status_code for answer in answers.values()} == {0}
    linked = rig.quarantine / exposure_directory("TinyCam", IMAGE) / f"{IMAGE}_R22_S01.fits"
    assert linked.samefile(bad.path)
    names = [path.name for path in linked.parent.iterdir()]
    assert names == [linked.name]


async def _is(value: Awaitable[int], expected: int) -> bool:
    return await value == expected


async def test_a_bad_file_that_is_gone_is_set_aside_all_the_same(rig: OodsRig) -> None:
    rig.ingest.bad["R22_S01"] = ("File is missing", False)
    await rig.arrive()
    await asyncio.to_thread(Path((await rig.raws())["R22_S01"].path).unlink)
    await rig.start()
    await rig.until(lambda: _is(rig.waiting(), 0))
    assert (await rig.raws())["R22_S01"].state is FileState.DEAD
    assert not rig.quarantine.exists() or not list(rig.quarantine.rglob("*.fits"))


async def test_a_bad_file_that_was_mended_goes_in(rig: OodsRig) -> None:
    rig.ingest.bad["R22_S01"] = ("no FITS", False)
    await rig.start()
    await rig.arrive()
    await rig.until(lambda: _is(rig.waiting(), 0))
    rig.ingest.bad.clear()
    key = FileKey(IMAGE, "R22_S01", FileKind.RAW)
    for state in (FileState.READY, FileState.SENDING, FileState.SENT, FileState.VERIFIED):
        digest = (await rig.raws())["R22_S01"].digest
        await rig.ledger.apply(
            [Change(key, Destination.OODS, state, digest=digest)], now_tai=rig.clock.now_tai()
        )
    await rig.announce(IMAGE, "R22_S01")
    await rig.until(rig.is_done)
    answers = [a.status_code for a in await rig.answers() if a.sensor == "R22_S01"]
    assert answers == [1, 0]


async def test_while_the_catalogue_is_down_nothing_is_used_up(rig: OodsRig) -> None:
    await rig.start()
    await rig.until(lambda: rig.ingest.registered == 1)
    rig.ingest.down = True
    await rig.arrive()
    await rig.until(lambda: rig.ingest.refused >= 12, step_s=5.0)
    assert await rig.waiting() == len(SENSORS)
    assert await rig.queue.dead_letters() == []
    assert await rig.answers() == []
    rig.ingest.down = False
    await rig.until(rig.is_done, step_s=5.0)
    assert rig.calls() == [set(SENSORS)]


async def test_a_catalogue_that_is_down_at_start_is_waited_for(rig: OodsRig) -> None:
    rig.ingest.down = True
    await rig.start()
    await rig.arrive()
    await rig.until(lambda: rig.ingest.refused >= 3, step_s=1.0)
    rig.ingest.down = False
    await rig.until(rig.is_done, step_s=1.0)


@pytest.mark.parametrize("registered", [True, False])
async def test_a_stop_while_the_catalogue_is_down_gives_the_messages_back(
    rig: OodsRig, registered: bool
) -> None:
    rig.ingest.down = not registered
    await rig.start()
    if registered:
        await rig.until(lambda: rig.ingest.registered == 1)
        rig.ingest.down = True
    await rig.arrive()
    await rig.until(lambda: rig.ingest.refused >= 2, step_s=0.5)
    await rig.stop()
    assert await rig.waiting() == len(SENSORS)
    rig.ingest.down = False
    await rig.start()
    await rig.until(rig.is_done, step_s=0.5)


async def test_a_stop_finishes_what_was_gathered(rig: OodsRig) -> None:
    await rig.start(gather_s=60.0, gather_limit_s=60.0)
    await rig.arrive(sensors=SENSORS[:2])
    await rig.rest()
    assert rig.calls() == []
    await rig.stop()
    assert rig.calls() == [set(SENSORS[:2])]
    assert await rig.waiting() == 0


@pytest.mark.parametrize("call", ["files", "apply", "exposures"])
async def test_a_ledger_that_is_busy_is_waited_for(rig: OodsRig, call: str) -> None:
    flaky = FlakyLedger(rig.ledger)
    flaky.failing[call] = 3
    await rig.arrive()
    await rig.start(ledger=flaky)
    await rig.until(rig.is_done, step_s=0.5)
    assert flaky.failing[call] == 0 or call == "exposures"
    assert len(await rig.answers()) == len(SENSORS)


@pytest.mark.parametrize("step", OODS_STEPS)
async def test_a_crash_at_any_step_loses_and_doubles_nothing(rig: OodsRig, step: str) -> None:
    rig.ingest.bad["R22_S01"] = ("no FITS", False)
    await rig.arrive()
    crash = CrashAt(step)
    await rig.start(steps=crash)
    await rig.crashed()
    assert crash.crashed
    await rig.start()
    await rig.until(lambda: _is(rig.waiting(), 0))
    rows = await rig.raws()
    assert rows.pop("R22_S01").state is FileState.DEAD
    assert {row.state for row in rows.values()} == {FileState.CATALOGUED}
    told = {(answer.sensor, answer.status_code) for answer in await rig.answers()}
    assert told == {("R22_S01", 1), ("R22_S00", 0), ("R00_SG0", 0), ("R00_SG1", 0)}
    assert await rig.queue.dead_letters() == []


async def test_files_whose_message_was_lost_are_found_at_start(rig: OodsRig) -> None:
    await rig.arrive(announce=False)
    await rig.start()
    await rig.until(rig.is_done, step_s=0.0)
    assert len(await rig.answers()) == len(SENSORS)


async def test_files_whose_message_was_lost_are_found_on_a_timer(rig: OodsRig) -> None:
    await rig.start(reconcile_s=30.0, settle_s=10.0)
    await rig.rest()
    await rig.arrive(announce=False)
    await rig.clock.advance(25.0)
    await rig.rest()
    assert rig.calls() == []
    await rig.until(rig.is_done, step_s=1.0)


async def test_the_timer_leaves_fresh_files_to_their_messages(rig: OodsRig) -> None:
    await rig.start(reconcile_s=5.0, settle_s=100.0)
    await rig.arrive(announce=False)
    for _ in range(10):
        await rig.clock.advance(5.0)
        await rig.rest()
    assert rig.calls() == []


async def test_a_message_that_comes_twice_changes_nothing(rig: OodsRig) -> None:
    await rig.start()
    await rig.arrive()
    await rig.until(rig.is_done)
    for sensor in SENSORS:
        await rig.announce(IMAGE, sensor)
    await rig.until(rig.is_done)
    assert rig.calls() == [set(SENSORS)]
    assert len(await rig.answers()) == len(SENSORS)


async def test_a_new_process_answers_a_message_again(rig: OodsRig) -> None:
    await rig.start()
    await rig.arrive()
    await rig.until(rig.is_done)
    await rig.answers()
    await rig.stop()
    await rig.start()
    await rig.announce(IMAGE, "R22_S00")
    await rig.until(rig.is_done)
    assert rig.calls() == [set(SENSORS)]
    assert [(a.sensor, a.status_code) for a in await rig.answers()] == [("R22_S00", 0)]


async def test_a_message_that_is_early_comes_again(rig: OodsRig) -> None:
    await rig.start()
    await rig.register(IMAGE)
    await rig.announce(IMAGE, "R22_S00")
    await rig.until(lambda: _is(rig.waiting(), 1), step_s=0.2)
    await rig.clock.advance(1.0)
    await rig.rest()
    assert rig.calls() == []
    await rig.arrive(sensors=["R22_S00"], announce=False)
    await rig.until(lambda: _is(rig.waiting(), 0), step_s=0.2)
    assert rig.calls() == [{"R22_S00"}]


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "no image"},
        {"image": OTHER},
        {"sensor": "R99_S99"},
        {"camera": "OtherCam"},
    ],
)
async def test_a_message_about_nothing_known_is_set_aside(
    rig: OodsRig, changes: dict[str, str]
) -> None:
    await rig.start()
    await rig.arrive(sensors=SENSORS[1:])
    fields: dict[str, Any] = {"camera": "TinyCam", "image": IMAGE, "sensor": "R22_S00"}
    message = IngestRequest(path="/x", **(fields | changes))
    await rig.queue.send(oods_queue("TinyCam"), message)
    await rig.until(lambda: _is(rig.waiting(), 0))
    (letter,) = await rig.queue.dead_letters()
    assert letter.reason
    assert len(await rig.answers()) == len(SENSORS) - 1


async def test_a_message_of_another_kind_is_set_aside(rig: OodsRig) -> None:
    await rig.start()
    message: Message = HealthCheck(sender="x", reply_queue="y", ack_id="z")
    await rig.queue.send(oods_queue("TinyCam"), message)
    await rig.until(lambda: _is(rig.waiting(), 0))
    assert len(await rig.queue.dead_letters()) == 1


async def test_an_exposure_that_trips_over_a_bug_does_not_stop_the_others(rig: OodsRig) -> None:
    rig.ingest.errors[IMAGE] = RuntimeError("a bug")
    await rig.start()
    await rig.arrive(IMAGE)
    await rig.arrive(OTHER)
    await rig.until(lambda: rig.is_done(OTHER))
    letters = await rig.queue.dead_letters()
    assert len(letters) == len(SENSORS)
    assert all("a bug" in letter.reason for letter in letters)
    assert await rig.states(IMAGE) == {FileState.VERIFIED}


async def test_wrong_settings_end_the_service(rig: OodsRig) -> None:
    rig.ingest.errors[IMAGE] = UsageError("another repository")
    await rig.arrive()
    await rig.start()
    _, task = rig._running.pop()
    await rig.until(task.done)
    with pytest.raises(BaseExceptionGroup) as caught:
        task.result()
    assert caught.group_contains(UsageError)
    assert await rig.waiting() == len(SENSORS)
