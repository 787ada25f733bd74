"""Stop tokens, deadlines and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import pytest

from platevault.runtime.service import Deadline, StopToken
from platevault.runtime.waiting import wait_first
from platevault.testing.clocks import SteppedClock


class _Source:
    """Items that arrive when a test says so."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.waits = 0
        self.cancelled = 0

    def give(self, item: int | Exception | None) -> None:
        self._items.put_nowait(item)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        self.waits += 1
        try:
            item = await self._items.get()
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)  # giving back takes a moment
            self.waits -= 1
            raise
        self.waits -= 1
        if isinstance(item, Exception):
            raise item
        if item is None:
            raise StopAsyncIteration
        return item


async def test_until_gives_items_up_to_the_stop() -> None:
    source, stop = _Source(), StopToken()
    for number in range(5):
        source.give(number)
    seen = []
    async for item in stop.until(source):
        seen.append(item)
        if item == 2:
            stop.request()
    assert seen == [0, 1, 2]


async def test_until_ends_while_it_waits_when_the_stop_comes() -> None:
    source, stop = _Source(), StopToken()
    clock = SteppedClock()
    seen: list[int] = []

    async def consume() -> None:
        seen.extend([item async for item in stop.until(source)])

    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        await clock.settle()
        assert source.waits == 1
        stop.request()
    assert seen == []
    assert (source.waits, source.cancelled) == (0, 1)


async def test_an_item_that_comes_with_the_stop_is_given() -> None:
    source, stop = _Source(), StopToken()
    clock = SteppedClock()
    seen: list[int] = []

    async def consume() -> None:
        seen.extend([item async for item in stop.until(source)])

    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        await clock.settle()
        source.give(7)
        stop.request()
    assert seen == [7]


async def test_until_ends_with_its_source() -> None:
    source, stop = _Source(), StopToken()
    source.give(1)
    source.give(None)
    assert [item async for item in stop.until(source)] == [1]


@pytest.mark.parametrize("with_stop", [False, True])
async def test_what_the_source_raises_is_raised(with_stop: bool) -> None:
    source, stop = _Source(), StopToken()
    clock = SteppedClock()

    async def consume() -> None:
        async for _ in stop.until(source):
            pass

    task = asyncio.get_running_loop().create_task(consume())
    await clock.settle()
    source.give(ZeroDivisionError())
    if with_stop:
        stop.request()
    with pytest.raises(ZeroDivisionError):
        await task


async def test_a_cancelled_until_leaves_nothing_waiting() -> None:
    source, stop = _Source(), StopToken()
    clock = SteppedClock()
    waits_after = []

    async def consume() -> None:
        try:
            async for _ in stop.until(source):
                pass
        finally:
            waits_after.append(source.waits)

    task = asyncio.get_running_loop().create_task(consume())
    await clock.settle()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert (waits_after, source.cancelled) == ([0], 1)


async def test_an_item_that_the_source_cannot_give_back_is_given() -> None:
    class Stubborn:
        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> int:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return 99
            return 0

    stop, clock = StopToken(), SteppedClock()
    seen: list[int] = []

    async def consume() -> None:
        seen.extend([item async for item in stop.until(Stubborn())])

    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        await clock.settle()
        stop.request()
    assert seen == [99]


async def test_a_generator_may_be_closed_after_a_cancelled_until() -> None:
    async def endless() -> AsyncIterator[int]:
        while True:
            await asyncio.Event().wait()
            yield 1

    items, stop, clock = endless(), StopToken(), SteppedClock()

    async def consume() -> None:
        async for _ in stop.until(items):
            pass

    task = asyncio.get_running_loop().create_task(consume())
    await clock.settle()
    task.cancel()
    await asyncio.wait({task})
    assert [item async for item in items] == []  # it has ended and is not in use


async def test_a_deadline_tells_what_is_left() -> None:
    clock = SteppedClock()
    deadline = Deadline(clock, clock.now_tai() + 10.0)
    assert (deadline.remaining_s, deadline.passed) == (10.0, False)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(deadline.wait())
        await clock.advance(9.0)
        assert not waiting.done()
        await clock.advance(1.0)
        assert waiting.done()
    await clock.advance(1.0)
    assert (deadline.remaining_s, deadline.passed) == (0.0, True)
    await deadline.wait()


async def test_a_deadline_follows_a_clock_that_is_set_back() -> None:
    clock = SteppedClock()
    deadline = Deadline(clock, clock.now_tai() + 10.0)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(deadline.wait())
        await clock.advance(5.0)
        clock.step(-3.0)
        await clock.advance(7.0)
        assert not waiting.done()
        await clock.advance(1.0)
        assert waiting.done()


async def test_waiting_for_the_first_ends_the_others() -> None:
    clock, ended = SteppedClock(), []

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def wait() -> bool:
        await wait_first(slow_to_end(), clock.sleep(5.0), clock.sleep(9.0))
        return bool(ended)

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait())
        await clock.advance(4.0)
        assert not waiting.done()
        await clock.advance(1.0)
    assert waiting.result()
    assert clock.sleepers == 0


async def test_a_failure_of_the_first_is_raised_as_it_is() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await wait_first(asyncio.Event().wait(), fail())


async def test_a_cancelled_wait_for_the_first_leaves_nothing() -> None:
    clock = SteppedClock()
    task = asyncio.get_running_loop().create_task(wait_first(clock.sleep(5.0), clock.sleep(6.0)))
    await clock.settle()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert clock.sleepers == 0
