"""A Kafka consumer in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from platevault.adapters.kafka.errors import error_of, problem_of
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.runtime.executor import BlockingCalls

#: Longest wait for a message within one call [s]: how late a consumer notices that it is to end.
POLL_S = 0.1
#: Messages taken with one call; a loop that decoded more at a time would hold other tasks up.
BATCH = 100

ResultT = TypeVar("ResultT")

#: Batches that may wait to be looked at; more stay with the client.
_WAITING = 4

#: librdkafka's own words go here.
LIBRARY_LOG = logging.getLogger("librdkafka")


class ThreadedConsumer:
    """One consumer, used by one task; an asynchronous context manager.

    Parameters
    ----------
    options
        librdkafka options.
    name
        Prefix of the thread's name.

    Notes
    -----
    The client can lock up when it is called from two threads at a time, so there is one.
    """

    def __init__(self, *, options: Mapping[str, Any], name: str) -> None:
        self._options = options
        self._calls = BlockingCalls(name=name, threads=1)
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
        places = [TopicPartition(*place) for place in _places(offsets)]
        await self.run(lambda consumer: consumer.assign(places))

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


class MessagePump:
    """Takes messages from a consumer in a thread and hands them to the event loop.

    Parameters
    ----------
    consumer
        Open; does nothing else while the body of `running` runs.

    at_once
        Does what it can with new messages without waiting and gives the rest, which `take` gives.

    Notes
    -----
    A call per batch through an executor, and a task that wakes for it, would cost a command and its
    reply some tenths of a millisecond.
    """

    def __init__(
        self, consumer: ThreadedConsumer, *, at_once: Callable[[list[Message]], list[Message]]
    ) -> None:
        self._consumer = consumer
        self._at_once = at_once
        self._idle = False
        self._batches: deque[list[Message]] = deque()
        self._room = threading.Semaphore(_WAITING)
        self._news = asyncio.Event()
        self._stop = threading.Event()
        self._move: dict[str, int] | None = None
        self._moved = asyncio.Event()
        self._failure: PlatevaultError | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take messages while the body runs; the thread has left the consumer at the end."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(loop), name="kafka-pump")
        try:
            yield
        finally:
            self._stop.set()
            while not task.done():
                with suppress(asyncio.CancelledError):  # it lasts one poll, then we may go
                    await asyncio.wait({task})
            task.result()

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        def pump(consumer: Consumer) -> None:
            while not self._stop.is_set():
                if self._move is not None:
                    consumer.assign([TopicPartition(*place) for place in _places(self._move)])
                    self._move = None
                    loop.call_soon_threadsafe(self._drop)
                if self._room.acquire(timeout=POLL_S):
                    batch = _take(consumer)
                    if batch:
                        loop.call_soon_threadsafe(self._deliver, batch)
                    else:
                        self._room.release()

        try:
            await self._consumer.run(pump)
        except PlatevaultError as error:
            self._failure = error
            self._news.set()
            self._moved.set()

    async def move(self, offsets: Mapping[str, int]) -> None:
        """Read each topic again from its offset; what was taken before is dropped."""
        self._moved.clear()
        self._move = dict(offsets)
        await self._moved.wait()

    def _deliver(self, batch: list[Message]) -> None:
        if self._idle and not self._batches:
            batch = self._at_once(batch)
            if not batch:
                self._room.release()
                return
        self._batches.append(batch)
        self._news.set()

    def _drop(self) -> None:
        while self._batches:
            self._batches.popleft()
            self._room.release()
        self._moved.set()

    async def take(self) -> list[Message]:
        """Give the next messages, and errors, when there are any.

        Raises
        ------
        BusUnavailableError
            The client failed. Open another consumer.
        """
        while not self._batches:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            self._idle = True
            try:
                await self._news.wait()
            finally:
                self._idle = False
        self._room.release()
        return self._batches.popleft()


def _places(offsets: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Give topic, partition and offset; every topic has one partition."""
    return [(name, 0, offset) for name, offset in offsets.items()]


def _take(consumer: Consumer) -> list[Message]:
    # `consume` with a time limit would wait for the whole batch; so take what is there, or wait for
    # one, which then is not held up by looking for others.
    there = consumer.consume(BATCH, 0)
    if there:
        return there
    first = consumer.poll(POLL_S)
    return [] if first is None else [first]
