"""The network to RabbitMQ fails, and TLS keeps others out of it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from typing_extensions import override

from platevault.adapters.rabbitmq import RabbitSettings, RabbitWorkQueue
from platevault.adapters.system_clock import SystemClock
from platevault.domain.errors import UsageError
from platevault.domain.messages import FileTransferCompleted, Message
from platevault.ports.work_queue import QueueUnavailableError
from platevault.runtime.retry import Backoff
from platevault.runtime.service import StopToken
from platevault.runtime.work import work_off
from platevault.testing.servers import RabbitServer, ServerMissingError, free_port
from platevault.testing.tcp_proxy import TcpProxy
from platevault.testing.work_queue_contract import a_message

pytestmark = [pytest.mark.servers]

CLOCK = SystemClock()
QUICK = Backoff(first_s=0.05, ceiling_s=0.2, seed=1)
PATIENCE_S = 30.0
#: Sent before a fault, and after it.
MESSAGES = 50


@pytest.fixture
async def proxy(rabbit_server: RabbitServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(target_port=rabbit_server.port) as proxy:
        yield proxy


@pytest.fixture
def settings(proxy: TcpProxy) -> RabbitSettings:
    return RabbitSettings(
        user="guest",
        password="guest",
        hosts=("127.0.0.1",),
        port=proxy.port,
        delivery_limit=50,
        heartbeat_s=1,
        connect_timeout_s=1.0,
        answer_timeout_s=1.0,
    )


@pytest.fixture
async def queue(settings: RabbitSettings) -> AsyncIterator[RabbitWorkQueue]:
    async with RabbitWorkQueue(settings=settings, clock=CLOCK, backoff=QUICK) as queue:
        yield queue


async def _reset(proxy: TcpProxy) -> None:
    for _ in range(5):
        proxy.reset()
        await asyncio.sleep(0.1)


async def _cut(proxy: TcpProxy) -> None:
    proxy.cut()
    await asyncio.sleep(0.5)
    proxy.mend()


async def _stall(proxy: TcpProxy) -> None:
    proxy.stall()
    await asyncio.sleep(2.0)
    proxy.mend()


async def _slow(proxy: TcpProxy) -> None:
    proxy.slow(20_000)
    await asyncio.sleep(1.0)
    proxy.mend()


@pytest.mark.parametrize("fault", [_reset, _cut, _stall, _slow])
async def test_no_message_is_lost_when_the_network_fails_in_mid_stream(
    proxy: TcpProxy,
    queue: RabbitWorkQueue,
    fault: Callable[[TcpProxy], AsyncIterator[None]],
    request: pytest.FixtureRequest,
) -> None:
    name = f"network-{request.node.callspec.id}"
    done: set[int] = set()
    sent: list[int] = []
    stop = StopToken()

    async def handle(message: Message, _: int) -> None:
        assert isinstance(message, FileTransferCompleted)
        done.add(int(message.image.removeprefix("image-")))

    over = asyncio.Event()

    async def stream() -> None:
        while not over.is_set():
            try:
                await queue.send(name, a_message(len(sent)))
            except QueueUnavailableError:
                await asyncio.sleep(0.02)
            else:
                sent.append(len(sent))
                await asyncio.sleep(0.002)

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():  # noqa: ASYNC110 - other tasks do the work
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        group.create_task(
            work_off(queue, name, handle, prefetch=4, stop=stop, clock=CLOCK), name="work"
        )
        streaming = group.create_task(stream(), name="stream")
        await until(lambda: len(done) >= MESSAGES)
        await fault(proxy)  # type: ignore[misc]
        # Each connection is made again when it is needed, so the stream goes on for so long.
        before = len(sent)
        await until(lambda: len(sent) >= before + MESSAGES)
        await until(lambda: {state.connected for state in queue.states.values()} == {True})
        over.set()
        await streaming
        await until(lambda: len(done) >= len(sent))
        stop.request()
    assert done == set(sent)


# -- TLS -----------------------------------------------------------------------------------------


class TlsRabbitServer(RabbitServer):
    """RabbitMQ with a second port, for TLS."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.tls_port = free_port()

    @override
    def prepare(self) -> None:
        super().prepare()
        make_certificate(self.directory)
        (self.directory / "tls.conf").write_text(
            f"listeners.ssl.1 = {self.host}:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.directory / 'server.pem'}\n"
            f"ssl_options.certfile = {self.directory / 'server.pem'}\n"
            f"ssl_options.keyfile = {self.directory / 'server.key'}\n",
            encoding="utf-8",
        )

    @override
    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "RABBITMQ_CONFIG_FILE": str(self.directory / "tls")}


def make_certificate(directory: Path) -> None:
    """Make a certificate that only speaks for ``localhost``, signed by itself."""
    if shutil.which("openssl") is None:
        raise ServerMissingError("Server is not installed", server="openssl")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", str(directory / "server.key"), "-out", str(directory / "server.pem"),
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tls_server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[TlsRabbitServer]:
    try:
        with TlsRabbitServer(tmp_path_factory.mktemp("rabbitmq-tls")) as server:
            yield server
    except ServerMissingError as error:
        service_missing(str(error.context["server"]))


@pytest.fixture
def tls_settings(tls_server: TlsRabbitServer) -> RabbitSettings:
    return RabbitSettings(
        user="guest",
        password="guest",
        port=tls_server.tls_port,
        tls=True,
        ca_file=tls_server.directory / "server.pem",
        connect_timeout_s=5.0,
    )


async def test_a_broker_whose_certificate_is_trusted_is_spoken_to(
    tls_settings: RabbitSettings,
) -> None:
    async with RabbitWorkQueue(settings=tls_settings, clock=CLOCK) as queue:
        await queue.send("tls", a_message(1))
        async with queue.consume("tls", prefetch=1) as deliveries:
            await (await anext(deliveries)).ack()


@pytest.mark.parametrize(
    "changes",
    [{"ca_file": None}, {"hosts": ("127.0.0.1",)}],
    ids=["an unknown signer", "another name"],
)
async def test_a_broker_that_cannot_prove_its_name_is_not_spoken_to(
    tls_settings: RabbitSettings, changes: dict[str, object]
) -> None:
    settings = replace(tls_settings, **changes)  # type: ignore[arg-type]
    async with RabbitWorkQueue(settings=settings, clock=CLOCK) as queue:
        with pytest.raises(QueueUnavailableError):
            await queue.send("tls", a_message(1))
        assert "certificate" in queue.states["sending"].problem.lower()


async def test_certificates_that_cannot_be_read_are_told_at_the_start(
    tls_settings: RabbitSettings, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        async with RabbitWorkQueue(
            settings=replace(tls_settings, ca_file=tmp_path / "absent.pem"), clock=CLOCK
        ):
            pytest.fail("a missing certificate was passed over")


@pytest.mark.parametrize(
    "changes",
    [
        {"user": ""},
        {"hosts": ()},
        {"max_depth": 0},
        {"delivery_limit": 100},
        {"heartbeat_s": 0},
        {"ca_file": "/etc/ssl/ca.pem"},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        RabbitSettings(**{"user": "u", "password": "p", **changes})  # type: ignore[arg-type]


def test_a_password_is_not_shown() -> None:
    settings = RabbitSettings(user="forwarder", password="secret")
    assert "secret" not in repr(settings)
