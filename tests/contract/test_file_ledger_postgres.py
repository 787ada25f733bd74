"""The ledger in PostgreSQL keeps the contract, and what is its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from typing_extensions import override

from platevault.adapters.postgres import (
    PostgresFileLedger,
    PostgresLedgerReader,
    PostgresSettings,
)
from platevault.adapters.postgres.errors import LedgerRefusedError
from platevault.adapters.postgres.pool import Connection
from platevault.adapters.sql_ledger.errors import LedgerForbiddenError, LedgerSchemaError
from platevault.adapters.sql_ledger.migrations import read_migrations
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.domain.ids import FileKey
from platevault.domain.inventory import ToldResult
from platevault.domain.lifecycles import Destination, FileState
from platevault.ports.file_ledger import Change, FileLedger, LedgerUnavailableError
from platevault.testing.exposures_contract import an_exposure, files_of
from platevault.testing.file_ledger_contract import FileLedgerContract, NewStore, Sql
from platevault.testing.servers import PostgresServer, ServerMissingError

pytestmark = pytest.mark.servers
_numbers = itertools.count()
PATIENCE_S = 30.0


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[PostgresServer]:
    try:
        with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
            yield server
    except ServerMissingError as error:
        service_missing(str(error))


@pytest.fixture
def settings(server: PostgresServer) -> PostgresSettings:
    return PostgresSettings(
        host=server.host, port=server.port, schema=f"ledger_{next(_numbers)}", connections=4
    )


class TestPostgresFileLedger(FileLedgerContract):
    @pytest.fixture
    async def ledger(self, settings: PostgresSettings) -> AsyncIterator[PostgresFileLedger]:
        async with PostgresFileLedger(settings=settings) as ledger:
            yield ledger

    @pytest.fixture
    async def other(
        self, ledger: PostgresFileLedger, settings: PostgresSettings
    ) -> AsyncIterator[PostgresFileLedger]:
        async with PostgresFileLedger(settings=settings) as other:
            yield other

    @pytest.fixture
    def sql(
        self, ledger: PostgresFileLedger, server: PostgresServer, settings: PostgresSettings
    ) -> Sql:
        async def run(statement: str) -> list[tuple[Any, ...]]:
            async with await psycopg.AsyncConnection.connect(
                server.url, options=f"-c search_path={settings.schema}"
            ) as connection:
                done = await connection.execute(statement)
                return await done.fetchall() if done.description else []

        return run

    @pytest.fixture
    def new_store(self, settings: PostgresSettings) -> NewStore:
        def make() -> Callable[[], AbstractAsyncContextManager[FileLedger]]:
            fresh = replace(settings, schema=f"ledger_{next(_numbers)}")
            return lambda: PostgresFileLedger(settings=fresh)

        return make


async def _written(ledger: FileLedger, number: int) -> None:
    exposure = an_exposure(number)
    await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
    changes = [Change(key, Destination.ARCHIVE, FileState.WRITTEN) for key in files_of(exposure)]
    await ledger.apply(changes, now_tai=2.0)


async def _ask(server: PostgresServer, *statements: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as connection:
        for statement in statements[:-1]:
            await connection.execute(statement)
        done = await connection.execute(statements[-1])
        return await done.fetchall() if done.description else []


async def test_a_commit_is_durable_whatever_the_role_prefers(
    server: PostgresServer, settings: PostgresSettings
) -> None:
    await _ask(
        server,
        "DROP ROLE IF EXISTS hasty",
        "CREATE ROLE hasty LOGIN SUPERUSER",
        "ALTER ROLE hasty SET synchronous_commit = off",
        "ALTER ROLE hasty SET default_transaction_isolation = 'repeatable read'",
    )
    async with PostgresFileLedger(settings=replace(settings, user="hasty")) as ledger:
        found = await ledger._pool.call(_durability)
    assert found == ("on", "read committed")


async def _durability(connection: Connection) -> tuple[Any, ...] | None:
    found = await connection.execute(
        "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
    )
    return await found.fetchone()


async def test_a_reader_sees_what_is_written_while_it_reads(settings: PostgresSettings) -> None:
    async with (
        PostgresFileLedger(settings=settings) as ledger,
        PostgresLedgerReader(settings=settings) as reader,
    ):
        for number in (1, 2):
            await _written(ledger, number)
            assert len(await reader.exposures()) == number
        assert await reader.files() == await ledger.files()
        assert await reader.exposure(an_exposure(1).image) is not None
        assert await reader.attempts(an_exposure(1).image) == []
        assert await reader.told(an_exposure(1).image) == []


async def test_a_reader_cannot_write(settings: PostgresSettings) -> None:
    async with (
        PostgresFileLedger(settings=settings),
        PostgresLedgerReader(settings=settings) as reader,
    ):
        for use in (reader._pool.ask, reader._pool.call):
            with pytest.raises(LedgerForbiddenError):
                await use(lambda one: one.execute("DELETE FROM exposure"))


async def test_roles_may_do_what_was_granted_and_no_more(
    server: PostgresServer, settings: PostgresSettings
) -> None:
    for role in ("ledger_looks", "ledger_works"):
        await _ask(server, f"CREATE ROLE {role} LOGIN")
    granted = replace(settings, reader_role="ledger_looks", writer_role="ledger_works")
    async with PostgresFileLedger(settings=granted):
        pass
    works = replace(settings, user="ledger_works")
    looks = replace(settings, user="ledger_looks")
    async with PostgresFileLedger(settings=works, migrates=False) as ledger:
        await _written(ledger, 1)
        await ledger.begin(
            files_of(an_exposure())[:1], Destination.OODS, worker="f", fence=1, now_tai=3.0
        )
        await ledger.set_told(an_exposure().image, ToldResult("", "x", 0), now_tai=3.0)
        await ledger.first_fence()
        with pytest.raises(LedgerForbiddenError):
            await ledger._pool.call(lambda one: one.execute("DELETE FROM told_result"))
        with pytest.raises(LedgerForbiddenError):
            await ledger._pool.call(lambda one: one.execute("TRUNCATE attempt"))
    async with PostgresLedgerReader(settings=looks) as reader:
        assert len(await reader.exposures()) == 1
        assert len(await reader.attempts(an_exposure().image)) == 1
    async with PostgresFileLedger(settings=looks, migrates=False) as ledger:
        with pytest.raises(LedgerForbiddenError):
            await _written(ledger, 2)


async def test_attempts_cannot_be_emptied_by_their_owner(settings: PostgresSettings) -> None:
    async with PostgresFileLedger(settings=settings) as ledger:
        with pytest.raises(LedgerRefusedError, match="never deleted"):
            await ledger._pool.call(lambda one: one.execute("TRUNCATE attempt"))


@pytest.mark.parametrize("migrates", [True, False])
async def test_a_ledger_of_a_newer_release_is_left_alone(
    server: PostgresServer, settings: PostgresSettings, migrates: bool
) -> None:
    async with PostgresFileLedger(settings=settings):
        pass
    newer = read_migrations("postgres")[-1].version + 1
    await _ask(
        server, f"INSERT INTO {settings.schema}.schema_version VALUES ({newer}, 'later', now())"
    )
    for opener in (
        PostgresFileLedger(settings=settings, migrates=migrates),
        PostgresLedgerReader(settings=settings),
    ):
        with pytest.raises(LedgerSchemaError) as caught:
            async with opener:
                pytest.fail("it was opened")
        assert (caught.value.context["found"], caught.value.context["expected"]) == (
            newer,
            newer - 1,
        )


async def test_who_may_not_make_the_schema_names_what_is_missing_and_makes_nothing(
    server: PostgresServer, settings: PostgresSettings
) -> None:
    for opener in (
        PostgresFileLedger(settings=settings, migrates=False),
        PostgresLedgerReader(settings=settings),
    ):
        with pytest.raises(LedgerSchemaError) as caught:
            async with opener:
                pytest.fail("it was opened")
        assert caught.value.context["found"] == 0
    schemas = await _ask(server, "SELECT nspname FROM pg_namespace")
    assert (settings.schema,) not in schemas


async def test_an_older_ledger_is_brought_up_to_date_with_its_contents(
    server: PostgresServer, settings: PostgresSettings
) -> None:
    first, *later = read_migrations("postgres")
    assert later
    await _ask(
        server,
        f"CREATE SCHEMA {settings.schema}",
        f"SET search_path = {settings.schema}",
        first.script,
        "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT,"
        " applied_utc TIMESTAMPTZ DEFAULT now())",
        f"INSERT INTO schema_version VALUES (1, '{first.name}')",
        "INSERT INTO exposure (image, camera, day_obs, exposure_id, sensors, facts, file_count,"
        " registered_tai) VALUES ('old', 'X', 1, 1, '{}', '{}', 0, 1)",
    )
    async with PostgresFileLedger(settings=settings) as ledger:
        await ledger.set_told("old", ToldResult("", "x", 0), now_tai=2.0)
        assert [one.exposure.image for one in await ledger.exposures()] == ["old"]
    assert await _ask(
        server, f"SELECT version, name FROM {settings.schema}.schema_version ORDER BY 1"
    ) == [(step.version, step.name) for step in read_migrations("postgres")]


async def test_many_may_open_a_new_ledger_at_once(settings: PostgresSettings) -> None:
    async def open_and_write(number: int) -> None:
        async with PostgresFileLedger(settings=settings) as ledger:
            await _written(ledger, number)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(open_and_write(number))
    async with PostgresLedgerReader(settings=settings) as reader:
        assert len(await reader.exposures()) == 8


async def test_a_file_held_by_another_process_is_unavailable_and_then_works(
    server: PostgresServer, settings: PostgresSettings
) -> None:
    async with PostgresFileLedger(settings=replace(settings, lock_within_s=0.1)) as ledger:
        await _written(ledger, 1)
        change = Change(files_of(an_exposure())[0], Destination.OODS, FileState.SENDING)
        async with await psycopg.AsyncConnection.connect(
            server.url, options=f"-c search_path={settings.schema}"
        ) as holder:
            await holder.execute("SELECT 1 FROM file_state FOR UPDATE")
            with pytest.raises(LedgerUnavailableError) as caught:
                await ledger.apply([change], now_tai=3.0)
            assert caught.value.context["code"] == "55P03"
            assert len(await ledger.files(states=[FileState.SENDING])) == 0
        await ledger.apply([change], now_tai=4.0)
        assert len(await ledger.files(states=[FileState.SENDING])) == 1


async def test_a_slow_statement_is_ended_by_the_server(settings: PostgresSettings) -> None:
    async with PostgresFileLedger(settings=replace(settings, statement_within_s=0.1)) as ledger:
        with pytest.raises(LedgerUnavailableError):
            await ledger._pool.call(lambda one: one.execute("SELECT pg_sleep(30)"))
        assert await ledger.exposures() == []


async def test_two_that_change_the_same_files_in_other_orders_do_not_entwine(
    settings: PostgresSettings,
) -> None:
    exposure = an_exposure(sensors=[f"R22_S{n:02d}" for n in range(30)])
    keys = files_of(exposure)

    async def work(ledger: FileLedger, mine: list[FileKey]) -> None:
        for number in range(10):
            await ledger.begin(mine, Destination.OODS, worker="f", fence=0, now_tai=float(number))
            changes = [Change(key, Destination.OODS, FileState.RETRY) for key in mine]
            await ledger.apply(changes, now_tai=float(number))

    async with (
        PostgresFileLedger(settings=settings) as one,
        PostgresFileLedger(settings=settings) as two,
    ):
        await one.register(exposure, files=keys, now_tai=1.0)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_problem(work(one, keys))),
                group.create_task(_problem(work(two, keys[::-1]))),
            ]
        assert {task.result() for task in tasks} <= {"", "StateConflictError"}
        attempts = await one.attempts(exposure.image)
        assert len([attempt for attempt in attempts if not attempt.outcome]) in {0, len(keys)}


async def _problem(work: Awaitable[None]) -> str:
    try:
        await work
    except PlatevaultError as error:
        return type(error).__name__
    return ""


async def test_calls_beyond_the_connections_wait_their_turn(settings: PostgresSettings) -> None:
    async with PostgresFileLedger(settings=replace(settings, connections=2)) as ledger:
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(_written(ledger, number))
        assert len(await ledger.exposures()) == 30
        assert len(ledger._pool._idle) == 2


async def test_a_call_that_finds_no_connection_in_time_is_refused(
    settings: PostgresSettings,
) -> None:
    few = replace(settings, connections=1, call_within_s=1.0)
    async with PostgresFileLedger(settings=few) as ledger:
        async with asyncio.TaskGroup() as group:
            long = group.create_task(_problem(ledger._pool.call(_sleep)))
            await asyncio.sleep(0)
            short = group.create_task(_problem(ledger.set_end_readout("x", 1.0)))
        assert (long.result(), short.result()) == ("LedgerUnavailableError",) * 2
        assert await ledger.exposures() == []


async def _sleep(connection: Connection) -> None:
    await connection.execute("SELECT pg_sleep(3)")


async def test_a_closed_ledger_says_so(settings: PostgresSettings) -> None:
    ledger = PostgresFileLedger(settings=settings)
    with pytest.raises(LedgerUnavailableError):
        await ledger.exposures()
    async with ledger:
        await _written(ledger, 1)
    for _ in range(settings.connections + 1):
        with pytest.raises(LedgerUnavailableError):
            await ledger.exposures()


async def test_a_ledger_may_be_opened_again(settings: PostgresSettings) -> None:
    ledger = PostgresFileLedger(settings=settings)
    for number in (1, 2):
        async with ledger:
            await _written(ledger, number)
            assert len(await ledger.exposures()) == number


async def test_closing_lets_the_calls_under_way_end(settings: PostgresSettings) -> None:
    async def registered(ledger: FileLedger, number: int) -> bool:
        exposure = an_exposure(number)
        try:
            return await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
        except LedgerUnavailableError:
            return False

    async with asyncio.TaskGroup() as group, PostgresFileLedger(settings=settings) as ledger:
        tasks = [group.create_task(registered(ledger, number)) for number in range(20)]
        await asyncio.sleep(0)
    told = [task.result() for task in tasks]
    assert any(told)
    async with PostgresLedgerReader(settings=settings) as reader:
        kept = {record.exposure.image for record in await reader.exposures()}
    assert kept == {an_exposure(number).image for number, done in enumerate(told) if done}


@pytest.mark.parametrize("wait_s", [0.0, 0.005, 0.01, 0.02, 0.04])
async def test_opening_and_closing_may_be_cancelled(
    server: PostgresServer, settings: PostgresSettings, wait_s: float
) -> None:
    async def use() -> None:
        async with PostgresFileLedger(settings=settings) as ledger:
            await _written(ledger, 1)

    task = asyncio.get_running_loop().create_task(use())
    await asyncio.sleep(wait_s)
    task.cancel()
    await asyncio.wait({task})
    async with PostgresFileLedger(settings=settings) as ledger:
        assert len(await ledger.files()) in {0, 3 * len(files_of(an_exposure()))}
        # The server notices in its own time that a connection was cut.
        async with asyncio.timeout(PATIENCE_S):
            while await _ask(  # noqa: ASYNC110 - the server does the work
                server,
                "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'",
            ):
                await asyncio.sleep(0.02)


async def test_fencing_numbers_of_each_run_exceed_those_of_former_runs(
    settings: PostgresSettings,
) -> None:
    numbers = []
    for _ in range(3):
        async with PostgresFileLedger(settings=settings) as ledger:
            numbers.append(await ledger.first_fence())
    assert numbers[0] > 0
    assert numbers[1] - numbers[0] >= 1_000_000
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
async def test_text_that_the_database_cannot_hold_is_refused_for_good(
    settings: PostgresSettings, text: str
) -> None:
    async with PostgresFileLedger(settings=settings) as ledger:
        await _written(ledger, 1)
        with pytest.raises(LedgerRefusedError):
            await ledger.set_target(an_exposure().image, text)
        assert await ledger.set_target(an_exposure().image, "/à/côté") == "/à/côté"


@pytest.mark.parametrize("query", ["unfinished", "states", "image"])
async def test_what_services_ask_for_is_found_by_an_index(
    settings: PostgresSettings, query: str
) -> None:
    plans: list[str] = []

    class Explaining(psycopg.AsyncConnection[tuple[Any, ...]]):
        @override
        async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            if str(query).startswith("SELECT"):
                await super().execute("SET enable_seqscan = off")
                plan = await super().execute(f"EXPLAIN {query}", *args, **kwargs)
                plans.extend(str(line) for (line,) in await plan.fetchall())
            return await super().execute(query, *args, **kwargs)

    async with PostgresFileLedger(settings=settings) as ledger:
        await _written(ledger, 1)
        ledger._pool._idle[0].__class__ = Explaining
        match query:
            case "unfinished":
                await ledger.exposures(unfinished=True)
            case "states":
                await ledger.files(states=[FileState.RETRY, FileState.LATE])
            case _:
                await ledger.files(image="x", destination=Destination.OODS)
    index = "file_state_pkey" if query == "image" else "file_by_state"
    assert any("Index" in line and index in line for line in plans), plans
    assert not any("Seq Scan on file_state" in line for line in plans), plans


async def test_a_whole_camera_is_handled_in_one_go(settings: PostgresSettings) -> None:
    sensors = [f"R{raft:02d}_S{slot:02d}" for raft in range(21) for slot in range(10)][:205]
    exposure = an_exposure(sensors=sensors)
    keys = files_of(exposure)
    async with PostgresFileLedger(settings=settings) as ledger:
        await ledger.register(exposure, files=keys, now_tai=1.0)
        assert len(await ledger.files()) == 411 * 3
        opened = await ledger.begin(keys, Destination.OODS, worker="f", fence=1, now_tai=2.0)
        assert [one.key for one in opened] == keys
        assert await ledger.attempts(exposure.image) == opened


@pytest.mark.parametrize(
    "bad",
    [
        {"schema": ""},
        {"schema": 'x"; DROP TABLE exposure; --'},
        {"reader_role": "Reader"},
        {"writer_role": "a b"},
        {"call_within_s": 0.0},
        {"connections": 0},
        {"ca_file": Path("ca.pem")},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PostgresSettings(**bad)


def test_settings_do_not_show_the_password() -> None:
    assert "hunter2" not in repr(PostgresSettings(password="hunter2"))
