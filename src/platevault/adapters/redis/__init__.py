"""Leases and presence on Redis."""

from platevault.adapters.redis.connection import RedisConnection, RedisState
from platevault.adapters.redis.leases import RedisLeases
from platevault.adapters.redis.presence import RedisPresence
from platevault.adapters.redis.settings import RedisSettings

__all__ = ["RedisConnection", "RedisLeases", "RedisPresence", "RedisSettings", "RedisState"]
