"""A Kafka consumer in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from platevault.adapters.kafka.errors import error_of, problem_of
from platevault.domain.errors import UsageError
from platevault.runtime.executor import BlockingCalls

#: Longest wait for a message within one call [s]: how late a consumer notices that it is to end.
POLL_S = 0.1
_ANSWER_S = 10.0
#: Messages taken with one call; a loop that decoded more at a time would hold other tasks up.
BATCH = 100

ResultT = TypeVar("ResultT")

#: librdkafka's own words go here.
LIBRARY_LOG = logging.getLogger("librdkafka")


class ThreadedConsumer:
    """One consumer, used by one task; an asynchronous context manager.

    Parameters
    ----------
    options
        librdkafka options.
    name
        Prefix of the threads' names.
    threads
        Calls at once: one takes messages, a further one may commit meanwhile.
    """

    def __init__(self, *, options: Mapping[str, Any], name: str, threads: int = 1) -> None:
        self._options = options
        self._calls = BlockingCalls(name=name, threads=threads)
        self._consumer: Consumer | None = None

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        try:
            await self._calls.run(self._open)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._calls.run(self._close)
        finally:
            await self._calls.__aexit__(kind, error, trace)

    async def assign(self, offsets: Mapping[str, int]) -> None:
        """Read each topic from its offset on; what was fetched and not taken is fetched again."""
        places = [TopicPartition(name, 0, offset) for name, offset in offsets.items()]
        await self.run(lambda consumer: consumer.assign(places))

    async def take(self) -> list[Message]:
        """Give the next messages, and errors, as soon as there are any; few or none if not."""
        return await self.run(_take)

    async def reach(self, name: str) -> tuple[int, int]:
        """Give the offsets of the oldest message of a topic and after the newest."""
        place = TopicPartition(name, 0)
        return await self.run(
            lambda consumer: consumer.get_watermark_offsets(place, timeout=_ANSWER_S, cached=False)
        )

    async def run(self, function: Callable[[Consumer], ResultT]) -> ResultT:
        """Do something with the consumer in its thread.

        Raises
        ------
        PlatevaultError
            What the client said, as ours.
        """
        return await self._calls.run(self._call, function)

    def _call(self, function: Callable[[Consumer], ResultT]) -> ResultT:
        if self._consumer is None:
            raise UsageError("The consumer is not open")
        try:
            return function(self._consumer)
        except KafkaException as error:
            raise error_of(problem_of(error), "The consumer failed") from error

    def _open(self) -> None:
        self._consumer = Consumer(dict(self._options), logger=LIBRARY_LOG)

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()


def _take(consumer: Consumer) -> list[Message]:
    # `consume` with a time limit would wait for the whole batch; so wait for one, then take what
    # else is there.
    first = consumer.poll(POLL_S)
    if first is None:
        return []
    return [first, *consumer.consume(BATCH - 1, 0)]
