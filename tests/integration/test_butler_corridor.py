"""From the camera to ``butler.get``: every part is the real one but for the sky."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import Butler

from platevault.adapters.butler.ingest import ButlerIngest
from platevault.domain.assembly import assemble
from platevault.domain.ids import ImageName
from platevault.domain.lifecycles import Destination, FileState, SummaryState
from platevault.domain.places import oods_queue
from platevault.ports.sample_bus import History
from platevault.runtime.steps import Steps
from platevault.sal.remote import Remote
from platevault.services.oods import OODS_STEPS, Oods, OodsCsc
from platevault.sim.pixels import amplifier_planes
from platevault.sim.recipe import ImageType, PixelRecipe
from platevault.testing.capture import CaptureRig
from platevault.testing.crashes import CrashAt

SENSORS = {"R00_SG0", "R00_SG1", "R22_S00", "R22_S01"}


@dataclass
class Scene:
    rig: CaptureRig
    ingest: ButlerIngest

    def options(self) -> dict[str, Any]:
        return {
            "camera": self.rig.camera,
            "ingest": self.ingest,
            "ledger": self.rig.ledger,
            "queue": self.rig.queue,
            "links": self.rig.links,
            "quarantine": self.rig.root / "quarantine",
            "clock": self.rig.clock,
        }

    def oods(self, steps: Steps | None = None) -> Oods:
        return Oods(**self.options(), steps=steps)

    async def is_catalogued(self, image: str) -> bool:
        states = (await self.rig.states(image, Destination.OODS)).values()
        return set(states) == {FileState.CATALOGUED}

    def told(self, image: str) -> list[tuple[str, int]]:
        return sorted(
            (f"{sample.fields['raft']}_{sample.fields['sensor']}", sample.fields["statusCode"])
            for sample in self.rig.events("imageInOODS", obsid=image)
        )


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with (
        CaptureRig(tmp_path) as rig,
        ButlerIngest(repository=tmp_path / "butler") as ingest,
    ):
        await ingest.register_camera(rig.camera)
        yield Scene(rig, ingest)


async def take(scene: Scene, sequence: int = 1) -> str:
    image = scene.rig.image_name(sequence)
    await scene.rig.take(image)
    await scene.rig.until(lambda: scene.rig.is_archived(image))
    return image


async def test_what_the_camera_read_is_what_the_butler_gives(scene: Scene) -> None:
    rig = scene.rig
    await rig.corridor()
    await rig.start(scene.oods())
    image = await take(scene)
    await rig.until(lambda: scene.is_catalogued(image))
    await rig.until(lambda: len(scene.told(image)) == len(SENSORS))
    assert scene.told(image) == [(sensor, 0) for sensor in sorted(SENSORS)]
    files = await rig.files(image, destination=Destination.OODS)
    assert await scene.ingest.catalogued(rig.camera, image) == {
        sensor: row.path for sensor, row in files.items()
    }
    with Butler.from_config(str(rig.root / "butler")) as butler:
        for detector in rig.camera.detectors:
            raw = butler.get(
                "raw",
                instrument=rig.camera.name,
                detector=detector.id,
                exposure=ImageName.parse(image).exposure_id,
                collections=f"{rig.camera.name}/raw/all",
            )
            truth = amplifier_planes(
                rig.camera, detector, PixelRecipe(ImageType.BIAS), seed=7, image=image
            )
            np.testing.assert_array_equal(raw.assemble(), assemble(tuple(truth), detector.type))
            assert raw.metadata["OBJECT"] == "from the Header Service"
    assert await rig.queue.depth(oods_queue(rig.camera.name)) == 0
    assert await rig.queue.dead_letters() == []


@pytest.mark.parametrize("step", OODS_STEPS)
async def test_a_crash_gives_no_double_and_no_loss(scene: Scene, step: str) -> None:
    rig = scene.rig
    await rig.corridor()
    crash = CrashAt(step)
    await rig.start(scene.oods(crash))
    image = await take(scene)
    await rig.until(lambda: rig.has_ended(f"oods-{rig.camera.name}"))
    await rig.kill(f"oods-{rig.camera.name}")
    assert crash.crashed
    before = await scene.ingest.datasets(rig.camera, image)
    await rig.start(scene.oods())
    await rig.until(lambda: scene.is_catalogued(image))
    await rig.until(lambda: len(scene.told(image)) == len(SENSORS))
    after = await scene.ingest.datasets(rig.camera, image)
    assert set(after) == SENSORS
    assert before.items() <= after.items()
    with Butler.from_config(str(rig.root / "butler")) as butler:
        refs = butler.query_datasets("raw", collections="*", find_first=False)
        assert len(refs) == len(SENSORS)
    assert scene.told(image) == [(sensor, 0) for sensor in sorted(SENSORS)]


async def test_a_file_damaged_after_its_arrival_is_set_aside(scene: Scene) -> None:
    rig = scene.rig
    await rig.corridor()
    image = await take(scene)
    await rig.until(lambda: rig.is_delivered(image))
    bad = (await rig.files(image, destination=Destination.OODS))["R22_S00"]
    _truncate(Path(bad.path))
    await rig.start(scene.oods())
    await rig.until(lambda: len(scene.told(image)) == len(SENSORS))
    states = await rig.states(image, Destination.OODS)
    assert states.pop("R22_S00") is FileState.DEAD
    assert set(states.values()) == {FileState.CATALOGUED}
    assert ("R22_S00", 1) in scene.told(image)
    row = (await rig.files(image, destination=Destination.OODS))["R22_S00"]
    assert "cut off" in row.reason
    assert set(await scene.ingest.catalogued(rig.camera, image)) == SENSORS - {"R22_S00"}


def _truncate(path: Path) -> None:
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body[:-100])


@asynccontextmanager
async def component(scene: Scene) -> AsyncIterator[tuple[OodsCsc, Callable[[str], Any], list[Any]]]:
    """Run the OODS as a component; give it, a way to command it, and what it says."""
    rig = scene.rig
    csc = OodsCsc(**scene.options(), bus=rig.bus, interfaces=rig.interfaces, version="1.0")
    topic = rig.interfaces.component("CCOODS").event("imageInOODS")
    heard: list[Any] = []
    async with (
        rig.bus.subscribe([topic], history=History.NONE) as samples,
        Remote(
            component="CCOODS", bus=rig.bus, interfaces=rig.interfaces, clock=rig.clock
        ) as remote,
    ):
        await rig.start(csc)

        async def command(name: str) -> None:

            async with asyncio.TaskGroup() as group:
                task = group.create_task(remote.command(name))
                await rig.until(task.done)

        async def listen() -> None:
            async for sample in samples:
                heard.append(sample)  # noqa: PERF401 - read while it grows

        async with asyncio.TaskGroup() as group:
            listening = group.create_task(listen())
            yield csc, command, heard
            listening.cancel()
        await rig.stop(csc.name)


async def test_the_component_catalogues_while_it_is_enabled(scene: Scene) -> None:
    rig = scene.rig
    await rig.corridor()
    async with component(scene) as (_, command, heard):
        await command("start")
        image = await take(scene)
        await rig.pass_time(5.0)
        assert not await scene.is_catalogued(image)
        await command("enable")
        await rig.until(lambda: scene.is_catalogued(image))
        await rig.until(lambda: len(heard) == len(SENSORS))
        assert {(s.fields["obsid"], s.fields["camera"], s.fields["statusCode"]) for s in heard} == {
            (image, rig.camera.name, 0)
        }
        assert {f"{s.fields['raft']}_{s.fields['sensor']}" for s in heard} == SENSORS
        await command("disable")
        second = await take(scene, 2)
        await rig.pass_time(5.0)
        assert not await scene.is_catalogued(second)
        await command("enable")
        await rig.until(lambda: scene.is_catalogued(second))


async def test_wrong_settings_are_a_fault_of_the_component(scene: Scene, tmp_path: Path) -> None:
    async with (
        ButlerIngest(repository=tmp_path / "butler", compatibility="obs_lsst") as ingest,
        component(Scene(scene.rig, ingest)) as (csc, command, _),
    ):
        await command("start")
        await command("enable")
        await scene.rig.until(lambda: csc.state is SummaryState.FAULT)
