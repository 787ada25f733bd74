"""Forwarders are taken, kept, replaced and shared by lease."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from platevault.adapters.memory.leases import MemoryLeases
from platevault.adapters.memory.presence import MemoryPresence
from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.domain.messages import Associated, AssociatedAck, HeaderReady, Message
from platevault.domain.places import FORWARDER_ROLE, forwarder_lease, forwarder_queue
from platevault.services.archiver import ArchiverConfiguration
from platevault.services.archiver.faults import ArchiverFaultError
from platevault.services.archiver.forwarder_pool import ForwarderPool
from platevault.testing.clocks import SteppedClock

SETTINGS = ArchiverConfiguration(lease_s=10.0, watch_s=1.0, association_timeout_s=5.0)


class Bench:
    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.queue = MemoryWorkQueue(clock=self.clock)
        self.leases = MemoryLeases(clock=self.clock)
        self.presence = MemoryPresence(clock=self.clock)
        self.pool = self.pool_of("CCArchiver", "TinyCam")

    def pool_of(self, archiver: str, camera: str) -> ForwarderPool:
        return ForwarderPool(
            archiver=archiver,
            camera=camera,
            reply_queue=f"archiver.{camera}",
            leases=self.leases,
            presence=self.presence,
            queue=self.queue,
            clock=self.clock,
        )

    async def present(self, *names: str, facts: Mapping[str, str] | None = None) -> None:
        for name in names:
            await self.presence.announce(FORWARDER_ROLE, name, facts or {}, ttl_s=10.0)

    async def messages(self, name: str) -> list[Message]:
        found = []
        async with self.queue.consume(forwarder_queue(name), prefetch=100) as deliveries:
            for _ in range(await self.queue.depth(forwarder_queue(name))):
                delivery = await anext(deliveries)
                await delivery.ack()
                found.append(delivery.message)
        return found

    async def answer(self, *names: str, pool: ForwarderPool | None = None) -> None:
        """Answer what was asked, as a Forwarder does."""
        for name in names:
            for message in await self.messages(name):
                if isinstance(message, Associated):
                    facts = {"archiver": message.archiver}
                    await self.presence.announce(FORWARDER_ROLE, name, facts, ttl_s=10.0)
                    (pool or self.pool).heard(
                        AssociatedAck(
                            archiver=message.archiver, forwarder=name, fence=message.fence
                        )
                    )

    async def paired(self, *names: str) -> None:
        await self.present(*names)
        await self.pool.look(SETTINGS)
        await self.answer(*names)
        assert self.pool.paired == sorted(names)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_each_forwarder_is_leased_and_told_its_queues(bench: Bench) -> None:
    await bench.present("f1", "f2")
    await bench.pool.look(SETTINGS)
    told = await bench.messages("f2")
    grant = await bench.leases.current(forwarder_lease("f2"))
    assert grant is not None
    assert told == [
        Associated(
            archiver="CCArchiver",
            forwarder="f2",
            work_queue="work.TinyCam",
            reply_queue="archiver.TinyCam",
            fence=grant.fence,
        )
    ]


async def test_one_that_has_not_answered_is_not_paired(bench: Bench) -> None:
    await bench.present("f1")
    await bench.pool.look(SETTINGS)
    assert bench.pool.paired == []


async def test_an_answer_under_an_old_fence_does_not_count(bench: Bench) -> None:
    await bench.present("f1")
    await bench.pool.look(SETTINGS)
    grant = await bench.leases.current(forwarder_lease("f1"))
    assert grant is not None
    stale = AssociatedAck(archiver="CCArchiver", forwarder="f1", fence=grant.fence - 1)
    assert not bench.pool.heard(stale)
    assert bench.pool.paired == []


async def test_no_more_are_taken_than_configured(bench: Bench) -> None:
    await bench.present("f1", "f2", "f3")
    await bench.pool.look(SETTINGS.model_copy(update={"forwarders": 2}))
    await bench.answer("f1", "f2", "f3")
    assert bench.pool.paired == ["f1", "f2"]
    assert await bench.leases.current(forwarder_lease("f3")) is None


async def test_leases_are_kept_alive(bench: Bench) -> None:
    await bench.paired("f1")
    for _ in range(30):
        await bench.clock.advance(1.0)
        await bench.present("f1", facts={"archiver": "CCArchiver"})
        await bench.pool.look(SETTINGS)
    assert bench.pool.paired == ["f1"]
    assert await bench.leases.current(forwarder_lease("f1")) is not None


async def test_one_that_falls_silent_is_let_go_and_replaced_in_the_same_look(
    bench: Bench,
) -> None:
    await bench.paired("f1")
    await bench.clock.advance(9.0)
    await bench.present("f2")
    await bench.clock.advance(1.5)  # f1 has been silent for longer than its sign of life lasts
    change = await bench.pool.look(SETTINGS)
    assert (list(change.lost), list(change.gained)) == (["f1"], ["f2"])
    assert await bench.leases.current(forwarder_lease("f1")) is None


async def test_one_whose_lease_went_to_another_is_let_go(bench: Bench) -> None:
    await bench.paired("f1")
    await bench.clock.advance(10.5)
    assert await bench.leases.acquire(forwarder_lease("f1"), holder="thief", ttl_s=60.0)
    await bench.present("f1")
    change = await bench.pool.look(SETTINGS)
    assert list(change.lost) == ["f1"]
    current = await bench.leases.current(forwarder_lease("f1"))
    assert current is not None
    assert current.holder == "thief"


async def test_one_that_restarted_is_asked_again(bench: Bench) -> None:
    await bench.paired("f1")
    await bench.clock.advance(1.0)
    await bench.present("f1", facts={"archiver": ""})
    await bench.pool.look(SETTINGS)
    assert bench.pool.paired == []
    await bench.answer("f1")
    assert bench.pool.paired == ["f1"]


async def test_one_that_never_answers_makes_way(bench: Bench) -> None:
    settings = SETTINGS.model_copy(update={"forwarders": 1})
    await bench.present("f1")
    await bench.pool.look(settings)
    await bench.present("f2")
    for _ in range(6):
        await bench.clock.advance(1.0)
        await bench.present("f1", "f2")
        await bench.pool.look(settings)
    await bench.answer("f2")
    assert bench.pool.paired == ["f2"]


async def test_hints_go_to_every_paired_forwarder_and_to_no_other(bench: Bench) -> None:
    await bench.paired("f1")
    await bench.present("f2")
    await bench.pool.look(SETTINGS)  # f2 is asked and has not answered
    await bench.messages("f2")
    hint = HeaderReady(camera="TinyCam", image="I", url="u", version=1)
    await bench.pool.hint(hint)
    assert await bench.messages("f1") == [hint]
    assert await bench.messages("f2") == []


async def test_release_gives_all_back(bench: Bench) -> None:
    await bench.paired("f1", "f2")
    await bench.pool.release_all()
    assert bench.pool.paired == []
    for name in ("f1", "f2"):
        assert await bench.leases.current(forwarder_lease(name)) is None


async def test_archivers_come_to_equal_parts(bench: Bench) -> None:
    names = ("f1", "f2", "f3", "f4")
    await bench.paired(*names)
    other = bench.pool_of("ATArchiver", "OtherCam")
    for _ in range(6):
        await bench.clock.advance(1.0)
        for pool in (bench.pool, other):
            await pool.look(SETTINGS)
            await bench.answer(*names, pool=pool)
        for name in names:
            grant = await bench.leases.current(forwarder_lease(name))
            holder = "" if grant is None else grant.holder
            await bench.present(name, facts={"archiver": holder})
    assert (len(bench.pool.paired), len(other.paired)) == (2, 2)
    assert not set(bench.pool.paired) & set(other.paired)


async def test_a_sole_archiver_keeps_them_all(bench: Bench) -> None:
    await bench.paired("f1", "f2", "f3")
    for _ in range(5):
        await bench.clock.advance(1.0)
        await bench.present("f1", "f2", "f3", facts={"archiver": "CCArchiver"})
        await bench.pool.look(SETTINGS)
    assert bench.pool.paired == ["f1", "f2", "f3"]


async def test_pairing_without_anybody_says_so_at_once(bench: Bench) -> None:
    with pytest.raises(ArchiverFaultError, match="No Forwarder is free") as refused:
        await bench.pool.pair(SETTINGS)
    assert refused.value.code == 5701
