"""A writer fills the private fields, and keeps numbers and stamps in order."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from typing_extensions import override

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.domain.samples import Sample
from platevault.ports.sample_bus import BusUnavailableError, History
from platevault.sal.schema import Interfaces, load_interfaces, rev_code
from platevault.sal.topics import TopicWriter, TopicWriters
from platevault.sal.values import FieldValueError, UnknownFieldError
from platevault.testing.clocks import START_TAI, SteppedClock


@pytest.fixture(scope="module")
def interfaces() -> Interfaces:
    return load_interfaces()


@dataclass
class FailingBus(MemorySampleBus):
    """Fails some publishings, before or after they take effect."""

    clock: SteppedClock
    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__(clock=self.clock)
        self.calls = itertools.count(1)
        self.took: list[Sample] = []

    @override
    async def publish(self, sample: Sample) -> None:
        call = next(self.calls)
        if call in self.before:
            raise BusUnavailableError("down", call=call)
        await super().publish(sample)
        self.took.append(sample)
        if call in self.after:
            raise BusUnavailableError("cut", call=call)


def writer_on(
    bus: MemorySampleBus,
    interfaces: Interfaces,
    clock: SteppedClock,
    *,
    component: str = "OCPS",
    topic: str = "logevent_errorCode",
    sal_index: int = 3,
    **more: Any,
) -> TopicWriter:
    return TopicWriter(
        topic=interfaces.topic(component, topic),
        bus=bus,
        clock=clock,
        identity="OCPS:3",
        origin=4321,
        sal_index=sal_index,
        **more,
    )


async def test_private_fields_are_filled(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    writer = writer_on(MemorySampleBus(clock=clock), interfaces, clock)
    first = await writer.write(errorCode=5, errorReport="x")
    second = await writer.write()
    assert (first.sequence, second.sequence) == (1, 2)
    assert (first.identity, first.origin, first.sal_index) == ("OCPS:3", 4321, 3)
    assert first.rev_code == rev_code(first.topic)
    assert first.sent_tai == START_TAI
    assert first.fields == {"errorCode": 5, "errorReport": "x", "traceback": ""}
    assert writer.last == second


async def test_stamps_grow_also_when_the_clock_steps_back(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    writer = writer_on(MemorySampleBus(clock=clock), interfaces, clock)
    stamps = [(await writer.write()).sent_tai, (await writer.write()).sent_tai]
    clock.step(-100.0)
    stamps.append((await writer.write()).sent_tai)
    clock.step(200.0)
    stamps.append((await writer.write()).sent_tai)
    assert stamps == sorted(set(stamps))
    assert stamps[2] < START_TAI + 1.0
    assert stamps[3] == START_TAI + 100.0


async def test_stamps_continue_after_a_former_writer(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    writer = writer_on(MemorySampleBus(clock=clock), interfaces, clock)
    writer.continue_after(START_TAI + 50.0)
    writer.continue_after(START_TAI + 20.0)
    assert (await writer.write()).sent_tai > START_TAI + 50.0


async def test_a_bad_value_publishes_nothing_and_uses_no_number(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    writer = writer_on(MemorySampleBus(clock=clock), interfaces, clock)
    with pytest.raises(FieldValueError):
        await writer.write(errorCode="five")
    with pytest.raises(UnknownFieldError):
        await writer.write(errorcode=5)
    assert (await writer.write()).sequence == 1


async def test_too_long_text_is_cut_and_noted(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    writer = writer_on(
        MemorySampleBus(clock=clock),
        interfaces,
        clock,
        topic="logevent_largeFileObjectAvailable",
    )
    with structlog.testing.capture_logs() as logs:
        sample = await writer.write(url="https://" + "é" * 200, id="short")
    assert len(sample.fields["url"].encode()) == 256
    assert [(log["event"], log["field"]) for log in logs] == [
        ("Text changed to fit its field", "url")
    ]


async def test_only_changes_are_written(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    writer = writer_on(MemorySampleBus(clock=clock), interfaces, clock)
    assert await writer.write_if_changed(errorCode=1)
    assert not await writer.write_if_changed(errorCode=1)
    assert await writer.write_if_changed()
    assert await writer.write_if_changed(errorCode=1, errorReport="again")
    assert writer.last is not None
    assert writer.last.sequence == 3


async def test_a_writer_of_all_indices_takes_the_index_of_each_sample(
    interfaces: Interfaces,
) -> None:
    clock = SteppedClock()
    writer = writer_on(MemorySampleBus(clock=clock), interfaces, clock, sal_index=0)
    assert (await writer.write(salIndex=2, errorCode=1)).sal_index == 2
    assert await writer.write_if_changed(salIndex=3, errorCode=1)
    assert not await writer.write_if_changed(salIndex=3, errorCode=1)
    assert (await writer.write()).sal_index == 0


async def test_an_index_of_its_own_cannot_be_overridden(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    writer = writer_on(MemorySampleBus(clock=clock), interfaces, clock, sal_index=3)
    with pytest.raises(UnknownFieldError):
        await writer.write(salIndex=2)


async def test_a_refused_sample_is_offered_again_with_its_number(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    bus = FailingBus(clock, before={1, 2}, after={3})
    writer = writer_on(bus, interfaces, clock)
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(writer.write(errorCode=1))
        await clock.advance(1.0)
        assert writing.done()
    assert [sample.sequence for sample in bus.took] == [1, 1]
    assert bus.took[0] == bus.took[1] == writer.last
    assert (await writer.write()).sequence == 2


async def test_a_bus_that_stays_away_is_an_error_in_time(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    bus = FailingBus(clock, before=set(range(1, 1000)))
    writer = writer_on(bus, interfaces, clock, retry_within_s=5.0)

    async def write() -> None:
        with pytest.raises(BusUnavailableError):
            await writer.write(errorCode=1)

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        await clock.advance(4.9)
        assert not writing.done()
        await clock.advance(2.0)
        assert writing.done()
    assert writer.last is None
    bus.before.clear()
    assert await writer.write_if_changed(errorCode=1)


async def test_writes_of_one_topic_do_not_overtake_one_another(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    bus = FailingBus(clock, before={1})
    writer = writer_on(bus, interfaces, clock)
    async with (
        bus.subscribe([writer.topic], history=History.NONE) as samples,
        asyncio.TaskGroup() as group,
    ):
        for code in range(5):
            group.create_task(writer.write(errorCode=code))
        await clock.advance(1.0)
        got = [(await anext(samples)) for _ in range(5)]
    assert [(sample.sequence, sample.fields["errorCode"]) for sample in got] == [
        (code + 1, code) for code in range(5)
    ]


async def test_of_a_topic_there_is_one_writer_for_each_index_and_identity(
    interfaces: Interfaces,
) -> None:
    clock = SteppedClock()
    writers = TopicWriters(bus=MemorySampleBus(clock=clock), clock=clock, origin=4321)
    code, state = (
        interfaces.topic("OCPS", f"logevent_{name}") for name in ("errorCode", "summaryState")
    )
    one = writers.writer(code, identity="OCPS:3", sal_index=3)
    assert writers.writer(code, identity="OCPS:3", sal_index=3) is one
    others = [
        writers.writer(state, identity="OCPS:3", sal_index=3),
        writers.writer(code, identity="OCPS:3", sal_index=4),
        writers.writer(code, identity="user@host", sal_index=3),
        writers.writer(
            interfaces.topic("ATArchiver", "logevent_errorCode"), identity="OCPS:3", sal_index=3
        ),
    ]
    assert len({id(each) for each in (one, *others)}) == 5
    sample = await others[1].write(errorCode=7)
    assert (sample.sal_index, sample.identity, sample.origin) == (4, "OCPS:3", 4321)
