"""The bus is let in by account and certificate, and by nothing less."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from structlog.testing import capture_logs
from typing_extensions import override

from platevault.adapters.kafka import BusAccessError, BusState, KafkaSampleBus, KafkaSettings
from platevault.adapters.kafka.topics import TopicDirectory
from platevault.adapters.schema_registry import SchemaRegistryServer
from platevault.adapters.system_clock import SystemClock
from platevault.ports.sample_bus import BusUnavailableError, History
from platevault.sal.avro import avro_schema
from platevault.testing.sample_bus_contract import (
    contract_sample,
    contract_topic,
    numbers_of,
    take_recorded,
)
from platevault.testing.servers import KafkaServer, ServerMissingError, free_port

pytestmark = pytest.mark.servers

PATIENCE_S = 30.0
STORE_PASSWORD = "only-for-this-test"
ACCOUNTS = {"archiver": "of the archiver", "guest": "of a guest", "reader": "of a reader"}


class GuardedKafka(KafkaServer):
    """A broker with a door for accounts over TLS, and one for its keeper."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.guarded_port = free_port()
        self.authority = directory / "authority.pem"

    @override
    def prepare(self) -> None:
        keytool = shutil.which("keytool")
        if keytool is None:
            raise ServerMissingError("Server is not installed", server="keytool")
        keys = self.directory / "broker.p12"
        store = ("-keystore", str(keys), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD)
        for command in (
            ("-genkeypair", "-alias", "broker", "-keyalg", "EC", "-dname", "CN=broker",
             "-ext", "SAN=ip:127.0.0.1", "-validity", "2", *store),
            ("-exportcert", "-rfc", "-alias", "broker", "-file", str(self.authority), *store),
        ):  # fmt: skip
            subprocess.run([keytool, *command], check=True, capture_output=True)
        self._settings |= {
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},"
            f"GUARDED://127.0.0.1:{self.guarded_port},"
            f"CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port},"
            f"GUARDED://127.0.0.1:{self.guarded_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,GUARDED:SASL_SSL,"
            "CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.guarded.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.location": str(keys),
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.password": STORE_PASSWORD,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        super().prepare()

    def admit(self, subname: str) -> None:
        """Make the accounts: one may use the topics of ``subname``, one read, one nothing."""
        admin = AdminClient({"bootstrap.servers": self.address})
        for name, password in ACCOUNTS.items():
            made = admin.alter_user_scram_credentials(
                [
                    UserScramCredentialUpsertion(
                        name,
                        ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096),
                        password.encode(),
                    )
                ]
            )
            made[name].result()
        topics, groups = f"lsst.{subname}.", f"platevault.{subname}."
        for name in ("READ", "WRITE", "CREATE", "DESCRIBE"):
            self.allow("archiver", topics, name)
        for name in ("READ", "DESCRIBE"):
            self.allow("reader", topics, name)
        for account in ("archiver", "reader"):
            self.allow(account, groups, "READ", kind=ResourceType.GROUP)

    def allow(
        self,
        account: str,
        prefix: str,
        operation: str,
        *,
        kind: ResourceType = ResourceType.TOPIC,
    ) -> None:
        """Give an account a right."""
        binding = AclBinding(
            kind,
            prefix,
            ResourcePatternType.PREFIXED,
            f"User:{account}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        admin = AdminClient({"bootstrap.servers": self.address})
        for future in admin.create_acls([binding]).values():
            future.result()


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[GuardedKafka]:
    server = GuardedKafka(Path(tmp_path_factory.mktemp("guarded")))
    try:
        server.__enter__()
    except ServerMissingError as error:
        service_missing(str(error))
    try:
        server.admit("sal")
        yield server
    finally:
        server.stop()


@pytest.fixture
def settings(guarded: GuardedKafka, schema_registry: SchemaRegistryServer) -> KafkaSettings:
    return KafkaSettings(
        brokers=f"127.0.0.1:{guarded.guarded_port}",
        registry_url=schema_registry.url,
        username="archiver",
        password=ACCOUNTS["archiver"],
        security_protocol="SASL_SSL",
        ca_file=guarded.authority,
        publish_within_s=2.0,
        answer_within_s=3.0,
        probe_every_s=0.5,
    )


@asynccontextmanager
async def opened(settings: KafkaSettings) -> AsyncIterator[KafkaSampleBus]:
    async with (
        asyncio.timeout(PATIENCE_S),
        KafkaSampleBus(settings=settings, clock=SystemClock(), avro_schema=avro_schema) as bus,
    ):
        yield bus


async def test_an_account_with_rights_publishes_reads_and_records(settings: KafkaSettings) -> None:
    topic = contract_topic()
    async with opened(settings) as bus:
        await bus.publish(contract_sample(1))
        async with (
            bus.subscribe([topic], history=History.LATEST) as samples,
            bus.record([topic], group="efd") as recording,
        ):
            assert (await anext(samples)).sequence == 1
            assert numbers_of(await take_recorded(recording, 1)) == [1]
            await recording.commit()
        assert bus.health.state is BusState.CONNECTED


async def test_an_account_without_rights_is_told_so(settings: KafkaSettings) -> None:
    async with opened(replace(settings, username="guest", password=ACCOUNTS["guest"])) as bus:
        with pytest.raises(BusAccessError):
            await bus.publish(contract_sample(1))
        with pytest.raises(BusAccessError):
            async with bus.subscribe([contract_topic()], history=History.LATEST):
                pass


async def test_rights_end_with_the_prefix_of_the_topics(settings: KafkaSettings) -> None:
    async with opened(replace(settings, subname="other")) as bus:
        with pytest.raises(BusAccessError):
            await bus.publish(contract_sample(1))


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Give what waits until the buses have looked at their broker some times more."""
    looks = 0
    probe = TopicDirectory.probe

    async def counted(directory: TopicDirectory, within_s: float) -> None:
        nonlocal looks
        await probe(directory, within_s)
        looks += 1

    async def wait() -> None:
        until = looks + 10
        while looks < until:  # noqa: ASYNC110 - other tasks look
            await asyncio.sleep(0.01)

    monkeypatch.setattr(TopicDirectory, "probe", counted)
    return wait


async def test_an_account_that_may_only_read_reads_and_is_told_once_that_it_may_not_write(
    guarded: GuardedKafka, settings: KafkaSettings, looked: Callable[[], Awaitable[None]]
) -> None:
    own = replace(settings, probe_every_s=0.1)
    reading = replace(own, username="reader", password=ACCOUNTS["reader"])
    topic = contract_topic()
    async with opened(own) as writer, opened(reading) as bus:
        await writer.publish(contract_sample(1))
        async with bus.subscribe([topic], history=History.NONE) as samples:
            await writer.publish(contract_sample(2))
            assert (await anext(samples)).sequence == 2
            await looked()
            assert bus.health.state is BusState.CONNECTED
            with capture_logs() as logs:
                for number in (3, 4, 5):
                    with pytest.raises(BusAccessError, match="CLUSTER_AUTHORIZATION_FAILED"):
                        await bus.publish(contract_sample(number))
                    await looked()
            said = [one for one in logs if one["event"].startswith("Bus ")]
            assert [(one["event"], one["source"]) for one in said] == [
                ("Bus is degraded", "writing")
            ]
            health = await bus.wait_health(BusState.DEGRADED)
            assert "account may not write" in health.reason
            await writer.publish(contract_sample(6))
            assert (await anext(samples)).sequence == 6

            guarded.allow("reader", f"lsst.{settings.subname}.", "WRITE")
            await _published(bus, 7)
            assert (await anext(samples)).sequence == 7
            assert bus.health.state is BusState.CONNECTED


async def _published(bus: KafkaSampleBus, number: int) -> None:
    """Publish as soon as the broker knows of the right."""
    while True:
        try:
            await bus.publish(contract_sample(number))
        except BusAccessError:
            await asyncio.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"password": "guessed"}, "authentication"),
        ({"security_protocol": "SASL_PLAINTEXT"}, ""),
        ({"ca_file": None}, "certificate"),
    ],
    ids=["password", "no TLS", "no authority"],
)
async def test_nobody_else_comes_in(
    settings: KafkaSettings, wrong: dict[str, Any], word: str
) -> None:
    async with opened(replace(settings, **wrong)) as bus:
        health = await bus.wait_health(BusState.DEGRADED)
        with pytest.raises(BusUnavailableError):
            await bus.publish(contract_sample(1))
        assert word in f"{health.reason} {bus.health.reason}".lower()


def test_secrets_are_not_shown(settings: KafkaSettings) -> None:
    assert ACCOUNTS["archiver"] not in repr(settings)
