"""Files of one host under kill -9, contention, damage, a full disk and a lock that stays."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from platevault.adapters.one_host import (
    LeaseStore,
    SqliteLeases,
    SqliteWorkQueue,
    StoreDamagedError,
    StoreForbiddenError,
    StoreSchemaError,
)
from platevault.adapters.system_clock import SystemClock
from platevault.domain.errors import PermanentError, PlatevaultError
from platevault.domain.messages import FileTransferCompleted
from platevault.ports.leases import LeasesUnavailableError
from platevault.ports.work_queue import QueueUnavailableError, WorkQueue
from platevault.testing.work_queue_contract import a_message

WORKER = Path(__file__).with_name("one_host_worker.py")
#: Longest wait for another process to be heard [s].
PATIENCE_S = 20.0


@contextmanager
def worker(role: str, directory: Path, name: str = "a", number: int = 0) -> Iterator[Worker]:
    child = subprocess.Popen(
        [sys.executable, str(WORKER), role, str(directory), name, str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield Worker(child)
        finally:
            child.kill()


class Worker:
    """A process and what it said."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.lines: list[str] = []

    def hear(self, count: int) -> list[str]:
        assert self.child.stdout is not None
        for _ in range(count):
            line = self.child.stdout.readline()
            assert line.endswith("\n"), self.child.communicate()
            self.lines.append(line.strip())
        return self.lines

    def kill(self) -> list[str]:
        """Kill it; give all that it has said."""
        self.child.kill()
        assert self.child.stdout is not None
        self.lines += [line.strip() for line in self.child.stdout if line.endswith("\n")]
        self.child.wait()
        return self.lines


def said(lines: list[str], what: str) -> list[str]:
    return [line.split()[1] for line in lines if line.startswith(f"{what} ")]


def check(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def bells(directory: Path) -> list[Path]:
    return [one for one in directory.rglob("*") if one.is_fifo()]


async def drain(queue: WorkQueue) -> list[str]:
    """Take and acknowledge all that there is."""
    images = []
    async with queue.consume("q", prefetch=8) as deliveries, asyncio.timeout(PATIENCE_S):
        while await queue.depth("q"):
            delivery = await anext(deliveries)
            assert isinstance(delivery.message, FileTransferCompleted)
            images.append(delivery.message.image)
            await delivery.ack()
    return images


async def test_a_killed_sender_has_sent_whatever_it_says(tmp_path: Path) -> None:
    numbers = random.Random(20250415)
    told: set[str] = set()
    for number in range(4):  # on one file, so that recovery is recovered from too
        with (
            worker("send", tmp_path, f"s{number}", 200) as one,
            worker("send", tmp_path, f"t{number}", 200) as other,
        ):
            one.hear(numbers.randrange(1, 100))
            other.hear(numbers.randrange(1, 100))
            told |= {*said(one.kill(), "sent"), *said(other.kill(), "sent")}
        check(tmp_path / "queue.sqlite")
    async with SqliteWorkQueue(tmp_path / "queue.sqlite", clock=SystemClock()) as queue:
        images = await drain(queue)
    assert len(told) > 40
    assert told <= {*images}
    assert len({*images}) == len(images)
    # Of each sender what was sent and not yet said: one message of each of its tasks.
    assert len(images) <= len(told) + 4 * 2 * 4


async def test_a_killed_consumer_gives_back_what_it_had(tmp_path: Path) -> None:
    async with SqliteWorkQueue(tmp_path / "queue.sqlite", clock=SystemClock()) as queue:
        for number in range(6):
            await queue.send("q", a_message(number))
        with worker("hold", tmp_path, number=4) as holder:
            lines = await asyncio.to_thread(holder.hear, 4)
            assert said(lines, "took") == [f"image-{number}" for number in range(4)]
            async with queue.consume("q", prefetch=6) as deliveries:
                rest = [await anext(deliveries) for _ in range(2)]
                assert [one.attempt for one in rest] == [1, 1]
                waiting = asyncio.get_running_loop().create_task(_next(deliveries))
                await asyncio.sleep(1.2)  # longer than a look: who lives keeps what it has
                assert not waiting.done()
                holder.kill()
                killed = time.monotonic()
                async with asyncio.timeout(PATIENCE_S):
                    again = [await waiting] + [await _next(deliveries) for _ in range(3)]
                assert time.monotonic() - killed < 5.0
                assert again == [(f"image-{number}", 2) for number in range(4)]


async def _next(deliveries: object) -> tuple[str, int]:
    delivery = await anext(deliveries)  # type: ignore[call-overload]
    return delivery.message.image, delivery.attempt


async def test_consumers_killed_in_their_work_lose_nothing_and_repeat_only_what_was_in_hand(
    tmp_path: Path,
) -> None:
    numbers = random.Random(7)
    done: list[str] = []
    rounds, each_round = 5, 60
    async with SqliteWorkQueue(tmp_path / "queue.sqlite", clock=SystemClock()) as queue:
        for past in range(rounds):
            async with asyncio.TaskGroup() as group:
                for number in range(each_round):
                    group.create_task(queue.send("q", a_message(past * each_round + number)))
            with worker("work", tmp_path) as one:
                await asyncio.to_thread(one.hear, numbers.randrange(1, each_round))
                done += said(one.kill(), "done")
            check(tmp_path / "queue.sqlite")
        assert len(done) == len({*done}), "what was acknowledged came again"
        assert done
        left = await drain(queue)
        assert not {*left} & {*done}
        # Acknowledged and not yet said: one of each process that was killed.
        assert rounds * each_round - rounds <= len(left) + len(done) <= rounds * each_round


async def test_a_message_that_kills_its_consumers_is_set_aside(tmp_path: Path) -> None:
    async with SqliteWorkQueue(
        tmp_path / "queue.sqlite", clock=SystemClock(), delivery_limit=3
    ) as queue:
        await queue.send("q", a_message(1))
        for attempt in (1, 2, 3):
            with worker("hold", tmp_path, number=1) as holder:
                assert (await asyncio.to_thread(holder.hear, 1)) == [f"took image-1 {attempt}"]
        async with queue.consume("q", prefetch=1) as deliveries:
            await queue.send("q", a_message(2))
            assert await _next(deliveries) == ("image-2", 1)
        (letter,) = await queue.dead_letters("q")
        assert "3 times" in letter.reason


async def test_the_bell_of_a_killed_consumer_is_taken_down_by_who_rings_it(
    tmp_path: Path,
) -> None:
    async with SqliteWorkQueue(tmp_path / "queue.sqlite", clock=SystemClock()) as queue:
        await queue.send("q", a_message(1))
        with worker("hold", tmp_path, number=1) as holder:
            await asyncio.to_thread(holder.hear, 1)
        assert len(bells(tmp_path)) == 1
        await queue.send("q", a_message(2))
        assert bells(tmp_path) == []


def test_of_processes_that_contend_for_a_lease_one_holds_it_and_numbers_grow(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(worker("contend", tmp_path, name, 40)) for name in "abc"]
        fences = []
        for each in workers:
            output, errors = each.child.communicate(timeout=50)
            assert each.child.returncode == 0, errors
            numbers = [int(fence) for fence in said(output.splitlines(), "fence")]
            assert numbers == sorted(numbers)
            fences += numbers
    assert sorted(fences) == [*range(1, 121)]


async def test_the_lease_of_a_killed_holder_goes_on_with_a_higher_number(tmp_path: Path) -> None:
    with worker("keep", tmp_path, "a", 2) as holder:
        (fence,) = said(await asyncio.to_thread(holder.hear, 1), "fence")
    async with LeaseStore(tmp_path / "leases.sqlite") as store:
        leases = SqliteLeases(store=store, clock=SystemClock())
        held = await leases.current("w")
        assert held is not None
        assert held.holder == "a"
        async with asyncio.timeout(PATIENCE_S):
            while (grant := await leases.acquire("w", holder="b", ttl_s=9.0)) is None:
                await SystemClock().sleep(0.05)
        assert grant.fence > int(fence)


def test_a_full_disk_refuses_and_more_room_lets_it_go_on(tmp_path: Path) -> None:
    with worker("fill", tmp_path, number=400_000) as one:
        output, errors = one.child.communicate(timeout=50)
    assert one.child.returncode == 0, errors
    full, leases_full, sent = output.splitlines()
    assert (full, leases_full) == ("full True", "leases full")
    _, number, depth, problem = sent.split()
    # The message that was refused is the one that was sent again.
    assert int(number) == int(depth) > 10
    assert problem == "''"
    check(tmp_path / "queue.sqlite")


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def _directory(path: Path) -> None:
    path.mkdir()


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE message (x)")


def _in_the_way(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_garbage, StoreDamagedError),
        (_directory, StoreForbiddenError),
        (_in_the_way, StoreForbiddenError),
        (_foreign, StoreSchemaError),
    ],
)
async def test_a_file_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, spoil: object, expected: type[PlatevaultError]
) -> None:
    path = tmp_path / "work" / "x.sqlite"
    path.parent.mkdir()
    assert callable(spoil)
    spoil(path)
    with pytest.raises(expected) as caught:
        async with SqliteWorkQueue(path, clock=SystemClock()):
            pytest.fail("it was opened")
    assert caught.value.context["path"] == str(path)
    with pytest.raises(expected):
        async with LeaseStore(path):
            pytest.fail("it was opened")


async def test_damage_found_at_work_is_told_and_does_not_heal(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    async with SqliteWorkQueue(path, clock=SystemClock()) as queue:
        for number in range(200):
            await queue.send("q", a_message(number))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    async with SqliteWorkQueue(path, clock=SystemClock()) as queue:
        for _ in range(2):
            with pytest.raises(StoreDamagedError):
                await queue.send("q", a_message(1))
        assert issubclass(StoreDamagedError, PermanentError)
        assert queue.problem


async def test_a_lock_that_stays_is_an_outage_and_what_was_in_hand_comes_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.sqlite"
    async with SqliteWorkQueue(path, clock=SystemClock(), busy_timeout_s=0.05) as queue:
        await queue.send("q", a_message(1))
        await queue.send("q", a_message(2))
        async with queue.consume("q", prefetch=1) as deliveries:
            delivery = await anext(deliveries)
            with closing(sqlite3.connect(path, isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                with pytest.raises(QueueUnavailableError):
                    await queue.send("q", a_message(3))
                with pytest.raises(QueueUnavailableError):
                    await delivery.ack()
                # The consumer is of no more use: who uses it opens another.
                with pytest.raises(QueueUnavailableError):
                    await anext(deliveries)
                assert queue.problem
                holder.execute("ROLLBACK")
        async with queue.consume("q", prefetch=2) as deliveries:
            assert [await _next(deliveries) for _ in range(2)] == [("image-1", 2), ("image-2", 1)]
        assert queue.problem == ""


async def test_a_consumer_that_closes_under_a_lock_gives_back_all_the_same(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.sqlite"
    async with SqliteWorkQueue(path, clock=SystemClock(), busy_timeout_s=0.05) as queue:
        await queue.send("q", a_message(1))
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            async with queue.consume("q", prefetch=1) as deliveries:
                await anext(deliveries)
                holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueUnavailableError):
                async with queue.consume("q", prefetch=1):
                    pytest.fail("a consumer was let in that nobody could see")
            holder.execute("ROLLBACK")
        async with queue.consume("q", prefetch=1) as deliveries, asyncio.timeout(PATIENCE_S):
            assert await _next(deliveries) == ("image-1", 2)
        assert bells(tmp_path) == []


async def test_leases_under_a_lock_that_stays_are_unavailable_and_then_work(
    tmp_path: Path,
) -> None:
    path = tmp_path / "leases.sqlite"
    async with LeaseStore(path, busy_timeout_s=0.05) as store:
        leases = SqliteLeases(store=store, clock=SystemClock())
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(LeasesUnavailableError):
                await leases.acquire("w", holder="f1", ttl_s=9.0)
            assert store.problem
            holder.execute("ROLLBACK")
        assert await leases.acquire("w", holder="f1", ttl_s=9.0) is not None
        assert store.problem == ""


async def test_what_is_closed_takes_nothing(tmp_path: Path) -> None:
    queue = SqliteWorkQueue(tmp_path / "queue.sqlite", clock=SystemClock())
    with pytest.raises(QueueUnavailableError):
        await queue.send("q", a_message(1))
    store = LeaseStore(tmp_path / "leases.sqlite")
    with pytest.raises(LeasesUnavailableError):
        await SqliteLeases(store=store, clock=SystemClock()).acquire("w", holder="a", ttl_s=1.0)
