"""The sample bus within one process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from typing_extensions import override

from platevault.adapters.unread_samples import UnreadSamples
from platevault.domain.samples import Sample, TopicKind, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import (
    Gap,
    History,
    Recording,
    SampleBus,
    Subscription,
)

_TopicName = tuple[str, str]
_Writer = tuple[str, str, int, str, int]
#: Kinds whose numbers count the samples of a topic; replies carry the number of their command.
_COUNTED = frozenset({TopicKind.EVENT, TopicKind.TELEMETRY, TopicKind.COMMAND})
#: Kinds that tell of the past; an old command must not be done once more.
_RECALLED = frozenset({TopicKind.EVENT, TopicKind.TELEMETRY})


class MemorySampleBus(SampleBus):
    """Samples within one process; the newest event of each key is kept, and a few of late.

    Parameters
    ----------
    clock
        Gives the moment of reception.
    queue_limit
        Samples a subscriber may be behind before it overflows.
    record_limit
        Samples kept for each recording group; the oldest are dropped and become a `Gap`.
    recall_limit
        Events and samples of telemetry kept to be recalled, of all topics together.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        queue_limit: int = 10_000,
        record_limit: int = 100_000,
        recall_limit: int = 0,
    ) -> None:
        self._clock = clock
        self._recent: deque[Sample] = deque(maxlen=recall_limit)
        self._queue_limit = queue_limit
        self._record_limit = record_limit
        self._latest: dict[_TopicName, dict[int, Sample]] = {}
        self._subscribers: dict[_TopicName, list[_Subscriber]] = {}
        self._groups: dict[str, _Group] = {}

    @override
    async def publish(self, sample: Sample) -> None:
        await asyncio.sleep(0)  # a writer in a tight loop must not starve its readers
        name = _name_of(sample.topic)
        received = replace(sample, received_tai=self._clock.now_tai())
        if sample.topic.kind is TopicKind.EVENT:
            self._latest.setdefault(name, {})[sample.sal_index] = received
        if sample.topic.kind in _RECALLED:
            self._recent.append(received)
        for subscriber in tuple(self._subscribers.get(name, ())):
            if subscriber.sal_index in {0, sample.sal_index}:
                subscriber.unread.put(received)
        for group in self._groups.values():
            group.offer(received)

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
        names = {_name_of(topic) for topic in topics}
        past: list[Sample] = []
        if history is History.LATEST:
            horizon_tai = self._clock.now_tai() - recall_s
            recent = [
                sample
                for sample in self._recent
                if recall_s > 0 and sample.received_tai >= horizon_tai
            ]
            kept = {id(sample) for sample in recent}
            latest = [
                sample
                for name in sorted(names)
                for sample in self._latest.get(name, {}).values()
                if id(sample) not in kept
            ]
            past = [
                sample
                for sample in (*latest, *recent)
                if sal_index in {0, sample.sal_index} and _name_of(sample.topic) in names
            ]
        unread = UnreadSamples(limit=self._queue_limit)
        unread.put_past(past)
        subscriber = _Subscriber(unread, sal_index)
        for name in names:
            self._subscribers.setdefault(name, []).append(subscriber)
        try:
            yield unread
        finally:
            for name in names:
                self._subscribers[name].remove(subscriber)
            unread.close()

    @override
    @asynccontextmanager
    async def record(
        self, topics: Collection[TopicSchema], *, group: str
    ) -> AsyncIterator[Recording]:
        shared = self._groups.setdefault(group, _Group(limit=self._record_limit))
        member = _Member(shared)
        shared.join(member, {_name_of(topic) for topic in topics})
        try:
            yield member
        finally:
            shared.leave(member)


def _name_of(topic: TopicSchema) -> _TopicName:
    return topic.component, topic.sal_name


def _writer_of(sample: Sample) -> _Writer:
    return (*_name_of(sample.topic), sample.sal_index, sample.identity, sample.origin)


@dataclass(frozen=True, slots=True, eq=False)
class _Subscriber:
    """Who wants samples of an index, 0 for all."""

    unread: UnreadSamples
    sal_index: int


@dataclass(eq=False)
class _Group:
    """What a recording group has not committed; outlives its members."""

    limit: int
    topics: set[_TopicName] = field(default_factory=set)
    pending: deque[Sample] = field(default_factory=deque)
    given: int = 0
    committed: dict[_Writer, int] = field(default_factory=dict)
    members: list[_Member] = field(default_factory=list)

    def offer(self, sample: Sample) -> None:
        if _name_of(sample.topic) not in self.topics:
            return
        if len(self.pending) >= self.limit:
            self._drop_oldest()
        self.pending.append(sample)
        self.wake()

    def _drop_oldest(self) -> None:
        dropped = self.pending.popleft()
        # A writer that nobody has seen yet would otherwise lose its first samples in silence.
        self.committed.setdefault(_writer_of(dropped), dropped.sequence - 1)
        if self.given:
            self.given -= 1
        elif self.members:
            self.members[0].seen.setdefault(_writer_of(dropped), dropped.sequence - 1)

    def join(self, member: _Member, topics: set[_TopicName]) -> None:
        self.topics |= topics
        self.members.append(member)
        if len(self.members) == 1:
            member.seen = dict(self.committed)

    def leave(self, member: _Member) -> None:
        was_active = self.members[0] is member
        self.members.remove(member)
        member.closed = True
        if was_active:
            self.given = 0
            if self.members:
                self.members[0].seen = dict(self.committed)
        member.news.set()
        self.wake()

    def wake(self) -> None:
        if self.members:
            self.members[0].news.set()


class _Member(Recording):
    """One member of a group; the first has everything, the next takes over when it leaves."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self.closed = False
        self.news = asyncio.Event()
        self.seen: dict[_Writer, int] = {}

    @override
    def __aiter__(self) -> AsyncIterator[Sample | Gap]:
        return self

    async def __anext__(self) -> Sample | Gap:
        group = self._group
        while True:
            if self.closed:
                raise StopAsyncIteration
            if group.members[0] is self and group.given < len(group.pending):
                sample = group.pending[group.given]
                gap = self._gap_before(sample)
                if gap is not None:
                    return gap
                group.given += 1
                return sample
            self.news.clear()
            await self.news.wait()

    @override
    async def commit(self) -> None:
        group = self._group
        if self.closed or group.members[0] is not self:
            return
        for _ in range(group.given):
            group.pending.popleft()
        group.given = 0
        group.committed = dict(self.seen)

    def _gap_before(self, sample: Sample) -> Gap | None:
        if sample.topic.kind not in _COUNTED:
            return None
        writer = _writer_of(sample)
        last = self.seen.get(writer)
        self.seen[writer] = sample.sequence
        if last is None or sample.sequence <= last + 1:
            return None
        return Gap(sample.topic, sample.sal_index, sample.identity, last + 1, sample.sequence - 1)
