"""Taking messages from a queue, and ending each delivery."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog
from aiormq.abc import AbstractChannel, DeliveredMessage
from typing_extensions import override

from platevault.adapters.rabbitmq.background import Background
from platevault.adapters.rabbitmq.connection import RabbitConnection, Session, close_channel
from platevault.adapters.rabbitmq.parking import MOST_PARKED, Parking
from platevault.adapters.rabbitmq.sender import Sender
from platevault.adapters.rabbitmq.settings import RabbitSettings
from platevault.adapters.rabbitmq.topology import (
    ROLL_CALL,
    Topology,
    count_is_written,
    deliveries_before,
    later,
)
from platevault.domain.messages import MalformedMessageError, Message, decode_message
from platevault.ports.clock import Clock
from platevault.ports.work_queue import (
    Delivery,
    DeliveryLostError,
    DeliverySettledError,
    QueueFullError,
    QueueUnavailableError,
)

ResultT = TypeVar("ResultT")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every consumer of an adapter shares.

    Attributes
    ----------
    settings, clock, background, topology, sender
        Of the adapter.
    connection
        The connection that only takes.
    """

    settings: RabbitSettings
    clock: Clock
    background: Background
    topology: Topology
    sender: Sender
    connection: RabbitConnection


class Consumer:
    """Iterates deliveries; a cancelled wait takes nothing and may be followed by another.

    It asks the broker for messages at the first wait, so a consumer that is opened and closed
    without one touches nothing. What it leaves unfinished goes back with its true count; what the
    broker returns because a process vanished is counted before it is handed out again.

    Parameters
    ----------
    queue
        Name of the queue.
    prefetch
        Messages unfinished at most.
    tools
        Of the adapter.
    """

    def __init__(self, *, queue: str, prefetch: int, tools: Tools) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._tools = tools
        self._limit = tools.settings.delivery_limit
        self._changing = asyncio.Lock()
        self._session: Session | None = None
        self._channel: AbstractChannel | None = None
        self._tags: list[str] = []
        self._parking: Parking | None = None
        #: Messages that were not handed out yet.
        self._buffer: deque[DeliveredMessage] = deque()
        #: Every message that is not acknowledged, in the order of coming, by delivery tag.
        self._unfinished: dict[int, DeliveredMessage] = {}
        self._handed: set[int] = set()
        #: Messages whose end is under way.
        self._moving = 0
        #: What must end before the channel closes.
        self._ending: set[asyncio.Task[Any]] = set()
        self._came = asyncio.Event()
        self._started = False
        self._closed = False
        self._problem = ""

    @property
    def in_hand(self) -> int:
        """Messages that the broker has given and that are not acknowledged."""
        parked = 0 if self._parking is None else len(self._parking)
        return len(self._unfinished) + self._moving + parked

    @property
    def lost(self) -> bool:
        """Its messages are not its own any more."""
        return self._closed or bool(self._problem)

    # -- opening and closing -------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and make sure that the queue exists."""
        async with self._changing:
            session = await self._tools.connection.session()
            await self._tools.topology.declare(session, self._queue, own=True)
            self._channel = await session.channel()
            self._session = session
            session.on_loss.add(self._session_lost)
            self._channel.closing.add_done_callback(self._channel_closed)
            if session.lost:
                self._lose(session.problem)

    async def _start(self) -> None:
        """Ask the broker for messages."""
        async with self._changing:
            if self._started or self.lost:
                return
            session, channel = self._open_channel()
            limit_s = self._tools.settings.answer_timeout_s
            async with session.answers("consume"):
                channel.on_consumer_cancel_callbacks.add(self._cancelled_by_broker)
                await self._answer_roll_calls(channel, limit_s)
                self._parking = Parking(
                    queue=self._queue,
                    sender=self._tools.sender,
                    clock=self._tools.clock,
                    ack=self._ack,
                )
                await channel.basic_qos(prefetch_count=MOST_PARKED, timeout=limit_s)
                parked = await channel.basic_consume(
                    later(self._queue), self._parking.take, timeout=limit_s
                )
                await channel.basic_qos(prefetch_count=self._prefetch, timeout=limit_s)
                taken = await channel.basic_consume(self._queue, self._take, timeout=limit_s)
            self._tags = [tag for tag in (parked.consumer_tag, taken.consumer_tag) if tag]
            task = self._tools.background.start(self._parking.run(), name=f"parked-{self._queue}")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._started = True

    async def _answer_roll_calls(self, channel: AbstractChannel, limit_s: float) -> None:
        calls = await channel.queue_declare("", exclusive=True, timeout=limit_s)
        assert calls.queue is not None
        await channel.queue_bind(calls.queue, ROLL_CALL, self._queue, timeout=limit_s)
        await channel.basic_consume(calls.queue, self._answer, no_ack=True, timeout=limit_s)

    async def close(self) -> None:
        """Give back what is unfinished; bounded, and never fails."""
        async with self._changing:
            if self._closed:
                return
            was_lost = self.lost
            self._closed = True
            self._came.set()
            if self._parking is not None:
                self._parking.stop()
            channel, session = self._channel, self._session
            if channel is None or session is None:
                return
            session.on_loss.discard(self._session_lost)
            if not was_lost:
                try:
                    async with asyncio.timeout(self._tools.settings.answer_timeout_s):
                        await self._give_back(session, channel)
                except (TimeoutError, QueueUnavailableError) as error:
                    # The broker gives them back when the channel closes.
                    _log.warning("Messages return by themselves", queue=self._queue, why=str(error))
            await close_channel(channel)

    async def _give_back(self, session: Session, channel: AbstractChannel) -> None:
        async with session.answers("cancel"):
            for consumer in self._tags:
                await channel.basic_cancel(consumer)
        if self._ending:
            await asyncio.wait(self._ending)
        for tag, message in list(self._unfinished.items()):
            before = deliveries_before(message)
            try:
                if tag not in self._handed:
                    await self._tools.sender.copy(self._queue, message, deliveries=before)
                elif before + 1 < self._limit:
                    await self._tools.sender.copy(self._queue, message, deliveries=before + 1)
                else:
                    await self._bury(message, f"Delivered {before + 1} times; its consumer closed")
            except QueueFullError:
                async with session.answers("nack"):
                    await channel.basic_nack(tag, wait=False)
            else:
                async with session.answers("ack"):
                    await channel.basic_ack(tag, wait=False)
            del self._unfinished[tag]

    # -- what the library calls ----------------------------------------------------------------

    async def _take(self, message: DeliveredMessage) -> None:
        assert message.delivery_tag is not None
        self._unfinished[message.delivery_tag] = message
        self._buffer.append(message)
        self._came.set()

    async def _answer(self, call: DeliveredMessage) -> None:
        asked = call.header.properties
        if asked.reply_to is None or asked.correlation_id is None:
            return
        try:
            await self._tools.sender.answer(
                asked.reply_to,
                json.dumps(self.in_hand).encode(),
                correlation_id=asked.correlation_id,
            )
        except QueueUnavailableError as error:
            _log.info("Roll call was not answered", queue=self._queue, problem=str(error))

    def _session_lost(self) -> None:
        self._lose(self._session.problem if self._session is not None else "")

    def _channel_closed(self, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        self._lose(f"channel closed: {error}")

    async def _cancelled_by_broker(self, _: object) -> None:
        self._lose("the queue was deleted or has moved")

    def _lose(self, problem: str) -> None:
        self._problem = self._problem or problem or "connection lost"
        if self._parking is not None:
            self._parking.stop()
        self._came.set()

    # -- iterating -----------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        if not self._started:
            await self._tools.background.finish(self._start(), name="rabbitmq-consume")
        while not self._closed:
            if self._problem:
                raise QueueUnavailableError(
                    "RabbitMQ is gone", queue=self._queue, problem=self._problem
                )
            if not self._buffer:
                self._came.clear()
                await self._came.wait()
                continue
            message = self._buffer.popleft()
            delivery = self._examine(message)
            if delivery is None:
                with suppress(DeliveryLostError):  # the next turn says it as a consumer says it
                    delivery = await self._end(message, self._divert(message))
            if delivery is not None:
                return delivery
        raise StopAsyncIteration

    def _examine(self, message: DeliveredMessage) -> Delivery | None:
        """Hand a message out, if there is nothing to be done about it before."""
        before = deliveries_before(message)
        if before >= self._limit or not count_is_written(message):
            return None
        try:
            content = decode_message(message.body)
        except MalformedMessageError:
            return None
        return self._hand_out(message, content, before + 1)

    def _hand_out(self, message: DeliveredMessage, content: Message, attempt: int) -> Delivery:
        assert message.delivery_tag is not None
        self._handed.add(message.delivery_tag)
        return _Delivery(self, message, content, attempt)

    async def _divert(self, message: DeliveredMessage) -> Delivery | None:
        """Set aside a message that is none or worn out; write the count of one that came back."""
        before = deliveries_before(message)
        try:
            content = decode_message(message.body)
        except MalformedMessageError as error:
            await self._bury(message, str(error))
            return None
        if before >= self._limit:
            await self._bury(message, f"Delivered {before} times; its consumers vanished")
            return None
        try:
            await self._tools.sender.copy(self._queue, message, deliveries=before)
        except QueueFullError:
            # There is no room for a copy with the count: better uncounted than never.
            return self._hand_out(message, content, before + 1)
        return None

    # -- ending deliveries ---------------------------------------------------------------------

    async def settle(self, message: DeliveredMessage) -> None:
        """Acknowledge a message that was handed out."""
        tag = self._let_go(message)
        try:
            await self._ack(tag)
        except asyncio.CancelledError:
            self._tools.background.spawn(self._ack(tag), name="rabbitmq-ack")
            raise

    async def send_again(self, message: DeliveredMessage, *, delay_s: float, reason: str) -> None:
        """Put a message back that was handed out, or set it aside if it is worn out."""
        self._check_held()
        attempt = deliveries_before(message) + 1
        sender = self._tools.sender
        if attempt >= self._limit:
            work = self._bury(message, f"Delivered {attempt} times; {reason}")
        elif delay_s > 0:
            work = sender.park(self._queue, message, deliveries=attempt, delay_s=delay_s)
        else:
            work = sender.copy(self._queue, message, deliveries=attempt)
        await self._end(message, work)

    async def bury(self, message: DeliveredMessage, *, reason: str) -> None:
        """Move a message that was handed out to the dead letters."""
        self._check_held()
        await self._end(message, self._bury(message, reason))

    async def _bury(self, message: DeliveredMessage, reason: str) -> None:
        await self._tools.sender.bury(self._queue, message, reason=reason)
        _log.warning("Message was set aside", queue=self._queue, reason=reason)

    async def _end(
        self, message: DeliveredMessage, work: Coroutine[Any, Any, ResultT]
    ) -> ResultT | None:
        """Do ``work``, then acknowledge unless it gives something; to its end in any case."""
        task = self._tools.background.start(self._finish(message, work), name="rabbitmq-settle")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return await asyncio.shield(task)

    async def _finish(
        self, message: DeliveredMessage, work: Coroutine[Any, Any, ResultT]
    ) -> ResultT | None:
        try:
            tag = self._let_go(message)
        except DeliveryLostError:
            work.close()
            raise
        self._moving += 1
        try:
            result = await work
            if result is None:
                await self._ack(tag)
            else:
                self._unfinished[tag] = message
        except QueueUnavailableError as error:
            # It comes again at once: nothing else may keep it from others meanwhile.
            session, channel = self._open_channel()
            async with session.answers("nack"):
                await channel.basic_nack(tag, wait=False)
            if not isinstance(error, QueueFullError):
                raise
            return None
        else:
            return result
        finally:
            self._moving -= 1

    def _let_go(self, message: DeliveredMessage) -> int:
        self._check_held()
        tag = message.delivery_tag
        assert tag is not None
        self._unfinished.pop(tag, None)
        self._handed.discard(tag)
        return tag

    def _check_held(self) -> None:
        if self.lost:
            raise DeliveryLostError(
                "The consumer had closed", queue=self._queue, problem=self._problem
            )

    async def _ack(self, tag: int) -> None:
        session, channel = self._open_channel()
        async with session.answers("ack"):
            await channel.basic_ack(tag, wait=False)

    def _open_channel(self) -> tuple[Session, AbstractChannel]:
        if self._session is None or self._channel is None or self._problem:
            raise QueueUnavailableError("RabbitMQ is gone", problem=self._problem)
        return self._session, self._channel


class _Delivery(Delivery):
    """One message in hand."""

    def __init__(
        self, consumer: Consumer, stored: DeliveredMessage, message: Message, attempt: int
    ) -> None:
        self._consumer = consumer
        self._stored = stored
        self._message = message
        self._attempt = attempt
        self._ended = False

    @property
    @override
    def message(self) -> Message:
        return self._message

    @property
    @override
    def attempt(self) -> int:
        return self._attempt

    @override
    async def ack(self) -> None:
        self._begin_end()
        await self._consumer.settle(self._stored)

    @override
    async def retry(self, *, delay_s: float, reason: str) -> None:
        self._begin_end()
        await self._consumer.send_again(self._stored, delay_s=delay_s, reason=reason)

    @override
    async def set_aside(self, *, reason: str) -> None:
        self._begin_end()
        await self._consumer.bury(self._stored, reason=reason)

    def _begin_end(self) -> None:
        if self._ended:
            raise DeliverySettledError("The delivery had ended", type=self._message.type)
        if not self._consumer.lost:
            self._ended = True
