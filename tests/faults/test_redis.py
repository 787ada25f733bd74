"""Redis goes away, hangs, forgets and comes back; nothing is claimed twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from platevault.adapters.redis import (
    RedisConnection,
    RedisLeases,
    RedisPresence,
    RedisSettings,
)
from platevault.adapters.redis.connection import RedisRefusedError
from platevault.adapters.system_clock import SystemClock
from platevault.ports.leases import Grant, LeasesUnavailableError
from platevault.testing.servers import RedisServer, ServerMissingError

pytestmark = pytest.mark.servers

CLOCK = SystemClock()


@pytest.fixture
def server(tmp_path: Path, service_missing: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    try:
        with RedisServer(tmp_path / "redis") as server:
            yield server
    except ServerMissingError:
        service_missing("redis-server")


def settings_for(server: RedisServer, **changes: object) -> RedisSettings:
    return RedisSettings(host=server.host, port=server.port, timeout_s=0.5, **changes)  # type: ignore[arg-type]


@pytest.fixture
async def connection(server: RedisServer) -> AsyncIterator[RedisConnection]:
    async with RedisConnection(settings=settings_for(server), clock=CLOCK) as connection:
        yield connection


@pytest.fixture
def leases(connection: RedisConnection) -> RedisLeases:
    return RedisLeases(connection=connection, clock=CLOCK)


@pytest.fixture
def presence(connection: RedisConnection) -> RedisPresence:
    return RedisPresence(connection=connection)


async def test_what_was_granted_outlives_a_restart(
    server: RedisServer, leases: RedisLeases, connection: RedisConnection
) -> None:
    grant = await leases.acquire("w", holder="f1", ttl_s=60.0)
    assert grant is not None
    await asyncio.to_thread(server.restart)
    assert await leases.current("w") == grant
    assert await leases.acquire("w", holder="f2", ttl_s=60.0) is None
    assert connection.state.answers


async def test_what_was_granted_outlives_a_crash_of_the_server(
    server: RedisServer, leases: RedisLeases
) -> None:
    grant = await leases.acquire("w", holder="f1", ttl_s=60.0)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert await leases.current("w") == grant
    assert await leases.acquire("w", holder="f2", ttl_s=60.0) is None


async def test_while_it_is_down_nothing_is_granted_and_it_is_said(
    server: RedisServer,
    leases: RedisLeases,
    presence: RedisPresence,
    connection: RedisConnection,
) -> None:
    grant = await leases.acquire("w", holder="f1", ttl_s=60.0)
    assert grant is not None
    assert connection.state.answers
    await asyncio.to_thread(server.stop)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: leases.acquire("w", holder="f2", ttl_s=1.0),
        lambda: leases.renew(grant, ttl_s=1.0),
        lambda: leases.release(grant),
        lambda: leases.current("w"),
        lambda: presence.announce("forwarder", "f1", {}, ttl_s=1.0),
        lambda: presence.withdraw("forwarder", "f1"),
        lambda: presence.alive("*"),
    ]
    for call in calls:
        with pytest.raises(LeasesUnavailableError):
            await call()
    state = connection.state
    assert not state.answers
    assert state.problem
    await asyncio.to_thread(server.start)
    assert await leases.renew(grant, ttl_s=60.0) is not None
    state = connection.state
    assert (state.answers, state.problem) == (True, "")


async def test_a_server_that_hangs_is_an_outage_within_the_limit(
    server: RedisServer, leases: RedisLeases
) -> None:
    await leases.acquire("w", holder="f1", ttl_s=60.0)
    server.pause()
    try:
        async with asyncio.timeout(5.0):
            with pytest.raises(LeasesUnavailableError):
                await leases.acquire("w2", holder="f1", ttl_s=60.0)
    finally:
        server.resume()
    again = await leases.acquire("w2", holder="f1", ttl_s=60.0)
    assert again is not None
    assert again.holder == "f1"
    assert await leases.acquire("w2", holder="f2", ttl_s=60.0) is None


async def test_a_forgetful_server_gives_no_number_twice_and_no_old_grant_lives(
    server: RedisServer, leases: RedisLeases
) -> None:
    given: list[Grant] = []
    async with Redis(host=server.host, port=server.port) as raw:
        for round_number in range(5):
            for number in range(10):
                name = f"w{number}"
                grant = await leases.acquire(name, holder=f"f{round_number}", ttl_s=60.0)
                assert grant is not None
                given.append(grant)
            await raw.flushall()
    fences = [grant.fence for grant in given]
    assert fences == sorted(set(fences))
    for grant in given:
        assert await leases.renew(grant, ttl_s=60.0) is None


async def test_many_claimants_through_restarts_never_hold_together(
    server: RedisServer, leases: RedisLeases
) -> None:
    """Each claimant holds for a moment; two at once, or a number that falls, would be seen."""
    holding: set[str] = set()
    fences: list[int] = []
    outages = 0
    done = asyncio.Event()

    async def claim(holder: str) -> None:
        nonlocal outages
        while not done.is_set():
            try:
                grant = await leases.acquire("w", holder=holder, ttl_s=60.0)
                if grant is None:
                    await asyncio.sleep(0.002)
                    continue
                assert not holding
                holding.add(holder)
                fences.append(grant.fence)
                await asyncio.sleep(0.002)
                holding.remove(holder)
                await _release(leases, grant)
            except LeasesUnavailableError:
                outages += 1
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(claim(f"f{number}"))
        for stop in (server.restart, server.kill):
            await _more(fences, 20)
            await asyncio.to_thread(stop)
            if not server.running:
                await asyncio.to_thread(server.start)
            await _more(fences, 20)
        done.set()
    # A claimant may be given its own grant again where the answer to a release was lost.
    assert fences == sorted(fences)
    assert outages > 0


async def _release(leases: RedisLeases, grant: Grant) -> None:
    while True:
        try:
            await leases.release(grant)
        except LeasesUnavailableError:
            await asyncio.sleep(0.01)
        else:
            return


async def _more(fences: list[int], count: int) -> None:
    """Wait until so many grants were given beyond those of now."""
    goal = len(fences) + count
    async with asyncio.timeout(20.0):
        while len(fences) < goal:  # noqa: ASYNC110 - other tasks do the work that is waited for
            await asyncio.sleep(0.005)


async def test_a_process_may_start_before_the_server(server: RedisServer) -> None:
    await asyncio.to_thread(server.stop)
    async with RedisConnection(settings=settings_for(server), clock=CLOCK) as connection:
        assert not connection.state.answers
        leases = RedisLeases(connection=connection, clock=CLOCK)
        with pytest.raises(LeasesUnavailableError):
            await leases.current("w")
        await asyncio.to_thread(server.start)
        assert await leases.acquire("w", holder="f1", ttl_s=1.0) is not None


async def test_a_wrong_password_is_told_at_the_start(
    server: RedisServer, leases: RedisLeases
) -> None:
    async with Redis(host=server.host, port=server.port) as raw:
        await raw.acl_setuser(
            "forwarder",
            enabled=True,
            passwords=["+right"],
            keys=["{platevault}:*"],
            categories=["+@all", "-@dangerous"],
        )
        settings = settings_for(server, user="forwarder", password="wrong")
        with pytest.raises(RedisRefusedError):
            async with RedisConnection(settings=settings, clock=CLOCK):
                pytest.fail("a wrong password was let in")
        settings = settings_for(server, user="forwarder", password="right")
        async with RedisConnection(settings=settings, clock=CLOCK) as connection:
            own = RedisLeases(connection=connection, clock=CLOCK)
            grant = await own.acquire("w", holder="f1", ttl_s=5.0)
            assert grant is not None
            assert await leases.current("w") == grant
            await RedisPresence(connection=connection).announce("forwarder", "f1", {}, ttl_s=5.0)
        settings = settings_for(server, user="forwarder", password="right", namespace="other")
        async with RedisConnection(settings=settings, clock=CLOCK) as connection:
            with pytest.raises(LeasesUnavailableError) as refused:
                await RedisLeases(connection=connection, clock=CLOCK).current("w")
            assert isinstance(refused.value.__cause__, ResponseError)


async def test_a_server_without_tls_is_not_spoken_to_when_tls_is_asked_for(
    server: RedisServer,
) -> None:
    async with RedisConnection(settings=settings_for(server, tls=True), clock=CLOCK) as connection:
        with pytest.raises(LeasesUnavailableError):
            await RedisLeases(connection=connection, clock=CLOCK).current("w")


async def test_more_calls_than_connections_wait_their_turn(
    server: RedisServer,
) -> None:
    settings = settings_for(server, connections=2)
    async with RedisConnection(settings=settings, clock=CLOCK) as connection:
        leases = RedisLeases(connection=connection, clock=CLOCK)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(leases.acquire(f"w{n}", holder="f1", ttl_s=5.0))
                for n in range(30)
            ]
        assert all(task.result() is not None for task in tasks)
        async with Redis(host=server.host, port=server.port) as raw:
            assert len(await raw.client_list()) <= 3
