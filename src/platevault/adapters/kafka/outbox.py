"""Sends messages and waits until the broker has them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from platevault.adapters.kafka.consumer import LIBRARY_LOG
from platevault.adapters.kafka.errors import error_of, is_failed_producer, is_refusal, problem_of
from platevault.adapters.kafka.health import HealthBoard
from platevault.domain.errors import UsageError
from platevault.ports.sample_bus import BusUnavailableError
from platevault.runtime.executor import BlockingCalls

#: Longest wait for news within one call [s]: how late the thread notices that it is to end.
_POLL_S = 0.2
#: Time that messages still under way have when the outbox is closed [s].
_LAST_MOMENTS_S = 1.0

#: Source of problems on the health board.
WRITING = "writing"

_log = structlog.get_logger(__name__)

#: Said to a sender that has waited long enough.
_LATE = KafkaError(KafkaError._TIMED_OUT, "The sender waited long enough")  # noqa: SLF001
_Outcome = asyncio.Future[KafkaError | None]

#: What tells one message from another: a retry of it is the same.
MessageId = tuple[object, ...]


class Outbox:
    """A producer and the messages that it has not delivered; an asynchronous context manager.

    Parameters
    ----------
    options
        librdkafka options.
    within_s
        Longest wait for the broker [s].
    health
        Is told if the account may not write at all, and when it may again.

    Notes
    -----
    A message that is sent again while the first is still under way is not sent twice: its sender
    waits for the first. The client repeats a message on its own and the broker recognises that.

    The producer is made at once, since the broker's leave to write can take a second. It is made
    again for the next message after it failed for good, since rights may be given later; of an
    account that is refused and sends nothing, nothing is said.
    """

    def __init__(self, *, options: Mapping[str, Any], within_s: float, health: HealthBoard) -> None:
        self._options = options
        self._within_s = within_s
        self._health = health
        self._calls = BlockingCalls(name="kafka-outbox", threads=1)
        self._under_way: dict[MessageId, list[_Outcome]] = {}
        self._producer: Producer | None = None
        self._made = threading.Event()
        self._serving: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._calls.__aenter__()
        self._serving = self._loop.create_task(self._calls.run(self._serve), name="kafka-outbox")
        self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self._made.set()
        if self._serving is not None:
            await asyncio.wait({self._serving})
        self._producer = None
        await self._calls.__aexit__(kind, error, trace)
        if self._serving is not None and not self._serving.cancelled():
            self._serving.result()

    def _open(self) -> Producer:
        if self._serving is None or self._closing:
            raise UsageError("The bus is not open")
        if self._producer is None:
            self._producer = Producer(dict(self._options), logger=LIBRARY_LOG)
            self._made.set()
        return self._producer

    async def send(self, message: MessageId, *, topic: str, key: bytes, value: bytes) -> None:
        """Return once the broker has the message.

        Raises
        ------
        BusUnavailableError
            It may have gone out. Retry with the same message.
        BusAccessError, BusRefusalError
            Do not retry.
        """
        waiters = self._under_way.get(message)
        if waiters is None:
            waiters = self._produce(message, topic, key, value)
        outcome: _Outcome = self._loop.create_future()
        limit = self._loop.call_later(self._within_s, _settle, outcome, _LATE)
        waiters.append(outcome)
        try:
            problem = await outcome
        finally:
            limit.cancel()
            waiters.remove(outcome)
        if problem is _LATE:
            raise BusUnavailableError(
                "The broker did not take the sample in time", topic=topic, within_s=self._within_s
            )
        if problem is not None:
            raise error_of(problem, "The broker did not take the sample", topic=topic)

    def _produce(self, message: MessageId, topic: str, key: bytes, value: bytes) -> list[_Outcome]:
        producer = self._open()
        waiters: list[_Outcome] = []
        loop = self._loop

        def delivered(problem: KafkaError | None, _: Message) -> None:
            loop.call_soon_threadsafe(self._settle, message, waiters, problem)

        try:
            producer.produce(topic, value, key, partition=0, on_delivery=delivered)
        except BufferError as error:
            raise BusUnavailableError(
                "Too many samples wait for the broker", topic=topic
            ) from error
        except KafkaException as error:
            problem = problem_of(error)
            if not is_failed_producer(problem):
                raise error_of(
                    problem, "The client did not take the sample", topic=topic
                ) from error
            # Why it failed, the thread is about to say.
        self._under_way[message] = waiters
        return waiters

    def _settle(
        self, message: MessageId, waiters: list[_Outcome], problem: KafkaError | None
    ) -> None:
        if self._under_way.get(message) is not waiters:
            return  # its producer failed, and that was said
        del self._under_way[message]
        if problem is None:
            self._health.good(WRITING)
        for outcome in waiters:
            _settle(outcome, problem)

    def _failed(self, producer: Producer, problem: KafkaError) -> None:
        """Tell all that wait for a producer why it failed for good."""
        if producer is not self._producer:
            return
        self._producer = None
        self._made.clear()
        if not is_refusal(problem):
            _log.error("Kafka producer replaced", reason=problem.str())
        elif self._under_way:
            self._health.bad(WRITING, f"The account may not write: {problem.str()}")
        waiting, self._under_way = self._under_way, {}
        for waiters in waiting.values():
            for outcome in waiters:
                _settle(outcome, problem)

    def _serve(self) -> None:
        while not self._closing:
            producer = self._producer
            if producer is None:
                self._made.wait(_POLL_S)
                continue
            try:
                producer.poll(_POLL_S)
            except KafkaException as error:
                # The client says so of failures for good; its last reports may still come.
                self._loop.call_soon_threadsafe(self._failed, producer, problem_of(error))
        producer = self._producer
        if producer is not None:
            with suppress(KafkaException):
                if producer.flush(_LAST_MOMENTS_S):
                    producer.purge()
                    producer.flush(_LAST_MOMENTS_S)


def _settle(outcome: _Outcome, problem: KafkaError | None) -> None:
    if not outcome.done():
        outcome.set_result(problem)
