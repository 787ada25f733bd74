"""Archiver, Archive Controller and Forwarders find each other, lose each other, and go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from platevault.domain.camera import Components
from platevault.domain.errors import PlatevaultError
from platevault.domain.lifecycles import FileState, SummaryState
from platevault.domain.messages import Associated, HealthCheckAck
from platevault.domain.places import (
    FORWARDER_ROLE,
    archiver_queue,
    forwarder_lease,
    forwarder_queue,
)
from platevault.ports.file_ledger import LedgerUnavailableError
from platevault.ports.leases import LeasesUnavailableError
from platevault.ports.work_queue import QueueUnavailableError
from platevault.sal.acks import CommandFailedError
from platevault.services.archiver import ArchiverConfiguration, ArchiverCsc
from platevault.testing.capture import CaptureRig
from platevault.testing.crashes import HoldAt
from platevault.testing.outages import Outage


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CaptureRig]:
    async with CaptureRig(tmp_path) as rig:
        yield rig


def error_code(rig: CaptureRig) -> int:
    return int(rig.events("errorCode")[-1].fields["errorCode"])


async def refused_start(rig: CaptureRig, code: int) -> None:
    with pytest.raises(CommandFailedError, match=str(code)):
        await rig.command("start")
    await rig.step(0.1)
    assert rig.state is SummaryState.FAULT
    assert error_code(rig) == code


async def test_start_without_a_forwarder_is_fault_5701(rig: CaptureRig) -> None:
    await rig.start(await rig.controller())
    await rig.start(rig.archiver())
    await refused_start(rig, 5701)


@pytest.mark.parametrize(
    ("port", "error", "code"),
    [
        ("leases", LeasesUnavailableError, 5702),
        ("queue", QueueUnavailableError, 5703),
        ("ledger", LedgerUnavailableError, 5704),
    ],
)
async def test_start_without_a_port_is_a_fault_with_its_code(
    rig: CaptureRig, port: str, error: type[PlatevaultError], code: int
) -> None:
    outage = Outage(getattr(rig, port), lambda: error("away"))
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder())
    await rig.start(rig.archiver(**{port: outage}))
    outage.down = True
    await refused_start(rig, code)


async def test_start_without_the_archive_controller_is_fault_5751(rig: CaptureRig) -> None:
    await rig.start(await rig.forwarder())
    await rig.start(rig.archiver())
    await refused_start(rig, 5751)


async def test_an_answer_to_another_question_is_no_sign_of_life(rig: CaptureRig) -> None:
    await rig.start(await rig.forwarder())
    await rig.start(rig.archiver())
    stale = HealthCheckAck(sender="archive_controller", ack_id="CCArchiver-1.0-1")
    await rig.queue.send(archiver_queue(rig.camera.name), stale)
    await refused_start(rig, 5751)


async def test_a_forwarder_that_does_not_answer_is_fault_5752(rig: CaptureRig) -> None:
    await rig.start(await rig.controller())
    await rig.presence.announce(FORWARDER_ROLE, "deaf", {}, ttl_s=100.0)
    await rig.start(rig.archiver())
    await refused_start(rig, 5752)
    assert await rig.leases.current(forwarder_lease("deaf")) is None


async def test_after_a_fault_standby_and_start_try_again(rig: CaptureRig) -> None:
    await rig.start(await rig.controller())
    await rig.start(rig.archiver())
    await refused_start(rig, 5701)
    await rig.start(await rig.forwarder())
    await rig.command("standby")
    await rig.enable()
    assert rig.state is SummaryState.ENABLED
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))


async def test_standby_gives_forwarders_back(rig: CaptureRig) -> None:
    await rig.corridor(forwarders=2)
    await rig.command("disable")
    assert await rig.leases.current(forwarder_lease("forwarder1")) is not None
    await rig.command("standby")
    assert await rig.leases.current(forwarder_lease("forwarder1")) is None
    assert await rig.leases.current(forwarder_lease("forwarder2")) is None


async def test_a_spare_takes_the_place_of_a_forwarder_that_vanishes(rig: CaptureRig) -> None:
    archiver = await rig.corridor(settings=ArchiverConfiguration(forwarders=1))
    assert archiver.forwarders == ["forwarder1"]
    await rig.start(await rig.forwarder("forwarder2"))
    await rig.kill("forwarder1")
    await rig.until(lambda: archiver.forwarders == ["forwarder2"], limit_s=15.0)
    assert rig.logged("Forwarder lost")
    assert rig.state is SummaryState.ENABLED
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))


async def test_without_a_forwarder_exposures_are_kept_until_one_comes(rig: CaptureRig) -> None:
    archiver = await rig.corridor()
    await rig.kill("forwarder1")
    await rig.until(lambda: not archiver.forwarders, limit_s=15.0)
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_registered(image))
    await rig.pass_time(60.0)
    assert rig.state is SummaryState.ENABLED
    assert rig.logged("Outage began (code=5755")
    await rig.start(await rig.forwarder("forwarder9"))
    await rig.until(lambda: rig.is_archived(image), limit_s=10.0)
    await rig.until(lambda: bool(rig.logged("Outage is over (code=5755")), limit_s=5.0)


async def test_no_forwarder_for_long_is_fault_5755(rig: CaptureRig) -> None:
    await rig.corridor(settings=ArchiverConfiguration(fault_after_s=30.0))
    await rig.kill("forwarder1")
    await rig.until(lambda: rig.state is SummaryState.FAULT, limit_s=60.0)
    assert error_code(rig) == 5755


async def test_a_forwarder_that_restarts_is_paired_again_unasked(rig: CaptureRig) -> None:
    archiver = await rig.corridor()
    await rig.kill("forwarder1")
    await rig.start(await rig.forwarder("forwarder1"))
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image), limit_s=20.0)
    assert archiver.forwarders == ["forwarder1"]


async def test_a_restarted_archiver_finds_its_forwarders_again(rig: CaptureRig) -> None:
    archiver = await rig.corridor(forwarders=2)
    before = await rig.leases.current(forwarder_lease("forwarder1"))
    await rig.kill(archiver.name)
    again = rig.archiver()
    await rig.start(again)
    await rig.enable()
    await rig.until(lambda: again.forwarders == ["forwarder1", "forwarder2"], limit_s=10.0)
    after = await rig.leases.current(forwarder_lease("forwarder1"))
    assert before is not None
    assert after is not None
    assert before.holder == after.holder


async def test_a_forwarder_that_was_let_go_takes_no_more_boards(rig: CaptureRig) -> None:
    archiver = await rig.corridor()
    await rig.command("disable")
    await rig.command("standby")
    forwarder_free = await rig.leases.current(forwarder_lease("forwarder1"))
    assert forwarder_free is None
    await rig.pass_time(4.0)  # one heartbeat
    members = await rig.presence.alive(FORWARDER_ROLE)
    assert [member.facts["archiver"] for member in members] == [""]
    assert archiver.forwarders == []


async def test_a_pairing_under_an_older_fence_is_not_answered(rig: CaptureRig) -> None:
    await rig.corridor()
    grant = await rig.leases.current(forwarder_lease("forwarder1"))
    assert grant is not None
    stale = Associated(
        archiver="OldArchiver",
        forwarder="forwarder1",
        work_queue="work.Old",
        reply_queue="replies.Old",
        fence=grant.fence - 1,
    )
    await rig.queue.send(forwarder_queue("forwarder1"), stale)
    await rig.pass_time(1.0)
    assert await rig.queue.depth("replies.Old") == 0
    members = await rig.presence.alive(FORWARDER_ROLE)
    assert [member.facts["archiver"] for member in members] == ["CCArchiver"]


async def test_a_stopped_forwarder_finishes_its_board_and_leaves(rig: CaptureRig) -> None:
    hold = HoldAt("read")
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(steps=hold))
    await rig.start(rig.archiver(settings=ArchiverConfiguration(detectors=("R22_S00",))))
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: hold.waiting == 1)
    hold.go.set()
    await rig.stop("forwarder1")
    assert await rig.states(image) == {"R22_S00": FileState.WRITTEN}
    assert await rig.presence.alive(FORWARDER_ROLE) == []
    assert await rig.leases.current(f"write/{image}/22/0") is None


async def test_two_archivers_share_the_forwarders(rig: CaptureRig) -> None:
    camera = replace(
        rig.camera,
        name="OtherCam",
        code="OC",
        components=Components(
            camera="ATCamera",
            header_service="ATHeaderService",
            archiver="ATArchiver",
            oods="ATOODS",
        ),
    )
    cameras = {one.name: one for one in (rig.camera, camera)}
    await rig.start(await rig.controller())
    for name in ("forwarder1", "forwarder2"):
        await rig.start(await rig.forwarder(name, cameras=cameras))
    first = rig.archiver()
    await rig.start(first)
    await rig.enable()
    await rig.until(lambda: first.forwarders == ["forwarder1", "forwarder2"], limit_s=10.0)
    second = ArchiverCsc(
        camera=camera,
        root=rig.archive,
        bus=rig.bus,
        interfaces=rig.interfaces,
        clock=rig.clock,
        version="1.2.3",
        ledger=rig.ledger,
        queue=rig.queue,
        leases=rig.leases,
        presence=rig.presence,
        initial_state=SummaryState.ENABLED,
    )
    await rig.start(second)
    assert second.state is SummaryState.ENABLED
    assert first.forwarders == ["forwarder1"]
    assert second.forwarders == ["forwarder2"]


async def test_a_forwarder_that_cannot_read_the_camera_is_not_taken(rig: CaptureRig) -> None:
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder(cameras={"OtherCam": rig.camera}))
    await rig.start(rig.archiver())
    await refused_start(rig, 5701)


async def test_a_silent_controller_does_not_stop_the_capture(rig: CaptureRig) -> None:
    await rig.corridor()
    await rig.kill("archive_controller")
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image), limit_s=60.0)
    assert rig.state is SummaryState.ENABLED
    record = await rig.ledger.exposure(image)
    assert record is not None
    assert record.target_dir == str(rig.archive / rig.camera.name / "20330517" / image)
    await rig.until(lambda: bool(rig.logged("Outage began (code=5751")), limit_s=60.0)
    await rig.start(await rig.controller())
    await rig.until(lambda: rig.is_delivered(image), limit_s=60.0)
    manifest = Path(record.target_dir, f"{image}_expectedSensors.json")
    await rig.until(manifest.exists)


async def outlast(rig: CaptureRig, outage: Outage) -> None:
    """Take an exposure during an outage; it is delivered afterwards."""
    await rig.enable()
    outage.down = True
    image = rig.image_name()
    await rig.take(image)
    await rig.pass_time(20.0)
    outage.down = False
    await rig.until(lambda: rig.is_delivered(image), limit_s=60.0)
    assert outage.refused > 0


async def test_an_outage_of_the_ledger_loses_no_exposure(rig: CaptureRig) -> None:
    ledger = Outage(rig.ledger, lambda: LedgerUnavailableError("away"))
    await rig.start(await rig.controller(ledger=ledger))
    await rig.start(await rig.forwarder(ledger=ledger))
    await rig.start(rig.archiver(ledger=ledger))
    await outlast(rig, ledger)


async def test_an_outage_of_the_queue_loses_no_exposure(rig: CaptureRig) -> None:
    queue = Outage(rig.queue, lambda: QueueUnavailableError("away"))
    await rig.start(await rig.controller())
    await rig.start(await rig.forwarder())
    await rig.start(rig.archiver(queue=queue))
    await outlast(rig, queue)
