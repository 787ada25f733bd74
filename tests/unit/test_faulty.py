"""Fault plans count calls and fail the one they should, before or after its effect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from platevault.adapters.memory.leases import MemoryLeases
from platevault.adapters.memory.presence import MemoryPresence
from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.adapters.sqlite import SqliteFileLedger
from platevault.domain.errors import TransientError
from platevault.domain.samples import Sample, TopicKind, TopicSchema
from platevault.ports.file_ledger import FileLedger, LedgerUnavailableError
from platevault.ports.leases import LeasesUnavailableError
from platevault.ports.sample_bus import BusUnavailableError, Gap, History
from platevault.ports.work_queue import QueueUnavailableError
from platevault.testing.clocks import SteppedClock
from platevault.testing.exposures_contract import an_exposure, files_of
from platevault.testing.faulty import (
    FaultPlan,
    faulty_bus,
    faulty_ingest,
    faulty_leases,
    faulty_ledger,
    faulty_links,
    faulty_presence,
    faulty_queue,
    faulty_readout,
    faulty_store,
    faulty_writer,
    plans,
)
from platevault.testing.work_queue_contract import a_message

TOPIC = TopicSchema("CCCamera", "logevent_endReadout", TopicKind.EVENT, indexed=False, fields=())


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteFileLedger]:
    async with SqliteFileLedger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


async def _work(ledger: FileLedger) -> None:
    exposure = an_exposure()
    await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
    await ledger.set_target(exposure.image, "/a")


async def test_a_plan_that_fails_nothing_counts(ledger: SqliteFileLedger) -> None:
    plan = FaultPlan()
    await _work(faulty_ledger(ledger, plan))
    assert plan.calls == ["ledger.register", "ledger.set_target"]
    assert plan.failed == ""
    assert len(await ledger.exposures()) == 1


@pytest.mark.parametrize(
    ("fail_at", "after", "registered", "target"),
    [(1, False, 0, ""), (1, True, 1, ""), (2, False, 1, ""), (2, True, 1, "/a")],
)
async def test_a_call_fails_before_or_after_its_effect(
    ledger: SqliteFileLedger, fail_at: int, after: bool, registered: int, target: str
) -> None:
    plan = FaultPlan(fail_at=fail_at, after=after)
    with pytest.raises(LedgerUnavailableError):
        await _work(faulty_ledger(ledger, plan))
    assert plan.failed == ["ledger.register", "ledger.set_target"][fail_at - 1]
    known = await ledger.exposures()
    assert len(known) == registered
    assert [record.target_dir for record in known if record.target_dir] == [target] * bool(target)
    await _work(faulty_ledger(ledger, plan))  # once is all


async def test_only_the_calls_of_interest_count(ledger: SqliteFileLedger) -> None:
    plan = FaultPlan(fail_at=1, only=("ledger.set_",))
    with pytest.raises(LedgerUnavailableError):
        await _work(faulty_ledger(ledger, plan))
    assert plan.calls == ["ledger.set_target"]


async def test_a_plan_may_end_the_process_instead(ledger: SqliteFileLedger) -> None:
    plan = FaultPlan(fail_at=1, error=lambda _: KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        await faulty_ledger(ledger, plan).exposures()


def test_there_is_a_plan_for_each_call_before_and_after() -> None:
    assert [repr(plan) for plan in plans(2)] == [
        "FaultPlan(call 1 fails before its effect)",
        "FaultPlan(call 1 fails after its effect)",
        "FaultPlan(call 2 fails before its effect)",
        "FaultPlan(call 2 fails after its effect)",
    ]


async def test_calls_of_deliveries_count(clock: SteppedClock) -> None:
    queue, plan = MemoryWorkQueue(clock=clock), FaultPlan()
    faulty = faulty_queue(queue, plan)
    for number in range(3):
        await faulty.send("q", a_message(number))
    async with faulty.consume("q", prefetch=3) as deliveries:
        first = await anext(deliveries)
        assert (first.message, first.attempt) == (a_message(0), 1)
        await first.ack()
        await (await anext(deliveries)).retry(delay_s=9.0, reason="x")
        await (await anext(deliveries)).set_aside(reason="x")
    assert plan.calls[3:] == [
        "queue.consume",
        "queue.consume.item",
        "queue.consume.item.delivery.ack",
        "queue.consume.item",
        "queue.consume.item.delivery.retry",
        "queue.consume.item",
        "queue.consume.item.delivery.set_aside",
    ]


async def test_a_message_whose_work_fails_anywhere_is_never_lost(clock: SteppedClock) -> None:
    async def consumed(faulty: Any) -> None:
        async with faulty.consume("q", prefetch=1) as deliveries:
            await (await anext(deliveries)).ack()

    counting = FaultPlan()
    queue = MemoryWorkQueue(clock=clock)
    await queue.send("q", a_message(1))
    await consumed(faulty_queue(queue, counting))
    assert len(counting.calls) == 3
    for plan in plans(len(counting.calls)):
        queue = MemoryWorkQueue(clock=clock)
        await queue.send("q", a_message(1))
        with pytest.raises(QueueUnavailableError):
            await consumed(faulty_queue(queue, plan))
        acknowledged = repr(plan).endswith("ack fails after its effect)")
        assert await queue.depth("q") == (0 if acknowledged else 1), plan


async def test_samples_and_commits_count(clock: SteppedClock) -> None:
    bus, plan = MemorySampleBus(clock=clock), FaultPlan()
    faulty = faulty_bus(bus, plan)
    sample = Sample(TOPIC, {}, sequence=1, identity="x", sent_tai=clock.now_tai())
    async with faulty.record([TOPIC], group="g") as recording:
        await faulty.publish(sample)
        async for one in recording:
            assert not isinstance(one, Gap)
            assert one.sequence == 1
            break
        await recording.commit()
    async with faulty.subscribe([TOPIC], history=History.LATEST) as samples:
        assert (await anext(samples)).sequence == 1
    assert plan.calls == [
        "bus.record",
        "bus.publish",
        "bus.record.recording.item",
        "bus.record.recording.commit",
        "bus.subscribe",
        "bus.subscribe.item",
    ]
    failing = faulty_bus(bus, FaultPlan(fail_at=2))
    with pytest.raises(BusUnavailableError):
        async with failing.subscribe([TOPIC], history=History.LATEST) as samples:
            await anext(samples)


async def test_leases_and_presence_fail_as_their_store_would(clock: SteppedClock) -> None:
    leases = MemoryLeases(clock=clock)
    with pytest.raises(LeasesUnavailableError):
        await faulty_leases(leases, FaultPlan(fail_at=1, after=True)).acquire(
            "w", holder="f1", ttl_s=1.0
        )
    assert await leases.current("w") is not None
    presence = MemoryPresence(clock=clock)
    with pytest.raises(LeasesUnavailableError):
        await faulty_presence(presence, FaultPlan(fail_at=1)).announce("f", "f1", {}, ttl_s=1.0)
    assert await presence.alive("*") == []


@pytest.mark.parametrize(
    "wrap", [faulty_writer, faulty_links, faulty_store, faulty_ingest, faulty_readout]
)
async def test_every_port_fails_with_an_error_worth_a_retry(wrap: Callable[..., Any]) -> None:
    class Port:
        def __init__(self) -> None:
            self.done = 0

        async def work(self) -> int:
            self.done += 1
            return self.done

    port, plan = Port(), FaultPlan(fail_at=2)
    faulty = wrap(port, plan)
    assert await faulty.work() == 1
    with pytest.raises(TransientError):
        await faulty.work()
    assert (port.done, faulty.done) == (1, 1)
