"""Sends messages and waits until the broker has them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from platevault.adapters.kafka.consumer import LIBRARY_LOG
from platevault.adapters.kafka.errors import error_of, problem_of
from platevault.domain.errors import UsageError
from platevault.ports.sample_bus import BusUnavailableError
from platevault.runtime.executor import BlockingCalls

#: Longest wait for news within one call [s]: how late the thread notices that it is to end.
_POLL_S = 0.2
#: Time that messages still under way have when the outbox is closed [s].
_LAST_MOMENTS_S = 1.0

_log = structlog.get_logger(__name__)

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

    Notes
    -----
    A message that is sent again while the first is still under way is not sent twice: its sender
    waits for the first. The client repeats a message on its own and the broker recognises that.
    """

    def __init__(self, *, options: Mapping[str, Any], within_s: float) -> None:
        self._options = options
        self._within_s = within_s
        self._calls = BlockingCalls(name="kafka-outbox", threads=1)
        self._under_way: dict[MessageId, asyncio.Future[KafkaError | None]] = {}
        self._producer: Producer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._calls.__aenter__()
        self._producer = Producer(dict(self._options), logger=LIBRARY_LOG)
        self._serving = self._loop.create_task(self._calls.run(self._serve), name="kafka-outbox")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        if self._serving is not None:
            await asyncio.wait({self._serving})
        self._producer = None
        await self._calls.__aexit__(kind, error, trace)
        if self._serving is not None and not self._serving.cancelled():
            self._serving.result()

    async def send(self, message: MessageId, *, topic: str, key: bytes, value: bytes) -> None:
        """Return once the broker has the message.

        Raises
        ------
        BusUnavailableError
            It may have gone out. Retry with the same message.
        BusAccessError, BusRefusalError
            Do not retry.
        """
        outcome = self._under_way.get(message) or self._produce(message, topic, key, value)
        try:
            async with asyncio.timeout(self._within_s):
                problem = await asyncio.shield(outcome)
        except TimeoutError as error:
            raise BusUnavailableError(
                "The broker did not take the sample in time", topic=topic, within_s=self._within_s
            ) from error
        if problem is not None:
            raise error_of(problem, "The broker did not take the sample", topic=topic)

    def _produce(
        self, message: MessageId, topic: str, key: bytes, value: bytes
    ) -> asyncio.Future[KafkaError | None]:
        if self._producer is None or self._closing:
            raise UsageError("The bus is not open")
        outcome: asyncio.Future[KafkaError | None] = self._loop.create_future()
        loop = self._loop

        def delivered(problem: KafkaError | None, _: Message) -> None:
            loop.call_soon_threadsafe(self._settle, message, problem)

        try:
            self._producer.produce(topic, value, key, partition=0, on_delivery=delivered)
        except BufferError as error:
            raise BusUnavailableError(
                "Too many samples wait for the broker", topic=topic
            ) from error
        except KafkaException as error:
            problem = problem_of(error)
            self._replace_if_dead(problem)
            raise error_of(problem, "The client did not take the sample", topic=topic) from error
        self._under_way[message] = outcome
        return outcome

    def _settle(self, message: MessageId, problem: KafkaError | None) -> None:
        outcome = self._under_way.pop(message, None)
        if problem is not None:
            self._replace_if_dead(problem)
        if outcome is not None and not outcome.done():
            outcome.set_result(problem)

    def _replace_if_dead(self, problem: KafkaError) -> None:
        if problem.fatal() and not self._closing:
            _log.error("Kafka producer replaced", reason=problem.str())
            self._producer = Producer(dict(self._options), logger=LIBRARY_LOG)

    def _serve(self) -> None:
        while not self._closing:
            if self._producer is not None:
                self._producer.poll(_POLL_S)
        if self._producer is not None and self._producer.flush(_LAST_MOMENTS_S):
            self._producer.purge()
            self._producer.flush(_LAST_MOMENTS_S)
