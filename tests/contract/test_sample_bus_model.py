"""Any course of publishing, subscribing and taking gives what a plain list would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from hypothesis import given, settings
from hypothesis import strategies as st

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.domain.samples import Sample
from platevault.ports.sample_bus import History, SubscriberOverflowError
from platevault.testing.clocks import SteppedClock
from platevault.testing.sample_bus_contract import contract_sample, contract_topic

QUEUE = 4
TOPICS = [contract_topic("logevent_a"), contract_topic("logevent_b"), contract_topic("c")]
PUBLISH = st.tuples(st.just("publish"), st.integers(0, 2), st.integers(1, 2))
SUBSCRIBE = st.tuples(st.just("subscribe"), st.integers(0, 1), st.integers(0, 2))
TAKE = st.tuples(st.just("take"), st.integers(0, 2), st.just(0))
#: Sometimes many of a kind in a row, so that queues fill, overflow and are emptied.
ACTIONS = st.lists(
    st.one_of(
        st.lists(PUBLISH, min_size=1, max_size=8),
        st.lists(SUBSCRIBE, min_size=1, max_size=2),
        st.lists(TAKE, min_size=1, max_size=8),
    ),
    min_size=6,
    max_size=20,
).map(lambda runs: [("subscribe", 0, 0), *(action for run in runs for action in run)])
Item = tuple[str, int, int]


class Expected:
    """What one subscriber must get."""

    def __init__(self, past: list[Item], sal_index: int) -> None:
        self.past = past
        self.live: list[Item] = []
        self.sal_index = sal_index
        self.overflowed = False

    def hear(self, item: Item) -> None:
        if self.sal_index in {0, item[1]} and not self.overflowed:
            if len(self.live) == QUEUE:
                self.overflowed = True
            else:
                self.live.append(item)


def item_of(sample: Sample) -> Item:
    return sample.topic.sal_name, sample.sal_index, sample.sequence


async def check_take(samples: AsyncIterator[Sample], expected: Expected) -> None:
    if expected.past:
        item = item_of(await anext(samples))
        assert item in expected.past  # keys have no order among themselves
        expected.past.remove(item)
    elif expected.live:
        assert item_of(await anext(samples)) == expected.live.pop(0)
    elif expected.overflowed:
        try:
            await anext(samples)
        except SubscriberOverflowError:
            return
        raise AssertionError("an overflow was not told")
    else:
        try:
            async with asyncio.timeout(0):
                await anext(samples)
        except TimeoutError:
            return
        raise AssertionError("a sample came from nowhere")


@settings(max_examples=150)
@given(ACTIONS)
def test_a_subscriber_gets_what_a_list_would_give(actions: list[tuple[str, int, int]]) -> None:
    async def play() -> None:
        bus = MemorySampleBus(clock=SteppedClock(), queue_limit=QUEUE)
        published: list[Item] = []
        subscribers: list[tuple[AsyncIterator[Sample], Expected]] = []
        async with AsyncExitStack() as stack:
            for action, first, second in actions:
                if action == "publish":
                    sample = contract_sample(
                        len(published) + 1, topic=TOPICS[first], sal_index=second
                    )
                    await bus.publish(sample)
                    published.append(item_of(sample))
                    for _, expected in subscribers:
                        expected.hear(published[-1])
                elif action == "subscribe":
                    newest = {
                        (name, index): (name, index, sequence)
                        for name, index, sequence in published
                        if name.startswith("logevent") and second in {0, index}
                    }
                    past = list(newest.values()) if first else []
                    samples = await stack.enter_async_context(
                        bus.subscribe(
                            TOPICS,
                            history=History.LATEST if first else History.NONE,
                            sal_index=second,
                        )
                    )
                    subscribers.append((samples, Expected(past, second)))
                elif first < len(subscribers):
                    await check_take(*subscribers[first])

    asyncio.run(play())
