"""A queue is worked off: each message ends as what became of its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.domain.errors import PermanentError, TransientError
from platevault.domain.messages import FileTransferCompleted, Message
from platevault.ports.work_queue import QueueUnavailableError
from platevault.runtime.limits import TimeLimitError, ungrouped, within
from platevault.runtime.service import StopToken
from platevault.runtime.turns import Turns
from platevault.runtime.work import (
    LONGEST_PAUSE_S,
    ComeBackError,
    Handler,
    pause_before,
    send_together,
    work_off,
)
from platevault.testing.clocks import SteppedClock
from platevault.testing.outages import Outage


def message(number: int) -> FileTransferCompleted:
    return FileTransferCompleted(camera="C", image=f"I{number}", sensor="R22_S00")


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def queue(clock: SteppedClock) -> MemoryWorkQueue:
    return MemoryWorkQueue(clock=clock)


@asynccontextmanager
async def working(
    queue: MemoryWorkQueue | Outage, clock: SteppedClock, handle: Handler, *, prefetch: int = 4
) -> AsyncIterator[StopToken]:
    stop = StopToken()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work_off(queue, "q", handle, prefetch=prefetch, stop=stop, clock=clock))
        yield stop
        stop.request()
        await clock.settle()


class Work:
    """Notes what it is given; fails as it is told."""

    def __init__(self, *failures: Exception) -> None:
        self.taken: list[tuple[str, int]] = []
        self.fails_for = ""
        self._failures = list(failures)

    async def __call__(self, message: Message, attempt: int) -> None:
        assert isinstance(message, FileTransferCompleted)
        self.taken.append((message.image, attempt))
        if self._failures and self.fails_for in {"", message.image}:
            raise self._failures.pop(0)


async def test_what_returns_is_acknowledged(queue: MemoryWorkQueue, clock: SteppedClock) -> None:
    work = Work()
    await queue.send("q", message(1))
    async with working(queue, clock, work):
        await clock.settle()
        assert work.taken == [("I1", 1)]
        assert await queue.depth("q") == 0


async def test_what_may_succeed_comes_again_after_a_growing_pause(
    queue: MemoryWorkQueue, clock: SteppedClock
) -> None:
    work = Work(TransientError("later"), TransientError("later"))
    await queue.send("q", message(1))
    async with working(queue, clock, work):
        await clock.settle()
        await clock.advance(pause_before(1) - 0.01)
        assert work.taken == [("I1", 1)]
        await clock.advance(0.02)
        assert work.taken == [("I1", 1), ("I1", 2)]
        await clock.advance(pause_before(2) + 0.01)
        assert work.taken[-1] == ("I1", 3)
        assert await queue.depth("q") == 0


async def test_work_may_say_when_to_come_back(queue: MemoryWorkQueue, clock: SteppedClock) -> None:
    work = Work(ComeBackError("taken", pause_s=7.0))
    await queue.send("q", message(1))
    async with working(queue, clock, work):
        await clock.advance(6.9)
        assert len(work.taken) == 1
        await clock.advance(0.2)
        assert len(work.taken) == 2


@pytest.mark.parametrize("error", [PermanentError("never"), ValueError("a bug")])
async def test_what_cannot_succeed_is_set_aside_and_the_rest_goes_on(
    queue: MemoryWorkQueue, clock: SteppedClock, error: Exception
) -> None:
    work = Work(error)
    for number in (1, 2):
        await queue.send("q", message(number))
    async with working(queue, clock, work, prefetch=1):
        await clock.settle()
        assert [image for image, _ in work.taken] == ["I1", "I2"]
        letters = await queue.dead_letters("q")
        assert [str(error) in letter.reason for letter in letters] == [True]


async def test_messages_in_hand_are_finished_at_the_stop(
    queue: MemoryWorkQueue, clock: SteppedClock
) -> None:
    begun, finish, done = asyncio.Event(), asyncio.Event(), []

    async def handle(message: Message, attempt: int) -> None:
        begun.set()
        await finish.wait()
        done.append(attempt)

    for number in (1, 2):
        await queue.send("q", message(number))
    async with working(queue, clock, handle, prefetch=1) as stop:
        await begun.wait()
        stop.request()
        await clock.settle()
        finish.set()
    assert done == [1]
    assert await queue.depth("q") == 1


async def test_no_more_are_in_hand_than_asked_for(
    queue: MemoryWorkQueue, clock: SteppedClock
) -> None:
    now, most, finish = 0, 0, asyncio.Event()

    async def handle(message: Message, attempt: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await finish.wait()
        now -= 1

    for number in range(9):
        await queue.send("q", message(number))
    async with working(queue, clock, handle, prefetch=3):
        await clock.settle()
        assert most == 3
        finish.set()
        await clock.settle()
        assert await queue.depth("q") == 0


async def test_an_outage_of_the_broker_is_waited_out(
    queue: MemoryWorkQueue, clock: SteppedClock
) -> None:
    guarded = Outage(queue, lambda: QueueUnavailableError("away"), only=("consume",))
    guarded.down = True
    work = Work()
    await queue.send("q", message(1))
    async with working(guarded, clock, work):
        await clock.advance(5.0)
        assert (work.taken, guarded.refused > 1) == ([], True)
        guarded.down = False
        await clock.advance(LONGEST_PAUSE_S)
        assert work.taken == [("I1", 1)]


def test_pauses_grow_to_a_limit() -> None:
    pauses = [pause_before(attempt) for attempt in range(1, 200)]
    assert pauses == sorted(pauses)
    assert pauses[:3] == [0.5, 1.0, 2.0]
    assert pauses[-1] == LONGEST_PAUSE_S


async def soon(clock: SteppedClock, after_s: float, outcome: Callable[[], str]) -> str:
    await clock.sleep(after_s)
    return outcome()


def fail() -> str:
    raise ValueError("its own")


async def test_work_within_its_limit_gives_its_result(clock: SteppedClock) -> None:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(within(clock, 5.0, soon(clock, 1.0, lambda: "done"), what="it"))
        await clock.advance(1.0)
    assert task.result() == "done"
    assert clock.sleepers == 0


async def test_work_over_its_limit_is_cancelled_by_the_clock(clock: SteppedClock) -> None:
    async with asyncio.TaskGroup() as tasks:
        limited = within(clock, 5.0, soon(clock, 9.0, lambda: "done"), what="it")

        async def expect() -> None:
            with pytest.raises(TimeLimitError, match="it"):
                await limited

        tasks.create_task(expect())
        await clock.advance(5.0)
    assert clock.sleepers == 0


async def test_an_error_within_the_limit_passes_as_it_is(clock: SteppedClock) -> None:
    with pytest.raises(ValueError, match="its own"):
        await within(clock, 5.0, soon(clock, 0.0, fail), what="it")


async def test_a_group_gives_its_error_as_it_is() -> None:
    with pytest.raises(ValueError, match="its own"), ungrouped():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(fail))


async def test_turns_of_one_key_follow_each_other_and_others_do_not_wait(
    clock: SteppedClock,
) -> None:
    turns, said = Turns(), []

    async def take(key: str, name: str, duration_s: float) -> None:
        async with turns.of(key):
            said.append(f"{name} begins")
            await clock.sleep(duration_s)
            said.append(f"{name} ends")

    async with asyncio.TaskGroup() as tasks:
        for key, name, duration_s in (
            ("a", "first", 2.0),
            ("a", "second", 1.0),
            ("b", "other", 1.0),
        ):
            tasks.create_task(take(key, name, duration_s))
        await clock.advance(5.0)
    assert said == [
        "first begins",
        "other begins",
        "other ends",
        "first ends",
        "second begins",
        "second ends",
    ]


async def test_what_came_in_one_envelope_is_done_each_by_itself(
    queue: MemoryWorkQueue, clock: SteppedClock
) -> None:
    work = Work()
    await send_together(queue, "q", [message(number) for number in (1, 2, 3)])
    assert await queue.depth("q") == 1
    async with working(queue, clock, work):
        await clock.settle()
        assert sorted(work.taken) == [("I1", 1), ("I2", 1), ("I3", 1)]
        assert await queue.depth("q") == 0


@pytest.mark.parametrize("error", [PermanentError("never"), ValueError("a bug")])
async def test_one_of_an_envelope_that_cannot_succeed_is_set_aside_alone(
    queue: MemoryWorkQueue, clock: SteppedClock, error: Exception
) -> None:
    work = Work(error, error)  # the first, and once more when it came alone
    await send_together(queue, "q", [message(1)])
    await send_together(queue, "q", [message(2), message(3)])
    work.fails_for = "I2"
    async with working(queue, clock, work):
        await clock.settle()
        assert sorted(work.taken) == [("I1", 1), ("I2", 1), ("I2", 1), ("I3", 1)]
        letters = await queue.dead_letters("q")
        assert ['"I2"' in letter.body for letter in letters] == [True]
        assert "together" not in letters[0].body
        assert await queue.depth("q") == 0


async def test_one_of_an_envelope_that_may_succeed_comes_again_alone(
    queue: MemoryWorkQueue, clock: SteppedClock
) -> None:
    work = Work(TransientError("later"), TransientError("later"))
    work.fails_for = "I2"
    await send_together(queue, "q", [message(1), message(2)])
    async with working(queue, clock, work):
        await clock.settle()
        await clock.advance(pause_before(1) + 0.01)
        assert work.taken.count(("I1", 1)) == 1
        assert [attempt for image, attempt in work.taken if image == "I2"] == [1, 1, 2]
        assert await queue.depth("q") == 0


async def test_an_envelope_stays_until_what_failed_is_on_the_queue_again(
    queue: MemoryWorkQueue, clock: SteppedClock
) -> None:
    outage = Outage(queue, lambda: QueueUnavailableError("gone"), only=("send",))
    work = Work(TransientError("later"))
    await send_together(queue, "q", [message(1), message(2)])
    outage.down = True
    async with working(outage, clock, work):
        await clock.settle()
        assert await queue.depth("q") == 1
        await clock.advance(pause_before(1) + 0.01)
        assert [image for image, _ in work.taken].count("I1") == 2
        assert await queue.depth("q") == 0
