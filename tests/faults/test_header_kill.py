"""A Header Service that is killed at any moment of an exposure still gives its whole header."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typing_extensions import override

from platevault.adapters.dds import DdsSampleBus, DdsSettings
from platevault.adapters.kafka import KafkaSampleBus, KafkaSettings
from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.adapters.system_clock import SystemClock
from platevault.compose.cameras import load_camera
from platevault.compose.header_keywords import load_keyword_set
from platevault.domain.header_cards import PRIMARY, cards_by_keyword
from platevault.domain.header_formats import parse_header
from platevault.domain.headers import (
    Collected,
    HeaderDocument,
    HeaderStatus,
    HeaderValue,
    KeywordRecord,
)
from platevault.domain.lifecycles import SummaryState
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.object_store import ObjectStore, StoredObject
from platevault.ports.sample_bus import (
    History,
    PastUnavailableError,
    SampleBus,
    Subscription,
)
from platevault.runtime.service import StopToken
from platevault.sal.avro import avro_schema
from platevault.services.header_service.delivery import header_key
from platevault.services.header_service.images import Timing
from platevault.services.header_service.recovery import PastState
from platevault.services.header_service.service import HeaderServiceCsc, HeaderServiceOptions
from platevault.testing.clocks import SteppedClock
from platevault.testing.dds_domains import own_domain
from platevault.testing.header_samples import IMAGE, MemoryObjectStore, exposure, interfaces

COMCAM = load_camera("comcam")
KEYWORDS = load_keyword_set(COMCAM)
WHOLE = exposure(COMCAM)
OPEN, VERSION_1 = "/open/", header_key("CCHeaderService", IMAGE, 1)
EVENTS = ("startIntegration", "startReadout", "endReadout", "endOfImageTelemetry")
TIMING = Timing(margin_s=30.0, settle_s=0.1, end_wait_s=5.0, recover_s=8.0)
_TURNS = 30


class DeadlyStore(MemoryObjectStore):
    """Never returns from a write of a key that has ``text``; done before or not, as told."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.writes_first = False
        self.reached = asyncio.Event()

    def kill_at(self, text: str, *, writes_first: bool) -> None:
        self.text, self.writes_first = text, writes_first

    @override
    async def put_if_absent(self, key: str, data: bytes) -> StoredObject:
        if self.text and self.text in key:
            if self.writes_first:
                await super().put_if_absent(key, data)
            self.reached.set()
            await asyncio.Event().wait()
        return await super().put_if_absent(key, data)


class GuardedBus(MemorySampleBus):
    """Keeps the past; ``guard`` is told how much of it [s] a subscriber wants, who waits for it."""

    def __init__(self, *, clock: SteppedClock, guard: Callable[[float], Awaitable[None]]) -> None:
        super().__init__(clock=clock, recall_limit=10_000)
        self._guard = guard

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
        await self._guard(recall_s)
        async with super().subscribe(
            topics, history=history, sal_index=sal_index, recall_s=recall_s
        ) as samples:
            yield samples


def service_on(
    bus: SampleBus, clock: Clock, annex: ObjectStore, spool: ObjectStore
) -> HeaderServiceCsc:
    return HeaderServiceCsc(
        camera=COMCAM,
        keywords=KEYWORDS,
        store=annex,
        spool=spool,
        bus=bus,
        interfaces=interfaces(),
        clock=clock,
        version="1",
        initial_state=SummaryState.ENABLED,
        options=HeaderServiceOptions(timing=TIMING),
    )


@dataclass
class Site:
    """What outlives a Header Service."""

    clock: SteppedClock
    bus: MemorySampleBus
    annex: DeadlyStore = field(default_factory=DeadlyStore)
    spool: DeadlyStore = field(default_factory=DeadlyStore)
    announced: list[str] = field(default_factory=list)
    stop: StopToken = field(default_factory=StopToken)

    def service(self) -> HeaderServiceCsc:
        return service_on(self.bus, self.clock, self.annex, self.spool)

    async def say(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            await self.bus.publish(sample)

    async def quiet(self) -> None:
        for _ in range(_TURNS):
            await asyncio.to_thread(int)
            await self.clock.settle()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not done():
                await asyncio.to_thread(int)
                await self.clock.settle()

    async def lives_until(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run a service, and kill it after ``body``."""
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.service().run(StopToken(), ready.set))
            await self.until(ready.is_set)
            await body()
            task.cancel()
            await asyncio.wait({task})
        for store in (self.annex, self.spool):
            store.kill_at("", writes_first=False)

    @asynccontextmanager
    async def restarted(self, *, is_ready: bool = True) -> AsyncIterator[HeaderServiceCsc]:
        csc, stop, ready = self.service(), StopToken(), asyncio.Event()
        self.stop = stop
        event = interfaces().component("CCHeaderService").event("largeFileObjectAvailable")
        async with (
            self.bus.subscribe([event], history=History.NONE) as events,
            asyncio.TaskGroup() as group,
        ):
            hearing = group.create_task(self._hear(events))
            group.create_task(csc.run(stop, ready.set))
            await self.until(ready.is_set if is_ready else lambda: self.clock.sleepers > 0)
            try:
                yield csc
            finally:
                stop.request()
                hearing.cancel()

    async def _hear(self, events: AsyncIterator[Sample]) -> None:
        async for event in events:
            self.announced.append(str(event.fields["url"]))

    def document(self, version: int = 1) -> HeaderDocument:
        return parse_header(self.annex.objects[header_key("CCHeaderService", IMAGE, version)])

    @property
    def headers(self) -> list[str]:
        return [key for key in self.annex.objects if key.endswith(".yaml")]


def site(*, recall_limit: int = 10_000) -> Site:
    clock = SteppedClock()
    return Site(clock, MemorySampleBus(clock=clock, recall_limit=recall_limit))


def lagging_site() -> tuple[Site, asyncio.Event]:
    """Give a site where nobody subscribes to what needs a past while the event is not set."""
    answers = asyncio.Event()
    answers.set()

    async def wait(recall_s: float) -> None:
        if recall_s:
            await answers.wait()

    clock = SteppedClock()
    return Site(clock, GuardedBus(clock=clock, guard=wait)), answers


def parts(event: str) -> tuple[list[Sample], Sample, list[Sample]]:
    """Give what is said before an event, the event, and the rest of the exposure."""
    place = next(place for place, one in enumerate(WHOLE) if one.topic.name == event)
    return WHOLE[:place], WHOLE[place], WHOLE[place + 1 :]


def facts(document: HeaderDocument) -> dict[str, HeaderValue]:
    values = cards_by_keyword(document.sections[PRIMARY])
    return {keyword: value for keyword, value in values.items() if keyword not in {"DATE", "MJD"}}


def record_of(document: HeaderDocument, keyword: str) -> KeywordRecord:
    (record,) = [one for one in document.records if one.keyword == keyword]
    return record


@pytest.fixture
async def undisturbed() -> HeaderDocument:
    """The header of a service that was not killed."""
    place = site()

    async def live() -> None:
        await place.say(WHOLE)
        await place.until(lambda: VERSION_1 in place.annex.objects)

    await place.lives_until(live)
    return place.document()


async def killed_at(place: Site, event: str, *, writes_first: bool) -> list[Sample]:
    """Kill a service as it saves an event, or just after; give what the exposure has yet to say."""
    before, sample, after = parts(event)

    async def live() -> None:
        await place.say(before)
        await place.quiet()
        place.spool.kill_at(OPEN, writes_first=writes_first)
        place.annex.kill_at(VERSION_1, writes_first=False)
        await place.say([sample])
        await place.until(place.spool.reached.is_set)

    await place.lives_until(live)
    return after


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("event", EVENTS)
async def test_the_header_is_that_of_a_service_that_was_not_killed(
    event: str, saved: bool, undisturbed: HeaderDocument
) -> None:
    place = site()
    await place.say(await killed_at(place, event, writes_first=saved))
    assert place.headers == []
    async with place.restarted() as csc:
        await place.until(lambda: VERSION_1 in place.annex.objects)
        for _ in range(20):
            await place.clock.advance(1.0)
            await place.quiet()
        assert csc.past is PastState.TAKEN
    document = place.document()
    assert document.status is HeaderStatus.COMPLETE
    assert facts(document) == facts(undisturbed)
    assert document.records == undisturbed.records
    assert place.headers == [VERSION_1]
    assert place.announced == [f"memory:///{VERSION_1}"]
    assert [key for key in place.spool.objects if OPEN in key] == []


@pytest.mark.parametrize("stored", [False, True])
async def test_a_kill_while_the_header_goes_out_gives_the_same_header_once(
    stored: bool, undisturbed: HeaderDocument
) -> None:
    place = site()

    async def live() -> None:
        place.annex.kill_at(VERSION_1, writes_first=stored)
        await place.say(WHOLE)
        await place.until(place.annex.reached.is_set)

    await place.lives_until(live)
    async with place.restarted():
        await place.until(lambda: bool(place.announced))
        await place.quiet()
    assert facts(place.document()) == facts(undisturbed)
    assert place.document().records == undisturbed.records
    assert place.announced == [f"memory:///{VERSION_1}"]


@pytest.mark.parametrize("event", EVENTS)
async def test_a_bus_that_is_slow_with_the_past_is_waited_for(
    event: str, undisturbed: HeaderDocument
) -> None:
    place, answers = lagging_site()
    await place.say(await killed_at(place, event, writes_first=True))
    answers.clear()
    async with place.restarted(is_ready=False):
        await place.clock.advance(7.0)
        await place.quiet()
        answers.set()
        await place.until(lambda: VERSION_1 in place.annex.objects)
        await place.quiet()
    assert place.document().records == undisturbed.records
    assert place.headers == [VERSION_1]


async def test_an_exposure_that_goes_on_after_the_restart_waits_for_its_end(
    undisturbed: HeaderDocument,
) -> None:
    place = site()
    await killed_at(place, "startIntegration", writes_first=False)
    _, _, after = parts("startIntegration")
    half = len(after) // 2
    await place.say(after[:half])
    async with place.restarted():
        await place.quiet()
        assert place.headers == []
        await place.say(after[half:])
        await place.until(lambda: VERSION_1 in place.annex.objects)
    assert facts(place.document()) == facts(undisturbed)


# --- a bus that keeps nothing but the newest event of each key ------------------------------------


async def header_without_the_first(seconds: float) -> HeaderDocument:
    """Kill a service as the shutter opens; what is said within a time [s] of that, nobody hears."""
    place = site(recall_limit=0)
    after = await killed_at(place, "startIntegration", writes_first=False)
    start_tai = parts("startIntegration")[1].fields["timestampAcquisitionStart"]
    missed = [one for one in after if one.sent_tai < start_tai + seconds]
    async with place.restarted():
        await place.say(after[len(missed) :])
        await place.until(lambda: VERSION_1 in place.annex.objects)
    return place.document()


async def test_of_telemetry_that_no_bus_kept_the_first_sample_after_stands_in() -> None:
    document = await header_without_the_first(3.0)
    record = record_of(document, "RASTART")
    assert record.collected is Collected.DEFAULTED
    assert record.age_s == -3.25
    assert record.problem == "sampled 3.250 s after the moment"
    assert facts(document)["RASTART"] == pytest.approx(127.5 + 0.0325, abs=1e-6)
    end = record_of(document, "RAEND")
    assert end.collected is Collected.OK


async def test_what_came_too_late_after_the_moment_is_stale() -> None:
    document = await header_without_the_first(6.0)
    record = record_of(document, "RASTART")
    assert (record.collected, record.problem) == (
        Collected.STALE,
        "6.250 s after the moment, limit 5.0 s",
    )
    assert facts(document)["RASTART"] is None
    assert "RASTART" in document.missing
    # Weather may be older.
    record = record_of(document, "HUMIDITY")
    assert record.collected is Collected.DEFAULTED


async def test_what_the_journal_kept_is_better_than_a_later_sample() -> None:
    place = site(recall_limit=0)
    after = await killed_at(place, "startIntegration", writes_first=True)
    async with place.restarted():
        await place.say(after)
        await place.until(lambda: VERSION_1 in place.annex.objects)
    record = record_of(place.document(), "RASTART")
    assert record.collected is Collected.OK
    assert facts(place.document())["RASTART"] == pytest.approx(127.5, abs=0.01)


async def test_an_exposure_that_is_over_waits_for_the_first_telemetry_but_not_for_ever() -> None:
    place = site(recall_limit=0)
    await place.say(await killed_at(place, "startIntegration", writes_first=False))
    async with place.restarted():
        await place.clock.advance(7.5)
        await place.quiet()
        assert place.headers == []
        await place.clock.advance(1.0)
        await place.until(lambda: VERSION_1 in place.annex.objects)
    assert place.document().status is HeaderStatus.PARTIAL


# --- a silent bus ---------------------------------------------------------------------------------


async def test_a_silent_bus_does_not_cost_the_header_and_the_past_amends_it() -> None:
    place, answers = lagging_site()
    await place.say(await killed_at(place, "endOfImageTelemetry", writes_first=True))
    answers.clear()
    message = interfaces().component("CCHeaderService").event("logMessage")
    async with (
        place.bus.subscribe([message], history=History.NONE) as messages,
        place.restarted(is_ready=False) as csc,
    ):
        states = [csc.past]
        await place.clock.advance(7.5)
        await place.quiet()
        assert place.headers == []
        await place.clock.advance(1.0)
        await place.until(lambda: VERSION_1 in place.annex.objects)
        states.append(csc.past)
        while "The past was not taken in time" not in (await anext(messages)).fields["message"]:
            pass
        answers.set()
        await place.until(lambda: len(place.headers) == 2)
        states.append(csc.past)
    assert states == [PastState.AWAITED, PastState.GIVEN_UP, PastState.TAKEN]
    assert place.document().image == IMAGE
    assert place.document().completeness < 0.7
    assert place.document(2).completeness == 1.0


async def test_a_past_that_is_too_much_for_the_bus_is_asked_for_in_part() -> None:
    asked: list[float] = []

    async def a_minute_at_most(recall_s: float) -> None:
        if recall_s > 60.0:
            raise PastUnavailableError("The past of the topics was not given in time")
        asked.append(recall_s)

    clock = SteppedClock()
    place = Site(clock, GuardedBus(clock=clock, guard=a_minute_at_most))
    await place.say(WHOLE)
    async with place.restarted(is_ready=False) as csc:
        for _ in range(5):
            await clock.advance(1.0)
        await place.until(lambda: csc.past is PastState.TAKEN)
    assert next(recall_s for recall_s in asked if recall_s) == 180.0 / 4


async def test_a_stop_before_the_past_came_leaves_the_exposure_to_the_next_start() -> None:
    place, answers = lagging_site()
    await place.say(await killed_at(place, "endOfImageTelemetry", writes_first=True))
    answers.clear()
    async with place.restarted(is_ready=False):
        await place.quiet()
        place.stop.request()
        await place.quiet()
        answers.set()
    assert place.headers == []
    async with place.restarted():
        await place.until(lambda: VERSION_1 in place.annex.objects)
    assert place.document().status is HeaderStatus.COMPLETE


# --- real buses -----------------------------------------------------------------------------------

AnyBus = AbstractAsyncContextManager[SampleBus]


async def header_over(
    make_bus: Callable[[str], AnyBus], event: str, *, saved: bool
) -> tuple[HeaderDocument, PastState]:
    """Kill a service at an event, let the exposure end, and start the service again."""
    annex, spool = DeadlyStore(), DeadlyStore()
    before, sample, after = parts(event)
    announcement = interfaces().component("CCHeaderService").event("largeFileObjectAvailable")

    async def say(bus: SampleBus, samples: Iterable[Sample]) -> None:
        for one in samples:
            await bus.publish(one)

    @asynccontextmanager
    async def serving() -> AsyncIterator[HeaderServiceCsc]:
        async with make_bus("service") as bus, asyncio.TaskGroup() as group:
            csc, ready = service_on(bus, SystemClock(), annex, spool), asyncio.Event()
            task = group.create_task(csc.run(StopToken(), ready.set))
            await ready.wait()
            yield csc
            task.cancel()
            await asyncio.wait({task})

    async with asyncio.timeout(60), make_bus("observatory") as observatory:
        async with serving():
            await say(observatory, before)
            spool.kill_at(f"{OPEN}{IMAGE}.{saves_before(event):06d}", writes_first=saved)
            annex.kill_at(VERSION_1, writes_first=False)
            await say(observatory, [sample])
            await spool.reached.wait()
        annex.kill_at("", writes_first=False)
        spool.kill_at("", writes_first=False)
        await say(observatory, after)
        assert annex.objects == {}
        async with (
            observatory.subscribe([announcement], history=History.NONE) as events,
            serving() as csc,
        ):
            url = (await anext(events)).fields["url"]
            state = csc.past
    assert url == f"memory:///{VERSION_1}"
    return parse_header(annex.objects[VERSION_1]), state


@pytest.mark.servers
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("event", EVENTS)
async def test_over_kafka_too_the_header_is_that_of_a_service_that_was_not_killed(
    event: str, saved: bool, kafka_settings: KafkaSettings, undisturbed: HeaderDocument
) -> None:
    def kafka(_: str) -> AnyBus:
        return KafkaSampleBus(settings=kafka_settings, clock=SystemClock(), avro_schema=avro_schema)

    document, state = await header_over(kafka, event, saved=saved)
    assert state is PastState.TAKEN
    assert document.records == undisturbed.records
    assert facts(document) == facts(undisturbed)


@pytest.mark.parametrize("event", ["endReadout", "endOfImageTelemetry"])
async def test_over_dds_the_journal_and_the_newest_events_make_the_header(
    event: str, tmp_path: Path, undisturbed: HeaderDocument
) -> None:
    def dds(directory: str) -> AnyBus:
        settings = DdsSettings(domain_id=own_domain(), spool_directory=tmp_path / directory)
        return DdsSampleBus(settings=settings, clock=SystemClock())

    document, state = await header_over(dds, event, saved=True)
    assert state is PastState.TAKEN
    assert document.status is HeaderStatus.COMPLETE
    for keyword in ("FILTER", "RASTART", "RAEND", "HUMIDITY", "DARKTIME"):
        record = record_of(document, keyword)
        assert record.collected is Collected.OK, keyword
    assert facts(document) == pytest.approx(facts(undisturbed), abs=0.02)


def saves_before(event: str) -> int:
    """Give the number of the journal entry that an event makes."""
    return 1 + sum(bool(one.fields.get("imageName")) for one in parts(event)[0])
