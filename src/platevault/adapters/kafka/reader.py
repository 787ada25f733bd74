"""Reads topics for one subscriber: the past once, then what comes.

References
----------
SAL over Kafka, sections 8.1 (late joiners) and 8.2 (order and filter).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from confluent_kafka import KafkaError, Message

from platevault.adapters.kafka.codec import UndecodableSampleError
from platevault.adapters.kafka.consumer import MessagePump, ThreadedConsumer
from platevault.adapters.kafka.errors import error_of, is_corrupted, is_out_of_range
from platevault.adapters.kafka.schemas import SchemaBook
from platevault.adapters.kafka.settings import KafkaSettings
from platevault.adapters.unread_samples import UnreadSamples
from platevault.domain.errors import PermanentError, PlatevaultError
from platevault.domain.samples import Sample, TopicKind, TopicSchema

#: Of samples that cannot be read, the first and then each of so many is logged.
_LOG_EVERY = 100
#: Kinds of which a late sample of older date is dropped, and that may be recalled.
DATED = frozenset({TopicKind.EVENT, TopicKind.TELEMETRY})

#: Gives the offsets of the oldest message of a topic and after its newest.
ReachOf = Callable[[str], Awaitable[tuple[int, int]]]

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Past:
    """Messages of one topic from before the subscription, oldest first, by key.

    Attributes
    ----------
    end
        Offset of the first message that is not of the past.
    recalled
        Offset from which every message is wanted, not only the newest of each key.
    by_key
        Offsets and values.
    """

    end: int
    recalled: int
    by_key: dict[bytes, list[tuple[int, bytes]]] = field(default_factory=dict)


def first_offset(topic: TopicSchema, *, start: int, end: int, settings: KafkaSettings) -> int:
    """Give the offset from which the past of an event is read.

    Parameters
    ----------
    topic
        The event.
    start, end
        Offsets of its oldest message and after its newest.
    settings
        Says how far back.
    """
    depth = settings.history_limit_of(topic.component) if topic.indexed else 1
    return max(start, end - depth)


class Skipped:
    """Counts and logs what could not be read."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def note(self, name: str, error: UndecodableSampleError, offset: int | None) -> None:
        """Log the first of a topic, and then some."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        if count % _LOG_EVERY == 1:
            _log.warning(
                "Sample skipped", topic=name, offset=offset, count=count, reason=str(error)
            )


class TopicReader:
    """Moves samples from a consumer to a subscription.

    Parameters
    ----------
    topics
        By name on the brokers.
    sal_index
        Instance that is wanted; 0 for all.
    first
        Offset from which each topic is read.
    past_ends
        Topics of which the past is wanted, with the offset at which it ends.
    recalled
        Topics of which all is wanted, with the offset from which on.
    consumer
        Assigned already.
    reach
        Tells where a topic begins and ends.
    subscription
        Gets the samples.
    schemas
        Decodes.
    """

    def __init__(
        self,
        *,
        topics: Mapping[str, TopicSchema],
        sal_index: int,
        first: Mapping[str, int],
        past_ends: Mapping[str, int],
        recalled: Mapping[str, int],
        consumer: ThreadedConsumer,
        reach: ReachOf,
        subscription: UnreadSamples,
        schemas: SchemaBook,
    ) -> None:
        self._topics = topics
        self._sal_index = sal_index
        self._next = dict(first)
        self._pasts = {name: _Past(end, recalled.get(name, end)) for name, end in past_ends.items()}
        self._reach = reach
        self._pump = MessagePump(consumer, at_once=self._take_at_once)
        self._subscription = subscription
        self._schemas = schemas
        self._skipped = Skipped()
        self._newest: dict[tuple[str, int], Sample] = {}
        #: Set when the past is in hand, or will never be as reading failed.
        self.past_complete = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled; errors go to the subscriber, and end it."""
        try:
            if not self._pasts:
                self.past_complete.set()
            async with self._pump.running():
                while not self._subscription.failed:
                    await self._take_all(await self._pump.take())
        except PlatevaultError as error:
            self._subscription.fail(error)
        finally:
            self.past_complete.set()

    def _take_at_once(self, messages: list[Message]) -> list[Message]:
        """Take live messages whose schemas are in hand; give the others."""
        for place, message in enumerate(messages):
            name, offset, value = str(message.topic()), message.offset(), message.value()
            if (
                message.error() is not None
                or offset is None
                or value is None
                or name in self._pasts
                or self._subscription.failed
            ):
                return messages[place:]
            try:
                sample = self._schemas.decode_known(self._topics[name], value)
            except UndecodableSampleError:
                return messages[place:]
            if sample is None:
                return messages[place:]
            self._next[name] = offset + 1
            if self._is_news(name, sample):
                self._subscription.put(sample)
        return []

    async def _take_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            name, problem, offset = str(message.topic()), message.error(), message.offset()
            if problem is not None and is_corrupted(problem):
                _log.warning("Messages arrived corrupted and are read again", topic=name)
                await self._pump.move(self._next)
                return  # the rest comes again
            if problem is not None and is_out_of_range(problem):
                self._next[name] = await self._next_there_is(name)
                await self._pump.move(self._next)
                return
            await self._take(message)
            if problem is None and offset is not None:
                self._next[name] = offset + 1

    async def _next_there_is(self, name: str) -> int:
        """Give the offset of what to read after a loss: where the topic now begins, if later.

        Else the topic was made anew. Then events are read from the start, since their stamps tell
        what is new; commands and replies are not, since an old command must not be done once more.
        """
        start, end = await self._reach(name)
        later = self._next[name] < start
        offset = start if later or self._topics[name].kind is TopicKind.EVENT else end
        _log.warning("Messages are gone from the broker", topic=name, goes_on_at=offset)
        return offset

    async def _take(self, message: Message) -> None:
        name, offset = str(message.topic()), message.offset()
        problem = message.error()
        if problem is not None:
            if problem.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (librdkafka's form)
                past = self._pasts.get(name)
                # The newest messages may be gone by now, or no samples: nothing is waited for.
                if past is not None and offset is not None and offset >= past.end:
                    await self._finish_past(name)
                return
            self._take_problem(name, problem)
            return
        if offset is None:
            return
        value = message.value()
        past = self._pasts.get(name)
        if past is not None:
            if offset < past.end and value is not None:
                key = message.key()
                group = key if isinstance(key, bytes) else b""
                past.by_key.setdefault(group, []).append((offset, value))
            if offset >= past.end - 1:
                await self._finish_past(name)
            if offset < past.end:
                return
        if value is not None:
            sample = await self._decoded(name, offset, value)
            if sample is not None and self._is_news(name, sample):
                self._subscription.put(sample)

    async def _finish_past(self, name: str) -> None:
        past = self._pasts[name]
        newest: dict[int, tuple[int, Sample]] = {}
        found: dict[int, Sample] = {}
        for messages in past.by_key.values():
            for offset, sample in await self._readable(name, messages, past.recalled):
                index = sample.sal_index
                if offset >= past.recalled:
                    found[offset] = sample
                if index not in newest or newest[index][0] < offset:
                    newest[index] = offset, sample
        found.update(newest.values())
        self._subscription.put_past(
            sample for _, sample in sorted(found.items()) if self._is_news(name, sample)
        )
        del self._pasts[name]
        if not self._pasts:
            self.past_complete.set()

    async def _readable(
        self, name: str, messages: Sequence[tuple[int, bytes]], recalled: int
    ) -> list[tuple[int, Sample]]:
        """Give all that is recalled, or else the newest, of one key."""
        found: list[tuple[int, Sample]] = []
        for offset, value in reversed(messages):
            if found and offset < recalled:
                break
            sample = await self._decoded(name, offset, value)
            if sample is not None:
                found.append((offset, sample))
        return found

    async def _decoded(self, name: str, offset: int, value: bytes) -> Sample | None:
        try:
            return await self._schemas.decode(name, self._topics[name], value)
        except UndecodableSampleError as error:
            self._skipped.note(name, error, offset)
            return None

    def _is_news(self, name: str, sample: Sample) -> bool:
        if self._sal_index not in {0, sample.sal_index}:
            return False
        if sample.topic.kind not in DATED:
            return True
        place = name, sample.sal_index
        last = self._newest.get(place)
        if last is not None:
            if _are_one(last, sample):
                return False
            if sample.sent_tai < last.sent_tai:
                _log.warning(
                    "Sample of older date dropped",
                    topic=name,
                    sal_index=sample.sal_index,
                    late_by_s=last.sent_tai - sample.sent_tai,
                )
                return False
        self._newest[place] = sample
        return True

    def _take_problem(self, name: str, problem: KafkaError) -> None:
        error = error_of(problem, "Reading a topic failed", topic=name)
        if isinstance(error, PermanentError) or problem.fatal():
            raise error
        _log.warning("Reading a topic is disturbed", topic=name, reason=str(error))


def _are_one(first: Sample, second: Sample) -> bool:
    """Tell whether both are the same sample, sent once and stored twice."""
    return (
        first.sent_tai == second.sent_tai
        and first.sequence == second.sequence
        and first.identity == second.identity
        and first.origin == second.origin
    )
