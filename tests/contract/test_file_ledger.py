"""File ledgers keep their contract, and what is their own."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from platevault.adapters.sql_ledger.errors import (
    LedgerDamagedError,
    LedgerForbiddenError,
    LedgerMissingError,
    LedgerSchemaError,
)
from platevault.adapters.sql_ledger.migrations import read_migrations
from platevault.adapters.sqlite import SqliteFileLedger, SqliteLedgerReader
from platevault.adapters.sqlite.connection import ConnectionThread
from platevault.domain.errors import PlatevaultError
from platevault.domain.lifecycles import Destination, FileState
from platevault.ports.file_ledger import (
    Change,
    FileLedger,
    LedgerFullError,
    LedgerUnavailableError,
)
from platevault.testing.exposures_contract import an_exposure, files_of
from platevault.testing.file_ledger_contract import FileLedgerContract, NewStore, Sql
from platevault.testing.leaks import check_threads


class TestSqliteFileLedger(FileLedgerContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "ledger #1?.sqlite"

    @pytest.fixture
    async def ledger(self, path: Path) -> AsyncIterator[SqliteFileLedger]:
        async with SqliteFileLedger(path) as ledger:
            yield ledger

    @pytest.fixture
    async def other(self, ledger: SqliteFileLedger, path: Path) -> AsyncIterator[SqliteFileLedger]:
        async with SqliteFileLedger(path) as other:
            yield other

    @pytest.fixture
    def sql(self, ledger: SqliteFileLedger, path: Path) -> Sql:
        async def run(statement: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("PRAGMA foreign_keys=ON")
                return connection.execute(statement).fetchall()

        return run

    @pytest.fixture
    def new_store(self, tmp_path: Path) -> NewStore:
        numbers = itertools.count()

        def make() -> Callable[[], AbstractAsyncContextManager[FileLedger]]:
            path = tmp_path / f"machine-{next(numbers)}.sqlite"
            return lambda: SqliteFileLedger(path)

        return make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def _contents(path: Path) -> bytes:
    return path.read_bytes()


def _fill(path: Path, contents: bytes) -> None:
    path.write_bytes(contents)


def _forbid_writing(path: Path) -> None:
    path.chmod(stat.S_IRUSR)


async def _written(ledger: SqliteFileLedger, number: int) -> None:
    exposure = an_exposure(number)
    await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
    changes = [Change(key, Destination.ARCHIVE, FileState.WRITTEN) for key in files_of(exposure)]
    await ledger.apply(changes, now_tai=2.0)


async def test_a_committed_change_is_synced_to_disk(path: Path) -> None:
    async with SqliteFileLedger(path) as ledger:
        settings = [
            await ledger._writer.call(lambda one: one.execute("PRAGMA journal_mode").fetchone()),
            await ledger._writer.call(lambda one: one.execute("PRAGMA synchronous").fetchone()),
            await ledger._writer.call(lambda one: one.execute("PRAGMA foreign_keys").fetchone()),
        ]
    assert settings == [("wal",), (2,), (1,)]


async def test_a_reader_sees_what_is_written_while_it_reads(path: Path) -> None:
    async with SqliteFileLedger(path) as ledger, SqliteLedgerReader(path) as reader:
        for number in (1, 2):
            await _written(ledger, number)
            assert len(await reader.exposures()) == number
        assert await reader.files() == await ledger.files()
        assert await reader.exposure(an_exposure(1).image) is not None
        assert await reader.attempts(an_exposure(1).image) == []


async def test_a_reader_cannot_write(path: Path) -> None:
    async with SqliteFileLedger(path), SqliteLedgerReader(path) as reader:
        with pytest.raises(LedgerForbiddenError):
            await reader._reader.call(lambda one: one.execute("DELETE FROM exposure"))


async def test_a_ledger_at_rest_is_read_without_changing_it(path: Path) -> None:
    async with SqliteFileLedger(path) as ledger:
        await _written(ledger, 1)
    before = _contents(path)
    _forbid_writing(path)
    async with SqliteLedgerReader(path) as reader:
        assert len(await reader.files()) == 3 * len(files_of(an_exposure()))
    assert _contents(path) == before


async def test_a_reader_names_what_is_missing_and_makes_nothing(path: Path) -> None:
    with pytest.raises(LedgerMissingError) as caught:
        async with SqliteLedgerReader(path):
            pytest.fail("a ledger that does not exist was opened")
    assert caught.value.context == {"path": str(path)}
    assert list(path.parent.iterdir()) == []


async def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    before = b"this is no database, but long enough to look at" * 100
    _fill(path, before)
    for opener in (SqliteFileLedger(path), SqliteLedgerReader(path)):
        with pytest.raises(LedgerDamagedError):
            async with opener:
                pytest.fail("it was opened")
    assert _contents(path) == before


async def test_a_directory_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(LedgerForbiddenError) as caught:
        async with SqliteFileLedger(path / "below" / "x.sqlite"):
            pytest.fail("it was opened")
    assert str(path) in str(caught.value.context["path"])


async def test_a_ledger_of_a_newer_release_is_left_alone(path: Path) -> None:
    async with SqliteFileLedger(path):
        pass
    newer = read_migrations("sqlite")[-1].version + 1
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO schema_version VALUES (?, 'later', '2040')", (newer,))
    for opener in (SqliteFileLedger(path), SqliteLedgerReader(path)):
        with pytest.raises(LedgerSchemaError) as caught:
            async with opener:
                pytest.fail("it was opened")
        assert (caught.value.context["found"], caught.value.context["expected"]) == (
            newer,
            newer - 1,
        )


async def test_a_reader_refuses_a_database_without_the_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE something_else (x)")
    with pytest.raises(LedgerSchemaError):
        async with SqliteLedgerReader(path):
            pytest.fail("it was opened")


async def test_opening_again_does_no_migration_twice(path: Path) -> None:
    for _ in range(2):
        async with SqliteFileLedger(path) as ledger:
            await ledger.exposures()
    with closing(sqlite3.connect(path)) as connection:
        versions = connection.execute("SELECT version, name FROM schema_version").fetchall()
    assert versions == [(step.version, step.name) for step in read_migrations("sqlite")]
    assert [version for version, _ in versions] == [*range(1, len(versions) + 1)]


async def test_many_may_open_a_new_ledger_at_once(path: Path) -> None:
    async def open_and_write(number: int) -> None:
        async with SqliteFileLedger(path, busy_timeout_s=20.0) as ledger:
            await _written(ledger, number)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(open_and_write(number))
    async with SqliteLedgerReader(path) as reader:
        assert len(await reader.exposures()) == 8


async def test_a_ledger_held_by_another_process_is_unavailable_and_then_works(path: Path) -> None:
    async with SqliteFileLedger(path, busy_timeout_s=0.01) as ledger:
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerUnavailableError) as caught:
                await _written(ledger, 1)
            assert caught.value.context["path"] == str(path)
            assert await ledger.exposures() == []
            holder.execute("ROLLBACK")
        await _written(ledger, 1)
        assert len(await ledger.exposures()) == 1


async def test_a_full_database_loses_nothing_and_goes_on_with_more_room(path: Path) -> None:
    async with SqliteFileLedger(path, max_pages=60) as ledger:
        number = 0
        with pytest.raises(LedgerFullError):
            for number in range(1, 1000):
                await _written(ledger, number)
        before = await ledger.files()
        assert len(await ledger.exposures()) in {number - 1, number}
        with pytest.raises(LedgerFullError):
            for later in range(2000, 2010):
                await _written(ledger, later)
        assert len(await ledger.files(image=an_exposure(1).image)) == len(
            [one for one in before if one.key.image == an_exposure(1).image]
        )
    async with SqliteFileLedger(path) as ledger:
        assert (await ledger.files())[: len(before)] == before
        await _written(ledger, 5000)


async def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = SqliteFileLedger(path)
    with pytest.raises(LedgerUnavailableError):
        await ledger.exposures()
    async with ledger:
        await _written(ledger, 1)
    with pytest.raises(LedgerUnavailableError):
        await ledger.exposures()
    with pytest.raises(LedgerUnavailableError):
        await _written(ledger, 2)


async def test_closing_lets_the_calls_under_way_end(path: Path) -> None:
    async with asyncio.TaskGroup() as group, SqliteFileLedger(path) as ledger:
        tasks = [group.create_task(_registered(ledger, number)) for number in range(40)]
        await asyncio.sleep(0)
    told = [task.result() for task in tasks]
    async with SqliteLedgerReader(path) as reader:
        kept = {record.exposure.image for record in await reader.exposures()}
    assert kept == {an_exposure(number).image for number, done in enumerate(told) if done}


async def _registered(ledger: SqliteFileLedger, number: int) -> bool:
    exposure = an_exposure(number)
    try:
        return await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
    except LedgerUnavailableError:
        return False


@pytest.mark.parametrize("steps", range(0, 12, 2))
async def test_opening_and_closing_may_be_cancelled(path: Path, steps: int) -> None:
    async def use() -> None:
        async with SqliteFileLedger(path) as ledger:
            await _written(ledger, 1)

    task = asyncio.get_running_loop().create_task(use())
    for _ in range(steps):
        await asyncio.sleep(0.0005)
    task.cancel()
    await asyncio.wait({task})
    async with SqliteFileLedger(path) as ledger:
        files = await ledger.files()
        assert len(files) in {0, 3 * len(files_of(an_exposure()))}


async def test_closing_that_is_cancelled_at_once_ends_its_threads(path: Path) -> None:
    before = threading.enumerate()
    busy = threading.Event()
    ledger = SqliteFileLedger(path)
    await ledger.__aenter__()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        loop.set_default_executor(executor)
        waiting = loop.run_in_executor(None, busy.wait)
        task = loop.create_task(ledger.__aexit__(None, None, None))
        for _ in range(2):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait({task})
        busy.set()
        await waiting
    check_threads(before)


async def test_fencing_numbers_of_each_run_exceed_those_of_former_runs(path: Path) -> None:
    numbers = []
    for _ in range(3):
        async with SqliteFileLedger(path) as ledger:
            numbers.append(await ledger.first_fence())
    assert numbers[0] > 0
    assert numbers[1] - numbers[0] >= 1_000_000
    assert numbers == sorted(set(numbers))


async def test_calls_that_wait_together_share_a_transaction(path: Path) -> None:
    statements: list[str] = []
    async with SqliteFileLedger(path) as ledger:
        await ledger._writer.call(lambda one: one.set_trace_callback(statements.append))
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(_registered(ledger, number))
        await ledger._writer.call(lambda one: one.set_trace_callback(None))
        assert len(await ledger.exposures()) == 30
    assert statements.count("COMMIT") < 15


async def test_a_call_that_breaks_a_rule_of_the_database_fails_alone(path: Path) -> None:
    def break_a_rule(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO lease_epoch VALUES (1, 1)")

    async with SqliteFileLedger(path) as ledger:
        async with asyncio.TaskGroup() as group:
            good = [group.create_task(_registered(ledger, number)) for number in (1, 2)]
            bad = group.create_task(_fails(ledger._writer.call(break_a_rule)))
            good += [group.create_task(_registered(ledger, number)) for number in (3, 4)]
        assert [task.result() for task in good] == [True] * 4
        assert isinstance(bad.result(), LedgerUnavailableError)
        assert len(await ledger.exposures()) == 4
        await _written(ledger, 5)


async def _fails(call: Awaitable[object]) -> PlatevaultError | None:
    try:
        await call
    except PlatevaultError as error:
        return error
    return None


async def test_a_call_to_a_ledger_that_cannot_be_opened_is_refused(path: Path) -> None:
    thread = ConnectionThread(
        name="ledger-test",
        path=path,
        connect=lambda: sqlite3.connect(path / "below" / "x"),
        begin="BEGIN",
        max_waiting=1,
    )
    async with asyncio.TaskGroup() as group:
        start = group.create_task(_fails(thread.start()))
        await asyncio.sleep(0)
        call = group.create_task(_fails(thread.call(lambda one: one.total_changes)))
    assert isinstance(start.result(), LedgerForbiddenError)
    assert isinstance(call.result(), LedgerUnavailableError)
    async with asyncio.timeout(5):
        assert isinstance(
            await _fails(thread.call(lambda one: one.total_changes)), LedgerUnavailableError
        )
        await thread.close()


@pytest.mark.parametrize("query", ["unfinished", "states", "image"])
async def test_what_services_ask_for_is_found_by_an_index(path: Path, query: str) -> None:
    plans: list[str] = []
    async with SqliteFileLedger(path) as ledger:
        statements: list[str] = []
        await ledger._reader.call(lambda one: one.set_trace_callback(statements.append))
        match query:
            case "unfinished":
                await ledger.exposures(unfinished=True)
            case "states":
                await ledger.files(states=[FileState.RETRY, FileState.LATE])
            case _:
                await ledger.files(image="x", destination=Destination.OODS)
        await ledger._reader.call(lambda one: one.set_trace_callback(None))
        (statement,) = [text for text in statements if text.startswith("SELECT")]
        plan = await ledger._reader.call(
            lambda one: one.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        )
        plans = [str(step[3]) for step in plan]
    assert not [step for step in plans if step.startswith("SCAN file_state")], plans


async def test_a_whole_camera_is_registered_in_one_go(path: Path) -> None:
    sensors = [f"R{raft:02d}_S{slot:02d}" for raft in range(21) for slot in range(10)][:205]
    exposure = an_exposure(sensors=sensors)
    async with SqliteFileLedger(path) as ledger:
        await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
        assert len(await ledger.files()) == 411 * 3
