"""The capture corridor over RabbitMQ and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from platevault.adapters.rabbitmq import RabbitSettings, RabbitWorkQueue
from platevault.adapters.redis import RedisConnection, RedisLeases, RedisPresence, RedisSettings
from platevault.adapters.system_clock import SystemClock
from platevault.domain.lifecycles import SummaryState
from platevault.domain.messages import IngestRequest, singles
from platevault.domain.places import (
    ARCHIVE_CONTROLLER_QUEUE,
    FORWARDER_ROLE,
    archiver_queue,
    board_lease,
    forwarder_lease,
    forwarder_queue,
    oods_queue,
    work_queue,
)
from platevault.testing import capture
from platevault.testing.capture import CaptureRig
from platevault.testing.message_servers import rabbitmqctl
from platevault.testing.servers import RabbitServer, RedisServer

pytestmark = pytest.mark.servers

SENSORS = {"R00_SG0", "R00_SG1", "R22_S00", "R22_S01"}
VIRTUAL_HOST = "capture"


@pytest.fixture
async def rig(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rabbit_server: RabbitServer,
    redis_server: RedisServer,
) -> AsyncIterator[CaptureRig]:
    # Messages pass through other processes: let the stepped clock run at twice the real pace only.
    monkeypatch.setattr(capture, "_THREADS_S", 0.05)
    rabbitmqctl(rabbit_server, "add_vhost", VIRTUAL_HOST)
    rabbitmqctl(rabbit_server, "set_permissions", "-p", VIRTUAL_HOST, "guest", ".*", ".*", ".*")
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        rig: Any = CaptureRig(tmp_path)
        rig.queue = await stack.enter_async_context(
            RabbitWorkQueue(
                settings=RabbitSettings(
                    user="guest",
                    password="guest",
                    hosts=(rabbit_server.host,),
                    port=rabbit_server.port,
                    virtual_host=VIRTUAL_HOST,
                ),
                clock=clock,
            )
        )
        redis = await stack.enter_async_context(
            RedisConnection(
                settings=RedisSettings(
                    host=redis_server.host, port=redis_server.port, namespace=VIRTUAL_HOST
                ),
                clock=clock,
            )
        )
        rig.leases = RedisLeases(connection=redis, clock=clock)
        rig.presence = RedisPresence(connection=redis)
        yield await stack.enter_async_context(rig)
    rabbitmqctl(rabbit_server, "delete_vhost", VIRTUAL_HOST)


async def test_an_exposure_goes_from_the_camera_to_every_destination(rig: CaptureRig) -> None:
    await rig.corridor(forwarders=2)
    assert rig.state is SummaryState.ENABLED
    members = await rig.presence.alive(FORWARDER_ROLE)
    assert [member.name for member in members] == ["forwarder1", "forwarder2"]
    held = [await rig.leases.current(forwarder_lease(member.name)) for member in members]
    assert any(grant is not None for grant in held)

    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    await rig.until(lambda: bool(rig.events("exposureClosed")))

    results = rig.events("imageRetrievalForArchiving", obsid=image)
    assert sorted(f"{one.fields['raft']}_{one.fields['sensor']}" for one in results) == sorted(
        SENSORS
    )
    assert {one.fields["statusCode"] for one in results} == {0}
    assert [one.fields["status"] for one in rig.events("exposureClosed")] == [1]

    # No OODS runs here: its requests wait, for each sensor, and nothing else does.
    asked: list[str] = []
    async with rig.queue.consume(oods_queue(rig.camera.name), prefetch=8) as deliveries:
        for _ in range(await rig.queue.depth(oods_queue(rig.camera.name))):
            delivery = await anext(deliveries)
            asked += [m.sensor for m in singles(delivery.message) if isinstance(m, IngestRequest)]
            await delivery.ack()
    assert sorted(asked) == sorted(SENSORS)
    for name in (
        ARCHIVE_CONTROLLER_QUEUE,
        work_queue(rig.camera.name),
        archiver_queue(rig.camera.name),
        *(forwarder_queue(member.name) for member in members),
    ):
        assert await _rests(rig, name), name
    assert await rig.queue.dead_letters() == []
    for location in {rig.camera.board_of(sensor).location for sensor in SENSORS}:
        assert await rig.leases.current(board_lease(image, location)) is None


async def _rests(rig: CaptureRig, name: str) -> bool:
    """Tell whether a queue comes to be empty; health checks pass through some all the time."""

    async def is_empty() -> bool:
        return await rig.queue.depth(name) == 0

    await rig.until(is_empty)
    return True
