"""What the Archive Controller and a Forwarder do with messages that meet, repeat or fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.messages import (
    EndReadout,
    FileTransferCompleted,
    ImageRetrieval,
    NewArchiveItem,
    NewArchiveItemAck,
    singles,
)
from platevault.domain.places import archiver_queue, work_queue
from platevault.ports.file_ledger import LedgerUnavailableError, UnknownExposureError
from platevault.services.archive_controller import ArchiveController
from platevault.services.archive_controller.controller import NotArchivedError
from platevault.services.archiver import ArchiverConfiguration
from platevault.testing.capture import CaptureRig
from platevault.testing.crashes import HoldAt


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CaptureRig]:
    async with CaptureRig(tmp_path) as rig:
        yield rig


async def archived(rig: CaptureRig) -> str:
    """Take an exposure that is archived and delivered nowhere."""
    await rig.start(await rig.forwarder())
    controller = await rig.controller()
    await rig.start(controller)
    await rig.start(rig.archiver())
    await rig.enable()
    image = rig.image_name()
    await rig.begin(image)
    await rig.until(lambda: _is_placed(rig, image))
    await rig.kill("archive_controller")
    rig.read_out(image)
    await rig.pass_time(3.0)
    await rig.end(image)
    await rig.publish_header(image)
    await rig.until(lambda: rig.is_archived(image))
    return image


class FailsOnce:
    """A ledger of which one call of ``begin`` fails."""

    def __init__(self, ledger: object, *, call: int) -> None:
        self._ledger = ledger
        self._left = call

    def __getattr__(self, name: str) -> object:
        if name == "begin":
            self._left -= 1
            if self._left == 0:
                raise LedgerUnavailableError("away")
        return getattr(self._ledger, name)


async def _is_placed(rig: CaptureRig, image: str) -> bool:
    record = await rig.ledger.exposure(image)
    return record is not None and bool(record.target_dir)


def transferred(rig: CaptureRig, image: str, sensor: str) -> FileTransferCompleted:
    return FileTransferCompleted(camera=rig.camera.name, image=image, sensor=sensor)


def order(rig: CaptureRig, image: str, *, reply_queue: str) -> EndReadout:
    return EndReadout(
        camera=rig.camera.name,
        image=image,
        board="22/0",
        sensors=("R22_S01", "R22_S00"),
        target_dir="",
        reply_queue=reply_queue,
        end_readout_tai=rig.clock.now_tai(),
        header_due_tai=rig.clock.now_tai() + 20.0,
    )


async def test_a_sensor_that_waited_for_a_failed_turn_is_delivered_in_its_own(
    rig: CaptureRig,
) -> None:
    image = await archived(rig)
    ledger = FailsOnce(rig.ledger, call=3)  # the first turn has two: the second one fails
    controller: ArchiveController = await rig.controller(ledger=ledger)
    outcomes: list[str] = []

    async def hand_over(sensor: str) -> None:
        try:
            await controller.handle(transferred(rig, image, sensor), 1)
        except LedgerUnavailableError:
            outcomes.append("failed")
        else:
            outcomes.append(sensor)

    async with asyncio.TaskGroup() as tasks:
        for sensor in ("R22_S00", "R22_S01", "R00_SG0", "R00_SG1"):
            tasks.create_task(hand_over(sensor))
    assert outcomes == ["R22_S00", "failed", "R00_SG0", "R00_SG1"]
    states = await rig.states(image, Destination.OODS)
    assert states["R00_SG0"] is FileState.VERIFIED
    assert states["R00_SG1"] is FileState.VERIFIED


async def test_sensors_that_come_together_are_delivered_together(rig: CaptureRig) -> None:
    image = await archived(rig)
    calls: list[str] = []

    class Counted:
        def __getattr__(self, name: str) -> object:
            if name == "begin":
                calls.append(name)
            return getattr(rig.ledger, name)

    controller: ArchiveController = await rig.controller(ledger=Counted())
    async with asyncio.TaskGroup() as tasks:
        for sensor in ("R22_S00", "R22_S01", "R00_SG0", "R00_SG1"):
            tasks.create_task(controller.handle(transferred(rig, image, sensor), 1))
    assert await rig.is_delivered(image)
    assert len(calls) == 4  # at each destination once for the first, once for those that waited


async def test_a_delivery_that_comes_again_changes_nothing(rig: CaptureRig) -> None:
    image = await archived(rig)
    controller = await rig.controller()
    await controller.handle(transferred(rig, image, "R22_S00"), 1)
    before = await rig.files(image, destination=Destination.BACKBONE)
    await controller.handle(transferred(rig, image, "R22_S00"), 2)
    assert await rig.files(image, destination=Destination.BACKBONE) == before


async def test_a_file_that_is_not_archived_is_not_handed_over(rig: CaptureRig) -> None:
    await rig.start(await rig.forwarder())
    controller = await rig.controller()
    await rig.start(controller)
    await rig.start(rig.archiver())
    await rig.enable()
    image = rig.image_name()
    await rig.begin(image)
    await rig.until(lambda: rig.is_registered(image))
    with pytest.raises(NotArchivedError):
        await controller.handle(transferred(rig, image, "R22_S00"), 1)


async def test_a_place_for_an_exposure_that_nobody_registered_is_refused(rig: CaptureRig) -> None:
    controller = await rig.controller()
    item = NewArchiveItem(camera="TinyCam", image=rig.image_name(), reply_queue="replies")
    with pytest.raises(UnknownExposureError):
        await controller.handle(item, 1)
    assert not rig.archive.exists()


async def test_a_place_that_is_asked_for_twice_is_the_same(rig: CaptureRig) -> None:
    image = await archived(rig)
    controller = await rig.controller()
    item = NewArchiveItem(camera=rig.camera.name, image=image, reply_queue="replies")
    for attempt in (1, 2):
        await controller.handle(item, attempt)
    told = set()
    async with rig.queue.consume("replies", prefetch=2) as deliveries:
        for _ in range(2):
            message = (await anext(deliveries)).message
            assert isinstance(message, NewArchiveItemAck)
            told.add(message.target_dir)
    record = await rig.ledger.exposure(image)
    assert record is not None
    assert told == {record.target_dir}


async def test_a_board_that_is_done_is_announced_again_and_not_read(rig: CaptureRig) -> None:
    image = await archived(rig)
    await rig.queue.send(work_queue(rig.camera.name), order(rig, image, reply_queue="listener"))

    async def is_told() -> bool:
        return await rig.queue.depth("listener") == 1

    await rig.until(is_told)
    async with rig.queue.consume("listener", prefetch=2) as deliveries:
        told = singles((await anext(deliveries)).message)
    assert len(told) == 2
    for message in told:
        assert isinstance(message, ImageRetrieval)
        assert message.status_code == 0
    assert {row.attempt for row in (await rig.files(image)).values()} == {1}


async def test_two_deliveries_of_a_board_to_one_forwarder_exclude_each_other(
    rig: CaptureRig,
) -> None:
    hold = HoldAt("begun")
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(steps=hold))
    await rig.start(rig.archiver(settings=ArchiverConfiguration(detectors=("R22_S00", "R22_S01"))))
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    again = order(rig, image, reply_queue=archiver_queue(rig.camera.name))
    await rig.queue.send(work_queue(rig.camera.name), again)
    await rig.pass_time(5.0)
    assert hold.waiting == 1
    hold.go.set()
    await rig.until(lambda: rig.is_delivered(image))
    assert {row.attempt for row in (await rig.files(image)).values()} == {1}
    assert len(rig.events("imageRetrievalForArchiving")) == 2
