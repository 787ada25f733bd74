"""What may be wrong with a ledger's database beyond what the port names."""

from __future__ import annotations

from platevault.domain.errors import IntegrityError, PermanentError, UsageError


class LedgerMissingError(PermanentError):
    """There is no ledger at this place: nothing has run there, or the place is wrong."""


class LedgerForbiddenError(PermanentError):
    """The ledger may not be written or opened: an operator must mend permissions."""


class LedgerDamagedError(IntegrityError):
    """The database is damaged: stop every writer, keep the files, call a person."""


class LedgerSchemaError(UsageError):
    """The ledger was made by a newer release, or is no ledger: use that release or another one."""
