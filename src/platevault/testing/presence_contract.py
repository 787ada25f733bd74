"""What every presence store must do; subclass `PresenceContract` in a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from platevault.domain.errors import UsageError
from platevault.ports.presence import Presence

#: Lets time pass for the store under test [s].
Advance = Callable[[float], Awaitable[None]]


async def _names(presence: Presence, kind: str) -> list[tuple[str, str]]:
    return [(member.kind, member.name) for member in await presence.alive(kind)]


class PresenceContract:
    """Give the fixtures ``presence``, an empty `Presence`, and ``advance`` (`Advance`)."""

    #: Unit of the times below [s]; small where time is real.
    unit_s: ClassVar[float] = 10.0

    async def test_nobody_is_there_at_first(self, presence: Presence) -> None:
        assert await presence.alive("forwarder") == []
        assert await presence.alive("*") == []

    async def test_who_announced_itself_is_alive_with_its_facts(self, presence: Presence) -> None:
        facts = {"queue": "f1_consume", "host": "dæmon", "empty": ""}
        await presence.announce("forwarder", "f1", facts, ttl_s=self.unit_s)
        (member,) = await presence.alive("forwarder")
        assert (member.kind, member.name, dict(member.facts)) == ("forwarder", "f1", facts)
        assert member.seen_tai > 0

    async def test_facts_are_those_of_the_last_announcement(self, presence: Presence) -> None:
        facts = {"state": "idle", "old": "x"}
        await presence.announce("forwarder", "f1", facts, ttl_s=self.unit_s)
        facts["state"] = "changed by its owner"
        (member,) = await presence.alive("forwarder")
        assert member.facts["state"] == "idle"
        await presence.announce("forwarder", "f1", {"state": "busy"}, ttl_s=self.unit_s)
        (member,) = await presence.alive("forwarder")
        assert dict(member.facts) == {"state": "busy"}

    async def test_roles_are_told_apart_and_listed_together(self, presence: Presence) -> None:
        for kind, name in (("forwarder", "b"), ("archiver", "a"), ("forwarder", "a")):
            await presence.announce(kind, name, {}, ttl_s=self.unit_s)
        assert await _names(presence, "forwarder") == [("forwarder", "a"), ("forwarder", "b")]
        assert await _names(presence, "archiver") == [("archiver", "a")]
        assert {*await _names(presence, "*")} == {
            ("forwarder", "a"),
            ("archiver", "a"),
            ("forwarder", "b"),
        }
        assert await _names(presence, "oods") == []

    async def test_the_silent_are_gone(self, presence: Presence, advance: Advance) -> None:
        await presence.announce("forwarder", "f1", {}, ttl_s=self.unit_s)
        await presence.announce("forwarder", "f2", {}, ttl_s=10 * self.unit_s)
        await advance(1.5 * self.unit_s)
        assert await _names(presence, "*") == [("forwarder", "f2")]

    async def test_who_repeats_itself_stays(self, presence: Presence, advance: Advance) -> None:
        seen = []
        for _ in range(4):
            await presence.announce("forwarder", "f1", {}, ttl_s=2 * self.unit_s)
            (member,) = await presence.alive("forwarder")
            seen.append(member.seen_tai)
            await advance(self.unit_s)
        assert await _names(presence, "forwarder") == [("forwarder", "f1")]
        assert seen == sorted(set(seen))

    async def test_a_shorter_announcement_shortens_the_time(
        self, presence: Presence, advance: Advance
    ) -> None:
        await presence.announce("forwarder", "f1", {}, ttl_s=100 * self.unit_s)
        await presence.announce("forwarder", "f1", {}, ttl_s=self.unit_s)
        await advance(1.5 * self.unit_s)
        assert await presence.alive("forwarder") == []

    async def test_who_leaves_is_gone_at_once_and_may_come_back(self, presence: Presence) -> None:
        await presence.announce("forwarder", "f1", {}, ttl_s=self.unit_s)
        await presence.announce("archiver", "f1", {}, ttl_s=self.unit_s)
        await presence.withdraw("forwarder", "f1")
        await presence.withdraw("forwarder", "f1")
        assert await _names(presence, "*") == [("archiver", "f1")]
        await presence.announce("forwarder", "f1", {}, ttl_s=self.unit_s)
        assert await _names(presence, "forwarder") == [("forwarder", "f1")]

    @pytest.mark.parametrize("ttl_s", [0.0, -1.0])
    async def test_a_sign_of_life_that_does_not_last_is_refused(
        self, presence: Presence, ttl_s: float
    ) -> None:
        with pytest.raises(UsageError):
            await presence.announce("forwarder", "f1", {}, ttl_s=ttl_s)
        assert await presence.alive("*") == []

    async def test_many_announce_themselves_at_once(self, presence: Presence) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(
                    presence.announce("forwarder", f"f{number:02d}", {}, ttl_s=self.unit_s)
                )
        assert await _names(presence, "forwarder") == [
            ("forwarder", f"f{number:02d}") for number in range(20)
        ]
