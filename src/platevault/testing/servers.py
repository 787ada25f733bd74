"""Real servers for tests; see `platevault.compose.local_servers`."""

from platevault.compose.local_servers import (
    KafkaServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    ServerFailedError,
    ServerMissingError,
    free_port,
)

__all__ = [
    "KafkaServer",
    "PostgresServer",
    "RabbitServer",
    "RedisServer",
    "Server",
    "ServerFailedError",
    "ServerMissingError",
    "free_port",
]
