"""Stepped time wakes sleepers in order; limits follow it; the system's time is TAI."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime

import pytest

from platevault.adapters.system_clock import SystemClock
from platevault.domain.timescales import utc_from_tai
from platevault.sal.timing import time_limit
from platevault.testing.clocks import START_TAI, RestlessTasksError, SteppedClock


async def test_sleepers_wake_in_order_each_at_its_moment() -> None:
    clock = SteppedClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.now_tai() - START_TAI))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 3.0))
        group.create_task(sleeper("often", 1.0, 1.0, 1.0))
        group.create_task(sleeper("early", 0.5))
        await clock.advance(2.5)
        assert woken == [("early", 0.5), ("often", 1.0), ("often", 2.0)]
        assert clock.now_tai() == START_TAI + 2.5
        assert clock.sleepers == 2
        await clock.advance(0.5)
    assert woken[3:] == [("late", 3.0), ("often", 3.0)]


async def test_no_time_passes_by_itself() -> None:
    clock = SteppedClock()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(1e-9))
        await clock.settle()
        assert not task.done()
        await clock.advance(1.0)
    assert task.done()


async def test_sleeping_for_nothing_returns() -> None:
    clock = SteppedClock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.sleepers == 0


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = SteppedClock()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(1.0))
        await clock.settle()
        task.cancel()
    assert clock.sleepers == 0
    await clock.advance(2.0)


async def test_a_clock_step_moves_the_time_but_wakes_nobody() -> None:
    clock = SteppedClock()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(5.0))
        await clock.settle()
        clock.step(-3600.0)
        assert clock.now_tai() == START_TAI - 3600.0
        clock.step(7200.0)
        await clock.settle()
        assert not task.done()
        await clock.advance(5.0)


async def test_tasks_that_never_rest_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platevault.testing.clocks._TURNS_LIMIT", 50)

    async def spin() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(spin())
        with pytest.raises(RestlessTasksError):
            await SteppedClock().settle()
        task.cancel()


async def test_a_limit_cancels_at_its_moment() -> None:
    clock = SteppedClock()

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            async with time_limit(clock, 2.0):
                await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        await clock.advance(1.9)
        assert not task.done()
        await clock.advance(0.2)
        assert task.done()


async def test_an_extended_limit_cancels_later() -> None:
    clock = SteppedClock()

    async def wait() -> None:
        async with time_limit(clock, 2.0) as limit:
            await clock.sleep(1.0)
            limit.extend(3.0)
            await asyncio.Event().wait()

    async def check() -> None:
        with pytest.raises(TimeoutError):
            await wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(check())
        await clock.advance(4.9)
        assert not task.done()
        await clock.advance(0.2)
        assert task.done()


async def test_a_limit_leaves_results_and_errors_alone() -> None:
    clock = SteppedClock()
    async with time_limit(clock, 2.0):
        await asyncio.sleep(0)
    with pytest.raises(KeyError):
        async with time_limit(clock, 2.0):
            raise KeyError
    assert clock.sleepers == 0


async def test_a_limit_does_not_swallow_a_cancellation() -> None:
    clock = SteppedClock()

    async def wait() -> None:
        async with time_limit(clock, 2.0):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        await clock.settle()
        task.cancel()
    assert task.cancelled()


async def test_the_system_clock_tells_tai_and_sleeps() -> None:
    clock = SystemClock()
    before = datetime.now(UTC).timestamp() - 1e-3
    assert before <= utc_from_tai(clock.now_tai()) <= datetime.now(UTC).timestamp() + 1e-3
    began = time.monotonic()
    await clock.sleep(0.02)
    assert time.monotonic() - began >= 0.019
    await clock.sleep(-1)
