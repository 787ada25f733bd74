"""Presence on Redis: one key per member, and one index by which they are found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from urllib.parse import quote

from typing_extensions import override

from platevault.adapters.redis.connection import RedisConnection
from platevault.domain.errors import UsageError
from platevault.domain.timescales import tai_from_utc
from platevault.ports.presence import Member, Presence

_NOW = """
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local function whole(number) return string.format('%.0f', number) end
"""

# KEYS: member, index. ARGV: body, time to live [ms].
_ANNOUNCE = (
    _NOW
    + """
redis.call('SET', KEYS[1], whole(now_us) .. ' ' .. ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], whole(now_us + tonumber(ARGV[2]) * 1000), KEYS[1])
return 1
"""
)

_WITHDRAW = """
redis.call('DEL', KEYS[1])
return redis.call('ZREM', KEYS[2], KEYS[1])
"""

# KEYS: index. The index is cleared of the silent by whoever asks.
_ALIVE = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now_us))
local bodies = {}
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local body = redis.call('GET', key)
  if body then bodies[#bodies + 1] = body end
end
return bodies
"""
)


class RedisPresence(Presence):
    """The `platevault.ports.presence.Presence` port on Redis.

    `Member.seen_tai` is in the server's time, and the server decides who is silent.

    Parameters
    ----------
    connection
        Open connection, shared with others.
    """

    def __init__(self, *, connection: RedisConnection) -> None:
        self._connection = connection

    @override
    async def announce(
        self, kind: str, name: str, facts: Mapping[str, str], *, ttl_s: float
    ) -> None:
        if ttl_s <= 0:
            raise UsageError("A sign of life must last", field="ttl_s", value=ttl_s)
        body = json.dumps({"kind": kind, "name": name, "facts": dict(facts)})
        await self._connection.run(
            _ANNOUNCE, self._keys(kind, name), (body, max(1, math.ceil(ttl_s * 1000)))
        )

    @override
    async def withdraw(self, kind: str, name: str) -> None:
        await self._connection.run(_WITHDRAW, self._keys(kind, name), ())

    @override
    async def alive(self, kind: str) -> list[Member]:
        bodies = await self._connection.run(_ALIVE, (self._index,), ())
        members = [_member(body) for body in bodies]
        return sorted(
            (member for member in members if kind in {"*", member.kind}),
            key=lambda member: (member.name, member.kind),
        )

    @property
    def _index(self) -> str:
        return self._connection.key("presence")

    def _keys(self, kind: str, name: str) -> tuple[str, str]:
        # Quoted, so that no role and name can look like another pair.
        member = self._connection.key("presence", quote(kind, safe=""), quote(name, safe=""))
        return member, self._index


def _member(stored: str) -> Member:
    seen_us, _, body = stored.partition(" ")
    told = json.loads(body)
    return Member(told["kind"], told["name"], told["facts"], tai_from_utc(int(seen_us) / 1e6))
