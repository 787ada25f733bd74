"""Leases in a file that the processes of one host share."""

from __future__ import annotations

import sqlite3
from functools import partial

from typing_extensions import override

from platevault.adapters.one_host.store import LeaseStore
from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.leases import Grant, Leases


class SqliteLeases(Leases):
    """The `platevault.ports.leases.Leases` port in one file.

    Parameters
    ----------
    store
        The file, open; shared with others.
    clock
        Time by which leases lapse: the host's, and so the same for all.
    first_fence
        No fencing number is below it: of a ledger that outlives the file
        (`platevault.adapters.sqlite.SqliteFileLedger.first_fence`).
    """

    def __init__(self, *, store: LeaseStore, clock: Clock, first_fence: int = 1) -> None:
        self._thread = store.thread
        self._clock = clock
        self._first_fence = first_fence

    @override
    async def acquire(self, name: str, *, holder: str, ttl_s: float) -> Grant | None:
        _check(ttl_s)
        now_tai = self._clock.now_tai()
        return await self._thread.call(
            partial(
                _acquire,
                grant=Grant(name, holder, self._first_fence, now_tai + ttl_s),
                now_tai=now_tai,
            ),
            durable=False,
        )

    @override
    async def renew(self, grant: Grant, *, ttl_s: float) -> Grant | None:
        _check(ttl_s)
        now_tai = self._clock.now_tai()
        renewed = Grant(grant.name, grant.holder, grant.fence, now_tai + ttl_s)
        return await self._thread.call(
            partial(_renew, grant=renewed, now_tai=now_tai), durable=False
        )

    @override
    async def release(self, grant: Grant) -> None:
        await self._thread.call(partial(_release, grant=grant), durable=False)

    @override
    async def current(self, name: str) -> Grant | None:
        return await self._thread.call(
            partial(_current, name=name, now_tai=self._clock.now_tai()), durable=False
        )


def _acquire(connection: sqlite3.Connection, *, grant: Grant, now_tai: float) -> Grant | None:
    connection.execute("DELETE FROM lease WHERE expires_tai <= ?", (now_tai,))
    present = _current(connection, name=grant.name, now_tai=now_tai)
    if present is not None:
        if present.holder != grant.holder:
            return None
        again = Grant(grant.name, grant.holder, present.fence, grant.expires_tai)
        return _renew(connection, grant=again, now_tai=now_tai)
    (fence,) = connection.execute(
        "UPDATE last_fence SET fence = max(fence + 1, ?) RETURNING fence", (grant.fence,)
    ).fetchone()
    connection.execute(
        "INSERT INTO lease (name, holder, fence, expires_tai) VALUES (?, ?, ?, ?)",
        (grant.name, grant.holder, fence, grant.expires_tai),
    )
    return Grant(grant.name, grant.holder, fence, grant.expires_tai)


def _renew(connection: sqlite3.Connection, *, grant: Grant, now_tai: float) -> Grant | None:
    changed = connection.execute(
        "UPDATE lease SET expires_tai = ? WHERE name = ? AND fence = ? AND expires_tai > ?",
        (grant.expires_tai, grant.name, grant.fence, now_tai),
    )
    return grant if changed.rowcount else None


def _release(connection: sqlite3.Connection, *, grant: Grant) -> None:
    connection.execute("DELETE FROM lease WHERE name = ? AND fence = ?", (grant.name, grant.fence))


def _current(connection: sqlite3.Connection, *, name: str, now_tai: float) -> Grant | None:
    row = connection.execute(
        "SELECT holder, fence, expires_tai FROM lease WHERE name = ? AND expires_tai > ?",
        (name, now_tai),
    ).fetchone()
    return None if row is None else Grant(name, *row)


def _check(ttl_s: float) -> None:
    if ttl_s <= 0:
        raise UsageError("A lease must last", field="ttl_s", value=ttl_s, expected="above 0")
