"""The ledger's schema in PostgreSQL, brought up to date by whoever comes first."""

from __future__ import annotations

from psycopg import sql

from platevault.adapters.postgres.pool import Connection
from platevault.adapters.postgres.settings import PostgresSettings
from platevault.adapters.sql_ledger.errors import LedgerSchemaError
from platevault.adapters.sql_ledger.migrations import read_migrations

#: Longest wait for another process that brings the schema up to date [s].
_TURN_WITHIN_S = 60
_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_utc TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now()
)
"""
_LEDGER_TABLES = ("exposure", "file_state", "attempt", "told_result", "lease_epoch")


async def schema_version(connection: Connection, schema: str) -> int:
    """Tell the newest step that was done; 0 if none."""
    known = await connection.execute(
        "SELECT count(*) FROM pg_tables WHERE schemaname = %s AND tablename = 'schema_version'",
        (schema,),
    )
    (count,) = await known.fetchone() or (0,)
    if not count:
        return 0
    newest = await connection.execute("SELECT coalesce(max(version), 0) FROM schema_version")
    (version,) = await newest.fetchone() or (0,)
    return int(version)


async def check_schema(connection: Connection, settings: PostgresSettings) -> None:
    """Refuse a database that this release cannot read.

    Raises
    ------
    LedgerSchemaError
        It is newer or older than this release. Do not retry.
    """
    newest = read_migrations("postgres")[-1].version
    found = await schema_version(connection, settings.schema)
    if found != newest:
        raise LedgerSchemaError(
            "The ledger has another schema", found=found, expected=newest, **settings.place()
        )


async def migrate(connection: Connection, settings: PostgresSettings) -> None:
    """Do the steps that are missing, all or none; safe when several processes start at once.

    Raises
    ------
    LedgerSchemaError
        The database is newer than this release. Nothing was changed.
    """
    steps = read_migrations("postgres")
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{_TURN_WITHIN_S}s'")
        await connection.execute(f"SET LOCAL statement_timeout = '{_TURN_WITHIN_S}s'")
        # Statements that make what is not there yet collide if they run at the same moment.
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
            (f"platevault ledger {settings.schema}",),
        )
        found = await schema_version(connection, settings.schema)
        if found > steps[-1].version:
            raise LedgerSchemaError(
                "The ledger was made by a newer release",
                found=found,
                expected=steps[-1].version,
                **settings.place(),
            )
        if found < steps[-1].version:
            await connection.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(settings.schema))
            )
            await connection.execute(_VERSIONS)
        for step in steps[found:]:
            await connection.execute(step.script)
            await connection.execute(
                "INSERT INTO schema_version (version, name) VALUES (%s, %s)",
                (step.version, step.name),
            )
        await _grant(connection, settings)


async def _grant(connection: Connection, settings: PostgresSettings) -> None:
    schema = sql.Identifier(settings.schema)
    for role, rights in (
        (settings.reader_role, "SELECT"),
        (settings.writer_role, "SELECT, INSERT, UPDATE"),
    ):
        if not role:
            continue
        name = sql.Identifier(role)
        tables = sql.SQL(", ").join(
            sql.Identifier(settings.schema, table) for table in _LEDGER_TABLES
        )
        await connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, name))
        await connection.execute(
            sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(rights), tables, name)
        )
        await connection.execute(
            sql.SQL("GRANT SELECT ON {} TO {}").format(
                sql.Identifier(settings.schema, "schema_version"), name
            )
        )
