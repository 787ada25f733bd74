"""Which ledger a site has, to read and to write."""

from __future__ import annotations

from platevault.adapters.sqlite import SqliteFileLedger, SqliteLedgerReader
from platevault.compose.settings import Settings


def ledger_reader(settings: Settings) -> SqliteLedgerReader:
    """Give a reader of the site's ledger, not yet open; it changes nothing."""
    return SqliteLedgerReader(settings.ledger_path)


def file_ledger(settings: Settings) -> SqliteFileLedger:
    """Give the site's ledger, not yet open."""
    return SqliteFileLedger(settings.ledger_path)
