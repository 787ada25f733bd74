"""The work queue on RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import structlog
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from typing_extensions import override

from platevault.adapters.rabbitmq.background import Background
from platevault.adapters.rabbitmq.connection import RabbitConnection, RabbitState, Session
from platevault.adapters.rabbitmq.consumer import Consumer, Tools
from platevault.adapters.rabbitmq.letters import Letters
from platevault.adapters.rabbitmq.sender import Sender
from platevault.adapters.rabbitmq.settings import RabbitSettings
from platevault.adapters.rabbitmq.topology import HIGHEST_PRIORITY, ROLL_CALL, Topology, later
from platevault.domain.errors import UsageError
from platevault.domain.messages import Message, encode_message
from platevault.ports.clock import Clock
from platevault.ports.work_queue import (
    DeadLetter,
    Delivery,
    QueueUnavailableError,
    WorkQueue,
)
from platevault.runtime.retry import Backoff

#: Highest value that the protocol has for a prefetch.
_MOST_PREFETCH = 65535
#: So often a queue is counted that does not rest.
_MOST_COUNTS = 5
#: Where answers to questions on the same channel arrive (RabbitMQ, "Direct Reply-to").
_REPLY_TO = "amq.rabbitmq.reply-to"
#: Pauses between attempts to connect: a restart of the broker takes seconds.
RECONNECTING = Backoff(first_s=0.2, ceiling_s=5.0)

_log = structlog.get_logger(__name__)


class RabbitWorkQueue(WorkQueue):
    """The `platevault.ports.work_queue.WorkQueue` port on RabbitMQ; a context manager.

    Opening it succeeds while the broker is down, so that a service starts and shows what it waits
    for. A message on its way to a consumer counts as delivered if the consumer's process vanishes.

    Parameters
    ----------
    settings
        Where, who and how much.
    clock
        Time of delays and of the state.
    backoff
        Pauses between attempts to connect; calls fail meanwhile.
    """

    def __init__(
        self, *, settings: RabbitSettings, clock: Clock, backoff: Backoff = RECONNECTING
    ) -> None:
        self._settings = settings
        self._background = Background()
        self._sending, self._taking = (
            RabbitConnection(
                name=f"platevault-{name}",
                settings=settings,
                clock=clock,
                background=self._background,
                backoff=backoff,
            )
            for name in ("sending", "taking")
        )
        topology = Topology(settings)
        self._sender = Sender(connection=self._sending, topology=topology, clock=clock)
        self._letters = Letters(
            connection=self._taking, topology=topology, wait_s=settings.answer_timeout_s
        )
        self._tools = Tools(
            settings=settings,
            clock=clock,
            background=self._background,
            topology=topology,
            sender=self._sender,
            connection=self._taking,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._sending.open()
            await self._taking.open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._sending.close()
        await self._taking.close()
        await self._background.close()

    @property
    def states(self) -> Mapping[str, RabbitState]:
        """How it stands with the connection for sending and the one for taking."""
        return {"sending": self._sending.state, "taking": self._taking.state}

    async def connect(self) -> None:
        """Connect now what would be connected when it is needed.

        Raises
        ------
        QueueUnavailableError
            The broker does not answer, or was asked a moment ago. Ask again.
        """
        await self._sending.session()
        await self._taking.session()

    @override
    async def send(self, queue: str, message: Message, *, priority: int = 0) -> None:
        if not 0 <= priority <= HIGHEST_PRIORITY:
            raise UsageError("Priority is out of range", value=priority, expected="0 to 9")
        await self._sender.send(
            queue, encode_message(message), priority=priority, message_type=message.type
        )

    @override
    @asynccontextmanager
    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        if not 1 <= prefetch <= _MOST_PREFETCH:
            raise UsageError("A consumer must take one message at least", value=prefetch)
        consumer = Consumer(queue=queue, prefetch=prefetch, tools=self._tools)
        try:
            await self._background.finish(consumer.open(), name="rabbitmq-open")
            yield consumer
        finally:
            await self._background.finish(consumer.close(), name="rabbitmq-close-consumer")

    @override
    async def depth(self, queue: str) -> int:
        session = await self._taking.session()
        await self._tools.topology.declare(session, queue)
        # Parts are counted one after the other, and a message may move on between them: a sum
        # counts if it is found twice; on a busy queue the last one is as good as any.
        seen = -1
        for _ in range(_MOST_COUNTS):
            count = await self._count(session, queue)
            if count == seen:
                break
            seen = count
        return seen

    @override
    async def dead_letters(self, queue: str = "") -> list[DeadLetter]:
        return await self._letters.listed(queue)

    @override
    async def redrive(self, letter_id: str) -> None:
        async with self._letters.taken(letter_id) as stored:
            await self._sender.copy(stored.letter.queue, stored.message, deliveries=0)
        letter = stored.letter
        _log.info(
            "Dead letter was driven again",
            queue=letter.queue,
            letter=letter_id,
            reason=letter.reason,
        )

    @override
    async def dismiss(self, letter_id: str, *, reason: str) -> None:
        async with self._letters.taken(letter_id) as stored:
            queue = stored.letter.queue
        _log.info("Dead letter was dismissed", queue=queue, letter=letter_id, reason=reason)

    async def _count(self, session: Session, queue: str) -> int:
        """Count what waits, and ask every consumer what it has in hand: the broker does not tell.

        Raises
        ------
        QueueUnavailableError
            A consumer does not answer: ask again. The broker ends one that hangs.
        """
        limit_s = self._settings.answer_timeout_s
        call = uuid.uuid4().hex
        answers: asyncio.Queue[int] = asyncio.Queue()

        async def hear(answer: DeliveredMessage) -> None:
            if answer.header.properties.correlation_id == call:
                answers.put_nowait(int(json.loads(answer.body)))

        async with session.brief_channel() as channel, session.answers("count"):
            ready = await channel.queue_declare(queue, passive=True, timeout=limit_s)
            in_hand = 0
            if ready.consumer_count:
                await channel.basic_consume(_REPLY_TO, hear, no_ack=True, timeout=limit_s)
                await channel.basic_publish(
                    b"",
                    exchange=ROLL_CALL,
                    routing_key=queue,
                    properties=Basic.Properties(reply_to=_REPLY_TO, correlation_id=call),
                )
                in_hand = await self._sum(answers, ready.consumer_count, queue)
            parked = await channel.queue_declare(later(queue), passive=True, timeout=limit_s)
        return (ready.message_count or 0) + in_hand + (parked.message_count or 0)

    async def _sum(self, answers: asyncio.Queue[int], expected: int, queue: str) -> int:
        total = 0
        try:
            async with asyncio.timeout(self._settings.roll_call_s):
                for _ in range(expected):
                    total += await answers.get()
        except TimeoutError as error:
            raise QueueUnavailableError(
                "A consumer does not say what it has in hand", queue=queue, consumers=expected
            ) from error
        return total
