"""Presence on Redis keeps its contract, and what is its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
from redis.asyncio import Redis

from platevault.adapters.redis import RedisConnection, RedisPresence, RedisSettings
from platevault.adapters.system_clock import SystemClock
from platevault.testing.presence_contract import Advance, PresenceContract
from platevault.testing.servers import RedisServer

pytestmark = pytest.mark.servers


@pytest.fixture
async def connection(redis_server: RedisServer) -> AsyncIterator[RedisConnection]:
    settings = RedisSettings(
        host=redis_server.host,
        port=redis_server.port,
        namespace=f"contract-{uuid.uuid4().hex[:12]}",
    )
    async with RedisConnection(settings=settings, clock=SystemClock()) as connection:
        yield connection


class TestRedisPresence(PresenceContract):
    unit_s: ClassVar[float] = 0.25

    @pytest.fixture
    def presence(self, connection: RedisConnection) -> RedisPresence:
        return RedisPresence(connection=connection)

    @pytest.fixture
    def advance(self) -> Advance:
        return asyncio.sleep

    async def test_seen_is_in_tai(self, presence: RedisPresence) -> None:
        await presence.announce("forwarder", "f1", {}, ttl_s=5.0)
        (member,) = await presence.alive("forwarder")
        assert member.seen_tai == pytest.approx(SystemClock().now_tai(), abs=2.0)

    async def test_a_role_with_a_separator_in_it_is_no_other_role(
        self, presence: RedisPresence
    ) -> None:
        await presence.announce("a", "b:c", {}, ttl_s=5.0)
        await presence.announce("a:b", "c", {}, ttl_s=5.0)
        assert [(m.kind, m.name) for m in await presence.alive("*")] == [("a", "b:c"), ("a:b", "c")]
        await presence.withdraw("a", "b:c")
        assert [(m.kind, m.name) for m in await presence.alive("*")] == [("a:b", "c")]

    async def test_each_member_has_a_key_that_ends_by_itself(
        self, presence: RedisPresence, connection: RedisConnection, redis_server: RedisServer
    ) -> None:
        await presence.announce("forwarder", "f1", {}, ttl_s=5.0)
        await presence.announce("forwarder", "f2", {}, ttl_s=5.0)
        async with Redis(host=redis_server.host, port=redis_server.port) as raw:
            for name in ("f1", "f2"):
                assert 0 < await raw.pttl(connection.key("presence", "forwarder", name)) <= 5000

    async def test_the_index_forgets_the_silent(
        self, presence: RedisPresence, connection: RedisConnection, redis_server: RedisServer
    ) -> None:
        for number in range(5):
            await presence.announce("forwarder", f"f{number}", {}, ttl_s=0.02)
        await asyncio.sleep(0.05)
        assert await presence.alive("*") == []
        async with Redis(host=redis_server.host, port=redis_server.port) as raw:
            assert await raw.exists(connection.key("presence")) == 0
