"""Leases on Redis: one key per lease, changed by scripts only.

The server's clock decides when a lease ends, so hosts may disagree on the time. Fencing numbers
grow also after the server has lost what it knew: see `_GRANT`.
"""

from __future__ import annotations

import math
from typing import Any

from typing_extensions import override

from platevault.adapters.redis.connection import RedisConnection
from platevault.domain.errors import UsageError
from platevault.domain.timescales import tai_from_utc
from platevault.ports.clock import Clock
from platevault.ports.leases import Grant, Leases

#: Present moment of the server [us and ms, TAI]; ARGV[1] is TAI-UTC [s].
_NOW = """
local time = redis.call('TIME')
local offset_ms = tonumber(ARGV[1]) * 1000
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2]) + offset_ms * 1000
local now_ms = math.floor(now_us / 1000)
local function whole(number) return string.format('%.0f', number) end
local function keep(key, ttl_ms)
  local expires_ms = now_ms + tonumber(ttl_ms)
  redis.call('HSET', key, 'expires_ms', whole(expires_ms))
  redis.call('PEXPIREAT', key, whole(expires_ms - offset_ms))
  return whole(expires_ms)
end
"""

# The number is above the last one and not below the microseconds of the present: where the last
# one was lost (FLUSHALL, a replica that was behind, an empty disk), the present still exceeds it,
# because the server needs more than a microsecond for a grant. Milliseconds are too coarse: a burst
# of grants runs ahead of them. ARGV[5] is a floor of the caller: numbers of a ledger that was
# written without this server.
_GRANT = (
    _NOW
    + """
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[2] then return false end
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence then
  local last = tonumber(redis.call('GET', KEYS[2]) or '0')
  fence = whole(math.max(last + 1, now_us, tonumber(ARGV[5])))
  redis.call('SET', KEYS[2], fence)
  redis.call('HSET', KEYS[1], 'name', ARGV[4], 'holder', ARGV[2], 'fence', fence)
end
return {ARGV[2], fence, keep(KEYS[1], ARGV[3])}
"""
)

_RENEW = (
    _NOW
    + """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2] then return false end
return {redis.call('HGET', KEYS[1], 'holder'), ARGV[2], keep(KEYS[1], ARGV[3])}
"""
)

_RELEASE = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

_CURRENT = """
local lease = redis.call('HMGET', KEYS[1], 'holder', 'fence', 'expires_ms')
if not lease[1] then return false end
return lease
"""


class RedisLeases(Leases):
    """The `platevault.ports.leases.Leases` port on Redis.

    `Grant.expires_tai` is in the server's time. A call that fails may have taken effect: the same
    holder then gets the same grant when it asks again.

    Parameters
    ----------
    connection
        Open connection, shared with others.
    clock
        Only to know the difference of TAI and UTC.
    first_fence
        No fencing number is below it: pass one above those in a ledger that lived without this
        server.
    """

    def __init__(self, *, connection: RedisConnection, clock: Clock, first_fence: int = 1) -> None:
        self._connection = connection
        self._clock = clock
        self._first_fence = first_fence

    @override
    async def acquire(self, name: str, *, holder: str, ttl_s: float) -> Grant | None:
        ttl_ms = _milliseconds(ttl_s)
        answer = await self._connection.run(
            _GRANT,
            (self._key(name), self._connection.key("fence")),
            (self._offset_s(), holder, ttl_ms, name, self._first_fence),
        )
        return _grant(name, answer)

    @override
    async def renew(self, grant: Grant, *, ttl_s: float) -> Grant | None:
        ttl_ms = _milliseconds(ttl_s)
        answer = await self._connection.run(
            _RENEW, (self._key(grant.name),), (self._offset_s(), grant.fence, ttl_ms)
        )
        return _grant(grant.name, answer)

    @override
    async def release(self, grant: Grant) -> None:
        await self._connection.run(_RELEASE, (self._key(grant.name),), (grant.fence,))

    @override
    async def current(self, name: str) -> Grant | None:
        return _grant(name, await self._connection.run(_CURRENT, (self._key(name),), ()))

    def _key(self, name: str) -> str:
        return self._connection.key("lease", name)

    def _offset_s(self) -> int:
        now_tai = self._clock.now_tai()
        return round(tai_from_utc(now_tai) - now_tai)


def _milliseconds(ttl_s: float) -> int:
    if ttl_s <= 0:
        raise UsageError("A lease must last", field="ttl_s", value=ttl_s, expected="above 0")
    return max(1, math.ceil(ttl_s * 1000))


def _grant(name: str, answer: Any) -> Grant | None:
    if answer is None:
        return None
    holder, fence, expires_ms = answer
    return Grant(name, holder, int(fence), int(expires_ms) / 1000)
