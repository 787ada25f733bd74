"""A thread that owns one SQLite connection."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from platevault.adapters.sql_ledger.errors import LedgerDamagedError, LedgerForbiddenError
from platevault.domain.errors import PlatevaultError
from platevault.ports.file_ledger import LedgerFullError, LedgerUnavailableError

ResultT = TypeVar("ResultT")

#: So many calls share one transaction, and so one wait for the disk, when they come together.
_LARGEST_GROUP = 64
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FORBIDDEN = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN}
)
#: A write that the kernel refused for want of room (quota, file size limit) is an I/O error.
_IO_WRITES = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE})


def translated(error: sqlite3.Error, path: Path) -> PlatevaultError:
    """Give our error for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    facts: dict[str, object] = {
        "path": str(path),
        "problem": str(error),
        "code": getattr(error, "sqlite_errorname", ""),
    }
    primary = code & 0xFF
    if primary in _FULL or code in _IO_WRITES:
        return LedgerFullError("No space left for the ledger", **facts)
    if primary in _DAMAGED:
        return LedgerDamagedError("The ledger is damaged", **facts)
    if primary in _FORBIDDEN:
        return LedgerForbiddenError("The ledger cannot be opened or written", **facts)
    return LedgerUnavailableError("The ledger does not answer", **facts)


def open_connection(path: Path, *, busy_timeout_s: float, read_only: bool) -> sqlite3.Connection:
    """Open the file with the settings on which the ledger's promises rest.

    WAL lets readers go on while one process writes; ``synchronous=FULL`` makes a committed
    transaction survive power loss.
    """
    mode = "ro" if read_only else "rwc"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=True,
        cached_statements=256,
    )
    try:
        if read_only:
            connection.execute("PRAGMA query_only=ON")
        else:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA journal_size_limit=67108864").fetchone()
        connection.execute("PRAGMA temp_store=MEMORY")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class _Call:
    work: Callable[[sqlite3.Connection], Any]
    answer: Future[Any]


class ConnectionThread:
    """Runs functions on one connection, in order, each in a transaction.

    Parameters
    ----------
    name
        Name of the thread.
    path
        The database, for error messages.
    connect
        Opens the connection, in the thread.
    begin
        ``BEGIN IMMEDIATE`` for a writer, ``BEGIN`` for a reader.
    max_waiting
        So many calls may wait; further callers wait for a place.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        connect: Callable[[], sqlite3.Connection],
        begin: str,
        max_waiting: int,
    ) -> None:
        self._name = name
        self._path = path
        self._connect = connect
        self._begin = begin
        self._places = asyncio.Semaphore(max_waiting)
        # Twice as many: a cancelled caller gives its place back before the thread meets its call.
        self._calls: queue.Queue[_Call | None] = queue.Queue(2 * max_waiting + 1)
        self._opened: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._started = False
        self._closing = False

    async def start(self) -> None:
        """Start the thread and open the connection; raises what opening raised."""
        self._started = True
        # A daemon: a ledger that nobody closed must not keep a failed process alive.
        threading.Thread(target=self._run, name=self._name, daemon=True).start()
        await asyncio.shield(asyncio.wrap_future(self._opened))

    async def close(self) -> None:
        """Finish the calls that wait, close the connection and end the thread."""
        if not self._started:
            return
        if not self._closing:
            self._closing = True
            await asyncio.to_thread(self._calls.put, None)
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def call(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run ``work`` in a transaction of the thread; it may run twice and must not mind.

        Cancellation before it began means it never runs; later it runs to its end.
        """
        async with self._places:
            if not self._started or self._closing:
                raise self._not_open()
            call = _Call(work, Future())
            try:
                self._calls.put_nowait(call)
            except queue.Full as error:
                raise LedgerUnavailableError(
                    "Too many calls wait for the ledger", path=str(self._path)
                ) from error
            if self._ended.done():  # nobody else would answer
                self._refuse_the_rest()
            result: ResultT = await asyncio.wrap_future(call.answer)
            return result

    def _run(self) -> None:
        try:
            connection = self._connected()
            if connection is not None:
                try:
                    self._opened.set_result(None)
                    self._serve(connection)
                finally:
                    connection.close()
        finally:
            self._ended.set_result(None)
            self._refuse_the_rest()

    def _connected(self) -> sqlite3.Connection | None:
        try:
            return self._connect()
        except sqlite3.Error as error:
            self._opened.set_exception(translated(error, self._path))
        except Exception as error:  # noqa: BLE001 - told to who opens the ledger
            self._opened.set_exception(error)
        return None

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            if call is not None and call.answer.set_running_or_notify_cancel():
                call.answer.set_exception(self._not_open())

    def _not_open(self) -> LedgerUnavailableError:
        return LedgerUnavailableError("The ledger is not open", path=str(self._path))

    def _serve(self, connection: sqlite3.Connection) -> None:
        more = True
        while more:
            group: list[_Call] = []
            waiting = self._calls.get()
            while waiting is not None:
                if waiting.answer.set_running_or_notify_cancel():
                    group.append(waiting)
                if len(group) == _LARGEST_GROUP or self._calls.empty():
                    break
                waiting = self._calls.get_nowait()
            more = waiting is not None
            self._do(connection, group)

    def _do(self, connection: sqlite3.Connection, group: list[_Call]) -> None:
        """Run a group in one transaction; if that fails, each call in its own."""
        if not group:
            return
        try:
            outcomes = [*self._transaction(connection, group)]
        except sqlite3.Error as error:
            if len(group) == 1:
                group[0].answer.set_exception(translated(error, self._path))
                return
            for call in group:
                self._do(connection, [call])
            return
        for call, (result, problem) in zip(group, outcomes, strict=True):
            if problem is None:
                call.answer.set_result(result)
            else:
                call.answer.set_exception(problem)

    def _transaction(
        self, connection: sqlite3.Connection, group: list[_Call]
    ) -> list[tuple[Any, Exception | None]]:
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            connection.execute(self._begin)
            for call in group:
                connection.execute("SAVEPOINT one_call")
                try:
                    outcomes.append((call.work(connection), None))
                except sqlite3.Error:
                    raise
                except Exception as problem:  # noqa: BLE001 - handed to the caller
                    connection.execute("ROLLBACK TO one_call")
                    outcomes.append((None, problem))
                connection.execute("RELEASE one_call")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return outcomes
