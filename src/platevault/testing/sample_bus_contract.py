"""What every sample bus must do, to be run on each of them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest

from platevault.domain.samples import SAL_TYPES, FieldSchema, Sample, TopicKind, TopicSchema
from platevault.ports.sample_bus import (
    Gap,
    History,
    Recording,
    SampleBus,
    SubscriberOverflowError,
    Subscription,
)

#: Longest wait for anything in this suite [s, machine].
PATIENCE_S = 20.0
#: Samples a subscriber of the bus under test may be behind; the suite overflows it on purpose.
QUEUE_LIMIT = 20


def contract_topic(sal_name: str = "logevent_frameStored", *, indexed: bool = True) -> TopicSchema:
    """Give a topic with a field of every type."""
    kind = {
        "command": TopicKind.COMMAND,
        "logevent": TopicKind.EVENT,
        "ackcmd": TopicKind.ACKCMD,
    }.get(sal_name.partition("_")[0], TopicKind.TELEMETRY)
    return TopicSchema(
        component="PVDemo" if indexed else "PVPlain",
        sal_name=sal_name,
        kind=kind,
        indexed=indexed,
        fields=(
            *(FieldSchema(f"{name.replace(' ', '')}0", name) for name in SAL_TYPES),
            FieldSchema("stageTime", "float", count=2, units="second"),
            FieldSchema("places", "long", count=3),
        ),
        description="A frame reached the archive.",
    )


def contract_sample(
    sequence: int,
    *,
    topic: TopicSchema | None = None,
    sal_index: int = 1,
    origin: int = 4321,
    text: str = "",
) -> Sample:
    """Give a sample whose fields and stamps follow from its number and index."""
    topic = topic or contract_topic()
    values: dict[str, Any] = {
        "boolean0": True,
        "byte0": 200,
        "short0": -(2**15),
        "int0": 2**31 - 1,
        "long0": sequence,
        "longlong0": -(2**63),
        "unsignedshort0": 2**16 - 1,
        "unsignedint0": 2**32 - 1,
        "float0": 0.5,
        "double0": 1.0 / 3.0,
        "string0": text or f"frame {sequence} à côté",
        "stageTime": [0.5, 1.25],
        "places": [1, -2, sequence],
    }
    return Sample(
        topic=topic,
        fields=values,
        sal_index=sal_index if topic.indexed else 0,
        sent_tai=2_000_000_037.0 + sequence,
        sequence=sequence,
        identity=f"PVDemo:{sal_index}" if topic.indexed else "PVPlain",
        origin=origin,
        rev_code="56a5799c",
    )


class SampleBusContract(ABC):
    """Subclass it in a test and give a ``bus`` fixture and the two accessors that bypass the bus.

    The bus must have a subscriber queue of `QUEUE_LIMIT`, and keep ten samples if it `recalls`.
    """

    #: Whether the transport keeps more of the past than the newest event of each key.
    recalls: bool = False

    @abstractmethod
    async def put_raw(self, bus: SampleBus, sample: Sample) -> None:
        """Put a sample into the transport without the bus."""

    @abstractmethod
    async def retained_raw(self, bus: SampleBus, topic: TopicSchema) -> list[Sample]:
        """Read without the bus what the transport would give a late joiner, one per key."""

    # Publishing and subscribing

    async def test_a_sample_arrives_as_it_was_sent(self, bus: SampleBus) -> None:
        sample = contract_sample(1)
        async with _live(bus, [sample.topic]) as samples:
            await bus.publish(sample)
            got = await _next(samples)
        assert got.received_tai > 0
        assert replace(got, received_tai=0.0) == sample

    async def test_an_unindexed_sample_arrives_with_index_0(self, bus: SampleBus) -> None:
        topic = contract_topic(indexed=False)
        async with _live(bus, [topic]) as samples:
            await bus.publish(contract_sample(1, topic=topic))
            assert (await _next(samples)).sal_index == 0

    async def test_the_transport_holds_what_was_published(self, bus: SampleBus) -> None:
        sample = contract_sample(7)
        await bus.publish(sample)
        held = await self.retained_raw(bus, sample.topic)
        assert [(item.sequence, item.fields) for item in held] == [(7, sample.fields)]

    async def test_what_others_put_on_the_transport_arrives(self, bus: SampleBus) -> None:
        async with _live(bus, [contract_topic()]) as samples:
            await self.put_raw(bus, contract_sample(3))
            assert (await _next(samples)).sequence == 3

    async def test_samples_of_one_key_stay_in_order(self, bus: SampleBus) -> None:
        async with _live(bus, [contract_topic()]) as samples:
            for sequence in range(1, QUEUE_LIMIT):
                await bus.publish(contract_sample(sequence))
            got = await _take(samples, QUEUE_LIMIT - 1)
        assert [sample.sequence for sample in got] == list(range(1, QUEUE_LIMIT))

    async def test_each_subscriber_gets_everything(self, bus: SampleBus) -> None:
        async with _live(bus, [contract_topic()]) as one, _live(bus, [contract_topic()]) as two:
            await bus.publish(contract_sample(1))
            assert (await _next(one)).sequence == (await _next(two)).sequence == 1

    async def test_only_the_wanted_topics_arrive(self, bus: SampleBus) -> None:
        wanted, other = contract_topic("logevent_wanted"), contract_topic("logevent_other")
        async with _live(bus, [wanted]) as samples:
            await bus.publish(contract_sample(1, topic=other))
            await bus.publish(contract_sample(2, topic=wanted))
            assert (await _next(samples)).sequence == 2

    async def test_equal_names_of_other_components_do_not_arrive(self, bus: SampleBus) -> None:
        mine, other = contract_topic(), contract_topic(indexed=False)
        async with _live(bus, [mine]) as samples:
            await bus.publish(contract_sample(1, topic=other))
            await bus.publish(contract_sample(2, topic=mine))
            assert (await _next(samples)).topic.component == mine.component

    async def test_only_the_wanted_index_arrives(self, bus: SampleBus) -> None:
        async with bus.subscribe([contract_topic()], history=History.NONE, sal_index=2) as samples:
            await bus.publish(contract_sample(1, sal_index=1))
            await bus.publish(contract_sample(2, sal_index=2))
            assert (await _next(samples)).sal_index == 2

    async def test_commands_and_replies_arrive(self, bus: SampleBus) -> None:
        topics = [contract_topic("command_store"), contract_topic("ackcmd")]
        async with _live(bus, topics) as samples:
            for topic in topics:
                await bus.publish(contract_sample(1, topic=topic))
            got = {sample.topic.kind for sample in await _take(samples, 2)}
        assert got == {TopicKind.COMMAND, TopicKind.ACKCMD}

    # History

    async def test_a_late_joiner_gets_the_newest_of_each_index(self, bus: SampleBus) -> None:
        for index, sequence in ((1, 1), (1, 2), (2, 1), (3, 8)):
            await bus.publish(contract_sample(sequence, sal_index=index))
        async with bus.subscribe([contract_topic()], history=History.LATEST) as samples:
            past = await _take(samples, 3)
            await bus.publish(contract_sample(3, sal_index=1))
            then = await _next(samples)
        assert {(sample.sal_index, sample.sequence) for sample in past} == {(1, 2), (2, 1), (3, 8)}
        assert (then.sal_index, then.sequence) == (1, 3)

    async def test_a_late_joiner_to_one_index_gets_only_that(self, bus: SampleBus) -> None:
        for index in (1, 2, 3):
            await bus.publish(contract_sample(5, sal_index=index))
        async with bus.subscribe(
            [contract_topic()], history=History.LATEST, sal_index=2
        ) as samples:
            past = await _next(samples)
            await bus.publish(contract_sample(6, sal_index=2))
            then = await _next(samples)
        assert (past.sal_index, past.sequence, then.sequence) == (2, 5, 6)

    async def test_without_history_the_past_does_not_arrive(self, bus: SampleBus) -> None:
        await bus.publish(contract_sample(1))
        async with _live(bus, [contract_topic()]) as samples:
            await bus.publish(contract_sample(2))
            assert (await _next(samples)).sequence == 2

    @pytest.mark.parametrize("sal_name", ["command_store", "ackcmd", "temperature"])
    async def test_only_events_have_a_past(self, bus: SampleBus, sal_name: str) -> None:
        topic = contract_topic(sal_name)
        await bus.publish(contract_sample(1, topic=topic))
        async with bus.subscribe([topic], history=History.LATEST) as samples:
            await bus.publish(contract_sample(2, topic=topic))
            assert (await _next(samples)).sequence == 2

    async def test_nothing_is_lost_or_repeated_where_the_past_ends(self, bus: SampleBus) -> None:
        last = QUEUE_LIMIT - 2

        async def write() -> None:
            for sequence in range(1, last + 1):
                await bus.publish(contract_sample(sequence))

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            await asyncio.sleep(0)
            async with bus.subscribe([contract_topic()], history=History.LATEST) as samples:
                got = [await _next(samples)]
                while got[-1].sequence < last:
                    got.append(await _next(samples))
        numbers = [sample.sequence for sample in got]
        assert numbers == list(range(numbers[0], last + 1))

    async def test_it_is_told_where_the_past_ends(self, bus: SampleBus) -> None:
        for index in (1, 2, 3):
            await bus.publish(contract_sample(5, sal_index=index))
        async with bus.subscribe([contract_topic()], history=History.LATEST) as samples:
            await bus.publish(contract_sample(6))
            past = []
            while samples.past_left:
                past.append((await _next(samples)).sequence)
            then = await _next(samples)
            assert samples.past_left == 0
        assert (past, then.sequence) == ([5, 5, 5], 6)

    async def test_the_past_is_taken_without_waiting(self, bus: SampleBus) -> None:
        for index in (1, 2, 3):
            await bus.publish(contract_sample(5, sal_index=index))
        others_had_a_turn = asyncio.Event()
        async with bus.subscribe([contract_topic()], history=History.LATEST) as samples:
            asyncio.get_running_loop().call_soon(others_had_a_turn.set)
            for _ in range(samples.past_left):
                await anext(samples)
            assert not others_had_a_turn.is_set()

    @pytest.mark.parametrize("history", History)
    async def test_without_a_past_none_is_told(self, bus: SampleBus, history: History) -> None:
        topic = contract_topic("temperature")
        async with bus.subscribe([topic], history=history) as samples:
            assert samples.past_left == 0
            await bus.publish(contract_sample(1, topic=topic))
            await _next(samples)
            assert samples.past_left == 0

    async def test_what_the_transport_keeps_is_recalled_in_order(self, bus: SampleBus) -> None:
        event, telemetry = contract_topic(), contract_topic("temperature")
        for sequence in (1, 2, 3):
            for topic in (event, telemetry):
                await bus.publish(contract_sample(sequence, topic=topic))
            await bus.publish(contract_sample(sequence, sal_index=2))
        async with bus.subscribe(
            [event, telemetry], history=History.LATEST, sal_index=1, recall_s=600.0
        ) as samples:
            past = await _take(samples, samples.past_left)
            await bus.publish(contract_sample(4, topic=telemetry))
            then = await _next(samples)
        told = {
            topic.sal_name: [one.sequence for one in past if one.topic == topic]
            for topic in (event, telemetry)
        }
        recalled = {event.sal_name: [1, 2, 3], telemetry.sal_name: [1, 2, 3]}
        assert told == (recalled if self.recalls else {event.sal_name: [3], telemetry.sal_name: []})
        assert {one.sal_index for one in past} == {1}
        assert then.sequence == 4

    async def test_commands_are_not_recalled(self, bus: SampleBus) -> None:
        topic = contract_topic("command_store")
        await bus.publish(contract_sample(1, topic=topic))
        async with bus.subscribe([topic], history=History.LATEST, recall_s=600.0) as samples:
            assert samples.past_left == 0

    # Slow and cancelled subscribers

    async def test_a_slow_subscriber_overflows_alone(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with _live(bus, [topic]) as slow, _live(bus, [topic]) as quick:
            for sequence in range(1, QUEUE_LIMIT + 6):
                await bus.publish(contract_sample(sequence))
                assert (await _next(quick)).sequence == sequence
            got: list[Sample] = []
            with pytest.raises(SubscriberOverflowError):
                await _drain(slow, got)
            await bus.publish(contract_sample(100))
            assert (await _next(quick)).sequence == 100
        assert [sample.sequence for sample in got] == list(range(1, len(got) + 1))
        assert len(got) >= QUEUE_LIMIT

    async def test_after_an_overflow_one_may_subscribe_again(self, bus: SampleBus) -> None:
        async with _live(bus, [contract_topic()]) as slow:
            for sequence in range(1, QUEUE_LIMIT + 6):
                await bus.publish(contract_sample(sequence))
            with pytest.raises(SubscriberOverflowError):
                await _take(slow, QUEUE_LIMIT + 6)
        async with bus.subscribe([contract_topic()], history=History.LATEST) as samples:
            assert (await _next(samples)).sequence == QUEUE_LIMIT + 5

    async def test_a_cancelled_wait_loses_nothing(self, bus: SampleBus) -> None:
        async with _live(bus, [contract_topic()]) as samples:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(samples)
            await bus.publish(contract_sample(1))
            assert (await _next(samples)).sequence == 1

    async def test_leaving_ends_the_samples(self, bus: SampleBus) -> None:
        async with _live(bus, [contract_topic()]) as samples:
            await bus.publish(contract_sample(1))
        with pytest.raises(StopAsyncIteration):
            await _next(samples)

    async def test_entering_may_be_cancelled(self, bus: SampleBus) -> None:
        for turns in range(4):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(_enter_and_wait(bus))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
        async with _live(bus, [contract_topic()]) as samples:
            await bus.publish(contract_sample(1))
            assert (await _next(samples)).sequence == 1

    # Recording

    async def test_a_group_resumes_at_its_last_commit(self, bus: SampleBus) -> None:
        async with bus.record([contract_topic()], group="efd") as recording:
            for sequence in (1, 2, 3):
                await bus.publish(contract_sample(sequence))
            assert numbers_of(await take_recorded(recording, 2)) == [1, 2]
            await recording.commit()
            assert numbers_of(await take_recorded(recording, 1)) == [3]
        await bus.publish(contract_sample(4))
        async with bus.record([contract_topic()], group="efd") as recording:
            assert numbers_of(await take_recorded(recording, 2)) == [3, 4]

    async def test_groups_do_not_disturb_one_another(self, bus: SampleBus) -> None:
        async with (
            bus.record([contract_topic()], group="one") as one,
            bus.record([contract_topic()], group="two") as two,
        ):
            await bus.publish(contract_sample(1))
            await take_recorded(one, 1)
            await one.commit()
            assert numbers_of(await take_recorded(two, 1)) == [1]

    async def test_lost_numbers_are_a_gap(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd") as recording:
            for sequence in (1, 2, 6):
                await bus.publish(contract_sample(sequence))
            got = await take_recorded(recording, 4)
        assert got[2] == Gap(topic, 1, "PVDemo:1", 3, 5)
        assert numbers_of([got[0], got[1], got[3]]) == [1, 2, 6]

    async def test_what_was_lost_between_two_recordings_is_a_gap(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd") as recording:
            await bus.publish(contract_sample(1))
            await take_recorded(recording, 1)
            await recording.commit()
        await bus.publish(contract_sample(4))
        async with bus.record([topic], group="efd") as recording:
            got = await take_recorded(recording, 2)
        assert got[0] == Gap(topic, 1, "PVDemo:1", 2, 3)
        assert numbers_of(got) == [4]

    async def test_a_repeated_number_is_no_gap(self, bus: SampleBus) -> None:
        async with bus.record([contract_topic()], group="efd") as recording:
            for sequence in (1, 1, 2):
                await bus.publish(contract_sample(sequence))
            got = await take_recorded(recording, 3)
        assert numbers_of(got)[-1] == 2
        assert not [item for item in got if isinstance(item, Gap)]

    async def test_a_new_process_that_counts_from_1_is_no_gap(self, bus: SampleBus) -> None:
        async with bus.record([contract_topic()], group="efd") as recording:
            await bus.publish(contract_sample(9, origin=1))
            await bus.publish(contract_sample(1, origin=2))
            await bus.publish(contract_sample(2, origin=2))
            assert numbers_of(await take_recorded(recording, 3)) == [9, 1, 2]

    async def test_numbers_of_replies_are_no_gaps(self, bus: SampleBus) -> None:
        topic = contract_topic("ackcmd")
        async with bus.record([topic], group="efd") as recording:
            for sequence in (5, 900):
                await bus.publish(contract_sample(sequence, topic=topic))
            assert numbers_of(await take_recorded(recording, 2)) == [5, 900]

    async def test_each_key_goes_to_one_member_at_a_time(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd") as second:
            async with bus.record([topic], group="efd") as first:
                for sequence in (1, 2, 3, 4):
                    await bus.publish(contract_sample(sequence))
                got = await _take_from_either(second, first, 4)
            assert min(got, key=len) == []
            assert max(got, key=len) == [1, 2, 3, 4]


def _live(
    bus: SampleBus, topics: Collection[TopicSchema]
) -> AbstractAsyncContextManager[Subscription]:
    return bus.subscribe(topics, history=History.NONE)


async def _enter_and_wait(bus: SampleBus) -> None:
    async with bus.subscribe([contract_topic()], history=History.LATEST):
        await asyncio.Event().wait()


async def _next(samples: AsyncIterator[Sample]) -> Sample:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(samples)


async def _take(samples: AsyncIterator[Sample], count: int) -> list[Sample]:
    return [await _next(samples) for _ in range(count)]


async def _drain(samples: AsyncIterator[Sample], into: list[Sample]) -> None:
    while True:
        into.append(await _next(samples))


async def take_recorded(recording: Recording, count: int) -> list[Sample | Gap]:
    """Take the next ``count`` items of a recording."""
    iterator = aiter(recording)
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(iterator) for _ in range(count)]


async def _take_from_either(one: Recording, two: Recording, count: int) -> tuple[list[int], ...]:
    """Take ``count`` samples from two members together."""
    enough = asyncio.Event()
    got: tuple[list[int], list[int]] = ([], [])

    async def take(recording: Recording, into: list[int]) -> None:
        async for item in recording:
            into.extend(numbers_of([item]))
            if len(got[0]) + len(got[1]) >= count:
                enough.set()

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(take(one, got[0])), group.create_task(take(two, got[1]))]
        await enough.wait()
        for task in tasks:
            task.cancel()
    return got


def numbers_of(items: Sequence[Sample | Gap]) -> list[int]:
    """Give the sequence numbers of the samples, without the gaps."""
    return [item.sequence for item in items if isinstance(item, Sample)]
