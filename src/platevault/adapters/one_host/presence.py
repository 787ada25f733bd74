"""Presence in a file that the processes of one host share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from functools import partial

from typing_extensions import override

from platevault.adapters.one_host.store import LeaseStore
from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.presence import Member, Presence


class SqlitePresence(Presence):
    """The `platevault.ports.presence.Presence` port in one file.

    Parameters
    ----------
    store
        The file, open; shared with others.
    clock
        Time by which members fall silent: the host's, and so the same for all.
    """

    def __init__(self, *, store: LeaseStore, clock: Clock) -> None:
        self._thread = store.thread
        self._clock = clock

    @override
    async def announce(
        self, kind: str, name: str, facts: Mapping[str, str], *, ttl_s: float
    ) -> None:
        if ttl_s <= 0:
            raise UsageError("A sign of life must last", field="ttl_s", value=ttl_s)
        now_tai = self._clock.now_tai()
        row = (kind, name, json.dumps(dict(facts)), now_tai, now_tai + ttl_s)
        await self._thread.call(partial(_announce, row=row), durable=False)

    @override
    async def withdraw(self, kind: str, name: str) -> None:
        await self._thread.call(partial(_withdraw, kind=kind, name=name), durable=False)

    @override
    async def alive(self, kind: str) -> list[Member]:
        return await self._thread.call(
            partial(_alive, kind=kind, now_tai=self._clock.now_tai()), durable=False
        )


def _announce(connection: sqlite3.Connection, *, row: tuple[str, str, str, float, float]) -> None:
    connection.execute("INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?, ?)", row)


def _withdraw(connection: sqlite3.Connection, *, kind: str, name: str) -> None:
    connection.execute("DELETE FROM member WHERE kind = ? AND name = ?", (kind, name))


def _alive(connection: sqlite3.Connection, *, kind: str, now_tai: float) -> list[Member]:
    connection.execute("DELETE FROM member WHERE until_tai <= ?", (now_tai,))
    rows = connection.execute(
        "SELECT kind, name, facts, seen_tai FROM member WHERE ? IN ('*', kind) ORDER BY name, kind",
        (kind,),
    )
    return [Member(row[0], row[1], json.loads(row[2]), row[3]) for row in rows]
