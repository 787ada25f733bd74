"""Borrows the bus of another process on the host."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from platevault.adapters.bus_link.wire import (
    LINE_LIMIT,
    LinkAddress,
    LinkMissingError,
    decode_line,
    encode_line,
    plain_sample,
    sample_of,
)
from platevault.domain.errors import UsageError
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.sample_bus import (
    BusUnavailableError,
    History,
    Recording,
    SampleBus,
    SubscriberOverflowError,
    Subscription,
)

#: Longest wait for an answer of the lending process [s].
_ANSWER_S = 10.0
#: Samples that a subscriber may be behind.
_QUEUE_LIMIT = 10_000


class RecordingNotLentError(UsageError):
    """A borrowed bus has no durable groups: record in the process that has the bus."""


class LinkedSampleBus(SampleBus, AbstractAsyncContextManager["LinkedSampleBus", None]):
    """A `SampleBus` that another process lends; open it with ``async with``.

    Parameters
    ----------
    file
        Address file of the lending process.

    Raises
    ------
    LinkMissingError
        On entering: nobody lends a bus there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._queues: dict[int, asyncio.Queue[Mapping[str, Any] | None]] = {}
        self._overflowed: set[int] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._stack = AsyncExitStack()

    @override
    async def __aenter__(self) -> Self:
        address = await asyncio.to_thread(LinkAddress.read, self._file)
        try:
            reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", address.port, limit=LINE_LIMIT
            )
        except OSError as error:
            raise LinkMissingError(
                "The process that lent its bus here is gone", file=str(self._file)
            ) from error
        self._writer.write(encode_line({"token": address.token}))
        if not await reader.readline():
            self._writer.close()
            raise LinkMissingError("The bus is not lent to us", file=str(self._file))
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        receiving = group.create_task(self._receive(reader), name="bus-link-receive")
        self._stack.callback(receiving.cancel)
        return self

    @override
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()

    @override
    async def publish(self, sample: Sample) -> None:
        number = next(self._numbers)
        await self._ask({"op": "publish", "id": number, "sample": plain_sample(sample)}, number)

    @override
    @asynccontextmanager
    async def subscribe(
        self,
        topics: Collection[TopicSchema],
        *,
        history: History,
        sal_index: int = 0,
        recall_s: float = 0.0,
    ) -> AsyncIterator[Subscription]:
        number = next(self._numbers)
        self._queues[number] = asyncio.Queue(_QUEUE_LIMIT + 1)
        schemas = {(topic.component, topic.sal_name): topic for topic in topics}
        try:
            answer = await self._ask(
                {
                    "op": "subscribe",
                    "id": number,
                    "topics": list(schemas),
                    "history": history.name,
                    "sal_index": sal_index,
                    "recall_s": recall_s,
                },
                number,
            )
            yield _Borrowed(self._samples(number, schemas), past=int(answer["past"]))
        finally:
            del self._queues[number]
            self._overflowed.discard(number)
            if self._writer is not None and not self._writer.is_closing():
                self._writer.write(encode_line({"op": "unsubscribe", "id": number}))

    @override
    def record(
        self, topics: Collection[TopicSchema], *, group: str
    ) -> AbstractAsyncContextManager[Recording]:
        raise RecordingNotLentError("A borrowed bus has no durable groups", group=group)

    async def _samples(
        self, number: int, schemas: Mapping[tuple[str, str], TopicSchema]
    ) -> AsyncIterator[Sample]:
        queue = self._queues[number]
        while True:
            content = await queue.get()
            if content is None:
                raise BusUnavailableError("The process that lent its bus is gone")
            key = str(content["component"]), str(content["sal_name"])
            yield sample_of(content, schemas[key])
            if number in self._overflowed and queue.empty():
                raise SubscriberOverflowError("The subscriber was too slow", limit=_QUEUE_LIMIT)

    async def _ask(self, content: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        if self._writer is None or self._writer.is_closing():
            raise BusUnavailableError("The process that lent its bus is gone")
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._writer.write(encode_line(content))
            await self._writer.drain()
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except (TimeoutError, OSError) as error:
            raise BusUnavailableError("The process that lent its bus does not answer") from error
        finally:
            self._answers.pop(number, None)

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(decode_line(line))
        except (OSError, ValueError):
            pass  # told below, to everyone who waits
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BusUnavailableError("The process that lent its bus is gone"))
        for queue in self._queues.values():
            if not queue.full():
                queue.put_nowait(None)
        if self._writer is not None:
            self._writer.close()

    def _take(self, content: Mapping[str, Any]) -> None:
        number = int(content["id"])
        if content["op"] == "sample":
            queue = self._queues.get(number)
            if queue is None or number in self._overflowed:
                return
            if queue.qsize() >= _QUEUE_LIMIT:
                self._overflowed.add(number)
                return
            queue.put_nowait(content["sample"])
            return
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(content)


class _Borrowed(Subscription):
    """Samples of a lent subscription, of which the first ``past`` are of the past."""

    def __init__(self, samples: AsyncIterator[Sample], *, past: int) -> None:
        self._samples = samples
        self._past_left = past

    @property
    @override
    def past_left(self) -> int:
        return self._past_left

    @override
    def __aiter__(self) -> AsyncIterator[Sample]:
        return self

    @override
    async def __anext__(self) -> Sample:
        sample = await anext(self._samples)
        self._past_left = max(0, self._past_left - 1)
        return sample
