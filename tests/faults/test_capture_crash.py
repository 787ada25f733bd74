"""A service that dies at any step leaves nothing lost, nothing doubled and nothing behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import HeaderReference
from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.places import ARCHIVE_CONTROLLER_QUEUE, board_lease, work_queue
from platevault.ports.leases import LeasesUnavailableError
from platevault.services.archive_controller import ARCHIVE_CONTROLLER_STEPS
from platevault.services.archiver import ARCHIVER_STEPS, ArchiverConfiguration
from platevault.services.forwarder import FORWARDER_STEPS, ForwarderLimits
from platevault.testing.capture import CaptureRig
from platevault.testing.crashes import CrashAt, HoldAt
from platevault.testing.outages import Outage

SENSORS = ("R00_SG0", "R00_SG1", "R22_S00", "R22_S01")
#: Threads have their own time: a board is not late before two leases have run out at leisure.
SETTINGS = ArchiverConfiguration(board_timeout_s=75.0, catch_up_s=5.0)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CaptureRig]:
    async with CaptureRig(tmp_path) as rig:
        yield rig


async def assert_whole(rig: CaptureRig, image: str) -> None:
    """Check everything that must hold of an exposure, whatever happened on the way."""
    folder = Path(rig.camera.name, "20330517", image)
    expected = {f"{image}_expectedSensors.json"} | {
        f"{image}_{sensor}.{ending}" for sensor in SENSORS for ending in ("fits", "json")
    }
    for root in (rig.archive, *rig.areas.values()):
        assert {path.name for path in (root / folder).iterdir()} == expected
    for row in await rig.ledger.files(image=image, destination=Destination.ARCHIVE):
        path = rig.archive / folder / row.key.file_name
        assert row.state is FileState.WRITTEN, row
        assert row.path == str(path)
        assert row.size_bytes == path.stat().st_size
        assert await rig.links.digest_of(path, algorithm="xxh3") == row.digest
    for attempt in await rig.ledger.attempts(image):
        assert attempt.outcome, attempt
    results = [
        f"{one.fields['raft']}_{one.fields['sensor']}"
        for one in rig.events("imageRetrievalForArchiving", statusCode=0)
    ]
    assert sorted(results) == sorted(SENSORS)
    assert [one.fields["status"] for one in rig.events("exposureClosed")] == [1]
    headers = {
        json.loads((rig.archive / folder / f"{image}_{sensor}.json").read_text())["PROGRAM"]
        for sensor in SENSORS
    }
    assert headers == {"version 1"}
    await rig.until(lambda: _no_lease(rig, image), limit_s=11.0)  # that of the dead runs out
    for queue in (work_queue(rig.camera.name), ARCHIVE_CONTROLLER_QUEUE):
        await rig.until(lambda queue=queue: _is_empty(rig, queue))  # type: ignore[misc]
    assert await rig.queue.dead_letters() == []


async def _no_lease(rig: CaptureRig, image: str) -> bool:
    grants = [
        await rig.leases.current(board_lease(image, board.location)) for board in rig.camera.boards
    ]
    return grants == [None] * len(grants)


async def _is_empty(rig: CaptureRig, queue: str) -> bool:
    return await rig.queue.depth(queue) == 0


async def is_finished(rig: CaptureRig, image: str) -> bool:
    manifest = FileKey(image, "", FileKind.MANIFEST)
    rows = await rig.ledger.files(image=image)
    wanted = {
        Destination.ARCHIVE: FileState.WRITTEN,
        Destination.OODS: FileState.VERIFIED,
        Destination.BACKBONE: FileState.VERIFIED,
    }
    return (
        manifest in {row.key for row in rows}
        and all(row.state is wanted[row.destination] for row in rows)
        and bool(rig.events("exposureClosed"))
    )


@pytest.mark.parametrize("step", FORWARDER_STEPS)
async def test_a_forwarder_may_die_at_any_step(rig: CaptureRig, step: str) -> None:
    steps = CrashAt(step)
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder("forwarder1", steps=steps, **rig.doomed()))
    await rig.start(rig.archiver(settings=SETTINGS))
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    await rig.bury("forwarder1")
    assert steps.crashed
    await rig.start(await rig.forwarder("forwarder2"))
    await rig.until(lambda: is_finished(rig, image))
    await rig.pass_time(3.0)
    await assert_whole(rig, image)


@pytest.mark.parametrize("step", FORWARDER_STEPS)
async def test_the_worker_that_takes_over_may_die_at_the_same_step(
    rig: CaptureRig, step: str
) -> None:
    # One board and one sensor at a time: the first leaves the step to do to the second.
    doomed = {**rig.doomed(), "concurrency": 1}
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder("forwarder1", steps=CrashAt(step), **doomed))
    await rig.start(rig.archiver(settings=SETTINGS))
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    await rig.bury("forwarder1")
    await rig.start(await rig.forwarder("forwarder2", steps=CrashAt(step), **doomed))
    await rig.until(lambda: rig.has_ended("forwarder2"))
    await rig.bury("forwarder2")
    await rig.start(await rig.forwarder("forwarder3"))
    await rig.until(lambda: is_finished(rig, image))
    await rig.pass_time(3.0)
    await assert_whole(rig, image)


@pytest.mark.parametrize("step", ["digest_recorded", "named"])
async def test_what_was_staged_is_finished_when_the_pixels_are_gone(
    rig: CaptureRig, step: str
) -> None:
    settings = ArchiverConfiguration(detectors=("R22_S00",))
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder("forwarder1", steps=CrashAt(step), **rig.doomed()))
    await rig.start(rig.archiver(settings=settings))
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    await rig.bury("forwarder1")
    other = CaptureRig(rig.root / "other")  # a DAQ that never had the image
    await rig.start(await rig.forwarder("forwarder2", readout=other.readout))
    await rig.until(lambda: rig.is_archived(image))
    assert (await rig.files(image))["R22_S00"].attempt == 2


@pytest.mark.parametrize("step", ARCHIVE_CONTROLLER_STEPS)
async def test_the_archive_controller_may_die_at_any_step(rig: CaptureRig, step: str) -> None:
    steps = CrashAt(step)
    await rig.start(await rig.controller(steps=steps))
    await rig.start(await rig.forwarder())
    await rig.start(rig.archiver(settings=SETTINGS))
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    await rig.bury("archive_controller")
    assert steps.crashed
    await rig.start(await rig.controller())
    await rig.until(lambda: is_finished(rig, image))
    await rig.pass_time(3.0)
    await assert_whole(rig, image)


@pytest.mark.parametrize("step", ARCHIVER_STEPS)
async def test_the_archiver_may_die_at_any_step(rig: CaptureRig, step: str) -> None:
    steps = CrashAt(step)
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder())
    archiver = rig.archiver(settings=SETTINGS, steps=steps)
    await rig.start(archiver)
    await rig.enable()
    image = rig.image_name()
    await rig.take(image, header=False)
    header = await rig.store_header(image)
    await rig.announce_header(image, header)
    await rig.until(lambda: rig.has_ended(archiver.name))
    await rig.bury(archiver.name)
    assert steps.crashed

    async def find(_: str) -> HeaderReference:
        return header

    await rig.start(rig.archiver(settings=SETTINGS, find_header=find))
    await rig.enable()
    await rig.until(lambda: is_finished(rig, image))
    await rig.pass_time(3.0)
    if step == "published":  # the one moment in which a result may come twice
        twice = rig.events("imageRetrievalForArchiving")
        assert len(twice) == len(SENSORS) + 1
        rig.samples.remove(twice[0])
    await assert_whole(rig, image)


@pytest.mark.parametrize("step", ["begun", "digest_recorded", "recorded"])
async def test_nothing_is_lost_when_the_queue_dies_with_everybody(
    tmp_path: Path, step: str
) -> None:
    async with CaptureRig(tmp_path) as rig:
        steps = CrashAt(step)
        await rig.start(await rig.controller())
        await rig.start(await rig.forwarder(steps=steps, **rig.doomed()))
        await rig.start(rig.archiver(settings=SETTINGS))
        await rig.enable()
        image = rig.image_name()
        await rig.take(image)
        await rig.until(lambda: steps.crashed)
        now_tai = rig.clock.now_tai()
        epoch = await rig.ledger.first_fence()
    async with CaptureRig(
        tmp_path, first_fence=epoch
    ) as rig:  # ledger and disk are all that is left
        await rig.pass_time(now_tai - rig.clock.now_tai())
        rig.read_out(image)  # the DAQ has kept it
        await rig.pass_time(3.0)
        await rig.corridor(settings=SETTINGS)
        await rig.until(lambda: is_finished(rig, image))
        await assert_whole(rig, image)


async def test_a_result_that_a_crash_kept_back_is_told_by_the_next_process(
    tmp_path: Path,
) -> None:
    settings = SETTINGS.model_copy(update={"detectors": ("R22_S00",)})
    async with CaptureRig(tmp_path) as rig:
        steps = CrashAt("recorded")
        await rig.start(await rig.controller())
        await rig.start(await rig.forwarder(steps=steps, **rig.doomed()))
        await rig.start(rig.archiver(settings=settings))
        await rig.enable()
        image = rig.image_name()
        await rig.take(image)
        await rig.until(lambda: steps.crashed)
        assert await rig.is_archived(image)
        assert not rig.events("imageRetrievalForArchiving")
        epoch = await rig.ledger.first_fence()
    async with CaptureRig(tmp_path, first_fence=epoch) as rig:
        await rig.corridor(settings=settings)
        await rig.until(lambda: bool(rig.events("exposureClosed")))
        assert [one.fields["statusCode"] for one in rig.events("imageRetrievalForArchiving")] == [0]


async def test_a_board_that_kills_its_workers_is_set_aside_and_the_next_is_written(
    rig: CaptureRig,
) -> None:
    settings = SETTINGS.model_copy(update={"detectors": ("R22_S00",)})
    await rig.start(await rig.controller())
    poison = rig.image_name(1)
    archiver = rig.archiver(settings=settings)

    async def next_worker(number: int) -> str:
        name = f"forwarder{number}"
        steps = CrashAt("read", subject=poison)
        await rig.start(await rig.forwarder(name, steps=steps, **rig.doomed()))
        return name

    name = await next_worker(0)
    await rig.start(archiver)
    await rig.enable()
    await rig.take(poison)
    for number in range(1, 7):
        await rig.until(lambda name=name: rig.has_ended(name))  # type: ignore[misc]
        await rig.bury(name)
        name = await next_worker(number)
        if (await rig.states(poison))["R22_S00"] is FileState.DEAD:
            break
    await rig.until(lambda: _is_dead(rig, poison))
    assert "workers were lost" in (await rig.files(poison))["R22_S00"].reason
    await rig.until(lambda: bool(rig.events("exposureClosed", obsid=poison, status=3)))
    if rig.has_ended(name):
        await rig.bury(name)
        await rig.start(await rig.forwarder("forwarder9"))
    image = rig.image_name(2)
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))


async def _is_dead(rig: CaptureRig, image: str) -> bool:
    return (await rig.states(image))["R22_S00"] is FileState.DEAD


async def test_a_worker_that_lost_its_lease_changes_nothing_any_more(rig: CaptureRig) -> None:
    hold = HoldAt("digest_recorded")
    cut_off = Outage(rig.leases, lambda: LeasesUnavailableError("cut off"), only=("renew",))
    settings = SETTINGS.model_copy(update={"detectors": ("R22_S00", "R22_S01")})
    await rig.start(await rig.controller())
    await rig.start(
        await rig.forwarder(
            "forwarder1", steps=hold, leases=cut_off, limits=ForwarderLimits(lease_s=5.0)
        )
    )
    archiver = rig.archiver(settings=settings)
    await rig.start(archiver)
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: hold.waiting == 2)
    cut_off.down = True
    await rig.start(await rig.forwarder("forwarder2"))
    await rig.until(lambda: rig.is_archived(image), limit_s=150.0)
    before = await rig.files(image)
    assert {row.attempt for row in before.values()} == {2}
    hold.go.set()
    await rig.pass_time(10.0)
    assert await rig.files(image) == before
    folder = rig.archive / rig.camera.name / "20330517" / image
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    assert len(rig.events("imageRetrievalForArchiving")) == 2
