"""Putting messages on queues: new ones, and copies of those that come again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiormq.abc import DeliveredMessage

from platevault.adapters.rabbitmq.connection import RabbitConnection, Session
from platevault.adapters.rabbitmq.letters import letter_headers
from platevault.adapters.rabbitmq.topology import (
    DEAD_EXCHANGE,
    DELAY,
    DELIVERIES,
    NOT_BEFORE,
    Topology,
    later,
    priority_of,
    properties,
)
from platevault.domain.timescales import utc_from_tai
from platevault.ports.clock import Clock


class Sender:
    """Every method returns when the broker has confirmed the message, on disk.

    A message that comes again is a confirmed copy with its count, and only then is the original
    acknowledged: a crash between them makes two of it, never none.

    Parameters
    ----------
    connection
        A connection that only sends: a broker that is short of memory or disk stops such
        connections, and acknowledgements must still get through.
    topology, clock
        Shared by the adapter.
    """

    def __init__(self, *, connection: RabbitConnection, topology: Topology, clock: Clock) -> None:
        self._connection = connection
        self._topology = topology
        self._clock = clock

    async def session(self, queue: str) -> Session:
        """Give the present session, with the queue declared."""
        session = await self._connection.session()
        await self._topology.declare(session, queue)
        return session

    async def send(self, queue: str, body: bytes, *, priority: int, message_type: str) -> None:
        """Put a new message on a queue."""
        session = await self.session(queue)
        now_utc = datetime.fromtimestamp(int(utc_from_tai(self._clock.now_tai())), UTC)
        await session.publish(
            body,
            properties(priority=priority, message_type=message_type, now_utc=now_utc),
            key=queue,
        )

    async def copy(self, queue: str, message: DeliveredMessage, *, deliveries: int) -> None:
        """Put a copy behind all others of its priority."""
        headers: dict[str, Any] = {DELIVERIES: deliveries}
        await self._copy(queue, queue, message, headers)

    async def park(
        self, queue: str, message: DeliveredMessage, *, deliveries: int, delay_s: float
    ) -> None:
        """Put a copy where it waits for its time."""
        headers: dict[str, Any] = {
            DELIVERIES: deliveries,
            NOT_BEFORE: round((self._clock.now_tai() + delay_s) * 1000),
            DELAY: round(delay_s * 1000),
        }
        await self._copy(queue, later(queue), message, headers)

    async def bury(self, queue: str, message: DeliveredMessage, *, reason: str) -> None:
        """Put a copy among the dead letters."""
        session = await self.session(queue)
        await session.publish(
            message.body,
            properties(
                priority=priority_of(message),
                headers=letter_headers(queue, reason, self._clock.now_tai()),
                message_type=message.header.properties.message_type,
            ),
            key=queue,
            exchange=DEAD_EXCHANGE,
        )

    async def answer(self, key: str, body: bytes, *, correlation_id: str) -> None:
        """Answer a question of another adapter."""
        session = await self._connection.session()
        told = properties(priority=0)
        told.correlation_id = correlation_id
        # Who asked is no queue, so the broker would call the answer undeliverable.
        await session.publish(body, told, key=key, mandatory=False)

    async def _copy(
        self, queue: str, to: str, message: DeliveredMessage, headers: dict[str, Any]
    ) -> None:
        session = await self.session(queue)
        await session.publish(
            message.body,
            properties(
                priority=priority_of(message),
                headers=headers,
                message_type=message.header.properties.message_type,
            ),
            key=to,
        )
