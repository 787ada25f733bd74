"""A night of processes: every service its own, over servers of one's own or over none."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from platevault.adapters.system_clock import SystemClock
from platevault.compose.cameras import format_camera
from platevault.compose.local_servers import (
    KafkaServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    free_port,
)
from platevault.compose.night.processes import ProcessPlan, Supervisor
from platevault.compose.server_settings import KafkaPart, PostgresPart, RabbitPart, RedisPart
from platevault.compose.settings import Settings, revealed
from platevault.domain.camera import Camera
from platevault.domain.errors import UsageError

#: A server that a drill killed stays away for so long [s].
_AWAY_S = 3.0
#: Process of the schema registry, which outlives the others.
REGISTRY = "schema-registry"
#: DDS domains whose ports are below those that a system gives away (ip_local_port_range).
_DOMAINS = 100
#: Kills that may wait to be carried out.
_KILLS = 64


class Deployment(StrEnum):
    """How the services of a night are deployed."""

    EMBEDDED = "embedded"
    """All in one process."""
    LOCAL_SERVERS = "local-servers"
    """Every service its own process over servers that are started for it."""
    DDS = "dds"
    """Every service its own process without any server."""


class UnknownTargetError(UsageError):
    """A drill is to kill what does not exist: mend the name in the fault plan."""


class NoDomainError(UsageError):
    """Every DDS domain of this host is in use: end other nights, or name one in the settings."""


@dataclass(frozen=True, kw_only=True)
class LocalSite:
    """Service processes of a night, and servers if it has any.

    Attributes
    ----------
    settings
        Settings by which this process reaches them.
    supervisor
        Runs the service processes.
    servers
        By name: kafka, rabbitmq, redis, postgres.
    kills
        Names of processes and servers to be killed.
    """

    settings: Settings
    supervisor: Supervisor
    servers: Mapping[str, Server]
    kills: asyncio.Queue[str]

    @asynccontextmanager
    async def services(
        self,
        cameras: Mapping[str, Camera],
        sensors: Mapping[str, Sequence[str]],
        keyword_files: Mapping[str, Path],
    ) -> AsyncIterator[None]:
        """Run every service of cameras for the time of the context, and the kills asked for."""
        documents = await asyncio.to_thread(
            _write_cameras, self.settings.root, cameras, keyword_files
        )
        plans = service_plans(self.settings, documents, sensors)
        async with self.supervisor.running(plans), asyncio.TaskGroup() as group:
            killing = group.create_task(self._kill(), name="kills")
            try:
                yield
            finally:
                killing.cancel()

    def kill(self, name: str) -> None:
        """Kill a process, or a server, which comes back after some seconds.

        Raises
        ------
        UnknownTargetError
            There is none of that name.
        """
        known = [*self.servers, *self.supervisor.names]
        if name not in known:
            raise UnknownTargetError("Nothing has this name", target=name, expected=known)
        self.kills.put_nowait(name)

    async def _kill(self) -> None:
        while True:
            name = await self.kills.get()
            server = self.servers.get(name)
            if server is None:
                self.supervisor.kill(name)
                continue
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(_AWAY_S)
            await asyncio.to_thread(server.start)


def service_plans(
    settings: Settings, documents: Mapping[str, Path], sensors: Mapping[str, Sequence[str]]
) -> list[ProcessPlan]:
    """Plan the processes of a site: one for each service and camera, and the Forwarders.

    Parameters
    ----------
    settings
        How many Forwarders.
    documents
        Camera documents, by camera name.
    sensors
        Sensors that are read, by camera name.
    """
    every = [part for path in documents.values() for part in ("--camera", str(path))]
    plans = [_plan("archive-controller", "archive-controller", *every)]
    plans += [
        _plan(f"forwarder-{number}", "forwarder", *every)
        for number in range(1, settings.forwarder.count * len(documents) + 1)
    ]
    for name, path in documents.items():
        one = ("--camera", str(path))
        plans += [
            _plan(f"header-service-{name}", "header-service", *one),
            _plan(f"oods-{name}", "oods", *one),
            _plan(f"archiver-{name}", "archiver", *one, "--detectors", ",".join(sensors[name])),
        ]
    return plans


def _plan(name: str, *arguments: str) -> ProcessPlan:
    return ProcessPlan(name=name, arguments=arguments, port=free_port())


def _write_cameras(
    root: Path, cameras: Mapping[str, Camera], keyword_files: Mapping[str, Path]
) -> dict[str, Path]:
    folder = root / "run" / "cameras"
    folder.mkdir(parents=True, exist_ok=True)
    documents = {}
    for name, camera in cameras.items():
        documents[name] = folder / f"{name}.yaml"
        documents[name].write_text(format_camera(camera), encoding="utf-8")
        own = keyword_files.get(name)
        if own is not None:
            documents[name].with_suffix(".keywords.csv").write_bytes(own.read_bytes())
    return documents


@asynccontextmanager
async def local_site(settings: Settings) -> AsyncIterator[LocalSite]:
    """Start servers below ``settings.root`` for the time of the context.

    Raises
    ------
    ServerMissingError
        A server is not installed: ``make services``.
    ServerFailedError
        A server did not start. All others were stopped.
    """
    root = settings.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    folder = root / "servers"
    kafka, rabbit = KafkaServer(folder / "kafka"), RabbitServer(folder / "rabbitmq")
    redis, postgres = RedisServer(folder / "redis"), PostgresServer(folder / "postgres")
    servers = {"kafka": kafka, "rabbitmq": rabbit, "redis": redis, "postgres": postgres}
    if settings.bus == "dds":
        del servers["kafka"]
    async with AsyncExitStack() as stack:
        await _start(servers.values(), stack)
        # The Butler registry needs it.
        await asyncio.to_thread(postgres.add_extension, "btree_gist")
        registry_port = free_port()
        reached = settings.model_copy(
            update={
                "root": root,
                "bus": "dds" if settings.bus == "dds" else "kafka",
                "queue": "rabbitmq",
                "leases": "redis",
                "ledger": "postgres",
                "oods": settings.oods.model_copy(update={"registry": "postgres"}),
                "kafka": KafkaPart(
                    brokers=kafka.address, registry_url=f"http://127.0.0.1:{registry_port}"
                ),
                "rabbitmq": RabbitPart(
                    hosts=(rabbit.host,),
                    port=rabbit.port,
                    user="guest",
                    # The broker lets this account in from this host alone.
                    password="guest",  # noqa: S106
                ),
                "redis": RedisPart(host=redis.host, port=redis.port),
                "postgres": PostgresPart(host=postgres.host, port=postgres.port),
                "serve": settings.serve.model_copy(update={"registry_port": registry_port}),
                **_of_this_host(settings),
            }
        )
        config = await asyncio.to_thread(_write_settings, reached)
        supervisor = Supervisor(config=config, log_dir=root / "log", clock=clock)
        if reached.bus == "kafka":
            await stack.enter_async_context(supervisor.running([_plan(REGISTRY, REGISTRY)]))
        yield LocalSite(
            settings=reached,
            supervisor=supervisor,
            servers=servers,
            kills=asyncio.Queue(_KILLS),
        )


@asynccontextmanager
async def serverless_site(settings: Settings) -> AsyncIterator[LocalSite]:
    """Plan processes below ``settings.root`` that need no server, for the time of the context.

    Samples go over DDS; work, leases, ledger and Butler registry are SQLite files.

    Raises
    ------
    NoDomainError
        Other processes use every DDS domain.
    """
    root = settings.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    reached = settings.model_copy(
        update={
            "root": root,
            "bus": "dds",
            "queue": "sqlite",
            "leases": "sqlite",
            "ledger": "sqlite",
            "oods": settings.oods.model_copy(update={"registry": "sqlite"}),
            "dds": settings.dds.model_copy(
                update={"domain_id": settings.dds.domain_id or free_domain()}
            ),
            **_of_this_host(settings),
        }
    )
    config = await asyncio.to_thread(_write_settings, reached)
    yield LocalSite(
        settings=reached,
        supervisor=Supervisor(config=config, log_dir=root / "log", clock=SystemClock()),
        servers={},
        kills=asyncio.Queue(_KILLS),
    )


def free_domain() -> int:
    """Give a DDS domain that no process of this host is in, and not the usual one, 0.

    Raises
    ------
    NoDomainError
        There is none.

    References
    ----------
    DDSI-RTPS 2.5, 9.6.2.3: the first participant of a domain listens on UDP port
    7400 + 250 * domain + 10.
    """
    # Two nights that begin at once look from different places on.
    begin = os.getpid() % _DOMAINS
    for number in range(_DOMAINS):
        domain_id = 1 + (begin + number) % _DOMAINS
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7400 + 250 * domain_id + 10))
            except OSError:
                continue
            return domain_id
    raise NoDomainError("Every DDS domain is in use", expected=f"one of 1 to {_DOMAINS}")


def _of_this_host(settings: Settings) -> dict[str, object]:
    """Give the parts that any site of one host has."""
    return {
        "daq": settings.daq.model_copy(
            update={
                "host": "127.0.0.1",
                "listen": "127.0.0.1",
                "port": free_port(),
                "control_port": free_port(),
            }
        ),
        "log": settings.log.model_copy(update={"format": "json"}),
        "metrics": settings.metrics.model_copy(update={"host": "127.0.0.1"}),
    }


async def _start(servers: Iterable[Server], stack: AsyncExitStack) -> None:
    async def enter(server: Server) -> None:
        stack.push_async_callback(asyncio.to_thread, server.rest)
        await asyncio.to_thread(server.__enter__)

    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(enter(server), name=f"start-{type(server).__name__}")


def _write_settings(settings: Settings) -> Path:
    file = settings.root / "run" / "site.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(revealed(settings), sort_keys=False), encoding="utf-8")
    return file
