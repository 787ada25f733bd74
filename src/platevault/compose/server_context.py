"""Chooses the adapter of each port that may be a server, as the settings say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from platevault.adapters.butler.configuration import Compatibility, RepositorySettings
from platevault.adapters.memory.leases import MemoryLeases
from platevault.adapters.memory.presence import MemoryPresence
from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.adapters.one_host import (
    LeaseStore,
    SqliteLeases,
    SqlitePresence,
    SqliteWorkQueue,
)
from platevault.adapters.sqlite import SqliteFileLedger
from platevault.compose.kafka_files import read_history_limits, read_options
from platevault.compose.ledgers import client_missing, file_ledger
from platevault.compose.server_settings import KafkaPart
from platevault.compose.settings import Settings, offer_registry_password
from platevault.compose.work_queues import rabbit_queue, sqlite_queue
from platevault.domain.errors import TransientError, UsageError
from platevault.domain.samples import TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.leases import Leases
from platevault.ports.presence import Presence
from platevault.ports.sample_bus import SampleBus
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.retry import Backoff, retry
from platevault.sal.avro import avro_schema

if TYPE_CHECKING:
    from platevault.adapters.dds import DdsSampleBus
    from platevault.adapters.kafka.settings import KafkaSettings
    from platevault.adapters.postgres import PostgresFileLedger

OpenT = TypeVar("OpenT")
#: An adapter that needs no server.
ServerlessT = TypeVar("ServerlessT", "DdsSampleBus", SqliteWorkQueue, LeaseStore)

#: Pauses while a server that must answer before anything can start does not.
_OPENING = Backoff(first_s=0.2, ceiling_s=5.0)
#: Tells what is wrong with a connection now; nothing if it serves.
Problem = Callable[[], str]

_log = structlog.get_logger(__name__)


class Part(StrEnum):
    """What a process uses of its context; the rest stays unopened."""

    BUS = "bus"
    QUEUE = "queue"
    LEASES = "leases"
    LEDGER = "ledger"
    INGEST = "ingest"


EVERY_PART = frozenset(Part)


class Servers:
    """Opens adapters and knows how it stands with their connections.

    Parameters
    ----------
    settings
        Which, where and who.
    clock
        Time of adapters and of pauses.
    stack
        Closes what was opened.
    parts
        What is opened; other adapters are made and stay closed, so that a process does not depend
        on servers that it does not use.
    instance
        Name of the process, below which a bus without a server keeps what it records.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        stack: AsyncExitStack,
        parts: Collection[Part] = EVERY_PART,
        instance: str = "",
    ) -> None:
        self._settings = settings
        self.clock = clock
        self._stack = stack
        self._parts = parts
        self._instance = instance
        #: By server; each tells what is wrong with it.
        self.problems: dict[str, Problem] = {}
        #: Each asks a server now that is asked only now and then, or when it is needed.
        self.inquiries: list[Callable[[], Awaitable[None]]] = []
        #: Each asks a server whose connection says nothing while it is not used.
        self.looks: list[Callable[[], Awaitable[None]]] = []
        self._leases: Callable[[int], Leases] | None = None

    async def bus(self) -> SampleBus:
        """Give the sample bus."""
        if self._settings.bus == "memory":
            return MemorySampleBus(clock=self.clock)
        if self._settings.bus == "dds":
            return await self._dds()
        try:
            from platevault.adapters.kafka import BusState, KafkaSampleBus
        except ImportError as error:
            raise client_missing("kafka", error) from error
        bus = KafkaSampleBus(
            settings=kafka_settings(self._settings.kafka),
            clock=self.clock,
            avro_schema=_avro_schema,
        )
        if Part.BUS in self._parts:
            await self._stack.enter_async_context(bus)
            self.inquiries.append(bus.inquire)
            self.problems["kafka"] = lambda: (
                "" if bus.health.state is BusState.CONNECTED else bus.health.reason
            )
        return bus

    async def _dds(self) -> SampleBus:
        try:
            from platevault.adapters.dds import DdsSampleBus, DdsSettings
        except ImportError as error:
            raise client_missing("dds", error) from error
        part = self._settings.dds
        spool = self._settings.spool_dir / "dds" / self._instance if self._instance else None

        def make() -> DdsSampleBus:
            return DdsSampleBus(
                settings=DdsSettings(
                    domain_id=part.domain_id,
                    interface=part.interface,
                    peers=part.peers,
                    multicast=part.multicast,
                    spool_directory=spool,
                ),
                clock=self.clock,
            )

        return await self._serverless(Part.BUS, "dds", make)

    async def queue(self) -> WorkQueue:
        """Give the work queue."""
        if self._settings.queue == "memory":
            return MemoryWorkQueue(clock=self.clock)
        if self._settings.queue == "sqlite":
            return await self._shared_queue()
        queue = rabbit_queue(self._settings, clock=self.clock)
        if Part.QUEUE in self._parts:
            await self._stack.enter_async_context(queue)
            self.inquiries.append(queue.connect)
            self.problems["rabbitmq"] = lambda: "; ".join(
                f"{name}: {state.problem}"
                for name, state in queue.states.items()
                if not state.connected
            )
        return queue

    async def _shared_queue(self) -> WorkQueue:
        def make() -> SqliteWorkQueue:
            return sqlite_queue(self._settings, clock=self.clock)

        return await self._serverless(Part.QUEUE, "queue", make)

    async def presence(self) -> Presence:
        """Give presence; `leases` are of the same server."""
        if self._settings.leases == "memory":
            self._leases = lambda first_fence: MemoryLeases(
                clock=self.clock, first_fence=first_fence
            )
            return MemoryPresence(clock=self.clock)
        if self._settings.leases == "sqlite":
            return await self._shared_presence()
        try:
            from platevault.adapters.redis import (
                RedisConnection,
                RedisLeases,
                RedisPresence,
                RedisSettings,
            )
        except ImportError as error:
            raise client_missing("redis", error) from error
        part = self._settings.redis
        connection = RedisConnection(
            settings=RedisSettings(
                host=part.host,
                port=part.port,
                database=part.database,
                user=part.user,
                password=part.secret,
                tls=part.tls,
                ca_file=part.ca_file,
                cert_file=part.cert_file,
                key_file=part.key_file,
                namespace=part.namespace,
            ),
            clock=self.clock,
        )
        if Part.LEASES in self._parts:
            await self._stack.enter_async_context(connection)
            self.problems["redis"] = lambda: (
                "" if connection.state.answers else connection.state.problem or "no answer"
            )
        self._leases = lambda first_fence: RedisLeases(
            connection=connection, clock=self.clock, first_fence=first_fence
        )
        return RedisPresence(connection=connection)

    async def _shared_presence(self) -> Presence:
        def make() -> LeaseStore:
            return LeaseStore(self._settings.leases_path)

        store = await self._serverless(Part.LEASES, "leases", make)
        self._leases = lambda first_fence: SqliteLeases(
            store=store, clock=self.clock, first_fence=first_fence
        )
        return SqlitePresence(store=store, clock=self.clock)

    async def leases(self, ledger: SqliteFileLedger | PostgresFileLedger) -> Leases:
        """Give leases of the server of `presence`, which was called before.

        The ledger outlives every process and refuses older fencing numbers: they begin beyond its.
        """
        if self._leases is None:
            raise UsageError("Presence is opened before leases")
        if Part.LEDGER not in self._parts:
            return self._leases(1)
        return self._leases(await self._answered(self._ledger_name, ledger.first_fence))

    async def inquire(self) -> None:
        """Ask servers how it stands; `problems` tell what they answered."""
        await _ask(self.inquiries)

    async def look(self) -> None:
        """Ask those whose connections say nothing while they are not used."""
        await _ask(self.looks)

    async def _serverless(
        self, part: Part, name: str, make: Callable[[], ServerlessT]
    ) -> ServerlessT:
        """Make an adapter; open it, and have its problem told, if the process uses it."""
        if part not in self._parts:
            return make()
        adapter = await self._entered(name, make)
        self.problems[name] = lambda: adapter.problem
        return adapter

    async def _entered(
        self, name: str, make: Callable[[], AbstractAsyncContextManager[OpenT]]
    ) -> OpenT:
        """Open what ``make`` gives; again while it does not answer."""

        async def enter() -> OpenT:
            return await self._stack.enter_async_context(make())

        return await self._answered(name, enter)

    async def _answered(self, name: str, ask: Callable[[], Awaitable[OpenT]]) -> OpenT:
        """Ask a server until it answers; meanwhile its problem is the last answer."""

        def note(error: TransientError, failures: int, _pause_s: float) -> None:
            self.problems[name] = lambda: str(error)
            if failures == 1:
                _log.warning("Server does not answer yet", server=name, problem=str(error))

        known = self.problems.get(name)
        answer = await retry(ask, clock=self.clock, backoff=_OPENING, on_retry=note)
        if self.problems.pop(name, None) is not known:
            _log.info("Server answers", server=name)
        if known is not None:
            self.problems[name] = known
        return answer

    async def ledger(self) -> SqliteFileLedger | PostgresFileLedger:
        """Give the ledger; waits until its database answers."""
        if Part.LEDGER not in self._parts:
            return file_ledger(self._settings)
        ledger: SqliteFileLedger | PostgresFileLedger = await self._entered(
            self._ledger_name, lambda: file_ledger(self._settings)
        )
        if not isinstance(ledger, SqliteFileLedger):
            server = ledger
            self.problems[self._ledger_name] = lambda: server.problem
            self.looks.append(server.inquire)
        return ledger

    @property
    def _ledger_name(self) -> str:
        return "postgres" if self._settings.ledger == "postgres" else "ledger"

    def offer_registry_password(self) -> None:
        """Let the Butler registry use the account of the ledger, if this process has one."""
        if self._settings.oods.registry == "postgres" and Part.LEDGER in self._parts:
            offer_registry_password(self._settings.postgres.secret)

    def repository(self) -> RepositorySettings:
        """Give the settings of the Butler repository.

        A password of its registry is never written into the repository: libpq finds it by its own
        rules (``PGPASSFILE``), or where `offer_registry_password` puts it.
        """
        settings = self._settings
        url = ""
        if settings.oods.registry == "postgres":
            part = settings.postgres
            url = f"postgresql+psycopg://{part.user}@{part.host}:{part.port}/{part.database}"
            if part.tls:
                url += f"?sslmode=verify-full&sslrootcert={_authority(part.ca_file)}"
        return RepositorySettings(
            root=settings.butler_dir,
            compatibility=Compatibility(settings.oods.compatibility),
            registry_url=url,
            registry_namespace=settings.postgres.registry_schema if url else "",
        )


async def _ask(questions: Iterable[Callable[[], Awaitable[None]]]) -> None:
    for ask in questions:
        with suppress(TransientError):  # which is its problem then
            await ask()


def kafka_settings(part: KafkaPart) -> KafkaSettings:
    """Give the settings of the Kafka adapter, with what the files say that they name.

    Raises
    ------
    KafkaFileError, SecretFileError
        A file is wrong, or open to others.
    """
    from platevault.adapters.kafka.settings import KafkaSettings

    return KafkaSettings(
        brokers=part.brokers,
        registry_url=part.registry_url,
        subname=part.subname,
        replication_factor=part.replication_factor,
        acks=part.acks,
        username=part.username,
        password=part.secret,
        security_protocol=part.security_protocol,
        sasl_mechanism=part.sasl_mechanism,
        ca_file=part.ca_file,
        client_options=read_options(part.client_options_file),
        consumer_options=read_options(part.consumer_options_file),
        producer_options=read_options(part.producer_options_file),
        registry_ca_file=part.registry_ca_file,
        history_limit=part.history_limit,
        history_limits=read_history_limits(part.history_limits_file),
    )


def _avro_schema(topic: TopicSchema) -> dict[str, object]:
    return avro_schema(topic)


def _authority(file: Path | None) -> str:
    return str(file) if file is not None else "system"
