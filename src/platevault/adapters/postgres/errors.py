"""What PostgreSQL's errors mean for a ledger."""

from __future__ import annotations

import psycopg

from platevault.adapters.postgres.settings import PostgresSettings
from platevault.adapters.sql_ledger.errors import (
    LedgerDamagedError,
    LedgerForbiddenError,
    LedgerMissingError,
)
from platevault.domain.errors import PermanentError, PlatevaultError
from platevault.ports.file_ledger import LedgerFullError, LedgerUnavailableError

_DISK_FULL = "53100"
_DAMAGED = frozenset({"XX001", "XX002"})
_FORBIDDEN = frozenset({"42501", "28000", "28P01"})
_NO_DATABASE = "3D000"
_READ_ONLY = "25006"


class LedgerUncertainError(LedgerUnavailableError):
    """The connection broke in the commit, and whether it was made could not be learned in time.

    Repeat the call: each is safe to repeat.
    """


class LedgerRefusedError(PermanentError):
    """The database refuses the values or the statement: a bug, or text that it cannot hold."""


def translated(
    error: psycopg.Error, settings: PostgresSettings, *, read_only: bool
) -> PlatevaultError:
    """Give our error for one of PostgreSQL's."""
    code = error.sqlstate or ""
    facts = {**settings.place(), "problem": str(error).strip(), "code": code}
    if code == _DISK_FULL:
        return LedgerFullError("No space left for the ledger", **facts)
    if code in _DAMAGED:
        return LedgerDamagedError("The ledger is damaged", **facts)
    # A writer meets a read-only server while another one takes over.
    if code in _FORBIDDEN or (code == _READ_ONLY and read_only):
        return LedgerForbiddenError("The account may not do that", user=settings.user, **facts)
    if code == _NO_DATABASE:
        return LedgerMissingError("There is no such database", **facts)
    if code != _READ_ONLY and isinstance(
        error,
        psycopg.DataError
        | psycopg.IntegrityError
        | psycopg.ProgrammingError
        | psycopg.NotSupportedError,
    ):
        return LedgerRefusedError("The database refuses that", **facts)
    return LedgerUnavailableError("The ledger does not answer", **facts)
