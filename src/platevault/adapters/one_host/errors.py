"""What may be wrong with the files beyond what the ports name."""

from __future__ import annotations

from platevault.adapters.sqlite.connection import StoreErrors
from platevault.domain.errors import IntegrityError, PermanentError, UsageError
from platevault.ports.leases import LeasesUnavailableError
from platevault.ports.work_queue import QueueUnavailableError


class QueueSpaceError(QueueUnavailableError):
    """No space is left for the work queue: make space, retry; nothing was sent or settled."""


class LeasesFullError(LeasesUnavailableError):
    """No space is left for leases: make space, retry; nothing was granted."""


class StoreForbiddenError(PermanentError):
    """The file may not be opened or written: an operator must mend permissions."""


class StoreDamagedError(IntegrityError):
    """The file is damaged: stop every service, put it aside, start again.

    Nothing is lost with it: the ledger tells what was left undone.
    """


class StoreSchemaError(UsageError):
    """The file was made by another release, or by another program: put it aside."""


QUEUE_ERRORS = StoreErrors(
    what="work queue",
    unavailable=QueueUnavailableError,
    full=QueueSpaceError,
    damaged=StoreDamagedError,
    forbidden=StoreForbiddenError,
)
LEASES_ERRORS = StoreErrors(
    what="lease store",
    unavailable=LeasesUnavailableError,
    full=LeasesFullError,
    damaged=StoreDamagedError,
    forbidden=StoreForbiddenError,
)
