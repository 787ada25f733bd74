"""Leases within one process."""

from __future__ import annotations

from typing_extensions import override

from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.leases import Grant, Leases


class MemoryLeases(Leases):
    """The `platevault.ports.leases.Leases` port within one process.

    Parameters
    ----------
    clock
        Time by which leases lapse.
    first_fence
        Fencing number of the first grant. With a ledger that outlives the process it must exceed
        those of former runs: `platevault.adapters.sqlite.SqliteFileLedger.first_fence`.
    """

    def __init__(self, *, clock: Clock, first_fence: int = 1) -> None:
        self._clock = clock
        self._next_fence = first_fence
        self._grants: dict[str, Grant] = {}

    @override
    async def acquire(self, name: str, *, holder: str, ttl_s: float) -> Grant | None:
        _check(ttl_s)
        present = self._present(name)
        if present is None:
            fence = self._next_fence
            self._next_fence += 1
        elif present.holder == holder:
            fence = present.fence
        else:
            return None
        return self._store(Grant(name, holder, fence, self._clock.now_tai() + ttl_s))

    @override
    async def renew(self, grant: Grant, *, ttl_s: float) -> Grant | None:
        _check(ttl_s)
        if not self._is_held(grant):
            return None
        return self._store(
            Grant(grant.name, grant.holder, grant.fence, self._clock.now_tai() + ttl_s)
        )

    @override
    async def release(self, grant: Grant) -> None:
        if self._is_held(grant):
            del self._grants[grant.name]

    @override
    async def current(self, name: str) -> Grant | None:
        return self._present(name)

    def _present(self, name: str) -> Grant | None:
        grant = self._grants.get(name)
        if grant is not None and grant.expires_tai <= self._clock.now_tai():
            del self._grants[name]
            return None
        return grant

    def _is_held(self, grant: Grant) -> bool:
        present = self._present(grant.name)
        return present is not None and present.fence == grant.fence

    def _store(self, grant: Grant) -> Grant:
        self._grants[grant.name] = grant
        return grant


def _check(ttl_s: float) -> None:
    if ttl_s <= 0:
        raise UsageError("A lease must last", field="ttl_s", value=ttl_s, expected="above 0")
