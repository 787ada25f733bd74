"""The file ledger in a PostgreSQL database."""

from platevault.adapters.postgres.file_ledger import PostgresFileLedger, PostgresLedgerReader
from platevault.adapters.postgres.settings import PostgresSettings

__all__ = ["PostgresFileLedger", "PostgresLedgerReader", "PostgresSettings"]
