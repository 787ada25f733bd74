"""The file ledger in one SQLite file."""

from platevault.adapters.sqlite.file_ledger import SqliteFileLedger, SqliteLedgerReader

__all__ = ["SqliteFileLedger", "SqliteLedgerReader"]
