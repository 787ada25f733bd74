"""Schema of the ledger, as numbered steps that are done once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from platevault.adapters.sql_ledger.errors import LedgerSchemaError
from platevault.adapters.sql_ledger.migrations import read_migrations

_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_utc TEXT NOT NULL
) STRICT
"""


def schema_version(connection: sqlite3.Connection) -> int:
    """Tell the newest step that was done; 0 if none."""
    known = connection.execute(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_version'"
    ).fetchone()[0]
    if not known:
        return 0
    return int(connection.execute("SELECT max(version) FROM schema_version").fetchone()[0] or 0)


def check_schema(connection: sqlite3.Connection) -> None:
    """Refuse a database that this release cannot read.

    Raises
    ------
    LedgerSchemaError
        It is newer or older than this release. Do not retry.
    """
    newest = read_migrations("sqlite")[-1].version
    found = schema_version(connection)
    if found != newest:
        raise LedgerSchemaError("The ledger has another schema", found=found, expected=newest)


def migrate(connection: sqlite3.Connection) -> None:
    """Do the steps that are missing, all or none; safe when several processes start at once.

    Raises
    ------
    LedgerSchemaError
        The database is newer than this release. Nothing was changed.
    """
    steps = read_migrations("sqlite")
    if schema_version(connection) == steps[-1].version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = schema_version(connection)
        if found > steps[-1].version:
            raise LedgerSchemaError(
                "The ledger was made by a newer release", found=found, expected=steps[-1].version
            )
        connection.execute(_VERSIONS)
        for step in steps[found:]:
            for statement in _statements(step.script):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_version VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%fZ'))",
                (step.version, step.name),
            )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _statements(script: str) -> Iterator[str]:
    """Take a script apart at the semicolons that end a statement, not those in a trigger."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
