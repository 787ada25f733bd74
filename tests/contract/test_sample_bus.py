"""The sample bus in memory keeps the contract."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from typing_extensions import override

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.sample_bus import Gap, History, SampleBus
from platevault.testing.clocks import SteppedClock
from platevault.testing.sample_bus_contract import (
    QUEUE_LIMIT,
    SampleBusContract,
    contract_sample,
    contract_topic,
    numbers_of,
    take_recorded,
)

RECORD_LIMIT = 50


class TestMemorySampleBus(SampleBusContract):
    recalls = True

    @pytest.fixture
    def bus(self) -> SampleBus:
        return MemorySampleBus(
            clock=SteppedClock(),
            queue_limit=QUEUE_LIMIT,
            record_limit=RECORD_LIMIT,
            recall_limit=10,
        )

    @override
    async def put_raw(self, bus: SampleBus, sample: Sample) -> None:
        assert isinstance(bus, MemorySampleBus)
        received = replace(sample, received_tai=1.0)
        for subscriber in bus._subscribers[sample.topic.component, sample.topic.sal_name]:
            subscriber.unread._live.append(received)
            subscriber.unread._news.set()

    @override
    async def retained_raw(self, bus: SampleBus, topic: TopicSchema) -> list[Sample]:
        assert isinstance(bus, MemorySampleBus)
        return list(bus._latest[topic.component, topic.sal_name].values())

    async def test_what_is_too_old_or_too_much_is_not_recalled(self) -> None:
        clock = SteppedClock()
        bus = MemorySampleBus(clock=clock, recall_limit=3)
        topic = contract_topic("temperature")
        for sequence in range(1, 6):
            await bus.publish(contract_sample(sequence, topic=topic))
            await clock.advance(10.0)
        for recall_s, wanted in ((0.0, []), (25.0, [4, 5]), (600.0, [3, 4, 5])):
            async with bus.subscribe([topic], history=History.LATEST, recall_s=recall_s) as samples:
                got = [(await anext(samples)).sequence for _ in range(samples.past_left)]
            assert got == wanted

    async def test_what_an_absent_group_cannot_keep_is_a_gap(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd"):
            pass
        for sequence in range(1, RECORD_LIMIT + 6):
            await bus.publish(contract_sample(sequence))
        async with bus.record([topic], group="efd") as recording:
            got = await take_recorded(recording, RECORD_LIMIT + 1)
        assert got[0] == Gap(topic, 1, "PVDemo:1", 1, 5)
        assert numbers_of(got[1:]) == list(range(6, RECORD_LIMIT + 6))

    async def test_a_slow_member_sees_a_gap_and_goes_on(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd") as recording:
            await bus.publish(contract_sample(1))
            assert numbers_of(await take_recorded(recording, 1)) == [1]
            for sequence in range(2, RECORD_LIMIT + 4):
                await bus.publish(contract_sample(sequence))
            got = await take_recorded(recording, RECORD_LIMIT + 1)
        assert got[0] == Gap(topic, 1, "PVDemo:1", 2, 3)
        assert numbers_of(got) == list(range(4, RECORD_LIMIT + 4))

    async def test_a_second_member_takes_over_from_the_last_commit(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(bus.record([topic], group="efd"))
            async with bus.record([topic], group="efd") as second:
                for sequence in (1, 2, 3):
                    await bus.publish(contract_sample(sequence))
                await take_recorded(first, 1)
                await first.commit()
                await take_recorded(first, 1)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await take_recorded(second, 1)
                await second.commit()
                await stack.aclose()
                assert numbers_of(await take_recorded(second, 2)) == [2, 3]

    async def test_what_was_given_but_dropped_uncommitted_is_a_gap_later(
        self, bus: SampleBus
    ) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd") as recording:
            await bus.publish(contract_sample(1))
            await take_recorded(recording, 1)
            for sequence in range(2, RECORD_LIMIT + 2):
                await bus.publish(contract_sample(sequence))
        async with bus.record([topic], group="efd") as recording:
            first = (await take_recorded(recording, 1))[0]
        assert first == Gap(topic, 1, "PVDemo:1", 1, 1)
