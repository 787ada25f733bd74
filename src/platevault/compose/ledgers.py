"""Which ledger a site has, to read and to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platevault.adapters.sqlite import SqliteFileLedger, SqliteLedgerReader
from platevault.compose.settings import Settings
from platevault.domain.errors import UsageError

if TYPE_CHECKING:
    from platevault.adapters.postgres import (
        PostgresFileLedger,
        PostgresLedgerReader,
        PostgresSettings,
    )


class ClientMissingError(UsageError):
    """The client library of a server is not installed: install the extra that is named."""


def client_missing(extra: str, error: ImportError) -> ClientMissingError:
    """Give the error for a client library that cannot be imported."""
    return ClientMissingError(
        "Client library is not installed",
        problem=str(error),
        expected=f"pip install 'platevault[{extra}]'",
    )


def ledger_reader(settings: Settings) -> SqliteLedgerReader | PostgresLedgerReader:
    """Give a reader of the site's ledger, not yet open; it changes nothing."""
    if settings.ledger == "sqlite":
        return SqliteLedgerReader(settings.ledger_path)
    try:
        from platevault.adapters.postgres import PostgresLedgerReader
    except ImportError as error:
        raise client_missing("postgres", error) from error
    return PostgresLedgerReader(settings=_postgres(settings))


def file_ledger(settings: Settings) -> SqliteFileLedger | PostgresFileLedger:
    """Give the site's ledger, not yet open."""
    if settings.ledger == "sqlite":
        return SqliteFileLedger(settings.ledger_path)
    try:
        from platevault.adapters.postgres import PostgresFileLedger
    except ImportError as error:
        raise client_missing("postgres", error) from error
    return PostgresFileLedger(settings=_postgres(settings))


def _postgres(settings: Settings) -> PostgresSettings:
    from platevault.adapters.postgres import PostgresSettings

    part = settings.postgres
    return PostgresSettings(
        host=part.host,
        port=part.port,
        database=part.database,
        user=part.user,
        password=part.secret,
        tls=part.tls,
        ca_file=part.ca_file,
        cert_file=part.cert_file,
        key_file=part.key_file,
        schema=part.ledger_schema,
        connections=part.connections,
    )
