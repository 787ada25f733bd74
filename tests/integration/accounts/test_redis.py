"""Redis as the stack starts it lets each account do its work, and nothing else."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
import redis

from platevault.adapters.redis import RedisConnection, RedisLeases, RedisPresence, RedisSettings
from platevault.adapters.redis.connection import RedisRefusedError
from platevault.adapters.system_clock import SystemClock
from platevault.testing.stack_servers import StackRedis, password_of, readable_secrets, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def redis_store(
    tmp_path_factory: pytest.TempPathFactory,
    scripts: Path,
    secrets: Path,
    accounts: ModuleType,
    service_missing: Callable[[str], NoReturn],
) -> Iterator[StackRedis]:
    server = StackRedis(tmp_path_factory.mktemp("redis"), secrets, scripts)
    with running(server, service_missing):
        for _ in range(2):
            accounts.make_redis(f"{server.host}:{server.port}", secrets)
        yield server


@pytest.mark.parametrize(
    "account",
    ["archiver", "archive-controller", "forwarder", "header-service", "oods", "observatory"],
)
async def test_redis_gives_each_account_leases_and_presence_also_after_a_restart(
    redis_store: StackRedis, secrets: Path, account: str
) -> None:
    if account == "archiver":
        redis_store.restart()
    clock = SystemClock()
    secret = password_of(secrets, "redis", account)
    settings = RedisSettings(port=redis_store.port, user=account, password=secret)
    async with RedisConnection(settings=settings, clock=clock) as connection:
        leases = RedisLeases(connection=connection, clock=clock)
        grant = await leases.acquire(f"board-{account}", holder="me", ttl_s=5.0)
        assert grant is not None
        assert await leases.current(grant.name) == grant
        renewed = await leases.renew(grant, ttl_s=5.0)
        assert renewed is not None
        await leases.release(renewed)
        presence = RedisPresence(connection=connection)
        await presence.announce("process", account, {}, ttl_s=5.0)
        assert account in [one.name for one in await presence.alive("process")]
        await presence.withdraw("process", account)
    with redis.Redis(port=redis_store.port, username=account, password=secret) as client:
        for refused in (
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("SET", "x", "1"),
            ("ACL", "LIST"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*refused)


async def test_redis_lets_nobody_in_without_a_password(redis_store: StackRedis) -> None:
    with (
        redis.Redis(port=redis_store.port) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.ping()
    settings = RedisSettings(port=redis_store.port, user="forwarder", password="guessed")
    with pytest.raises(RedisRefusedError):
        async with RedisConnection(settings=settings, clock=SystemClock()):
            pass


def test_nobody_else_reads_what_the_script_leaves_on_disk(
    redis_store: StackRedis, secrets: Path
) -> None:
    file = redis_store.directory / "users.acl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert readable_secrets(redis_store.directory, secrets) == []
