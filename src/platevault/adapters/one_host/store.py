"""Files of SQLite that several processes open."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from platevault.adapters.one_host.errors import (
    LEASES_ERRORS,
    StoreForbiddenError,
    StoreSchemaError,
)
from platevault.adapters.sqlite.connection import ConnectionThread, open_connection

_MAX_WAITING = 256

_LEASES_APPLICATION = 0x50564C53
_LEASES_SCHEMA = (
    """
    CREATE TABLE lease (
        name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, fence INTEGER NOT NULL,
        expires_tai REAL NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX lease_end ON lease (expires_tai)",
    "CREATE TABLE last_fence (fence INTEGER NOT NULL) STRICT",
    "INSERT INTO last_fence VALUES (0)",
    """
    CREATE TABLE member (
        kind TEXT NOT NULL, name TEXT NOT NULL, facts TEXT NOT NULL, seen_tai REAL NOT NULL,
        until_tai REAL NOT NULL, PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID
    """,
)


def open_store(
    path: Path, *, application: int, schema: Sequence[str], busy_timeout_s: float
) -> sqlite3.Connection:
    """Open a file for writing; make it and its directory first if there is none.

    Parameters
    ----------
    path
        The file.
    application
        Says whose file it is (``PRAGMA application_id``).
    schema
        Statements that make it.
    busy_timeout_s
        How long a write waits for another process [s].

    Raises
    ------
    StoreForbiddenError
        Its directory cannot be made.
    StoreSchemaError
        It is another program's, or another release's.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreForbiddenError(
            "The directory of the file cannot be made", path=str(path), problem=str(error)
        ) from error
    connection = open_connection(path, busy_timeout_s=busy_timeout_s, read_only=False)
    made = False
    try:
        _make(connection, path, application, schema)
        made = True
    finally:
        if not made:
            connection.close()
    return connection


def _make(
    connection: sqlite3.Connection, path: Path, application: int, schema: Sequence[str]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = connection.execute("PRAGMA application_id").fetchone()[0]
        empty = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if empty and not found:
            for statement in schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={application:d}")
        elif found != application:
            raise StoreSchemaError(
                "The file is not of this release", path=str(path), value=found, expected=application
            )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class LeaseStore:
    """The file of leases and presence; an asynchronous context manager.

    Its transactions survive the end of any process. What a failing host forgets are its last
    grants, and no process that held one has survived it.

    Parameters
    ----------
    path
        The file; its directory is made. Not on a network file system.
    busy_timeout_s
        How long a call waits for another process [s]. Below the shortest lease.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 2.0) -> None:
        self.thread = ConnectionThread(
            name="lease-store",
            path=path,
            connect=partial(
                open_store,
                path,
                application=_LEASES_APPLICATION,
                schema=_LEASES_SCHEMA,
                busy_timeout_s=busy_timeout_s,
            ),
            begin="BEGIN IMMEDIATE",
            max_waiting=_MAX_WAITING,
            errors=LEASES_ERRORS,
            busy_timeout_s=busy_timeout_s,
        )

    @property
    def problem(self) -> str:
        """What is wrong with the file; empty if nothing is."""
        return self.thread.problem

    async def __aenter__(self) -> Self:
        opened = False
        try:
            await self.thread.start()
            opened = True
        finally:
            if not opened:
                await self.thread.close()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.thread.close()
