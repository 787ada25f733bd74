"""A pytest plugin: the Redis and the RabbitMQ that all tests of a session share.

A test that stops or pauses a server starts its own instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from platevault.testing.servers import RabbitServer, RedisServer, ServerMissingError


@pytest.fixture(scope="session")
def redis_server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[RedisServer]:
    """Run Redis for the session."""
    try:
        with RedisServer(tmp_path_factory.mktemp("redis")) as server:
            yield server
    except ServerMissingError:
        service_missing("redis-server")


@pytest.fixture(scope="session")
def rabbit_server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[RabbitServer]:
    """Run RabbitMQ for the session."""
    try:
        with RabbitServer(tmp_path_factory.mktemp("rabbitmq")) as server:
            yield server
    except ServerMissingError:
        service_missing("rabbitmq-server")
