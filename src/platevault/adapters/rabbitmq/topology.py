"""Queues and exchanges, and what is written on messages.

For each queue ``q`` of the port there are two on the broker: ``q``, and ``q.later`` for messages
whose time has not come. Dead letters of all queues go through one exchange into one queue.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from platevault.adapters.rabbitmq.connection import RabbitRefusedError, Session
from platevault.adapters.rabbitmq.settings import MOST_DELIVERIES, QueueKind, RabbitSettings
from platevault.domain.errors import UsageError
from platevault.ports.work_queue import QueueUnavailableError

#: Where dead letters go, ours and those of the broker; operators may bind queues of their own.
DEAD_EXCHANGE = "platevault.dead"
DEAD_QUEUE = "platevault.dead_letters"
#: Exists while somebody works on the dead letters; exclusive, so it is a lock.
DEAD_LOCK = "platevault.dead_letters.lock"
#: Where consumers are asked what they have in hand.
ROLL_CALL = "platevault.roll_call"

#: What the client library lets pass, less room for an ending.
_NAME = re.compile(r"[A-Za-z0-9_.:@#,/><-]{1,200}")

#: Highest of the port's priorities.
HIGHEST_PRIORITY = 9

#: Headers of messages: deliveries before this one; moment before which it must not be delivered
#: [ms, TAI]; and the wait that was asked for [ms], which bounds what clocks that disagree can do.
DELIVERIES = "platevault-deliveries"
NOT_BEFORE = "platevault-not-before"
DELAY = "platevault-delay"
#: Header of quorum queues: deliveries that ended without an acknowledgement.
_BROKER_COUNT = "x-delivery-count"
#: Never reached; RabbitMQ 4 would drop a message after 20 otherwise.
_NO_LIMIT = 1_000_000_000


def later(queue: str) -> str:
    """Name the queue of messages whose time has not come."""
    return f"{queue}.later"


@dataclass(frozen=True, slots=True)
class Topology:
    """What queues there are, by the settings.

    Attributes
    ----------
    settings
        Of the adapter.
    """

    settings: RabbitSettings

    async def declare(self, session: Session, queue: str, *, own: bool = False) -> None:
        """Make sure that a queue exists, with all that belongs to it.

        Parameters
        ----------
        session
            Where to ask.
        queue
            Its name.
        own
            The caller takes from the queue; the account of one who only sends need not be able
            to make it.

        Raises
        ------
        QueueUnavailableError
            Its consumer has not made it yet. Retry.
        RabbitRefusedError
            The account may not make its own queue. Mend its permissions.
        """
        if queue in session.declared:
            return
        if _NAME.fullmatch(queue) is None:
            raise UsageError("Queue name is not usable", queue=queue)
        try:
            await self._make(session, queue)
        except RabbitRefusedError as error:
            if not await self._is_there(session, queue):
                if own:
                    raise
                raise QueueUnavailableError(
                    "The queue is not there, and only its consumer may make it", queue=queue
                ) from error
        session.declared.add(queue)

    async def _is_there(self, session: Session, queue: str) -> bool:
        async with session.brief_channel() as channel, session.answers("look for a queue"):
            try:
                await channel.queue_declare(
                    queue, passive=True, timeout=self.settings.answer_timeout_s
                )
            except ChannelNotFoundEntity:
                return False
        return True

    async def _make(self, session: Session, queue: str) -> None:
        async with session.brief_channel() as channel, session.answers("declare"):
            if DEAD_QUEUE not in session.declared:
                await self._declare_common(channel)
                session.declared.add(DEAD_QUEUE)
            await channel.queue_declare(
                later(queue),
                durable=True,
                arguments=self._arguments(limit=_NO_LIMIT) | {"x-single-active-consumer": True},
                timeout=self.settings.answer_timeout_s,
            )
            await channel.queue_declare(
                queue,
                durable=True,
                arguments=self._work_arguments(),
                timeout=self.settings.answer_timeout_s,
            )

    async def declare_letters(self, session: Session) -> None:
        """Make sure that the queue of dead letters exists."""
        if DEAD_QUEUE not in session.declared:
            async with session.brief_channel() as channel, session.answers("declare"):
                await self._declare_common(channel)
            session.declared.add(DEAD_QUEUE)

    async def _declare_common(self, channel: AbstractChannel) -> None:
        limit_s = self.settings.answer_timeout_s
        await channel.exchange_declare(
            DEAD_EXCHANGE, exchange_type="topic", durable=True, timeout=limit_s
        )
        await channel.exchange_declare(
            ROLL_CALL, exchange_type="direct", durable=True, timeout=limit_s
        )
        await channel.queue_declare(
            DEAD_QUEUE, durable=True, arguments=self._arguments(limit=_NO_LIMIT), timeout=limit_s
        )
        await channel.queue_bind(DEAD_QUEUE, DEAD_EXCHANGE, "#", timeout=limit_s)

    def _work_arguments(self) -> dict[str, Any]:
        arguments = self._arguments(limit=MOST_DELIVERIES) | {
            # The last resort: what the broker itself gives up is not lost.
            "x-dead-letter-exchange": DEAD_EXCHANGE,
            "x-max-length": self.settings.max_depth,
            "x-overflow": "reject-publish",
        }
        if self.settings.queue_kind is QueueKind.CLASSIC:
            arguments["x-max-priority"] = HIGHEST_PRIORITY
        return arguments

    def _arguments(self, *, limit: int) -> dict[str, Any]:
        match self.settings.queue_kind:
            case QueueKind.CLASSIC:
                return {"x-queue-type": "classic"}
            case QueueKind.QUORUM:
                return {"x-queue-type": "quorum", "x-delivery-limit": limit}


def properties(
    *,
    priority: int,
    headers: dict[str, Any] | None = None,
    message_type: str | None = None,
    now_utc: Any = None,
) -> Basic.Properties:
    """Give the properties of a message that survives the broker's restart."""
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        priority=priority,
        message_id=uuid.uuid4().hex,
        message_type=message_type,
        timestamp=now_utc,
        app_id="platevault",
        headers=headers or {},
    )


def headers_of(message: DeliveredMessage) -> dict[str, Any]:
    """Give the headers of a message; foreign ones may have none."""
    return dict(message.header.properties.headers or {})


def priority_of(message: DeliveredMessage) -> int:
    """Give the priority of a message, within the port's range."""
    return max(0, min(message.header.properties.priority or 0, HIGHEST_PRIORITY))


def deliveries_before(message: DeliveredMessage) -> int:
    """Count how often a message was delivered before this time.

    The header counts those that were written on it. A quorum queue adds how often it came back
    since; a classic queue only says whether it did, so one is the least.
    """
    again = 1 if message.redelivered else 0
    return written_count(message) + max(_count(headers_of(message).get(_BROKER_COUNT)), again)


def written_count(message: DeliveredMessage) -> int:
    """Give the count that is written on a message."""
    return _count(headers_of(message).get(DELIVERIES))


def count_is_written(message: DeliveredMessage) -> bool:
    """Tell whether the next consumer could count on from here, if this one vanished."""
    return not message.redelivered or _BROKER_COUNT in headers_of(message)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
