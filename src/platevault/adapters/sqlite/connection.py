"""A thread that owns one SQLite connection."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from platevault.adapters.sql_ledger.errors import LedgerDamagedError, LedgerForbiddenError
from platevault.domain.errors import PlatevaultError
from platevault.ports.file_ledger import LedgerFullError, LedgerUnavailableError

ResultT = TypeVar("ResultT")

#: So many calls share one transaction, and so one wait for the disk, when they come together.
_LARGEST_GROUP = 64
#: Pause between attempts to turn the log on, or to write [s].
_LOOK_S = 0.01
#: The first pauses of who wants to write [s], and how many: for 50 ms, several commits of others.
_SHORT_PAUSE_S, _SHORT_PAUSES = 0.0005, 100
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FORBIDDEN = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN}
)
#: A write that the kernel refused for want of room (quota, file size limit) is an I/O error.
_IO_WRITES = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreErrors:
    """What is raised of a database.

    Attributes
    ----------
    what
        What the database is to its users, such as ``ledger``.
    unavailable
        It does not answer, or another process holds it.
    full
        No space is left.
    damaged
        Its file is no sound database.
    forbidden
        It cannot be opened or written.
    """

    what: str
    unavailable: type[PlatevaultError]
    full: type[PlatevaultError]
    damaged: type[PlatevaultError]
    forbidden: type[PlatevaultError]


LEDGER_ERRORS = StoreErrors(
    what="ledger",
    unavailable=LedgerUnavailableError,
    full=LedgerFullError,
    damaged=LedgerDamagedError,
    forbidden=LedgerForbiddenError,
)


def translated(error: sqlite3.Error, path: Path, errors: StoreErrors) -> PlatevaultError:
    """Give our error for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    facts: dict[str, object] = {
        "path": str(path),
        "problem": str(error),
        "code": getattr(error, "sqlite_errorname", ""),
    }
    primary = code & 0xFF
    if primary in _FULL or code in _IO_WRITES:
        return errors.full(f"No space left for the {errors.what}", **facts)
    if primary in _DAMAGED:
        return errors.damaged(f"The {errors.what} is damaged", **facts)
    if primary in _FORBIDDEN:
        return errors.forbidden(f"The {errors.what} cannot be opened or written", **facts)
    return errors.unavailable(f"The {errors.what} does not answer", **facts)


def open_connection(path: Path, *, busy_timeout_s: float, read_only: bool) -> sqlite3.Connection:
    """Open the file with the settings on which the promises of its users rest.

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
            _use_wal(connection, within_s=busy_timeout_s)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA journal_size_limit=67108864").fetchone()
        connection.execute("PRAGMA temp_store=MEMORY")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, *, within_s: float) -> None:
    """Turn the log on; others who do it at the same time make SQLite refuse instead of wait."""
    end = time.monotonic() + within_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= end:
                raise
            time.sleep(_LOOK_S)
        else:
            return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _busy_pauses() -> Iterator[float]:
    """Give pauses between attempts to write [s]: short ones for the usual wait, then longer."""
    yield from repeat(_SHORT_PAUSE_S, _SHORT_PAUSES)
    yield from repeat(_LOOK_S)


@dataclass(frozen=True, slots=True)
class _Call:
    work: Callable[[sqlite3.Connection], Any]
    answer: Future[Any]
    durable: bool


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
    errors
        What is raised for a database that fails.
    after
        Called in the thread after each transaction that was committed.
    busy_timeout_s
        How long to wait for other writers [s]; 0 leaves the wait to SQLite, whose pauses grow to
        100 ms: too coarse for writers that hold the file for a few milliseconds.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        connect: Callable[[], sqlite3.Connection],
        begin: str,
        max_waiting: int,
        errors: StoreErrors = LEDGER_ERRORS,
        after: Callable[[], None] | None = None,
        busy_timeout_s: float = 0.0,
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
        self._errors = errors
        self._after = after
        self._busy_timeout_s = busy_timeout_s
        self._synchronous = True
        #: Why the last transaction failed; empty if it did not.
        self.problem = ""

    async def start(self) -> None:
        """Start the thread and open the connection; raises what opening raised."""
        self._started = True
        # A daemon: a database that nobody closed must not keep a failed process alive.
        threading.Thread(target=self._run, name=self._name, daemon=True).start()
        await asyncio.shield(asyncio.wrap_future(self._opened))

    async def close(self) -> None:
        """Finish the calls that wait, close the connection and end the thread."""
        if not self._started:
            return
        if not self._closing:
            self._closing = True
            # Not in an executor: a caller cancelled before it began would take it back.
            try:
                self._calls.put_nowait(None)
            except queue.Full:
                await asyncio.shield(asyncio.to_thread(self._calls.put, None))
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def call(
        self, work: Callable[[sqlite3.Connection], ResultT], *, durable: bool = True
    ) -> ResultT:
        """Run ``work`` in a transaction of the thread; it may run twice and must not mind.

        Cancellation before it began means it never runs; later it runs to its end. What is not
        ``durable`` survives the end of any process, and may be forgotten when the host fails.
        """
        async with self._places:
            return await asyncio.wrap_future(self.submit(work, durable=durable))

    def submit(
        self, work: Callable[[sqlite3.Connection], ResultT], *, durable: bool = True
    ) -> Future[ResultT]:
        """Let ``work`` run as `call` does, without waiting for a place; its result is a future."""
        if not self._started or self._closing:
            raise self._not_open()
        answer: Future[ResultT] = Future()
        try:
            self._calls.put_nowait(_Call(work, answer, durable))
        except queue.Full as error:
            raise self._errors.unavailable(
                f"Too many calls wait for the {self._errors.what}", path=str(self._path)
            ) from error
        if self._ended.done():  # nobody else would answer
            self._refuse_the_rest()
        return answer

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
            self._opened.set_exception(translated(error, self._path, self._errors))
        except Exception as error:  # noqa: BLE001 - told to who opens it
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

    def _not_open(self) -> PlatevaultError:
        return self._errors.unavailable(
            f"The {self._errors.what} is not open", path=str(self._path)
        )

    def _serve(self, connection: sqlite3.Connection) -> None:
        if self._busy_timeout_s:
            connection.execute("PRAGMA busy_timeout=0").fetchone()
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
                problem = translated(error, self._path, self._errors)
                self.problem = str(problem)
                group[0].answer.set_exception(problem)
                return
            for call in group:
                self._do(connection, [call])
            return
        self.problem = ""
        if self._after is not None:
            self._after()
        for call, (result, raised) in zip(group, outcomes, strict=True):
            if raised is None:
                call.answer.set_result(result)
            else:
                call.answer.set_exception(raised)

    def _begin_transaction(self, connection: sqlite3.Connection) -> None:
        end = time.monotonic() + self._busy_timeout_s
        pauses = _busy_pauses()
        while True:
            try:
                connection.execute(self._begin)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= end:
                    raise
                time.sleep(next(pauses))
            else:
                return

    def _transaction(
        self, connection: sqlite3.Connection, group: list[_Call]
    ) -> list[tuple[Any, Exception | None]]:
        outcomes: list[tuple[Any, Exception | None]] = []
        synchronous = any(call.durable for call in group)
        if synchronous is not self._synchronous:
            connection.execute(f"PRAGMA synchronous={'FULL' if synchronous else 'NORMAL'}")
            self._synchronous = synchronous
        try:
            self._begin_transaction(connection)
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
