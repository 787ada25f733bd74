"""Work, leases and presence that the processes of one host share in files, without a server."""

from platevault.adapters.one_host.errors import (
    LeasesFullError,
    QueueSpaceError,
    StoreDamagedError,
    StoreForbiddenError,
    StoreSchemaError,
)
from platevault.adapters.one_host.leases import SqliteLeases
from platevault.adapters.one_host.presence import SqlitePresence
from platevault.adapters.one_host.store import LeaseStore
from platevault.adapters.one_host.work_queue import SqliteWorkQueue

__all__ = [
    "LeaseStore",
    "LeasesFullError",
    "QueueSpaceError",
    "SqliteLeases",
    "SqlitePresence",
    "SqliteWorkQueue",
    "StoreDamagedError",
    "StoreForbiddenError",
    "StoreSchemaError",
]
