"""Bounded queues, and blocking calls in their own threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from platevault.domain.errors import UsageError
from platevault.runtime.executor import BlockingCalls
from platevault.runtime.queues import (
    BoundedQueue,
    Overflow,
    QueueClosedError,
    QueueOverflowError,
)
from platevault.testing.clocks import SteppedClock


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def _queue(overflow: Overflow, max_items: int = 2) -> BoundedQueue[int]:
    return BoundedQueue(max_items=max_items, overflow=overflow)


@pytest.mark.parametrize("overflow", [*Overflow])
async def test_items_come_in_order_until_the_queue_is_closed_and_empty(overflow: Overflow) -> None:
    queue = _queue(overflow)
    await queue.put(1)
    queue.put_nowait(2)
    queue.close()
    assert len(queue) == 2
    assert [item async for item in queue] == [1, 2]
    with pytest.raises(QueueClosedError):
        await queue.put(3)


async def test_a_full_queue_that_blocks_loses_nothing(clock: SteppedClock) -> None:
    queue = _queue(Overflow.BLOCK)
    seen = []
    async with asyncio.TaskGroup() as group:

        async def put_all() -> None:
            for number in range(6):
                await queue.put(number)
            queue.close()

        putting = group.create_task(put_all())
        await clock.settle()
        assert len(queue) == 2
        assert not putting.done()
        with pytest.raises(QueueOverflowError):
            queue.put_nowait(9)
        async for item in queue:
            seen.append(item)
            assert len(queue) <= 2
    assert seen == [*range(6)]
    assert queue.dropped == 0


async def test_a_full_queue_that_drops_keeps_the_newest_and_counts() -> None:
    queue = _queue(Overflow.DROP_OLDEST)
    for number in range(6):
        await queue.put(number)
    queue.close()
    assert [item async for item in queue] == [4, 5]
    assert queue.dropped == 4


async def test_a_full_queue_that_fails_says_so_and_keeps_what_it_has() -> None:
    queue = _queue(Overflow.FAIL)
    await queue.put(1)
    await queue.put(2)
    with pytest.raises(QueueOverflowError):
        await queue.put(3)
    queue.close()
    assert [item async for item in queue] == [1, 2]


async def test_a_cancelled_taker_takes_nothing(clock: SteppedClock) -> None:
    queue = _queue(Overflow.BLOCK)

    async def take() -> int:
        return await anext(queue)

    task = asyncio.get_running_loop().create_task(take())
    await clock.settle()
    task.cancel()
    await asyncio.wait({task})
    await queue.put(1)
    assert await anext(queue) == 1


async def test_a_cancelled_putter_puts_nothing(clock: SteppedClock) -> None:
    queue = _queue(Overflow.BLOCK, 1)
    await queue.put(1)
    task = asyncio.get_running_loop().create_task(queue.put(2))
    await clock.settle()
    task.cancel()
    await asyncio.wait({task})
    assert await anext(queue) == 1
    assert len(queue) == 0


async def test_closing_wakes_all_who_wait(clock: SteppedClock) -> None:
    empty, full = _queue(Overflow.BLOCK), _queue(Overflow.BLOCK, 1)
    await full.put(1)
    async with asyncio.TaskGroup() as group:

        async def take() -> list[int]:
            return [item async for item in empty]

        taking = group.create_task(take())
        putting = asyncio.get_running_loop().create_task(full.put(2))
        await clock.settle()
        empty.close()
        full.close()
    assert taking.result() == []
    with pytest.raises(QueueClosedError):
        await putting


def test_a_queue_without_a_place_is_refused() -> None:
    with pytest.raises(UsageError):
        _queue(Overflow.BLOCK, 0)


async def test_blocking_calls_run_in_named_threads_and_give_their_result() -> None:
    async with BlockingCalls(name="writer", threads=2) as calls:
        name = await calls.run(lambda: threading.current_thread().name)
        assert await calls.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await calls.run(divmod, 7, 0)
    assert name.startswith("writer")
    with pytest.raises(UsageError):
        await calls.run(divmod, 7, 2)


async def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    at_once: list[int] = []
    running = 0
    lock, both, release = threading.Lock(), threading.Event(), threading.Event()

    def work() -> None:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
            if running == 2:
                both.set()
        release.wait(5.0)
        with lock:
            running -= 1

    async with BlockingCalls(name="w", threads=2) as calls, asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(calls.run(work))
        assert await asyncio.to_thread(both.wait, 5.0)
        release.set()
    assert len(at_once) == 6
    assert max(at_once) <= 2


async def test_a_cancelled_call_that_has_begun_is_waited_for() -> None:
    begun, release = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        begun.set()
        ended.append(release.wait(5.0))

    async with BlockingCalls(name="w", threads=1) as calls:
        task = asyncio.get_running_loop().create_task(calls.run(work))
        assert await asyncio.to_thread(begun.wait, 5.0)
        waiting = asyncio.get_running_loop().create_task(calls.run(ended.append, False))
        await asyncio.sleep(0)
        waiting.cancel()
        for _ in range(3):  # impatience does not help
            task.cancel()
            await asyncio.sleep(0.001)
        assert not task.done()
        release.set()
        await asyncio.wait({task, waiting})
    assert task.cancelled()
    assert waiting.cancelled()
    assert ended == [True]
