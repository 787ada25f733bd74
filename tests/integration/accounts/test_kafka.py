"""Kafka as the stack starts it lets each account do its work, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from platevault.adapters.kafka import BusAccessError, BusState, KafkaSampleBus, KafkaSettings
from platevault.adapters.schema_registry import SchemaRegistryServer
from platevault.adapters.system_clock import SystemClock
from platevault.ports.sample_bus import BusUnavailableError, History
from platevault.sal.avro import avro_schema
from platevault.sal.controller import Command, Controller
from platevault.sal.remote import Remote
from platevault.sal.schema import load_interfaces
from platevault.testing.stack_servers import StackKafka, password_of, readable_secrets, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
CAMERA = "LATISS"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def kafka(
    tmp_path_factory: pytest.TempPathFactory,
    scripts: Path,
    secrets: Path,
    accounts: ModuleType,
    service_missing: Callable[[str], NoReturn],
) -> Iterator[StackKafka]:
    server = StackKafka(tmp_path_factory.mktemp("kafka"), secrets, scripts)
    with running(server, service_missing):
        for _ in range(2):  # again changes nothing
            accounts.make_kafka(server.address, secrets, [CAMERA])
        yield server


@asynccontextmanager
async def bus_of(
    kafka: StackKafka, registry: SchemaRegistryServer, account: str, secret: str
) -> AsyncIterator[KafkaSampleBus]:
    settings = KafkaSettings(
        brokers=kafka.address,
        registry_url=registry.url,
        username=account,
        password=secret,
        security_protocol="SASL_PLAINTEXT",
    )
    async with (
        asyncio.timeout(PATIENCE_S),
        KafkaSampleBus(settings=settings, clock=SystemClock(), avro_schema=avro_schema) as bus,
    ):
        yield bus


def remote_of(bus: KafkaSampleBus, component: str) -> Remote:
    return Remote(
        component=component, bus=bus, interfaces=load_interfaces(), clock=SystemClock(), watch=()
    )


async def test_the_observatory_commands_a_component_that_answers_by_its_own_account(
    kafka: StackKafka, secrets: Path, schema_registry: SchemaRegistryServer
) -> None:
    done: list[str] = []

    async def note(command: Command) -> None:
        done.append(command.name)

    for account, component in (("archiver", "ATArchiver"), ("header-service", "ATHeaderService")):
        async with (
            bus_of(kafka, schema_registry, account, password_of(secrets, "kafka", account)) as own,
            bus_of(
                kafka, schema_registry, "observatory", password_of(secrets, "kafka", "observatory")
            ) as others,
            asyncio.TaskGroup() as group,
        ):
            controller = Controller(
                component=component, bus=own, interfaces=load_interfaces(), clock=SystemClock()
            )
            controller.on_command("start", note)
            async with controller.serving(group), remote_of(others, component) as remote:
                await remote.command("start", timeout_s=30.0, configurationOverride="")
    assert done == ["start", "start"]


@pytest.mark.parametrize("account", ["archiver", "header-service", "oods", "observer"])
async def test_no_service_commands_another_component(
    kafka: StackKafka, secrets: Path, schema_registry: SchemaRegistryServer, account: str
) -> None:
    async with bus_of(
        kafka, schema_registry, "observatory", password_of(secrets, "kafka", "observatory")
    ) as others:
        component = load_interfaces().component("MTArchiver")
        await others.prepare([component.command("start"), component.ackcmd])
    async with bus_of(
        kafka, schema_registry, account, password_of(secrets, "kafka", account)
    ) as bus:
        with pytest.raises(BusAccessError):
            async with remote_of(bus, "MTArchiver") as remote:
                await remote.command("start", timeout_s=20.0, configurationOverride="")


async def test_the_observer_reads_what_a_component_says(
    kafka: StackKafka, secrets: Path, schema_registry: SchemaRegistryServer
) -> None:
    interfaces = load_interfaces()
    topic = interfaces.component("ATArchiver").event("heartbeat")
    async with (
        bus_of(
            kafka, schema_registry, "archiver", password_of(secrets, "kafka", "archiver")
        ) as own,
        asyncio.TaskGroup() as group,
    ):
        controller = Controller(
            component="ATArchiver", bus=own, interfaces=interfaces, clock=SystemClock()
        )
        async with controller.serving(group):
            await controller.event("heartbeat").write()
            async with (
                bus_of(
                    kafka, schema_registry, "observer", password_of(secrets, "kafka", "observer")
                ) as others,
                others.subscribe([topic], history=History.LATEST) as samples,
            ):
                assert (await anext(samples)).topic == topic
                assert others.health.state is BusState.CONNECTED


@pytest.mark.parametrize("account", ["forwarder", "archive-controller", "admin"])
async def test_who_has_no_account_or_another_password_stays_outside(
    kafka: StackKafka, schema_registry: SchemaRegistryServer, account: str
) -> None:
    async with bus_of(kafka, schema_registry, account, "guessed") as bus:
        await bus.wait_health(BusState.DEGRADED)
        with pytest.raises(BusUnavailableError):
            async with bus.subscribe(
                [load_interfaces().component("ATArchiver").event("heartbeat")],
                history=History.LATEST,
            ):
                pass


def test_nobody_else_reads_what_the_script_leaves_on_disk(kafka: StackKafka, secrets: Path) -> None:
    assert (kafka.directory / "server.properties").exists()
    assert readable_secrets(kafka.directory, secrets) == []
