"""Hears everything that headers need, in every state, and what was said while nobody listened.

References
----------
Header contract, sections B1 and B2.5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import structlog

from platevault.domain.errors import TransientError
from platevault.domain.header_sources import TopicAddress
from platevault.domain.keywords import KeywordSet
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import (
    Gap,
    History,
    PastUnavailableError,
    Recording,
    SampleBus,
    Subscription,
)
from platevault.runtime.retry import Backoff
from platevault.runtime.service import StopToken
from platevault.runtime.waiting import wait_first
from platevault.sal.schema import Interfaces, UnknownComponentError, UnknownTopicError
from platevault.services.header_service.exposures import (
    IMAGE_TOPICS,
    SHUTTER_CLOSED,
    SHUTTER_OPENS,
)

_BACKOFF = Backoff(first_s=0.1, ceiling_s=10.0)
#: An event of the record is taken this much later than it came, so that the live subscription,
#: which has the telemetry too, comes first [s].
GRACE_S = 2.0
#: Events of the record that wait at most; more are taken at once.
_WAITING_LIMIT = 10_000
#: Samples of the past after which other tasks have their turn.
_PAST_TURN = 500

_log = structlog.get_logger(__name__)


class Listener:
    """Follows the topics of a keyword set.

    Parameters
    ----------
    bus, interfaces, clock
        What it works with.
    keywords
        Topics and fields.
    group
        Name under which the bus remembers what was handled.
    recall_s
        How far back the first subscription asks for what came while no process of ours was there
        [s]; the bus may keep less.
    take
        Gets each sample; must not fail.
    is_settled
        Tells whether no exposure is open, so that the record may be committed.
    """

    def __init__(
        self,
        *,
        bus: SampleBus,
        interfaces: Interfaces,
        clock: Clock,
        keywords: KeywordSet,
        group: str,
        recall_s: float,
        take: Callable[[Sample], None],
        is_settled: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._interfaces = interfaces
        self._clock = clock
        self._keywords = keywords
        self._group = group
        self._recall_s = recall_s
        self._take = take
        self._is_settled = is_settled

    def image_topics(self) -> Mapping[str, TopicSchema]:
        """Give the camera's events that name an image, by name."""
        found = {
            name: self._topic(
                TopicAddress(self._keywords.camera_component, self._keywords.sal_index, name)
            )
            for name in IMAGE_TOPICS
        }
        return {name: topic for name, topic in found.items() if topic is not None}

    def topics(self) -> list[TopicSchema]:
        """Give every topic that is followed; what the interface does not have is logged."""
        camera = self._keywords.camera_component, self._keywords.sal_index
        wanted = {
            *self._keywords.fields,
            *(TopicAddress(*camera, name) for name in (SHUTTER_OPENS, SHUTTER_CLOSED)),
        }
        found: dict[tuple[str, str], TopicSchema] = {}
        for address in sorted(wanted):
            topic = self._topic(address)
            if topic is not None:
                found[topic.component, topic.sal_name] = topic
            elif address in self._keywords.fields:
                _log.warning(
                    "Keywords name an unknown topic",
                    component=address.component,
                    topic=address.topic,
                )
        found.update(
            {(topic.component, topic.sal_name): topic for topic in self.image_topics().values()}
        )
        return list(found.values())

    def _topic(self, address: TopicAddress) -> TopicSchema | None:
        try:
            interface = self._interfaces.component(address.component)
        except UnknownComponentError:
            return None
        for sal_name in (f"logevent_{address.topic}", address.topic):
            try:
                return interface.topic(sal_name)
            except UnknownTopicError:
                continue
        return None

    async def follow(
        self, stop: StopToken, listening: Callable[[], None], past_taken: Callable[[], None]
    ) -> None:
        """Take samples until ``stop``; subscribe again whenever the bus loses us.

        ``listening`` is called each time the subscription stands, and ``past_taken`` when what the
        bus told of the past was taken.
        """
        recall_s = self._recall_s
        topics = self.topics()
        pauses = _BACKOFF.pauses()
        while True:
            problem = "the subscription ended"
            try:
                async with self._bus.subscribe(
                    topics, history=History.LATEST, recall_s=recall_s
                ) as samples:
                    listening()
                    await self._take_past(samples)
                    recall_s = 0.0
                    past_taken()
                    async for sample in stop.until(samples):
                        self._take(sample)
                        pauses.reset()
            except PastUnavailableError as error:
                problem, recall_s = str(error), recall_s / 2
            except TransientError as error:
                problem = str(error)
            if stop.requested:
                return
            _log.error("Samples were lost", component=self._group, problem=problem)
            await wait_first(stop.wait(), self._clock.sleep(pauses.next_s()))

    async def _take_past(self, samples: Subscription) -> None:
        for number in range(1, samples.past_left + 1):
            self._take(await anext(samples))
            if number % _PAST_TURN == 0:
                await asyncio.sleep(0)

    async def catch_up(self, stop: StopToken) -> None:
        """Take camera events that came while no process of ours was there, until ``stop``."""
        pauses = _BACKOFF.pauses()
        topics = list(self.image_topics().values())
        while not stop.requested:
            try:
                async with self._bus.record(topics, group=self._group) as recording:
                    await wait_first(self._replay(recording, stop), stop.wait())
            except TransientError as error:
                _log.error("Record of events lost", component=self._group, problem=str(error))
                await wait_first(stop.wait(), self._clock.sleep(pauses.next_s()))

    async def _replay(self, recording: Recording, stop: StopToken) -> None:
        waiting: deque[tuple[float, Sample]] = deque()
        await wait_first(
            self._collect(recording, waiting), self._work_off(recording, waiting, stop)
        )

    async def _collect(self, recording: Recording, waiting: deque[tuple[float, Sample]]) -> None:
        async for item in recording:
            if isinstance(item, Gap):
                _log.error(
                    "Camera events are missing",
                    topic=item.topic.sal_name,
                    writer=item.identity,
                    first=item.first,
                    last=item.last,
                )
                continue
            if len(waiting) >= _WAITING_LIMIT:
                self._take(waiting.popleft()[1])
            waiting.append((self._clock.now_tai() + GRACE_S, item))

    async def _work_off(
        self, recording: Recording, waiting: deque[tuple[float, Sample]], stop: StopToken
    ) -> None:
        while not stop.requested:
            await self._clock.sleep(GRACE_S)
            while waiting and waiting[0][0] <= self._clock.now_tai():
                self._take(waiting.popleft()[1])
            if not waiting and self._is_settled():
                await recording.commit()
