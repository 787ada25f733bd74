"""What a ledger in PostgreSQL does when server or line fail."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from typing_extensions import override

from platevault.adapters.postgres import (
    PostgresFileLedger,
    PostgresLedgerReader,
    PostgresSettings,
)
from platevault.adapters.postgres.errors import LedgerRefusedError, LedgerUncertainError
from platevault.adapters.sql_ledger.errors import (
    LedgerDamagedError,
    LedgerForbiddenError,
    LedgerMissingError,
)
from platevault.domain.errors import PlatevaultError
from platevault.domain.ids import FileKey
from platevault.domain.lifecycles import Destination, FileState
from platevault.ports.file_ledger import (
    Change,
    FileLedger,
    LedgerFullError,
    LedgerUnavailableError,
)
from platevault.testing.exposures_contract import an_exposure, files_of
from platevault.testing.servers import PostgresServer, ServerMissingError

pytestmark = pytest.mark.servers
#: How long psycopg waits for a server to take its request to cancel [s].
_CANCEL_WITHIN_S = 5.0
_numbers = itertools.count()


@pytest.fixture
def server(tmp_path: Path, service_missing: Callable[[str], NoReturn]) -> Iterator[PostgresServer]:
    try:
        with PostgresServer(tmp_path / "postgres") as server:
            yield server
    except ServerMissingError as error:
        service_missing(str(error))


def _settings(server: PostgresServer) -> PostgresSettings:
    return PostgresSettings(
        host=server.host,
        port=server.port,
        connections=4,
        schema=f"ledger_{next(_numbers)}",
        call_within_s=5.0,
        statement_within_s=20.0,
        connect_within_s=2.0,
    )


async def _register(ledger: FileLedger, number: int) -> None:
    exposure = an_exposure(number)
    await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)


async def test_a_server_that_is_down_is_unavailable_and_works_when_it_is_back(
    server: PostgresServer,
) -> None:
    async with PostgresFileLedger(settings=_settings(server)) as ledger:
        await _register(ledger, 1)
        await asyncio.to_thread(server.stop)
        for _ in range(3):
            with pytest.raises(LedgerUnavailableError):
                await ledger.exposures()
            with pytest.raises(LedgerUnavailableError):
                await _register(ledger, 2)
        await asyncio.to_thread(server.start)
        assert len(await ledger.exposures()) == 1
        await _register(ledger, 2)
        assert len(await ledger.exposures()) == 2


async def test_a_restart_between_two_calls_is_not_noticed(server: PostgresServer) -> None:
    settings = _settings(server)
    async with (
        PostgresFileLedger(settings=settings) as ledger,
        PostgresLedgerReader(settings=settings) as reader,
    ):
        async with asyncio.TaskGroup() as group:
            for number in range(4):  # so that several connections are open
                group.create_task(_register(ledger, number))
        await asyncio.to_thread(server.restart)
        async with asyncio.TaskGroup() as group:
            for number in range(4, 8):
                group.create_task(_register(ledger, number))
        assert len(await reader.exposures()) == 8


async def test_opening_says_that_the_server_is_down_and_may_be_tried_again(
    server: PostgresServer,
) -> None:
    ledger = PostgresFileLedger(settings=_settings(server))
    await asyncio.to_thread(server.stop)
    with pytest.raises(LedgerUnavailableError) as caught:
        async with ledger:
            pytest.fail("it was opened")
    assert caught.value.context["port"] == server.port
    await asyncio.to_thread(server.start)
    async with ledger:
        await _register(ledger, 1)


@pytest.mark.slow
async def test_a_killed_server_keeps_what_it_confirmed_and_nothing_by_halves(
    server: PostgresServer,
) -> None:
    sensors = [f"R22_S{n:02d}" for n in range(40)]
    confirmed: list[int] = []
    written: set[FileKey] = set()
    number = 0

    async def work(ledger: FileLedger, stop: asyncio.Event) -> None:
        nonlocal number
        while not stop.is_set():
            number += 1
            mine = number
            exposure = an_exposure(mine, sensors=sensors)
            keys = files_of(exposure)
            try:
                await ledger.register(exposure, files=keys, now_tai=1.0)
                confirmed.append(mine)
                await ledger.begin(keys, Destination.ARCHIVE, worker="f", fence=mine, now_tai=2.0)
                changes = [
                    Change(key, Destination.ARCHIVE, FileState.WRITTEN, fence=mine) for key in keys
                ]
                await ledger.apply(changes, now_tai=3.0)
                written.update(keys)
            except LedgerUnavailableError:
                return

    async with PostgresFileLedger(settings=_settings(server)) as ledger:
        for _ in range(3):
            stop = asyncio.Event()
            so_far = len(written)
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(work(ledger, stop))
                await _until(lambda: len(written) >= so_far + 8 * 81)  # noqa: B023
                await asyncio.to_thread(server.kill)
                stop.set()
            await asyncio.to_thread(server.start)
        kept = {int(one.exposure.image[-6:]) for one in await ledger.exposures()}
        assert kept >= {*confirmed}
        for one in kept:
            exposure = an_exposure(one, sensors=sensors)
            files = await ledger.files(image=exposure.image)
            assert len(files) == 3 * len(files_of(exposure))
            states = [file.state for file in files if file.destination is Destination.ARCHIVE]
            assert len({*states}) == 1, "a transaction was made by halves"
            outcomes = {attempt.outcome for attempt in await ledger.attempts(exposure.image)}
            expected = {
                FileState.EXPECTED: set[str](),
                FileState.SENDING: {""},
                FileState.WRITTEN: {"done"},
            }
            assert outcomes == expected[states[0]]
        told = await ledger.files(states=[FileState.WRITTEN])
        assert {file.key for file in told} >= written


async def test_a_server_that_hangs_ends_the_call_in_time(server: PostgresServer) -> None:
    settings = replace(_settings(server), call_within_s=0.5, connect_within_s=0.5)
    loop = asyncio.get_running_loop()
    async with PostgresFileLedger(settings=settings) as ledger:
        await _register(ledger, 1)
        server.pause()
        try:
            for _ in range(2):
                begun = loop.time()
                with pytest.raises(LedgerUnavailableError):
                    await _register(ledger, 2)
                assert loop.time() - begun < 3.0
        finally:
            server.resume()
        await _register(ledger, 3)
        assert {3} < {int(one.exposure.image[-6:]) for one in await ledger.exposures()}


async def test_a_cancelled_call_leaves_a_hanging_server_in_time(server: PostgresServer) -> None:
    settings = replace(_settings(server), call_within_s=0.5, connect_within_s=0.5)
    async with PostgresFileLedger(settings=settings) as ledger:
        task = asyncio.get_running_loop().create_task(_register(ledger, 1))
        await _until(lambda: not ledger._pool._idle)
        server.pause()
        task.cancel()
        async with asyncio.timeout(_CANCEL_WITHIN_S + 3.0):
            await asyncio.wait({task})
        server.resume()
        assert task.cancelled()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.002)


class _Line:
    """A line to the server that can be cut at the commit."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.port = 0
        self.cut = ""
        self.dead_after = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with listener:
            self.port = listener.sockets[0].getsockname()[1]
            yield
            listener.close()

    async def _serve(self, down: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self.cut == "all":
            back.transport.abort()
            return
        up, out = await asyncio.open_connection(self._server.host, self._server.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._to_server(down, out, back))
            group.create_task(self._to_client(up, back))

    async def _to_server(
        self, down: asyncio.StreamReader, out: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while data := await down.read(65536):
            if b"COMMIT\0" in data and self.cut:
                before, self.cut = self.cut == "before", "all" if self.dead_after else ""
                back.transport.abort()
                if not before:
                    out.write(data)
                    await out.drain()
                break
            out.write(data)
            await out.drain()
        out.close()

    async def _to_client(self, up: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            while data := await up.read(65536):
                back.write(data)
        except ConnectionError:
            pass
        finally:
            back.close()


async def test_a_line_cut_after_the_commit_went_out_is_success(shared: PostgresServer) -> None:
    line = _Line(shared)
    async with line.open():
        settings = replace(_settings(shared), port=line.port)
        async with PostgresFileLedger(settings=settings) as ledger:
            line.cut = "after"
            exposure = an_exposure(1)
            assert await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
            assert line.cut == ""
            assert len(await ledger.exposures()) == 1


async def test_a_line_cut_before_the_commit_went_out_writes_nothing(
    shared: PostgresServer,
) -> None:
    line = _Line(shared)
    async with line.open():
        settings = replace(_settings(shared), port=line.port)
        async with PostgresFileLedger(settings=settings) as ledger:
            line.cut = "before"
            with pytest.raises(LedgerUnavailableError) as caught:
                await _register(ledger, 1)
            assert not isinstance(caught.value, LedgerUncertainError)
            assert line.cut == ""
            assert await ledger.exposures() == []
            await _register(ledger, 1)


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_end_cannot_be_learned_is_uncertain_and_safe_to_repeat(
    shared: PostgresServer, cut: str
) -> None:
    line = _Line(shared)
    async with line.open():
        settings = replace(_settings(shared), port=line.port, call_within_s=0.6)
        async with PostgresFileLedger(settings=settings) as ledger:
            line.cut, line.dead_after = cut, True
            with pytest.raises(LedgerUncertainError):
                await _register(ledger, 1)
            line.cut = ""
            exposure = an_exposure(1)
            assert await ledger.register(exposure, files=files_of(exposure), now_tai=1.0) is (
                cut == "before"
            )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("53100", LedgerFullError),
        ("XX001", LedgerDamagedError),
        ("42501", LedgerForbiddenError),
        ("3D000", LedgerMissingError),
        ("25006", LedgerUnavailableError),
        ("40P01", LedgerUnavailableError),
        ("40001", LedgerUnavailableError),
        ("57P01", LedgerUnavailableError),
        ("53300", LedgerUnavailableError),
        ("XX000", LedgerUnavailableError),
        ("22021", LedgerRefusedError),
        ("23505", LedgerRefusedError),
        ("42P01", LedgerRefusedError),
    ],
)
async def test_each_error_says_who_acts(
    shared: PostgresServer, code: str, error: type[PlatevaultError]
) -> None:
    async with PostgresFileLedger(settings=_settings(shared)) as ledger:
        statement = f"DO $$ BEGIN RAISE EXCEPTION 'told' USING ERRCODE = '{code}'; END $$"
        with pytest.raises(error) as caught:
            await ledger._pool.call(lambda one: one.execute(statement))
        assert type(caught.value) is error
        assert caught.value.context["code"] == code
        assert await ledger.exposures() == []


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[PostgresServer]:
    try:
        with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
            yield server
    except ServerMissingError as error:
        service_missing(str(error))


class _SecureServer(PostgresServer):
    """Takes passwords over TLS from all but its owner."""

    @override
    def prepare(self) -> None:
        super().prepare()
        data = self._data
        for name, host in (("server", "127.0.0.1"), ("stranger", "10.1.2.3")):
            subprocess.run(
                [
                    "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{host}",
                    "-keyout", str(self.directory / f"{name}.key"),
                    "-out", str(self.directory / f"{name}.crt"),
                ],
                check=True,
                capture_output=True,
            )  # fmt: skip
        key = data / "server.key"
        key.write_bytes((self.directory / "server.key").read_bytes())
        (data / "server.crt").write_bytes((self.directory / "server.crt").read_bytes())
        key.chmod(0o600)
        owner = self.user()
        if owner is not None:
            subprocess.run(["chown", owner, str(key), str(data / "server.crt")], check=True)
        (data / "pg_hba.conf").write_text(
            "host all platevault 127.0.0.1/32 trust\n"
            "hostssl all ledger_works 127.0.0.1/32 scram-sha-256\n",
            encoding="utf-8",
        )

    @override
    def command(self) -> Sequence[str]:
        return [*super().command(), "-c", "ssl=on"]


async def test_a_ledger_is_reached_by_password_over_verified_tls_only(
    tmp_path: Path, service_missing: Callable[[str], NoReturn]
) -> None:
    try:
        server = await asyncio.to_thread(_SecureServer(tmp_path / "postgres").__enter__)
    except ServerMissingError as error:
        service_missing(str(error))
    try:
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            await connection.execute("CREATE ROLE ledger_works LOGIN PASSWORD 'quite-long'")
        settings = _settings(server)
        granted = replace(settings, writer_role="ledger_works")
        async with PostgresFileLedger(settings=granted):
            pass
        secure = replace(
            settings,
            user="ledger_works",
            password="quite-long",
            tls=True,
            ca_file=server.directory / "server.crt",
        )
        async with PostgresFileLedger(settings=secure, migrates=False) as ledger:
            await _register(ledger, 1)
            found = await ledger._pool.call(_encrypted)
            assert found == (True,)
        password_file = tmp_path / "pgpass"
        password_file.write_text("*:*:*:ledger_works:quite-long\n", encoding="utf-8")
        password_file.chmod(0o600)
        by_file = replace(secure, password="", password_file=password_file)
        async with PostgresFileLedger(settings=by_file, migrates=False) as ledger:
            await _register(ledger, 2)
        password_file.chmod(0o644)
        with pytest.raises(LedgerForbiddenError, match="read by others"):
            async with PostgresFileLedger(settings=by_file, migrates=False):
                pytest.fail("it was opened")
        for wrong, problem in (
            (replace(secure, password="guess"), "password authentication failed"),
            (replace(secure, ca_file=server.directory / "stranger.crt"), "certificate"),
            (replace(secure, host="localhost"), "certificate"),
            (replace(secure, tls=False, ca_file=None), "pg_hba"),
        ):
            with pytest.raises(LedgerUnavailableError) as caught:
                async with PostgresFileLedger(settings=wrong, migrates=False):
                    pytest.fail("it was opened")
            assert problem in str(caught.value.context["problem"])
            assert "quite-long" not in str(caught.value)
    finally:
        await asyncio.to_thread(server.stop)


async def _encrypted(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> object:
    found = await connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    return await found.fetchone()
