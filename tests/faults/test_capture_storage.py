"""Broken pixels, headers, disks and areas: one clear error each, the rest goes on, nothing lost."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from platevault.adapters.filesystem.durable import FileLayer, Piece, SyncPolicy
from platevault.adapters.filesystem.links import FilesystemLinkStore
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.domain.ids import FileKind
from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.messages import EndReadout
from platevault.domain.places import work_queue
from platevault.domain.wire import MalformedPixelsError
from platevault.ports.file_ledger import LedgerUnavailableError
from platevault.ports.image_writer import SensorImage, StagedFile
from platevault.services.archiver import ArchiverConfiguration
from platevault.sim.daq_faults import DaqFault, FaultKind
from platevault.testing.capture import CaptureRig
from platevault.testing.outages import Outage

SETTINGS = ArchiverConfiguration(retry_s=5.0, retry_ceiling_s=20.0, catch_up_s=5.0)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CaptureRig]:
    async with CaptureRig(tmp_path) as rig:
        yield rig


class FailingFiles(FileLayer):
    """Refuses to write or link below a directory while ``error`` is set."""

    def __init__(self, *, error: int = 0) -> None:
        self.error = error

    def _fail(self) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    @override
    def write(self, descriptor: int, pieces: Sequence[Piece]) -> int:
        self._fail()
        return super().write(descriptor, pieces)

    @override
    def create(self, path: Path) -> int:
        if self.error == errno.EROFS:
            self._fail()
        return super().create(path)

    @override
    def link(self, source: Path, target: Path) -> None:
        self._fail()
        super().link(source, target)


class PoisonWriter(FitsImageWriter):
    """Cannot write one sensor."""

    def __init__(self, *, slot: str, error: Exception) -> None:
        super().__init__(sync=SyncPolicy.RAMDISK, workers=1)
        self._slot = slot
        self._error = error

    @override
    async def stage_image(self, image: SensorImage, final: Path) -> StagedFile:
        if self._slot in final.name:
            raise self._error
        return await super().stage_image(image, final)


async def start_all(rig: CaptureRig, **options: Any) -> None:
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(**options))
    await rig.start(rig.archiver(settings=SETTINGS))
    await rig.enable()


def statuses(rig: CaptureRig) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in rig.events("imageRetrievalForArchiving"):
        sensor = f"{one.fields['raft']}_{one.fields['sensor']}"
        found.setdefault(sensor, []).append(one.fields["statusCode"])
    return found


async def all_are(rig: CaptureRig, image: str, state: FileState) -> bool:
    return set((await rig.states(image)).values()) == {state}


def temporary_files(rig: CaptureRig) -> list[Path]:
    return [path for path in rig.archive.rglob("*") if path.name.endswith(".tmp")]


def damage(path: str) -> None:
    """Put other contents under a name; links elsewhere keep theirs."""
    remove(path)
    Path(path).write_bytes(b"damaged")


def remove(path: str) -> None:
    Path(path).unlink()


def contents(path: str) -> bytes:
    return Path(path).read_bytes() if Path(path).exists() else b""


async def test_truncated_pixels_are_read_again(rig: CaptureRig) -> None:
    await start_all(rig)
    rig.daq.inject(DaqFault(FaultKind.BOARD_TRUNCATED, location="22/0", amount=0.5, times=2))
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    assert {tuple(codes) for codes in statuses(rig).values()} == {(0,)}


async def test_pixels_that_stay_truncated_fail_their_board_only(rig: CaptureRig) -> None:
    await start_all(rig)
    rig.daq.inject(DaqFault(FaultKind.BOARD_TRUNCATED, location="22/0", amount=0.5))
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: len(statuses(rig)) == 4)
    states = await rig.states(image)
    assert (states["R22_S00"], states["R22_S01"]) == (FileState.RETRY, FileState.RETRY)
    assert (states["R00_SG0"], states["R00_SG1"]) == (FileState.WRITTEN, FileState.WRITTEN)
    assert statuses(rig)["R22_S00"] == [5611]
    reason = (await rig.files(image))["R22_S00"].reason
    assert reason.startswith("MalformedPixelsError")
    described = rig.events("imageRetrievalForArchiving", raft="R22", sensor="S00")[0]
    assert described.fields["description"].startswith("raft R22 sensor S00: MalformedPixels")
    rig.daq.clear()
    await rig.until(lambda: bool(rig.events("exposureClosed")))
    assert await rig.is_archived(image)
    assert statuses(rig)["R22_S00"] == [5611, 0]
    assert [one.fields["status"] for one in rig.events("exposureClosed")] == [1]


async def test_pixels_that_fail_do_not_wait_for_a_header(rig: CaptureRig) -> None:
    await start_all(rig)
    rig.daq.inject(DaqFault(FaultKind.BOARD_TRUNCATED, amount=0.5))
    image = rig.image_name()
    await rig.take(image, header=False)
    await rig.until(lambda: len(statuses(rig)) == 4, limit_s=10.0)  # the header has 20 s
    record = await rig.ledger.exposure(image)
    assert record is not None
    assert record.header is None


async def test_a_board_that_never_heals_is_set_aside_for_a_person(rig: CaptureRig) -> None:
    await start_all(rig)
    rig.daq.inject(DaqFault(FaultKind.BOARD_TRUNCATED, location="22/0", amount=0.5))
    image = rig.image_name()
    await rig.take(image)

    async def is_dead() -> bool:
        return (await rig.states(image))["R22_S00"] is FileState.DEAD

    await rig.until(is_dead, limit_s=400.0)
    assert (await rig.files(image))["R22_S00"].attempt == 5
    begun = [
        attempt.started_tai
        for attempt in await rig.ledger.attempts(image)
        if (attempt.key.sensor, attempt.key.kind) == ("R22_S00", FileKind.RAW)
    ]
    pauses = [later - before for before, later in itertools.pairwise(begun)]
    assert all(pause >= wanted for pause, wanted in zip(pauses, (5, 10, 20, 20), strict=True))
    assert statuses(rig)["R22_S00"] == [5611]
    await rig.until(lambda: bool(rig.events("exposureClosed")))
    closed = rig.events("exposureClosed")[-1].fields
    assert (closed["status"], closed["missing"]) == (3, "R22S00:R22S01")


async def test_a_board_that_the_daq_lacks_is_dead_in_the_end(rig: CaptureRig) -> None:
    await start_all(rig)
    rig.daq.inject(DaqFault(FaultKind.BOARD_MISSING, location="22/0"))
    image = rig.image_name()
    await rig.take(image)

    async def is_dead() -> bool:
        return (await rig.states(image))["R22_S00"] is FileState.DEAD

    await rig.until(is_dead, limit_s=400.0)
    states = await rig.states(image)
    assert states["R00_SG0"] is FileState.WRITTEN
    assert "ImageMissingError" in (await rig.files(image))["R22_S00"].reason
    assert statuses(rig)["R22_S01"] == [5611]


async def test_an_image_with_other_boards_is_refused_by_name(rig: CaptureRig) -> None:
    await start_all(rig)
    rig.daq.inject(DaqFault(FaultKind.BOARD_COUNT, amount=1))
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: len(statuses(rig)) == 4, limit_s=60.0)
    lost = {sensor for sensor, codes in statuses(rig).items() if codes == [5611]}
    assert lost == {"R22_S00", "R22_S01"}


async def test_a_board_with_another_number_of_detectors_is_refused(rig: CaptureRig) -> None:
    class OtherBoards:
        """Says that each board has one detector."""

        def __getattr__(self, name: str) -> object:
            return getattr(rig.readout, name)

        async def describe(self, image: str, location: str) -> object:
            description = await rig.readout.describe(image, location)
            return replace(description, channels=description.channels[:1])

    await start_all(rig, readout=OtherBoards())
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: len(statuses(rig)) == 4)
    assert {tuple(codes) for codes in statuses(rig).values()} == {(5611,)}
    assert "other detectors" in (await rig.files(image))["R22_S00"].reason


@pytest.mark.parametrize("kind", [FaultKind.UNREACHABLE, FaultKind.STALLED])
async def test_a_daq_that_is_away_is_waited_for(rig: CaptureRig, kind: FaultKind) -> None:
    await start_all(rig)
    rig.daq.inject(DaqFault(kind))
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: len(statuses(rig)) == 4, limit_s=60.0)
    assert {tuple(codes) for codes in statuses(rig).values()} == {(5611,)}
    rig.daq.clear()
    await rig.until(lambda: rig.is_archived(image))


async def test_a_daq_that_hears_of_the_image_after_the_bus_is_waited_for(rig: CaptureRig) -> None:
    await start_all(rig)
    image = rig.image_name()
    await rig.begin(image)
    await rig.end(image)
    await rig.publish_header(image)
    await rig.pass_time(3.0)
    rig.read_out(image)
    await rig.until(lambda: rig.is_archived(image))
    await rig.until(lambda: len(statuses(rig)) == 4)
    assert {tuple(codes) for codes in statuses(rig).values()} == {(0,)}


async def test_a_readout_that_does_not_end_is_a_typed_failure_after_its_limit(
    rig: CaptureRig,
) -> None:
    await start_all(rig)
    image = rig.image_name()
    await rig.begin(image)
    rig.read_out(image)
    rig.daq.inject(DaqFault(FaultKind.PAUSED))
    before = rig.clock.now_tai()
    await rig.end(image)
    await rig.publish_header(image)
    await rig.until(lambda: len(statuses(rig)) == 4, limit_s=60.0)
    assert 28.0 < rig.clock.now_tai() - before < 33.0
    assert (await rig.files(image))["R22_S00"].reason.startswith("ImageIncompleteError")
    rig.daq.clear()
    await rig.until(lambda: rig.is_archived(image))


@pytest.mark.parametrize(
    "error", [MalformedPixelsError("poisoned"), ValueError("a bug in the codec")]
)
async def test_a_poisoned_sensor_does_not_stop_the_others_of_its_board(
    rig: CaptureRig, error: Exception
) -> None:
    async with PoisonWriter(slot="S01", error=error) as writer:
        await start_all(rig, writer=writer)
        image = rig.image_name()
        await rig.take(image)
        await rig.until(lambda: len(statuses(rig)) == 4)
        states = await rig.states(image)
        assert states.pop("R22_S01") is FileState.RETRY
        assert set(states.values()) == {FileState.WRITTEN}
        await rig.until(lambda: len(statuses(rig)["R22_S01"]) == 1)
        assert statuses(rig)["R22_S01"][0] in {5611, 5612}
        await rig.kill("forwarder1")


@pytest.mark.parametrize(
    ("number", "name"), [(errno.ENOSPC, "DiskFullError"), (errno.EROFS, "DirectoryUnwritableError")]
)
async def test_a_disk_that_takes_nothing_is_waited_for(
    rig: CaptureRig, number: int, name: str
) -> None:
    files = FailingFiles(error=number)
    await start_all(rig, writer=await rig.writer(files=files))
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: len(statuses(rig)) == 4)
    assert await all_are(rig, image, FileState.RETRY)
    assert {row.reason.partition(":")[0] for row in (await rig.files(image)).values()} == {name}
    assert {tuple(codes) for codes in statuses(rig).values()} == {(5612,)}
    assert not temporary_files(rig)

    async def has_been_tried_often() -> bool:
        return {row.attempt >= 6 for row in (await rig.files(image)).values()} == {True}

    await rig.until(has_been_tried_often, limit_s=300.0)
    await rig.until(lambda: all_are(rig, image, FileState.RETRY))
    files.error = 0
    await rig.until(lambda: rig.is_delivered(image))
    await rig.until(lambda: bool(rig.events("exposureClosed")))
    assert {tuple(codes) for codes in statuses(rig).values()} == {(5612, 0)}


async def test_a_failure_after_staging_leaves_no_temporary_file(rig: CaptureRig) -> None:
    ledger = Outage(rig.ledger, lambda: LedgerUnavailableError("away"), only=("stage",))
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(ledger=ledger))
    await rig.start(rig.archiver(settings=SETTINGS))
    await rig.enable()
    ledger.down = True
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: ledger.refused > 1)
    await rig.pass_time(0.5)
    ledger.down = False
    await rig.until(lambda: rig.is_delivered(image))
    assert {tuple(codes) for codes in statuses(rig).values()} == {(0,)}
    assert not temporary_files(rig)


async def test_another_file_under_the_final_name_is_left_alone(rig: CaptureRig) -> None:
    await start_all(rig)
    image = rig.image_name()
    await rig.begin(image)
    folder = rig.archive / rig.camera.name / "20330517" / image
    stranger = folder / f"{image}_R22_S01.fits"
    await rig.until(folder.exists)
    stranger.write_bytes(b"somebody else's")
    rig.read_out(image)
    await rig.pass_time(3.0)
    await rig.end(image)
    await rig.publish_header(image)
    await rig.until(lambda: len(statuses(rig)) == 4)
    states = await rig.states(image)
    assert states.pop("R22_S01") is FileState.DEAD
    assert set(states.values()) == {FileState.WRITTEN}
    assert stranger.read_bytes() == b"somebody else's"
    assert (await rig.files(image))["R22_S01"].reason.startswith("FileConflictError")
    assert statuses(rig)["R22_S01"] == [5612]


async def test_a_damaged_archive_file_is_not_announced_again(rig: CaptureRig) -> None:
    await start_all(rig)
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    row = (await rig.files(image))["R22_S00"]
    damage(row.path)
    await rig.end(image)
    await rig.until(lambda: _is(rig, image, "R22_S00", FileState.CORRUPT))
    assert contents(row.path) == b"damaged"


async def test_a_missing_archive_file_is_written_again(rig: CaptureRig) -> None:
    await start_all(rig)
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    row = (await rig.files(image))["R22_S00"]
    remove(row.path)
    await rig.end(image)
    await rig.until(lambda: bool(contents(row.path)))
    await rig.until(lambda: rig.is_archived(image))
    assert (await rig.files(image))["R22_S00"].digest == row.digest


async def _is(rig: CaptureRig, image: str, sensor: str, state: FileState) -> bool:
    return (await rig.states(image))[sensor] is state


@pytest.mark.parametrize("destination", [Destination.OODS, Destination.BACKBONE])
async def test_another_file_at_a_destination_is_dead_there_and_nowhere_else(
    rig: CaptureRig, destination: Destination
) -> None:
    await start_all(rig)
    image = rig.image_name()
    folder = rig.areas[destination] / rig.camera.name / "20330517" / image
    folder.mkdir(parents=True)
    (folder / f"{image}_R00_SG0.fits").write_bytes(b"somebody else's")
    await rig.take(image)
    other = next(one for one in rig.areas if one is not destination)

    async def is_settled() -> bool:
        here, there = await rig.states(image, destination), await rig.states(image, other)
        done = set(there.values()) == {FileState.VERIFIED}
        return done and set(here.values()) == {FileState.VERIFIED, FileState.DEAD}

    await rig.until(is_settled)
    await rig.pass_time(1.0)
    states = await rig.states(image, destination)
    assert states.pop("R00_SG0") is FileState.DEAD
    assert set(states.values()) == {FileState.VERIFIED}
    assert (folder / f"{image}_R00_SG0.fits").read_bytes() == b"somebody else's"
    told = rig.events("imageInOODS")
    assert [one.fields["statusCode"] for one in told] == (
        [1] if destination is Destination.OODS else []
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
async def test_an_area_that_takes_nothing_is_tried_again_and_the_archive_is_not_touched(
    rig: CaptureRig, number: int
) -> None:
    files = FailingFiles(error=number)
    async with FilesystemLinkStore(sync=SyncPolicy.RAMDISK, files=files) as links:
        await rig.start(await rig.controller(links=links))
        await rig.start(await rig.forwarder())
        await rig.start(rig.archiver(settings=SETTINGS))
        await rig.enable()
        image = rig.image_name()
        await rig.take(image)

        async def is_waiting() -> bool:
            return set((await rig.states(image, Destination.OODS)).values()) == {FileState.RETRY}

        await rig.until(is_waiting)
        assert await rig.is_archived(image)
        files.error = 0
        await rig.until(lambda: rig.is_delivered(image))
        await rig.kill("archive_controller")


async def test_a_damaged_header_object_is_fetched_again_and_given_up_in_the_end(
    rig: CaptureRig,
) -> None:
    await start_all(rig, header_patience_s=40.0)
    image = rig.image_name()
    await rig.take(image, header=False)
    header = await rig.store_header(image)
    await rig.announce_header(image, replace(header, md5=hashlib.md5(b"other").hexdigest()))
    await rig.until(lambda: len(statuses(rig)) == 4, limit_s=60.0)
    assert {tuple(codes) for codes in statuses(rig).values()} == {(5610,)}
    assert await all_are(rig, image, FileState.RETRY)
    await rig.until(lambda: rig.is_archived(image), limit_s=200.0)
    assert all(row.degraded for row in (await rig.files(image)).values())


async def test_a_header_that_is_no_header_gives_degraded_files(rig: CaptureRig) -> None:
    await start_all(rig)
    image = rig.image_name()
    await rig.take(image, header=False)
    body = b"\xff\xfe not a header"
    stored = await rig.objects.put_if_absent(f"headers/{image}.yaml", body)
    header = await rig.store_header(image)
    await rig.announce_header(
        image, replace(header, url=stored.url, size_bytes=len(body), md5=stored.md5)
    )
    await rig.until(lambda: rig.is_archived(image))
    assert all(row.degraded for row in (await rig.files(image)).values())


async def test_a_header_object_that_comes_late_to_the_store_is_waited_for(
    rig: CaptureRig,
) -> None:
    await start_all(rig)
    image, later = rig.image_name(1), rig.image_name(2)
    await rig.take(image, header=False)
    header = await rig.store_header(later)
    path = rig.root / "annex" / "headers" / f"{later}_v1.yaml"
    body = path.read_bytes().replace(later.encode(), image.encode())
    md5 = hashlib.md5(body).hexdigest()
    url = header.url.replace(later, image)
    await rig.announce_header(image, replace(header, url=url, md5=md5, size_bytes=len(body)))
    await rig.pass_time(5.0)
    assert not await rig.is_archived(image)
    await rig.objects.put_if_absent(f"headers/{image}_v1.yaml", body)
    await rig.until(lambda: rig.is_archived(image))
    assert not any(row.degraded for row in (await rig.files(image)).values())


@pytest.mark.parametrize(
    "change",
    [
        {"camera": "NoCam"},
        {"board": "99/9"},
        {"sensors": ("R99_S99",)},
        {"sensors": ("R00_SG0",)},
        {"image": "TC_O_20330517_000077"},
    ],
    ids=["camera", "board", "sensor", "sensor of another board", "image"],
)
async def test_an_order_that_cannot_be_carried_out_is_set_aside_with_its_reason(
    rig: CaptureRig, change: dict[str, object]
) -> None:
    await start_all(rig)
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    order = EndReadout(
        camera=rig.camera.name,
        image=image,
        board="22/0",
        sensors=("R22_S00",),
        target_dir="",
        reply_queue="nowhere",
        end_readout_tai=0.0,
        header_due_tai=0.0,
    ).model_copy(update=change)
    await rig.queue.send(work_queue(rig.camera.name), order)

    async def is_set_aside() -> bool:
        return len(await rig.queue.dead_letters()) == 1

    await rig.until(is_set_aside)
    letter = (await rig.queue.dead_letters())[0]
    assert str(next(iter(change.values()))).strip("(),'") in letter.reason
    assert await rig.queue.depth("nowhere") == 0


async def test_the_manifest_conflict_does_not_keep_the_sensors_out(rig: CaptureRig) -> None:
    await start_all(rig)
    image = rig.image_name()
    folder = rig.archive / rig.camera.name / "20330517" / image
    folder.mkdir(parents=True)
    (folder / f"{image}_expectedSensors.json").write_text("{}")
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    manifest = (await rig.files(image, kind=FileKind.MANIFEST))[""]
    assert manifest.state is FileState.DEAD
    assert (folder / f"{image}_expectedSensors.json").read_text() == "{}"
