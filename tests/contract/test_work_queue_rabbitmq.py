"""Work queues on RabbitMQ keep their contract, and what is their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import aio_pika
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from platevault.adapters.rabbitmq import QueueKind, RabbitSettings, RabbitWorkQueue
from platevault.adapters.system_clock import SystemClock
from platevault.ports.work_queue import WorkQueue
from platevault.testing.message_servers import rabbitmqctl
from platevault.testing.servers import RabbitServer
from platevault.testing.work_queue_contract import Advance, Inject, WorkQueueContract, a_message

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def quorum_host(rabbit_server: RabbitServer) -> str:
    """Make a virtual host for quorum queues: all queues of one are of one kind."""
    name = "night/quorum"
    rabbitmqctl(rabbit_server, "add_vhost", name)
    rabbitmqctl(rabbit_server, "set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    return name


class RabbitContract(WorkQueueContract):
    delay_s: ClassVar[float] = 0.6
    kind: ClassVar[QueueKind]

    @pytest.fixture
    def virtual_host(self) -> str:
        return "/"

    @pytest.fixture
    def settings(self, rabbit_server: RabbitServer, virtual_host: str) -> RabbitSettings:
        return RabbitSettings(
            virtual_host=virtual_host,
            user="guest",
            password="guest",
            hosts=(rabbit_server.host,),
            port=rabbit_server.port,
            queue_kind=self.kind,
            delivery_limit=self.delivery_limit,
        )

    @pytest.fixture
    async def queue(self, settings: RabbitSettings) -> AsyncIterator[RabbitWorkQueue]:
        async with RabbitWorkQueue(settings=settings, clock=SystemClock()) as queue:
            yield queue

    @pytest.fixture
    def advance(self) -> Advance:
        return asyncio.sleep

    @pytest.fixture
    async def inject(self, settings: RabbitSettings, queue: WorkQueue) -> Inject:
        async def put(name: str, body: bytes) -> None:
            await queue.depth(name)  # the queue must exist; nobody else knows how it is made
            async with await aio_pika.connect(
                settings.url(settings.hosts[0], name="inject")
            ) as connection:
                channel = await connection.channel()
                await channel.default_exchange.publish(aio_pika.Message(body), routing_key=name)

        return put


class TestClassicQueues(RabbitContract):
    kind: ClassVar[QueueKind] = QueueKind.CLASSIC

    async def test_a_roll_call_that_is_answered_is_no_news(
        self, settings: RabbitSettings, name: str
    ) -> None:
        with capture_logs() as logs:
            async with (
                RabbitWorkQueue(settings=settings, clock=SystemClock()) as queue,
                queue.consume(name, prefetch=1) as deliveries,
            ):
                await queue.send(name, a_message(1))
                delivery = await anext(deliveries)
                assert await queue.depth(name) == 1
                await delivery.ack()
        assert {log["event"] for log in logs} == {"RabbitMQ is connected"}


class TestQuorumQueues(RabbitContract):
    kind: ClassVar[QueueKind] = QueueKind.QUORUM

    @pytest.fixture
    @override
    def virtual_host(self, quorum_host: str) -> str:
        return quorum_host

    @override
    async def test_a_higher_priority_goes_first(self, queue: WorkQueue, name: str) -> None:
        """Quorum queues know no ten priorities: all messages come, in what order is theirs."""
        for number, priority in enumerate((0, 9, 5, 0, 9)):
            await queue.send(name, a_message(number), priority=priority)
        seen = set()
        async with queue.consume(name, prefetch=1) as deliveries:
            for _ in range(5):
                delivery = await anext(deliveries)
                seen.add(delivery.message)
                await delivery.ack()
        assert seen == {a_message(number) for number in range(5)}
