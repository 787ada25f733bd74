"""A pytest plugin: the Redis and the RabbitMQ that all tests of a session share.

A test that stops or pauses a server starts its own instead.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from platevault.testing.servers import (
    RabbitServer,
    RedisServer,
    ServerFailedError,
    ServerMissingError,
)


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


def rabbitmqctl(server: RabbitServer, *arguments: str) -> str:
    """Do what the broker's operator does: accounts, permissions, virtual hosts."""
    own = server.environment()
    command = [
        "/usr/lib/rabbitmq/bin/rabbitmqctl",
        "-q",
        "-n",
        own["RABBITMQ_NODENAME"],
        *arguments,
    ]
    if not Path(command[0]).exists():
        raise ServerMissingError("Server is not installed", server="rabbitmqctl")
    done = subprocess.run(  # noqa: S603 - our own argument list
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **own},  # noqa: TID251 - the child's
        cwd=server.directory,
    )
    if done.returncode != 0:
        raise ServerFailedError("Server refused", arguments=arguments, problem=done.stderr[-500:])
    return done.stdout
