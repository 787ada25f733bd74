"""A place in a durable group: consumer group, offsets and the numbers of writers.

References
----------
The offsets of a group carry a text; it holds the last number of each writer, so that what was lost
while nobody recorded is found too (Kafka protocol, OffsetCommit, ``committed_metadata``).
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from typing_extensions import override

from platevault.adapters.kafka.codec import UndecodableSampleError
from platevault.adapters.kafka.consumer import BATCH, POLL_S, ThreadedConsumer
from platevault.adapters.kafka.errors import error_of, is_corrupted, is_out_of_range, problem_of
from platevault.adapters.kafka.reader import ReachOf, Skipped
from platevault.adapters.kafka.schemas import SchemaBook
from platevault.domain.errors import PermanentError, PlatevaultError
from platevault.domain.samples import Sample, TopicKind, TopicSchema
from platevault.ports.sample_bus import BusUnavailableError, Gap, Recording

#: Samples taken from the broker and not yet by the recorder; more stay with the broker.
_HELD = 1000
#: Longest text that a broker keeps with an offset [byte] (``offset.metadata.max.bytes``, default).
_TEXT_LIMIT = 4096
#: Longest wait for a place in the group [s]: a member that died holds the others up for
#: ``session.timeout.ms``.
_JOIN_S = 60.0
_COMMIT_S = 10.0
#: Kinds whose numbers count the samples of a topic; replies carry the number of their command.
_COUNTED = frozenset({TopicKind.EVENT, TopicKind.TELEMETRY, TopicKind.COMMAND})

#: Options beyond those of every consumer. Topics have one partition each, so members share them
#: topic by topic; a dead member's are taken over within the session's time.
GROUP_OPTIONS = {
    "partition.assignment.strategy": "roundrobin",
    "session.timeout.ms": "10000",
    "heartbeat.interval.ms": "1000",
}

_Writer = tuple[int, str, int]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Assigned:
    """Topics that are ours from here on, with the offset and the text of their last commit."""

    commits: Mapping[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class _Revoked:
    """Topics that are no longer ours."""

    names: Collection[str]


_Item = _Assigned | _Revoked | KafkaError | Message


@dataclass(slots=True)
class _Place:
    """How far one topic that is ours has been recorded.

    Attributes
    ----------
    seen
        Last number of each writer, the one heard last at the end.
    next
        Offset of the message to be taken next.
    position
        Offset after the last sample given; ``None`` if none was.
    committed
        Position at the last commit.
    """

    seen: dict[_Writer, int]
    next: int
    position: int | None = None
    committed: int | None = None


@dataclass(slots=True)
class _Held:
    """A message in hand; ``sample`` is ``None`` if it cannot be read."""

    name: str
    offset: int
    sample: Sample | None
    place: _Place = field(repr=False)


class KafkaRecording(Recording):
    """See `Recording`; a new group begins with all that the broker still has.

    Parameters
    ----------
    topics
        By name on the brokers.
    consumer
        Member of the group.
    reach
        Tells where a topic begins and ends.
    schemas
        Decodes.
    """

    def __init__(
        self,
        *,
        topics: Mapping[str, TopicSchema],
        consumer: ThreadedConsumer,
        reach: ReachOf,
        schemas: SchemaBook,
    ) -> None:
        self._topics = topics
        self._consumer = consumer
        self._reach = reach
        self._schemas = schemas
        self._skipped = Skipped()
        self._places: dict[str, _Place] = {}
        self._held: deque[_Held] = deque()
        self._items: list[_Item] = []
        self._again = False
        self._paused = False
        self._failure: PlatevaultError | None = None
        self._closed = False
        self._joined = asyncio.Event()
        self._news = asyncio.Event()
        self._commits = asyncio.Lock()

    @asynccontextmanager
    async def joined(self, group: asyncio.TaskGroup) -> AsyncIterator[KafkaRecording]:
        """Be a member while the body runs.

        Parameters
        ----------
        group
            Runs the task that receives.

        Raises
        ------
        BusUnavailableError
            Retry.
        BusAccessError
            Do not retry.
        """
        await self._consumer.run(self._subscribe)
        task = group.create_task(self._receive(), name="kafka-recording")
        try:
            await self._wait_for_place()
            yield self
        finally:
            self._closed = True
            self._news.set()
            task.cancel()
            await asyncio.wait({task})

    @override
    def __aiter__(self) -> AsyncIterator[Sample | Gap]:
        return self

    async def __anext__(self) -> Sample | Gap:
        while True:
            if self._closed:
                raise StopAsyncIteration
            while self._held:
                held = self._held[0]
                if held.sample is not None:
                    gap = _gap_before(held.sample, held.place.seen)
                    if gap is not None:
                        return gap
                self._held.popleft()
                held.place.position = held.offset + 1
                if held.sample is not None:
                    return held.sample
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()

    @override
    async def commit(self) -> None:
        """Remember what was yielded; of topics that went to another member, it will come again.

        Raises
        ------
        BusUnavailableError
            It may have been remembered or not. Commit again, or let it come again.
        """
        if self._closed:
            return
        async with self._commits:
            moved = {
                name: place
                for name, place in self._places.items()
                if place.position is not None and place.position != place.committed
            }
            if not moved:
                return
            offsets = [
                TopicPartition(name, 0, place.position or 0, metadata=_text_of(place.seen))
                for name, place in moved.items()
            ]
            done: list[TopicPartition] = await self._consumer.run(
                lambda consumer: consumer.commit(offsets=offsets, asynchronous=False)
            )
            for place in done or ():
                if place.error is not None:
                    raise error_of(place.error, "The broker did not take the commit")
            for offset in offsets:
                moved[offset.topic].committed = offset.offset

    def _subscribe(self, consumer: Consumer) -> None:
        consumer.subscribe(
            sorted(self._topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # The client loses errors that are raised in here, so they are handed over like messages.
        try:
            committed = consumer.committed(partitions, timeout=_COMMIT_S) if partitions else []
            problem = next((place.error for place in committed if place.error is not None), None)
        except KafkaException as error:
            committed, problem = [], problem_of(error)
        if problem is not None:
            self._items.append(problem)
            return
        for place in committed:
            if place.offset < 0:
                place.offset = OFFSET_BEGINNING
        consumer.assign([TopicPartition(p.topic, p.partition, p.offset) for p in committed])
        self._items.append(
            _Assigned(
                {str(place.topic): (place.offset, str(place.metadata or "")) for place in committed}
            )
        )

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._items.append(_Revoked([str(place.topic) for place in partitions]))
        consumer.unassign()

    def _take(self, consumer: Consumer) -> list[_Item]:
        """Take messages and changes of the group in the order in which they came."""
        self._items = []
        message = consumer.poll(POLL_S)
        while message is not None:
            self._items.append(message)
            message = consumer.poll(0) if len(self._items) < BATCH else None
        return self._items

    async def _wait_for_place(self) -> None:
        try:
            async with asyncio.timeout(_JOIN_S):
                await self._joined.wait()
        except TimeoutError as error:
            raise BusUnavailableError(
                "No place in the group was given", within_s=_JOIN_S
            ) from error
        if self._failure is not None and not self._places:
            raise self._failure

    async def _receive(self) -> None:
        try:
            while True:
                for item in await self._consumer.run(self._take):
                    await self._handle(item)
                if self._again:
                    self._again = False
                    await self._consumer.assign(
                        {name: place.next for name, place in self._places.items()}
                    )
                await self._hold_back()
        except PlatevaultError as error:
            self._failure = error
            self._news.set()
            self._joined.set()

    async def _hold_back(self) -> None:
        """Leave messages with the broker while enough are in hand."""
        if len(self._held) >= _HELD:
            await self._consumer.run(lambda consumer: consumer.pause(consumer.assignment()))
            self._paused = True
        elif self._paused and len(self._held) < _HELD // 2:
            await self._consumer.run(lambda consumer: consumer.resume(consumer.assignment()))
            self._paused = False

    async def _handle(self, item: _Item) -> None:
        match item:
            case _Assigned(commits):
                for name, (offset, text) in commits.items():
                    self._places[name] = _Place(_seen_of(text, name), offset)
                self._again = False
                self._joined.set()
            case _Revoked(names):
                for name in names:
                    self._places.pop(name, None)
                # Whoever has these topics now gets these samples again.
                self._held = deque(held for held in self._held if held.name in self._places)
            case KafkaError():
                raise error_of(item, "The broker did not tell the place of the group")
            case message:
                await self._hold(message)

    async def _hold(self, message: Message) -> None:
        name, offset, value = str(message.topic()), message.offset(), message.value()
        problem, place = message.error(), self._places.get(name)
        if self._again or place is None:
            return  # it comes again, here or to another member
        if problem is not None and is_corrupted(problem):
            _log.warning("Messages arrived corrupted and are read again", topic=name)
            self._again = True
            return
        if problem is not None and is_out_of_range(problem):
            # What went unread is found by the numbers; what comes again was only given once more.
            place.next, _ = await self._reach(name)
            _log.warning("Messages are gone from the broker", topic=name, goes_on_at=place.next)
            self._again = True
            return
        if problem is not None:
            error = error_of(problem, "Recording a topic failed", topic=name)
            if isinstance(error, PermanentError) or problem.fatal():
                raise error
            _log.warning("Recording a topic is disturbed", topic=name, reason=str(error))
            return
        if offset is None:
            return
        sample = None
        if value is not None:
            try:
                sample = await self._schemas.decode(name, self._topics[name], value)
            except UndecodableSampleError as error:
                self._skipped.note(name, error, offset)
        place.next = offset + 1
        self._held.append(_Held(name, offset, sample, place))
        self._news.set()


def _gap_before(sample: Sample, seen: dict[_Writer, int]) -> Gap | None:
    """Give what is missing before a sample, and remember its number."""
    if sample.topic.kind not in _COUNTED:
        return None
    writer = sample.sal_index, sample.identity, sample.origin
    last = seen.pop(writer, None)
    seen[writer] = sample.sequence
    if last is None or sample.sequence <= last + 1:
        return None
    return Gap(sample.topic, sample.sal_index, sample.identity, last + 1, sample.sequence - 1)


def _text_of(seen: Mapping[_Writer, int]) -> str:
    """Write down the last numbers, of as many writers as fit, those heard last first."""
    parts: list[str] = []
    length = len("[]")
    for (index, identity, origin), number in reversed(list(seen.items())):
        part = json.dumps([index, identity, origin, number], separators=(",", ":"))
        length += len(part) + 1
        if length > _TEXT_LIMIT:
            break
        parts.append(part)
    return f"[{','.join(parts)}]"


def _seen_of(text: str, name: str) -> dict[_Writer, int]:
    if not text:
        return {}
    try:
        return {
            (int(index), str(identity), int(origin)): int(number)
            for index, identity, origin, number in reversed(json.loads(text))
        }
    except (ValueError, TypeError):
        _log.warning("Numbers of writers not readable; gaps since are not found", topic=name)
        return {}
