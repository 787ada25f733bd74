"""The network to Redis fails, and TLS keeps others out of it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import NoReturn

import pytest
from typing_extensions import override

from platevault.adapters.redis import RedisConnection, RedisLeases, RedisSettings
from platevault.adapters.system_clock import SystemClock
from platevault.ports.leases import LeasesUnavailableError
from platevault.testing.servers import RedisServer, ServerMissingError
from platevault.testing.tcp_proxy import TcpProxy

pytestmark = pytest.mark.servers

CLOCK = SystemClock()


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(target_port=redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def connection(
    proxy: TcpProxy, request: pytest.FixtureRequest
) -> AsyncIterator[RedisConnection]:
    settings = RedisSettings(
        host="127.0.0.1", port=proxy.port, timeout_s=0.3, namespace=request.node.originalname
    )
    async with RedisConnection(settings=settings, clock=CLOCK) as connection:
        yield connection


@pytest.fixture
def leases(connection: RedisConnection) -> RedisLeases:
    return RedisLeases(connection=connection, clock=CLOCK)


async def test_a_cut_is_an_outage_and_ends_without_a_restart(
    proxy: TcpProxy, leases: RedisLeases, connection: RedisConnection
) -> None:
    grant = await leases.acquire("w", holder="f1", ttl_s=60.0)
    proxy.cut()
    with pytest.raises(LeasesUnavailableError):
        await leases.acquire("w", holder="f2", ttl_s=60.0)
    assert not connection.state.answers
    proxy.mend()
    assert await leases.acquire("w", holder="f2", ttl_s=60.0) is None
    assert await leases.current("w") == grant


async def test_an_answer_that_came_too_late_is_not_taken_for_another(
    proxy: TcpProxy, leases: RedisLeases
) -> None:
    """A late answer on a connection that is used again would grant the wrong lease."""
    proxy.stall()
    for name in ("a", "b", "c"):
        with pytest.raises(LeasesUnavailableError):
            await leases.acquire(name, holder="f1", ttl_s=60.0)
    proxy.mend()
    await asyncio.sleep(0.1)
    for name in ("c", "d", "b", "a"):
        grant = await leases.acquire(name, holder="f1", ttl_s=60.0)
        assert grant is not None
        assert await leases.current(name) == grant
    for name in "abcd":
        assert await leases.acquire(name, holder="f2", ttl_s=60.0) is None


async def test_a_cancelled_call_leaves_no_answer_for_the_next(leases: RedisLeases) -> None:
    for steps in range(40):
        task = asyncio.get_running_loop().create_task(
            leases.acquire(f"w{steps}", holder="f1", ttl_s=60.0)
        )
        for _ in range(steps % 20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        other = await leases.acquire(f"other{steps}", holder="f2", ttl_s=60.0)
        assert other is not None
        assert await leases.current(f"other{steps}") == other


# -- TLS -----------------------------------------------------------------------------------------


class TlsRedisServer(RedisServer):
    """Redis that speaks nothing but TLS."""

    @override
    def prepare(self) -> None:
        super().prepare()
        if shutil.which("openssl") is None:
            raise ServerMissingError("Server is not installed", server="openssl")
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                "-keyout", str(self.directory / "server.key"),
                "-out", str(self.directory / "server.pem"),
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip

    @override
    def command(self) -> Sequence[str]:
        command = list(super().command())
        command[command.index("--port") + 1] = "0"
        return [
            *command, "--tls-port", str(self.port), "--tls-auth-clients", "no",
            "--tls-cert-file", str(self.directory / "server.pem"),
            "--tls-key-file", str(self.directory / "server.key"),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def tls_server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[TlsRedisServer]:
    try:
        with TlsRedisServer(tmp_path_factory.mktemp("redis-tls")) as server:
            yield server
    except ServerMissingError as error:
        service_missing(str(error.context["server"]))


@pytest.fixture
def tls_settings(tls_server: TlsRedisServer) -> RedisSettings:
    return RedisSettings(
        port=tls_server.port, tls=True, ca_file=tls_server.directory / "server.pem"
    )


async def test_a_server_whose_certificate_is_trusted_is_spoken_to(
    tls_settings: RedisSettings,
) -> None:
    async with RedisConnection(settings=tls_settings, clock=CLOCK) as connection:
        assert connection.state.answers
        leases = RedisLeases(connection=connection, clock=CLOCK)
        assert await leases.acquire("w", holder="f1", ttl_s=1.0) is not None


@pytest.mark.parametrize(
    "changes",
    [{"ca_file": None}, {"host": "127.0.0.1"}],
    ids=["an unknown signer", "another name"],
)
async def test_a_server_that_cannot_prove_its_name_is_not_spoken_to(
    tls_settings: RedisSettings, changes: dict[str, object]
) -> None:
    settings = replace(tls_settings, **changes)  # type: ignore[arg-type]
    async with RedisConnection(settings=settings, clock=CLOCK) as connection:
        with pytest.raises(LeasesUnavailableError):
            await RedisLeases(connection=connection, clock=CLOCK).current("w")
        assert "certificate" in connection.state.problem.lower()
