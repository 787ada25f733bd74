"""Fixtures for tests against a real Kafka broker: one per session, topics of its own per test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from platevault.adapters.kafka.settings import KafkaSettings
from platevault.adapters.schema_registry import SchemaRegistryServer, SchemaStore
from platevault.testing.servers import KafkaServer, ServerMissingError

_subnames = itertools.count(1)


@pytest.fixture(scope="session")
def kafka_server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[KafkaServer]:
    """Run a broker for the session; whoever stops or pauses it starts it again."""
    server = KafkaServer(Path(tmp_path_factory.mktemp("kafka")))
    try:
        server.__enter__()
    except ServerMissingError as error:
        service_missing(str(error))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
async def schema_registry() -> AsyncIterator[SchemaRegistryServer]:
    """Serve a registry in memory."""
    server = SchemaRegistryServer(store=SchemaStore())
    async with server.serving():
        yield server


@pytest.fixture
def kafka_settings(
    kafka_server: KafkaServer, schema_registry: SchemaRegistryServer
) -> KafkaSettings:
    """Give settings with a topic namespace that no other test has."""
    return KafkaSettings(
        brokers=kafka_server.address,
        registry_url=schema_registry.url,
        subname=f"test{next(_subnames)}",
    )
