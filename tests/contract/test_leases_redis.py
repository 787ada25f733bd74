"""Leases on Redis keep their contract, and what is their own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
from hypothesis import settings
from redis.asyncio import Redis
from typing_extensions import override

from platevault.adapters.redis import RedisConnection, RedisLeases, RedisSettings
from platevault.adapters.system_clock import SystemClock
from platevault.domain.errors import UsageError
from platevault.ports.leases import Leases, LeasesUnavailableError
from platevault.testing.leases_contract import Advance, LeasesContract, OpenLeases
from platevault.testing.servers import RedisServer

pytestmark = pytest.mark.servers


def settings_for(server: RedisServer) -> RedisSettings:
    """Give settings with a namespace that no other test uses."""
    return RedisSettings(
        host=server.host, port=server.port, namespace=f"contract-{uuid.uuid4().hex[:12]}"
    )


@pytest.fixture
def redis_settings(redis_server: RedisServer) -> RedisSettings:
    return settings_for(redis_server)


@pytest.fixture
async def connection(redis_settings: RedisSettings) -> AsyncIterator[RedisConnection]:
    async with RedisConnection(settings=redis_settings, clock=SystemClock()) as connection:
        yield connection


@pytest.fixture
async def raw(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """Look at the server by another way than the adapter's."""
    async with Redis(host=redis_server.host, port=redis_server.port, decode_responses=True) as raw:
        yield raw


class TestRedisLeases(LeasesContract):
    unit_s: ClassVar[float] = 0.25
    machine: ClassVar[settings] = settings(max_examples=6, stateful_step_count=15)

    @pytest.fixture
    def leases(self, connection: RedisConnection) -> RedisLeases:
        return RedisLeases(connection=connection, clock=SystemClock())

    @pytest.fixture
    def advance(self) -> Advance:
        return asyncio.sleep

    @pytest.fixture
    def open_leases(self, redis_server: RedisServer) -> OpenLeases:
        @asynccontextmanager
        async def opened() -> AsyncIterator[tuple[Leases, Advance]]:
            clock = SystemClock()
            async with RedisConnection(
                settings=settings_for(redis_server), clock=clock
            ) as connection:
                yield RedisLeases(connection=connection, clock=clock), asyncio.sleep

        return opened

    async def test_numbers_begin_where_a_ledger_says(self, connection: RedisConnection) -> None:
        floor = 5 * 10**15
        leases = RedisLeases(connection=connection, clock=SystemClock(), first_fence=floor)
        grants = [await leases.acquire(name, holder="f1", ttl_s=1.0) for name in "ab"]
        assert [grant.fence for grant in grants if grant is not None] == [floor, floor + 1]

    async def test_numbers_of_two_names_differ(self, leases: RedisLeases) -> None:
        grants = [await leases.acquire(f"w{n}", holder="f1", ttl_s=9.0) for n in range(50)]
        fences = [grant.fence for grant in grants if grant is not None]
        assert fences == sorted(set(fences))
        assert len(fences) == 50

    async def test_a_number_is_not_given_again_after_the_server_lost_everything(
        self, leases: RedisLeases, connection: RedisConnection, raw: Redis
    ) -> None:
        old = await leases.acquire("w", holder="f1", ttl_s=9.0)
        assert old is not None
        keys = await raw.keys(f"{connection.key()}*")
        await raw.delete(*keys)
        new = await leases.acquire("w", holder="f2", ttl_s=9.0)
        assert new is not None
        assert new.fence > old.fence
        assert await leases.renew(old, ttl_s=9.0) is None
        await leases.release(old)
        assert await leases.current("w") == new

    async def test_the_servers_clock_counts_and_not_the_callers(
        self, connection: RedisConnection, leases: RedisLeases
    ) -> None:
        class Late(SystemClock):
            @override
            def now_tai(self) -> float:
                return super().now_tai() - 86400.0

        late = RedisLeases(connection=connection, clock=Late())
        grant = await late.acquire("w", holder="f1", ttl_s=9.0)
        assert grant is not None
        assert await leases.current("w") == grant
        assert grant.expires_tai == pytest.approx(SystemClock().now_tai() + 9.0, abs=2.0)
        assert await leases.acquire("w", holder="f2", ttl_s=9.0) is None

    async def test_every_key_is_of_the_namespace_and_leases_end_by_themselves(
        self, leases: RedisLeases, redis_settings: RedisSettings, raw: Redis
    ) -> None:
        before = {key async for key in raw.scan_iter()}
        await leases.acquire("write/MC_O_20330517_000001/22/0", holder="f1", ttl_s=5.0)
        made = {key async for key in raw.scan_iter()} - before
        prefix = f"{{{redis_settings.namespace}}}:"
        assert made == {f"{prefix}fence", f"{prefix}lease:write/MC_O_20330517_000001/22/0"}
        assert 4000 < await raw.pttl(f"{prefix}lease:write/MC_O_20330517_000001/22/0") <= 5000

    async def test_a_closed_connection_grants_nothing(self, redis_settings: RedisSettings) -> None:
        connection = RedisConnection(settings=redis_settings, clock=SystemClock())
        leases = RedisLeases(connection=connection, clock=SystemClock())
        with pytest.raises(LeasesUnavailableError):
            await leases.acquire("w", holder="f1", ttl_s=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": ""},
        {"namespace": "a b"},
        {"timeout_s": 0.0},
        {"connections": 0},
        {"ca_file": "/etc/ssl/ca.pem"},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        RedisSettings(**changes)  # type: ignore[arg-type]


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(RedisSettings(password="secret"))
