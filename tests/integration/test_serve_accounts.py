"""The accounts that the stack makes are let in for what they need, and for nothing else."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import psycopg
import pytest
import redis

from platevault.adapters.postgres import PostgresFileLedger, PostgresSettings
from platevault.adapters.redis import (
    RedisConnection,
    RedisLeases,
    RedisPresence,
    RedisSettings,
)
from platevault.adapters.system_clock import SystemClock
from platevault.compose.local_servers import PostgresServer, RedisServer, ServerMissingError

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]
COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"


@pytest.fixture(scope="module")
def accounts() -> ModuleType:
    found = importlib.util.spec_from_file_location("accounts", COMPOSE / "accounts.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    script = shutil.copy(COMPOSE / "make-secrets.sh", tmp_path)
    subprocess.run(["bash", script], check=True, capture_output=True)
    return tmp_path / "secrets"


@pytest.fixture
def own_redis(tmp_path: Path, service_missing: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    try:
        with RedisServer(tmp_path / "redis") as server:
            yield server
    except ServerMissingError:
        service_missing("redis-server")


@pytest.fixture
def own_postgres(
    tmp_path: Path, service_missing: Callable[[str], NoReturn]
) -> Iterator[PostgresServer]:
    try:
        with PostgresServer(tmp_path / "postgres") as server:
            yield server
    except ServerMissingError:
        service_missing("postgresql")


async def test_redis_lets_each_service_use_leases_and_presence_alone(
    accounts: ModuleType, secrets: Path, own_redis: RedisServer
) -> None:
    admin = redis.Redis(port=own_redis.port)
    admin.config_set("requirepass", (secrets / "redis_admin").read_text())
    admin.close()
    accounts.make_redis(f"127.0.0.1:{own_redis.port}", secrets)
    accounts.make_redis(f"127.0.0.1:{own_redis.port}", secrets)
    clock = SystemClock()
    for account in accounts.REDIS_ACCOUNTS:
        password = (secrets / f"redis_{account}").read_text()
        settings = RedisSettings(port=own_redis.port, user=account, password=password)
        async with RedisConnection(settings=settings, clock=clock) as connection:
            leases, presence = (
                RedisLeases(connection=connection, clock=clock),
                RedisPresence(connection=connection),
            )
            grant = await leases.acquire(f"board-{account}", holder="me", ttl_s=5.0)
            assert grant is not None
            assert await leases.current(grant.name) == grant
            renewed = await leases.renew(grant, ttl_s=5.0)
            assert renewed is not None
            await leases.release(renewed)
            await presence.announce("process", account, {}, ttl_s=5.0)
            assert account in [one.name for one in await presence.alive("process")]
            await presence.withdraw("process", account)
        with redis.Redis(port=own_redis.port, username=account, password=password) as client:
            for refused in (
                ("KEYS", "*"),
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("SET", "x", "1"),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*refused)


async def test_postgres_lets_any_service_be_the_first_and_all_share_the_ledger(
    accounts: ModuleType,
    secrets: Path,
    own_postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE postgres SUPERUSER LOGIN")
    with psycopg.connect(
        host="127.0.0.1", port=own_postgres.port, user="postgres", dbname="platevault",
        autocommit=True,
    ) as connection:  # fmt: skip
        connection.execute("ALTER ROLE platevault RENAME TO installer")
    address = f"127.0.0.1:{own_postgres.port}"
    # The server trusts this host, so that only rights are tried here, not passwords.
    accounts.make_postgres(address, secrets)
    accounts.make_postgres(address, secrets)
    for account in accounts.POSTGRES_ACCOUNTS:
        settings = PostgresSettings(
            host="127.0.0.1", port=own_postgres.port, user=account,
            password=(secrets / f"postgres_{account}").read_text(),
        )  # fmt: skip
        async with PostgresFileLedger(settings=settings) as ledger:
            assert await ledger.exposures() == []
            assert await ledger.first_fence() >= 0
    with psycopg.connect(
        host="127.0.0.1", port=own_postgres.port, user="oods", dbname="platevault"
    ) as connection:
        owner = connection.execute(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'ledger'"
        ).fetchall()
        assert owner == [("platevault",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE ROLE intruder")
