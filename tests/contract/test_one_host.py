"""Queues, leases and presence in files of one host keep their contracts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings

from platevault.adapters.one_host import (
    LeaseStore,
    SqliteLeases,
    SqlitePresence,
    SqliteWorkQueue,
)
from platevault.adapters.system_clock import SystemClock
from platevault.ports.leases import Leases
from platevault.ports.work_queue import QueueFullError
from platevault.testing.clocks import SteppedClock
from platevault.testing.leases_contract import Advance, LeasesContract, OpenLeases
from platevault.testing.presence_contract import PresenceContract
from platevault.testing.work_queue_contract import Inject, WorkQueueContract, a_message


class TestSqliteWorkQueue(WorkQueueContract):
    delay_s: ClassVar[float] = 0.6

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "work #1?" / "queue.sqlite"

    @pytest.fixture
    async def queue(self, path: Path) -> AsyncIterator[SqliteWorkQueue]:
        async with SqliteWorkQueue(
            path, clock=SystemClock(), delivery_limit=self.delivery_limit
        ) as queue:
            yield queue
        assert [one for one in path.parent.rglob("*") if one.is_fifo()] == []

    @pytest.fixture
    def advance(self) -> Advance:
        return asyncio.sleep

    @pytest.fixture
    def inject(self, path: Path) -> Inject:
        async def put(name: str, body: bytes) -> None:
            with closing(sqlite3.connect(path)) as raw, raw:
                raw.execute(
                    "INSERT INTO message (queue, priority, place, body) VALUES (?, 0, 1, ?)",
                    (name, body),
                )

        return put

    async def test_a_full_queue_refuses_and_takes_again_when_there_is_a_place(
        self, path: Path
    ) -> None:
        async with SqliteWorkQueue(path, clock=SystemClock(), max_depth=2) as queue:
            await queue.send("q", a_message(1))
            await queue.send("q", a_message(2))
            await queue.send("another", a_message(1))
            with pytest.raises(QueueFullError):
                await queue.send("q", a_message(3))
            async with queue.consume("q", prefetch=2) as deliveries:
                first = await anext(deliveries)
                with pytest.raises(QueueFullError):
                    await queue.send("q", a_message(3))
                await first.ack()
                await queue.send("q", a_message(3))
            assert await queue.depth("q") == 2

    async def test_a_queue_outlives_who_filled_it(self, path: Path) -> None:
        async with SqliteWorkQueue(path, clock=SystemClock()) as one:
            await one.send("q", a_message(1))
            async with one.consume("q", prefetch=1) as deliveries:
                await (await anext(deliveries)).set_aside(reason="x")
            await one.send("q", a_message(2))
        async with SqliteWorkQueue(path, clock=SystemClock()) as other:
            assert len(await other.dead_letters("q")) == 1
            async with other.consume("q", prefetch=1) as deliveries:
                assert (await anext(deliveries)).message == a_message(2)

    async def test_what_was_taken_ahead_and_not_handed_out_goes_back_undelivered(
        self, path: Path, queue: SqliteWorkQueue
    ) -> None:
        for number in range(3):
            await queue.send("q", a_message(number))
        async with queue.consume("q", prefetch=3) as deliveries:
            await anext(deliveries)
        async with queue.consume("q", prefetch=3) as deliveries:
            assert [(await anext(deliveries)).attempt for _ in range(3)] == [2, 1, 1]

    async def test_a_waiting_consumer_of_another_process_is_rung_and_need_not_look(
        self, path: Path
    ) -> None:
        """Two openings of one file are as two processes; the clock of the consumer stands still."""
        async with (
            SqliteWorkQueue(path, clock=SteppedClock()) as one,
            SqliteWorkQueue(path, clock=SystemClock()) as other,
            one.consume("q", prefetch=1) as deliveries,
        ):
            for number in range(5):
                async with asyncio.TaskGroup() as group:

                    async def take() -> int:
                        delivery = await anext(deliveries)
                        await delivery.ack()
                        return delivery.attempt

                    task = group.create_task(take())
                    await other.depth("q")  # the consumer has looked, and waits
                    await asyncio.sleep(0.05)
                    assert not task.done()
                    await other.send("q", a_message(number))
                    async with asyncio.timeout(5):
                        assert await task == 1


class TestSqliteLeases(LeasesContract):
    machine: ClassVar[settings] = settings(max_examples=15, stateful_step_count=30)

    @pytest.fixture
    def clock(self) -> SteppedClock:
        return SteppedClock()

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[LeaseStore]:
        async with LeaseStore(tmp_path / "leases.sqlite") as store:
            yield store

    @pytest.fixture
    def leases(self, store: LeaseStore, clock: SteppedClock) -> SqliteLeases:
        return SqliteLeases(store=store, clock=clock)

    @pytest.fixture
    def advance(self, clock: SteppedClock) -> Advance:
        return clock.advance

    @pytest.fixture
    def open_leases(self, tmp_path: Path) -> OpenLeases:
        numbers = count()

        @asynccontextmanager
        async def opened() -> AsyncIterator[tuple[Leases, Advance]]:
            clock = SteppedClock()
            async with LeaseStore(tmp_path / f"machine-{next(numbers)}.sqlite") as store:
                yield SqliteLeases(store=store, clock=clock), clock.advance

        return opened

    async def test_numbers_begin_where_a_ledger_says(
        self, store: LeaseStore, clock: SteppedClock
    ) -> None:
        leases = SqliteLeases(store=store, clock=clock, first_fence=7_000)
        grants = [await leases.acquire(name, holder="f1", ttl_s=1.0) for name in "ab"]
        assert [grant.fence for grant in grants if grant is not None] == [7_000, 7_001]

    async def test_numbers_grow_over_restarts_and_whatever_the_floor(
        self, tmp_path: Path, clock: SteppedClock
    ) -> None:
        fences = []
        for floor in (5, 1, 3, 100, 1):
            async with LeaseStore(tmp_path / "again.sqlite") as store:
                leases = SqliteLeases(store=store, clock=clock, first_fence=floor)
                grant = await leases.acquire("w", holder="f1", ttl_s=1.0)
                assert grant is not None
                await leases.release(grant)
                fences.append(grant.fence)
        assert fences == [5, 6, 7, 100, 101]

    async def test_a_lease_outlives_the_process_of_its_holder(
        self, tmp_path: Path, clock: SteppedClock
    ) -> None:
        async with LeaseStore(tmp_path / "again.sqlite") as store:
            grant = await SqliteLeases(store=store, clock=clock).acquire(
                "w", holder="f1", ttl_s=5.0
            )
        async with LeaseStore(tmp_path / "again.sqlite") as store:
            leases = SqliteLeases(store=store, clock=clock)
            assert await leases.current("w") == grant
            await clock.advance(6.0)
            assert await leases.current("w") is None

    async def test_leases_that_lapsed_leave_nothing_behind(
        self, tmp_path: Path, leases: SqliteLeases, clock: SteppedClock
    ) -> None:
        for number in range(20):
            await leases.acquire(f"write/{number}", holder="f1", ttl_s=1.0)
        await clock.advance(2.0)
        await leases.acquire("write/20", holder="f1", ttl_s=1.0)
        with closing(sqlite3.connect(tmp_path / "leases.sqlite")) as raw:
            assert raw.execute("SELECT name FROM lease").fetchall() == [("write/20",)]


class TestSqlitePresence(PresenceContract):
    @pytest.fixture
    def clock(self) -> SteppedClock:
        return SteppedClock()

    @pytest.fixture
    async def presence(self, tmp_path: Path, clock: SteppedClock) -> AsyncIterator[SqlitePresence]:
        async with LeaseStore(tmp_path / "leases.sqlite") as store:
            yield SqlitePresence(store=store, clock=clock)

    @pytest.fixture
    def advance(self, clock: SteppedClock) -> Advance:
        return clock.advance
