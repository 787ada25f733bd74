"""All files of an exposure have one header, whoever chooses it and whatever comes late."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from platevault.domain.capture import NO_HEADER
from platevault.domain.places import header_lease
from platevault.runtime.service import Deadline
from platevault.services.archiver import ArchiverConfiguration
from platevault.services.forwarder.header_source import HeaderSource
from platevault.testing.capture import CaptureRig

SENSORS = ("R00_SG0", "R00_SG1", "R22_S00", "R22_S01")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CaptureRig]:
    async with CaptureRig(tmp_path) as rig:
        yield rig


class CountedObjects:
    """Counts what is fetched."""

    def __init__(self, objects: Any) -> None:
        self._objects = objects
        self.fetched: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def get(self, url: str) -> bytes:
        self.fetched.append(url)
        body: bytes = await self._objects.get(url)
        return body


async def programs(rig: CaptureRig, image: str) -> set[object]:
    """Give what the headers of the sensors say of themselves."""
    folder = rig.archive / rig.camera.name / "20330517" / image
    return {
        json.loads((folder / f"{image}_{sensor}.json").read_text()).get("PROGRAM")
        for sensor in SENSORS
    }


async def test_boards_of_one_exposure_fetch_its_header_once(rig: CaptureRig) -> None:
    objects = CountedObjects(rig.objects)
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(objects=objects))
    await rig.start(rig.archiver())
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    assert len(objects.fetched) == 1


async def test_a_header_of_another_image_is_not_used(rig: CaptureRig) -> None:
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(header_patience_s=30.0))
    settings = ArchiverConfiguration(retry_s=5.0, catch_up_s=5.0)
    await rig.start(rig.archiver(settings=settings))
    await rig.enable()
    image, other = rig.image_name(1), rig.image_name(2)
    await rig.take(image, header=False)
    await rig.announce_header(image, await rig.store_header(other))
    await rig.until(lambda: rig.is_archived(image), limit_s=200.0)
    assert all(row.degraded for row in (await rig.files(image)).values())
    assert await programs(rig, image) == {None}


async def test_a_header_that_comes_while_it_is_given_up_goes_to_all_files_or_to_none(
    rig: CaptureRig,
) -> None:
    """The archiver holds the choice at the very moment of the deadline."""
    await rig.corridor(forwarders=2)
    image = rig.image_name()
    await rig.take(image, header=False)
    grant = await rig.leases.acquire(header_lease(image), holder="CCArchiver", ttl_s=60.0)
    assert grant is not None
    await rig.pass_time(25.0)  # past the deadline: Forwarders want to choose and wait
    assert not await rig.is_archived(image)
    header = await rig.store_header(image)
    await rig.ledger.set_header(image, header)
    await rig.leases.release(grant)
    await rig.until(lambda: rig.is_archived(image))
    assert await programs(rig, image) == {"version 1"}
    assert not any(row.degraded for row in (await rig.files(image)).values())


async def test_two_forwarders_give_up_a_header_together(rig: CaptureRig) -> None:
    await rig.corridor(forwarders=2)
    image = rig.image_name()
    await rig.take(image, header=False)
    await rig.until(lambda: rig.is_archived(image), limit_s=30.0)
    record = await rig.ledger.exposure(image)
    assert record is not None
    assert record.header == NO_HEADER
    assert await rig.leases.current(header_lease(image)) is None


async def test_a_hint_makes_a_look_at_the_ledger_needless(rig: CaptureRig) -> None:
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(header_poll_s=1000.0))
    await rig.start(rig.archiver())
    await rig.enable()
    image = rig.image_name()
    await rig.take(image, header=False)
    await rig.pass_time(3.0)
    await rig.publish_header(image)
    await rig.until(lambda: rig.is_archived(image), limit_s=10.0)  # the deadline is later


async def test_a_look_finds_the_header_when_the_hint_is_lost(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image, header=False)
    await rig.pass_time(3.0)
    await rig.ledger.set_header(image, await rig.store_header(image))  # nobody is told
    await rig.until(lambda: rig.is_archived(image), limit_s=3.0)


async def test_the_fits_form_of_a_header_is_not_taken_for_it(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image, header=False)
    header = await rig.store_header(image)
    await rig.announce_header(image, replace(header, url="file:///h.fits"), mimeType="FITS")
    await rig.pass_time(2.0)
    assert not await rig.is_archived(image)
    await rig.announce_header(image, header)
    await rig.until(lambda: rig.is_archived(image))
    assert await programs(rig, image) == {"version 1"}


async def test_a_header_announced_before_its_exposure_is_remembered(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.publish_header(image)
    await rig.pass_time(1.0)
    await rig.take(image, header=False)
    await rig.until(lambda: rig.is_archived(image), limit_s=10.0)
    assert await programs(rig, image) == {"version 1"}


async def test_few_documents_are_kept(rig: CaptureRig) -> None:
    objects = CountedObjects(rig.objects)
    source = HeaderSource(
        ledger=rig.ledger, leases=rig.leases, objects=objects, clock=rig.clock, holder="f"
    )
    await rig.corridor()
    images = [rig.image_name(number) for number in range(1, 21)]
    for image in images:
        await rig.begin(image)
        await rig.until(lambda image=image: rig.is_registered(image))  # type: ignore[misc]
        await rig.ledger.set_header(image, await rig.store_header(image))
    for image in [*images, images[-1], images[0]]:
        found = await source.header(rig.camera, image, Deadline(rig.clock, rig.clock.now_tai()))
        assert found.document.image == image
    assert len(objects.fetched) == len(images) + 1  # the newest was kept, the oldest was not
