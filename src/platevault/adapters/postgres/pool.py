"""A few connections to PostgreSQL, each change in a transaction of its own."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from platevault.adapters.postgres.errors import (
    LedgerRefusedError,
    LedgerUncertainError,
    translated,
)
from platevault.adapters.postgres.settings import PostgresSettings
from platevault.adapters.sql_ledger.errors import LedgerForbiddenError
from platevault.domain.errors import PlatevaultError
from platevault.ports.file_ledger import LedgerUnavailableError

ResultT = TypeVar("ResultT")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

#: The number of the transaction tells afterwards whether its commit was made.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_current_xact_id()::text"
#: How often a server that comes back is asked whether a commit was made [s].
_ASK_AGAIN_S = 0.1


class ConnectionPool:
    """Opens connections as calls need them, and keeps them; nothing runs between calls.

    A connection that the server has closed is found before it is used, so that the first call
    after a restart succeeds. A call that fails closes its connection unless the server said why.

    Parameters
    ----------
    settings
        Where, who, and the limits.
    read_only
        Connections that cannot write.
    """

    def __init__(self, *, settings: PostgresSettings, read_only: bool) -> None:
        self._settings = settings
        self._read_only = read_only
        self._places = asyncio.Semaphore(settings.connections)
        self._idle: list[Connection] = []
        self._is_open = False
        #: Why the last call found no server; empty if it did.
        self.problem = ""

    async def open(self, prepare: Callable[[Connection], Awaitable[None]]) -> None:
        """Connect once and run ``prepare`` on the connection.

        Raises
        ------
        LedgerUnavailableError
            The server does not answer. Retry.
        LedgerForbiddenError
            The password file may be read by others. Do not retry.
        """
        await asyncio.to_thread(_check_secret, self._settings)
        connection = await self._connected()
        prepared = False
        try:
            async with _within(self._settings.call_within_s, connection):
                await prepare(connection)
            prepared = True
        except psycopg.Error as error:
            raise translated(error, self._settings, read_only=self._read_only) from error
        finally:
            if not prepared:
                await connection.close()
        self._is_open = True
        self._idle.append(connection)

    async def close(self) -> None:
        """Let the calls under way end, and close the connections."""
        if not self._is_open:
            return
        self._is_open = False
        taken = 0
        try:
            while taken < self._settings.connections:
                await self._places.acquire()
                taken += 1
        finally:
            for _ in range(taken):
                self._places.release()
            for connection in self._idle:
                await connection.close()
            self._idle.clear()

    async def ask(self, question: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
        """Run a ``question`` of one statement, which needs no transaction around it.

        Raises
        ------
        LedgerUnavailableError
            No connection or no answer in time. Retry.
        """
        return await self._lend(lambda connection, _: question(connection))

    async def call(self, work: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
        """Run ``work`` in a transaction.

        Raises
        ------
        LedgerUnavailableError
            No connection, no answer or no lock in time; nothing was written. Retry.
        LedgerUncertainError
            The connection broke in the commit. Repeat the call.
        """
        return await self._lend(
            lambda connection, deadline: self._transaction(connection, work, deadline)
        )

    async def _lend(self, use: Callable[[Connection, float], Awaitable[ResultT]]) -> ResultT:
        try:
            result = await self._used(use)
        except LedgerUnavailableError as error:
            self.problem = str(error)
            raise
        self.problem = ""
        return result

    async def _used(self, use: Callable[[Connection, float], Awaitable[ResultT]]) -> ResultT:
        deadline = asyncio.get_running_loop().time() + self._settings.call_within_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._places.acquire()
        except TimeoutError as error:
            raise LedgerUnavailableError(
                "Too many calls wait for the ledger", **self._settings.place()
            ) from error
        try:
            if not self._is_open:
                raise LedgerUnavailableError("The ledger is not open", **self._settings.place())
            connection = await self._take()
            watch = _within(deadline - asyncio.get_running_loop().time(), connection)
            try:
                async with watch:
                    return await use(connection, deadline)
            except psycopg.Error as error:
                if watch.expired:
                    raise LedgerUnavailableError(
                        "The ledger does not answer in time", **self._settings.place()
                    ) from error
                raise translated(error, self._settings, read_only=self._read_only) from error
            except UnicodeError as error:
                raise LedgerRefusedError("Text cannot be stored", problem=str(error)) from error
            finally:
                await self._give_back(connection)
        finally:
            self._places.release()

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if _is_alive(connection):
                return connection
            await connection.close()
        return await self._connected()

    async def _give_back(self, connection: Connection) -> None:
        rests = connection.pgconn.transaction_status == TransactionStatus.IDLE
        if rests and self._is_open:
            self._idle.append(connection)
        else:
            await connection.close()

    async def _connected(self) -> Connection:
        parameters = self._settings.connection_parameters(read_only=self._read_only)
        try:
            async with asyncio.timeout(self._settings.connect_within_s):
                return await psycopg.AsyncConnection.connect(
                    autocommit=True,
                    conninfo=psycopg.conninfo.make_conninfo("", **parameters),
                )
        except TimeoutError as error:
            raise LedgerUnavailableError(
                "The ledger does not answer in time", **self._settings.place()
            ) from error
        except psycopg.Error as error:
            raise translated(error, self._settings, read_only=self._read_only) from error

    async def _transaction(
        self,
        connection: Connection,
        work: Callable[[Connection], Awaitable[ResultT]],
        deadline: float,
    ) -> ResultT:
        number = ""
        try:
            begun = await connection.execute(_BEGIN)
            if begun.nextset():
                (number,) = await begun.fetchone() or ("",)
            result = await work(connection)
        except (psycopg.Error, PlatevaultError):
            if connection.pgconn.transaction_status in {
                TransactionStatus.INTRANS,
                TransactionStatus.INERROR,
            }:
                # Failing here is no other failure: the connection is closed then.
                with suppress(psycopg.Error):
                    await connection.execute("ROLLBACK")
            raise
        try:
            await connection.execute("COMMIT")
        except psycopg.Error as error:
            if not number or connection.pgconn.status == ConnStatus.OK:
                raise
            await self._resolve(number, deadline, error)
        return result

    async def _resolve(self, number: str, deadline: float, problem: psycopg.Error) -> None:
        """Return if the commit was made; raise ``problem`` if it was not."""
        loop = asyncio.get_running_loop()
        while loop.time() < deadline:
            status = await self._status_of(number)
            if status == "committed":
                return
            if status == "aborted":
                raise problem
            await asyncio.sleep(_ASK_AGAIN_S)
        raise LedgerUncertainError(
            "The connection broke in the commit", problem=str(problem), **self._settings.place()
        ) from problem

    async def _status_of(self, number: str) -> str:
        try:
            connection = await self._connected()
        except LedgerUnavailableError:
            return ""
        try:
            async with _within(self._settings.connect_within_s, connection):
                found = await connection.execute("SELECT pg_xact_status(%s::text::xid8)", (number,))
                (status,) = await found.fetchone() or (None,)
                return status or ""
        except psycopg.Error:
            return ""
        finally:
            await connection.close()


class _within:  # noqa: N801 - reads as a word
    """Break a connection that does not answer in time.

    A server that hangs answers no request to cancel either; ending the socket's life makes the
    wait for it end at once; ``expired`` says that this was done.
    """

    def __init__(self, seconds: float, connection: Connection) -> None:
        self._seconds = max(0.0, seconds)
        self._connection = connection
        self.expired = False

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._break)

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()

    def _break(self) -> None:
        self.expired = True
        with suppress(psycopg.OperationalError, OSError):
            descriptor = os.dup(self._connection.pgconn.socket)
            with socket.socket(fileno=descriptor) as line:
                line.shutdown(socket.SHUT_RDWR)


def _is_alive(connection: Connection) -> bool:
    """Tell whether the server has kept the connection, without asking it.

    A server has nothing to say to a connection at rest but that it ends.
    """
    if connection.pgconn.status != ConnStatus.OK:
        return False
    look = select.poll()
    look.register(connection.pgconn.socket, select.POLLIN)
    return not look.poll(0)


def _check_secret(settings: PostgresSettings) -> None:
    path = settings.password_file
    if path is None:
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise LedgerForbiddenError(
            "The password file cannot be read", file=str(path), problem=str(error)
        ) from error
    if mode & 0o077:
        raise LedgerForbiddenError(
            "The password file may be read by others",
            file=str(path),
            mode=oct(mode),
            expected=0o600,
        )
