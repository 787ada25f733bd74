"""Services start in order, stop in reverse and fail together."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from platevault.domain.errors import TransientError, UsageError
from platevault.runtime.process import DrainError, ServiceExitedError, exit_code, run_services
from platevault.runtime.service import StopToken
from platevault.testing.clocks import SteppedClock


class _Part:
    """A service that notes what happens to it."""

    def __init__(
        self,
        name: str,
        notes: list[str],
        *,
        starts: asyncio.Event | None = None,
        fails: asyncio.Event | None = None,
        leaves: asyncio.Event | None = None,
        ends_itself: asyncio.Event | None = None,
        drains: asyncio.Event | None = None,
    ) -> None:
        self.name = name
        self._notes = notes
        self._starts = starts
        self._fails = fails
        self._leaves = leaves
        self._ends_itself = ends_itself
        self._drains = drains

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        self._notes.append(f"{self.name} starts")
        try:
            if self._starts is not None:
                await self._starts.wait()
            self._notes.append(f"{self.name} ready")
            ready()
            if self._fails is not None:
                await self._fails.wait()
                raise ZeroDivisionError(self.name)
            if self._leaves is not None:
                await self._leaves.wait()
                return
            if self._ends_itself is not None:
                await self._ends_itself.wait()
                stop.request()
                return
            await stop.wait()
            self._notes.append(f"{self.name} stops")
            if self._drains is not None:
                await self._drains.wait()
        except asyncio.CancelledError:
            self._notes.append(f"{self.name} cancelled")
            raise
        finally:
            self._notes.append(f"{self.name} ends")


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def notes() -> list[str]:
    return []


async def test_services_start_in_order_and_stop_in_reverse(
    clock: SteppedClock, notes: list[str]
) -> None:
    stop = StopToken()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            run_services([_Part("a", notes), _Part("b", notes)], clock=clock, stop=stop)
        )
        await clock.settle()
        assert notes == ["a starts", "a ready", "b starts", "b ready"]
        notes.clear()
        stop.request()
    assert notes == ["b stops", "b ends", "a stops", "a ends"]


async def test_a_service_starts_only_when_the_one_before_is_ready(
    clock: SteppedClock, notes: list[str]
) -> None:
    stop, starts = StopToken(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        services = [_Part("a", notes, starts=starts), _Part("b", notes)]
        group.create_task(run_services(services, clock=clock, stop=stop))
        await clock.advance(100.0)
        assert notes == ["a starts"]
        starts.set()
        await clock.settle()
        assert notes[1:] == ["a ready", "b starts", "b ready"]
        stop.request()


async def test_a_stop_during_the_start_starts_no_more(
    clock: SteppedClock, notes: list[str]
) -> None:
    stop = StopToken()
    services = [_Part("a", notes), _Part("b", notes, starts=asyncio.Event()), _Part("c", notes)]
    task = asyncio.get_running_loop().create_task(
        run_services(services, clock=clock, drain_within_s=5.0, stop=stop)
    )
    await clock.settle()
    stop.request()
    await clock.advance(6.0)
    with pytest.raises(DrainError) as caught:
        await task
    assert caught.value.context == {"services": ["b"]}
    assert notes[-4:] == ["b cancelled", "b ends", "a stops", "a ends"]
    assert "c starts" not in notes


async def test_a_failure_closes_the_others_and_is_raised_as_it_is(
    clock: SteppedClock, notes: list[str]
) -> None:
    fails = asyncio.Event()
    task = asyncio.get_running_loop().create_task(
        run_services([_Part("a", notes), _Part("b", notes, fails=fails)], clock=clock)
    )
    await clock.settle()
    fails.set()
    with pytest.raises(ZeroDivisionError) as caught:
        await task
    assert caught.value.__notes__ == ["in service b"]
    assert "a cancelled" in notes
    assert exit_code(caught.value) == 1


async def test_two_failures_are_raised_together(clock: SteppedClock, notes: list[str]) -> None:
    fails = asyncio.Event()
    services = [_Part("a", notes, fails=fails), _Part("b", notes, fails=fails)]
    task = asyncio.get_running_loop().create_task(run_services(services, clock=clock))
    await clock.settle()
    fails.set()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert [type(one) for one in caught.value.exceptions] == [ZeroDivisionError] * 2


async def test_a_failure_during_the_start_starts_no_more(
    clock: SteppedClock, notes: list[str]
) -> None:
    fails = asyncio.Event()
    fails.set()
    services = [
        _Part("a", notes, fails=fails),
        _Part("b", notes, starts=asyncio.Event()),
        _Part("c", notes),
    ]
    with pytest.raises(ZeroDivisionError):
        await run_services(services, clock=clock)
    assert "c starts" not in notes


async def test_returning_unasked_is_an_error(clock: SteppedClock, notes: list[str]) -> None:
    leaves = asyncio.Event()
    task = asyncio.get_running_loop().create_task(
        run_services([_Part("a", notes), _Part("b", notes, leaves=leaves)], clock=clock)
    )
    await clock.settle()
    leaves.set()
    with pytest.raises(ServiceExitedError) as caught:
        await task
    assert caught.value.context == {"service": "b"}
    assert "a cancelled" in notes
    assert exit_code(caught.value) == 1


async def test_a_service_may_end_on_request_of_its_users(
    clock: SteppedClock, notes: list[str]
) -> None:
    stop, ends = StopToken(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        services = [_Part("a", notes), _Part("b", notes, ends_itself=ends)]
        running = group.create_task(run_services(services, clock=clock, stop=stop))
        await clock.settle()
        ends.set()
        await clock.settle()
        assert "b ends" in notes
        assert "a ends" not in notes
        assert not running.done()
        stop.request()


async def test_a_service_that_ends_on_request_before_it_is_ready_holds_up_none(
    clock: SteppedClock, notes: list[str]
) -> None:
    class Ends:
        name = "a"

        async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
            stop.request()

    stop = StopToken()
    async with asyncio.TaskGroup() as group:
        group.create_task(run_services([Ends(), _Part("b", notes)], clock=clock, stop=stop))
        await clock.settle()
        assert notes == ["b starts", "b ready"]
        stop.request()


async def test_the_process_ends_when_all_have_ended_on_request(
    clock: SteppedClock, notes: list[str]
) -> None:
    ends = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        services = [_Part(name, notes, ends_itself=ends) for name in "ab"]
        group.create_task(run_services(services, clock=clock))
        await clock.settle()
        ends.set()
    assert {"a ends", "b ends"} <= set(notes)


async def test_the_late_are_cancelled_and_named_and_the_rest_drains(
    clock: SteppedClock, notes: list[str]
) -> None:
    stop, drains = StopToken(), asyncio.Event()
    services = [
        _Part("a", notes),
        _Part("b", notes, drains=asyncio.Event()),
        _Part("c", notes, drains=drains),
    ]
    task = asyncio.get_running_loop().create_task(
        run_services(services, clock=clock, drain_within_s=10.0, stop=stop)
    )
    await clock.settle()
    notes.clear()
    stop.request()
    await clock.advance(9.0)
    assert notes == ["c stops"]
    drains.set()
    await clock.advance(9.0)
    assert notes == ["c stops", "c ends", "b stops"]
    await clock.advance(2.0)
    with pytest.raises(DrainError) as caught:
        await task
    assert caught.value.context == {"services": ["b"]}
    assert notes[3:] == ["b cancelled", "b ends", "a stops", "a ends"]
    assert exit_code(caught.value) == 3


async def test_a_cancelled_process_leaves_nothing(clock: SteppedClock, notes: list[str]) -> None:
    task = asyncio.get_running_loop().create_task(
        run_services([_Part("a", notes), _Part("b", notes)], clock=clock)
    )
    await clock.settle()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert notes.count("a cancelled") == notes.count("b cancelled") == 1


async def test_names_are_unique(clock: SteppedClock, notes: list[str]) -> None:
    with pytest.raises(UsageError):
        await run_services([_Part("a", notes), _Part("a", notes)], clock=clock)
    assert notes == []


async def test_no_service_at_all_is_done_at_once(clock: SteppedClock) -> None:
    await run_services([], clock=clock)


async def test_a_signal_asks_to_stop_and_a_second_one_hurries(
    clock: SteppedClock, notes: list[str]
) -> None:
    task = asyncio.get_running_loop().create_task(
        run_services([_Part("a", notes, drains=asyncio.Event())], clock=clock, install_signals=True)
    )
    await clock.settle()
    signal.raise_signal(signal.SIGTERM)
    await clock.settle()
    assert "a stops" in notes
    assert not task.done()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(DrainError):
        await task
    assert "a cancelled" in notes
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (ZeroDivisionError(), 1),
        (TransientError("x"), 1),
        (UsageError("x"), 2),
        (DrainError("x"), 3),
        (ExceptionGroup("x", [UsageError("x"), UsageError("y")]), 2),
        (ExceptionGroup("x", [UsageError("x"), TransientError("y")]), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_each_end_has_its_exit_code(error: BaseException | None, code: int) -> None:
    assert exit_code(error) == code
