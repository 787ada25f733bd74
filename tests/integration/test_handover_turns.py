"""Sensors that come while others of their image are delivered are delivered too."""

from __future__ import annotations

import asyncio
from pathlib import Path

from platevault.adapters.filesystem.durable import SyncPolicy
from platevault.adapters.filesystem.links import FilesystemLinkStore
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.adapters.sqlite import SqliteFileLedger
from platevault.adapters.system_clock import SystemClock
from platevault.domain.ids import FileKey, FileKind, ImageName
from platevault.domain.inventory import Exposure
from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.messages import FileTransferCompleted
from platevault.domain.places import exposure_directory
from platevault.ports.file_ledger import Change
from platevault.services.archive_controller import ArchiveController

IMAGE = "CC_O_20261120_000001"
SENSORS = ("R22_S00", "R22_S01", "R22_S02", "R22_S10")


class Gate:
    """Holds each delivery at its beginning until it is let through."""

    def __init__(self) -> None:
        self.waiting = asyncio.Semaphore(0)
        self._passes = asyncio.Semaphore(0)

    async def reached(self, step: str, subject: str) -> None:
        if step == "delivery_begun" and subject:
            self.waiting.release()
            await self._passes.acquire()

    def open(self, deliveries: int) -> None:
        for _ in range(deliveries):
            self._passes.release()


async def test_a_sensor_that_comes_while_others_wait_is_delivered(tmp_path: Path) -> None:
    clock = SystemClock()
    gate = Gate()
    exposure = Exposure(
        IMAGE,
        "LSSTComCam",
        20261120,
        ImageName.parse(IMAGE).exposure_id,
        dict.fromkeys(SENSORS, "SCIENCE"),
    )
    folder = tmp_path / "archive" / exposure_directory("LSSTComCam", IMAGE)
    folder.mkdir(parents=True)
    async with (
        SqliteFileLedger(tmp_path / "ledger.sqlite") as ledger,
        FitsImageWriter(sync=SyncPolicy.RAMDISK) as writer,
        FilesystemLinkStore(sync=SyncPolicy.RAMDISK) as links,
    ):
        keys = [
            FileKey(IMAGE, sensor, kind)
            for sensor in SENSORS
            for kind in (FileKind.SIDECAR, FileKind.RAW)
        ]
        await ledger.register(exposure, files=keys, now_tai=clock.now_tai())
        await ledger.set_target(IMAGE, str(folder))
        for key in keys:
            staged = await writer.stage_bytes(key.file_name.encode(), folder / key.file_name)
            await writer.commit([staged])
            await ledger.apply(
                [
                    Change(
                        key,
                        Destination.ARCHIVE,
                        FileState.WRITTEN,
                        path=str(staged.final),
                        size_bytes=staged.size_bytes,
                        digest=staged.digest,
                    )
                ],
                now_tai=clock.now_tai(),
            )
        controller = ArchiveController(
            root=tmp_path / "archive",
            areas={
                Destination.OODS: tmp_path / "oods",
                Destination.BACKBONE: tmp_path / "backbone",
            },
            ledger=ledger,
            queue=MemoryWorkQueue(clock=clock),
            links=links,
            writer=writer,
            clock=clock,
            steps=gate,
        )
        async with asyncio.TaskGroup() as group:

            def arrive(sensor: str) -> None:
                message = FileTransferCompleted(camera="LSSTComCam", image=IMAGE, sensor=sensor)
                group.create_task(controller.handle(message, 1), name=sensor)

            arrive("R22_S00")
            await gate.waiting.acquire()  # its delivery is under way
            arrive("R22_S01")
            arrive("R22_S02")
            await asyncio.sleep(0)
            gate.open(2)
            await gate.waiting.acquire()  # that of the two that waited
            await gate.waiting.acquire()
            arrive("R22_S10")
            await asyncio.sleep(0)
            gate.open(100)
        states = {
            row.key.sensor: row.state
            for row in await ledger.files(image=IMAGE, destination=Destination.BACKBONE)
        }
    assert states == dict.fromkeys(SENSORS, FileState.VERIFIED)
