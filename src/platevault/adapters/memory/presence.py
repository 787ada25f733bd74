"""Signs of life within one process."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.presence import Member, Presence


class MemoryPresence(Presence):
    """The `platevault.ports.presence.Presence` port within one process.

    Parameters
    ----------
    clock
        Time by which members fall silent.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._members: dict[tuple[str, str], tuple[Member, float]] = {}

    @override
    async def announce(
        self, kind: str, name: str, facts: Mapping[str, str], *, ttl_s: float
    ) -> None:
        if ttl_s <= 0:
            raise UsageError("A sign of life must last", field="ttl_s", value=ttl_s)
        now_tai = self._clock.now_tai()
        self._members[kind, name] = (Member(kind, name, dict(facts), now_tai), now_tai + ttl_s)

    @override
    async def withdraw(self, kind: str, name: str) -> None:
        self._members.pop((kind, name), None)

    @override
    async def alive(self, kind: str) -> list[Member]:
        now_tai = self._clock.now_tai()
        for key in [key for key, (_, until) in self._members.items() if until <= now_tai]:
            del self._members[key]
        members = [member for member, _ in self._members.values() if kind in {"*", member.kind}]
        return sorted(members, key=lambda member: (member.name, member.kind))
