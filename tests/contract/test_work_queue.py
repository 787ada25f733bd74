"""Work queues keep their contract, and what is their own."""

from __future__ import annotations

import asyncio

import pytest

from platevault.adapters.memory.work_queue import MemoryWorkQueue, WhenFull
from platevault.ports.work_queue import QueueFullError
from platevault.testing.clocks import SteppedClock
from platevault.testing.work_queue_contract import (
    Advance,
    Inject,
    WorkQueueContract,
    a_message,
)


class TestMemoryWorkQueue(WorkQueueContract):
    @pytest.fixture
    def clock(self) -> SteppedClock:
        return SteppedClock()

    @pytest.fixture
    def queue(self, clock: SteppedClock) -> MemoryWorkQueue:
        return MemoryWorkQueue(clock=clock, delivery_limit=self.delivery_limit)

    @pytest.fixture
    def advance(self, clock: SteppedClock) -> Advance:
        return clock.advance

    @pytest.fixture
    def inject(self, queue: MemoryWorkQueue) -> Inject:
        return queue.inject_raw

    async def test_what_was_given_back_keeps_its_place(self, queue: MemoryWorkQueue) -> None:
        for number in range(2):
            await queue.send("q", a_message(number))
        async with queue.consume("q", prefetch=1) as deliveries:
            await anext(deliveries)
        async with queue.consume("q", prefetch=1) as deliveries:
            assert (await anext(deliveries)).message == a_message(0)

    async def test_a_full_queue_lets_the_sender_wait(self, clock: SteppedClock) -> None:
        queue = MemoryWorkQueue(clock=clock, max_depth=2)
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(queue.send("q", a_message(number)))
            await clock.settle()
            assert await queue.depth("q") == 2
            async with queue.consume("q", prefetch=1) as deliveries:
                delivery = await anext(deliveries)
                await clock.settle()
                assert await queue.depth("q") == 2
                await delivery.ack()
                await clock.settle()
        assert await queue.depth("q") == 2

    async def test_a_sender_that_gives_up_waiting_has_sent_nothing(
        self, clock: SteppedClock
    ) -> None:
        queue = MemoryWorkQueue(clock=clock, max_depth=1)
        await queue.send("q", a_message(1))
        sending = asyncio.get_running_loop().create_task(queue.send("q", a_message(2)))
        await clock.settle()
        sending.cancel()
        await asyncio.wait({sending})
        async with queue.consume("q", prefetch=1) as deliveries:
            await (await anext(deliveries)).ack()
        assert await queue.depth("q") == 0

    async def test_a_full_queue_may_refuse_instead(self, clock: SteppedClock) -> None:
        queue = MemoryWorkQueue(clock=clock, max_depth=1, when_full=WhenFull.FAIL)
        await queue.send("q", a_message(1))
        with pytest.raises(QueueFullError):
            await queue.send("q", a_message(2))
        assert await queue.depth("q") == 1

    async def test_a_consumer_whose_places_are_taken_rests_while_a_delay_runs_out(
        self, clock: SteppedClock, queue: MemoryWorkQueue
    ) -> None:
        for number in range(2):
            await queue.send("q", a_message(number))
        async with queue.consume("q", prefetch=1) as deliveries:
            await (await anext(deliveries)).retry(delay_s=5.0, reason="x")
            await anext(deliveries)
            async with asyncio.TaskGroup() as group:

                async def wait() -> None:
                    await anext(deliveries)

                waiting = group.create_task(wait())
                await clock.advance(10.0)  # raises if the consumer spins
                assert not waiting.done()
                waiting.cancel()
