"""Retries pause, spread and end; a gate keeps work from a destination that is down."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platevault.domain.errors import PermanentError, TransientError, UsageError
from platevault.runtime.retry import Backoff, DestinationDownError, Gate, retry
from platevault.runtime.service import Deadline, StopToken
from platevault.testing.clocks import SteppedClock

PLAIN = Backoff(first_s=1.0, factor=2.0, ceiling_s=10.0, spread=0.0)


class _DownError(TransientError):
    pass


class _Operation:
    """Fails as told, then gives the number of its call."""

    def __init__(self, clock: SteppedClock, *errors: Exception) -> None:
        self._clock = clock
        self.errors = [*errors]
        self.moments: list[float] = []
        self._start = clock.now_tai()

    async def __call__(self) -> int:
        self.moments.append(self._clock.now_tai() - self._start)
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return len(self.moments)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def test_pauses_double_up_to_a_ceiling_and_begin_again() -> None:
    pauses = PLAIN.pauses()
    assert [pauses.next_s() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    pauses.reset()
    assert pauses.next_s() == 1.0


@given(
    first_s=st.floats(0.001, 10.0),
    factor=st.floats(1.0, 5.0),
    growth=st.floats(1.0, 1000.0),
    spread=st.floats(0.0, 0.99),
    seed=st.integers(),
)
def test_pauses_stay_within_their_bounds_and_repeat_with_their_seed(
    first_s: float, factor: float, growth: float, spread: float, seed: int
) -> None:
    ceiling_s = first_s * growth
    backoff = Backoff(first_s, factor, ceiling_s, spread, seed)
    one, two = backoff.pauses(), backoff.pauses()
    expected = first_s
    for _ in range(100):
        pause = one.next_s()
        assert pause == two.next_s()
        assert abs(pause - expected) <= (spread + 1e-9) * expected
        assert pause > 0
        expected = min(expected * factor, ceiling_s)


def test_an_outage_may_last_for_days() -> None:
    pauses = Backoff(first_s=1.0, factor=5.0, ceiling_s=9.0, spread=0.0).pauses()
    assert [pauses.next_s() for _ in range(2000)][-1] == 9.0


def test_callers_with_other_seeds_do_not_come_back_together() -> None:
    pauses = {Backoff(spread=0.5, seed=seed).pauses().next_s() for seed in range(50)}
    assert len(pauses) == 50


@pytest.mark.parametrize(
    "wrong",
    [{"first_s": 0.0}, {"factor": 0.5}, {"first_s": 2.0, "ceiling_s": 1.0}, {"spread": 1.0}],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Backoff(**wrong)  # type: ignore[arg-type]


async def test_a_transient_error_is_tried_again_after_growing_pauses(clock: SteppedClock) -> None:
    operation = _Operation(clock, _DownError("1"), _DownError("2"), _DownError("3"))
    told: list[tuple[str, int, float]] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            retry(
                operation,
                clock=clock,
                backoff=PLAIN,
                on_retry=lambda error, number, pause: told.append((str(error), number, pause)),
            )
        )
        await clock.advance(100.0)
    assert task.result() == 4
    assert operation.moments == [0.0, 1.0, 3.0, 7.0]
    assert told == [("1", 1, 1.0), ("2", 2, 2.0), ("3", 3, 4.0)]


@pytest.mark.parametrize("error", [PermanentError("x"), UsageError("x"), ZeroDivisionError()])
async def test_other_errors_are_not_tried_again(clock: SteppedClock, error: Exception) -> None:
    operation = _Operation(clock, error)
    with pytest.raises(type(error)):
        await retry(operation, clock=clock, backoff=PLAIN)
    assert len(operation.moments) == 1


async def test_no_attempt_begins_after_the_deadline(clock: SteppedClock) -> None:
    operation = _Operation(clock, *(_DownError(str(number)) for number in range(1, 100)))
    deadline = Deadline(clock, clock.now_tai() + 6.5)
    task = asyncio.get_running_loop().create_task(
        retry(operation, clock=clock, backoff=PLAIN, deadline=deadline)
    )
    await clock.advance(100.0)
    with pytest.raises(_DownError, match="3"):
        await task
    assert operation.moments == [0.0, 1.0, 3.0]


async def test_a_cancelled_retry_ends_in_its_pause(clock: SteppedClock) -> None:
    operation = _Operation(clock, _DownError("1"))
    task = asyncio.get_running_loop().create_task(retry(operation, clock=clock, backoff=PLAIN))
    await clock.advance(0.5)
    task.cancel()
    await asyncio.wait({task})
    await clock.advance(10.0)
    assert operation.moments == [0.0]


class TestGate:
    @pytest.fixture
    def gate(self, clock: SteppedClock) -> Gate:
        return Gate(name="annex", clock=clock, backoff=PLAIN, outages=(_DownError,))

    @pytest.fixture
    def stop(self) -> StopToken:
        return StopToken()

    async def test_an_open_gate_lets_all_through_at_once(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        operation = _Operation(clock)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(gate.call(operation, stop=stop))
        assert operation.moments == [0.0] * 5
        assert gate.is_open

    async def test_an_outage_is_waited_out_by_all_and_tried_by_one(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        operation = _Operation(clock, *(_DownError(str(number)) for number in range(1, 7)))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gate.call(operation, stop=stop)) for _ in range(4)]
            await clock.settle()
            # Four were under way: one outage, one pause.
            assert operation.moments == [0.0] * 4
            assert not gate.is_open
            await clock.advance(5.0)
            assert operation.moments[4:] == [1.0, 3.0]
            await clock.advance(2.0)
            # The third try succeeds; the rest follows at once.
            assert operation.moments[6:] == [7.0] * 4
        assert all(task.result() >= 7 for task in tasks)
        assert gate.is_open

    async def test_pauses_begin_again_after_a_success(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        operation = _Operation(clock, _DownError("1"), _DownError("2"))
        async with asyncio.TaskGroup() as group:
            group.create_task(gate.call(operation, stop=stop))
            await clock.advance(3.0)
        operation.errors = [_DownError("3")]
        async with asyncio.TaskGroup() as group:
            group.create_task(gate.call(operation, stop=stop))
            await clock.advance(1.0)
        assert operation.moments == [0.0, 1.0, 3.0, 3.0, 4.0]

    @pytest.mark.parametrize(
        "error", [PermanentError("x"), TransientError("another"), ZeroDivisionError()]
    )
    async def test_other_errors_pass_through_an_open_gate(
        self, clock: SteppedClock, gate: Gate, stop: StopToken, error: Exception
    ) -> None:
        with pytest.raises(type(error)):
            await gate.call(_Operation(clock, error), stop=stop)
        assert gate.is_open

    async def test_an_answer_of_any_kind_opens_the_gate(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        refused = asyncio.get_running_loop().create_task(
            gate.call(_Operation(clock, _DownError("1"), PermanentError("no")), stop=stop)
        )
        await clock.settle()
        assert not gate.is_open
        await clock.advance(1.0)
        with pytest.raises(PermanentError):
            await refused
        assert gate.is_open

    async def test_a_late_success_opens_the_gate_for_those_who_wait(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        answers = asyncio.Event()
        operation = _Operation(clock, _DownError("1"))
        async with asyncio.TaskGroup() as group:
            group.create_task(gate.call(answers.wait, stop=stop))
            group.create_task(gate.call(operation, stop=stop))
            await clock.advance(0.5)
            assert not gate.is_open
            answers.set()
            await clock.settle()
            assert operation.moments == [0.0, 0.5]

    async def test_a_try_that_is_cancelled_leaves_the_turn_to_the_next(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        hangs = asyncio.Event()
        calls: list[str] = []

        async def first() -> None:
            calls.append("first")
            if len(calls) == 1:
                raise _DownError("1")
            await hangs.wait()

        async def second() -> None:
            calls.append("second")

        trying = asyncio.get_running_loop().create_task(gate.call(first, stop=stop))
        await clock.settle()
        async with asyncio.TaskGroup() as group:
            group.create_task(gate.call(second, stop=stop))
            await clock.advance(5.0)
            assert calls == ["first", "first"]
            trying.cancel()
            await clock.settle()
        await asyncio.wait({trying})
        assert calls == ["first", "first", "second"]

    async def test_a_stop_ends_the_waiting(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        operation = _Operation(clock, _DownError("why"))
        task = asyncio.get_running_loop().create_task(gate.call(operation, stop=stop))
        await clock.settle()
        stop.request()
        with pytest.raises(DestinationDownError) as caught:
            await task
        assert caught.value.context == {"destination": "annex", "problem": "why"}
        assert isinstance(caught.value.__cause__, _DownError)
        assert operation.moments == [0.0]

    async def test_a_deadline_ends_the_waiting(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        operation = _Operation(clock, *[_DownError("x")] * 10)
        deadline = Deadline(clock, clock.now_tai() + 4.0)
        task = asyncio.get_running_loop().create_task(
            gate.call(operation, stop=stop, deadline=deadline)
        )
        await clock.advance(3.5)
        assert not task.done()
        await clock.advance(0.5)
        with pytest.raises(DestinationDownError):
            await task
        assert operation.moments == [0.0, 1.0, 3.0]

    async def test_a_stopped_service_may_still_finish_what_it_has_in_hand(
        self, clock: SteppedClock, gate: Gate, stop: StopToken
    ) -> None:
        stop.request()
        assert await gate.call(_Operation(clock), stop=stop) == 1
