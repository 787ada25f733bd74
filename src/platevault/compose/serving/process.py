"""Runs one service as the process it is asked to be."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from platevault.adapters.daq.readout import DaqReadout
from platevault.adapters.schema_registry import SchemaRegistryServer, SchemaStore
from platevault.adapters.system_clock import SystemClock
from platevault.compose.context import ProcessContext, opened_context
from platevault.compose.factory import Factory
from platevault.compose.server_context import Servers
from platevault.compose.serving.kinds import NO_CAMERA, ONE_CAMERA, PARTS, ServiceKind
from platevault.compose.serving.life import (
    Identity,
    Life,
    Principal,
    Readiness,
    ServersAnswer,
    SignsOfLife,
)
from platevault.compose.serving.sky import daq_emulator, observatory_services
from platevault.compose.settings import Settings, make_directory, notify_address
from platevault.domain.camera import Camera
from platevault.domain.errors import UsageError
from platevault.runtime.metrics import Metrics
from platevault.runtime.metrics_server import MetricsServer
from platevault.runtime.process import run_services, running_beneath
from platevault.runtime.service import Service, StopToken

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class ServiceOptionError(UsageError):
    """A service is asked for that cannot be: mend the named option; nothing was started."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Which service a process is.

    Attributes
    ----------
    kind
        What it is.
    cameras
        Its cameras by name.
    name
        Unique among the processes of the site; made from kind, cameras and host if empty.
    sensors
        Sensors that are read, ``R22_S01``; empty for all. For an Archiver or an observatory.
    seed
        Of what is simulated.
    keyword_files
        Files with header keywords of their own, by camera name.
    """

    kind: ServiceKind
    cameras: Mapping[str, Camera]
    name: str = ""
    sensors: Sequence[str] = ()
    seed: int = 1
    keyword_files: Mapping[str, Path] = field(default_factory=dict)

    def identity(self) -> Identity:
        """Give the identity of this process.

        Raises
        ------
        ServiceOptionError
            The name is not usable in a queue's name.
        """
        host = socket.gethostname()
        name = self.name or "-".join(
            (self.kind.value, *(self.cameras if self.kind in ONE_CAMERA else (host,)))
        )
        if _NAME.fullmatch(name) is None:
            raise ServiceOptionError(
                "Name of a service is not usable", field="name", value=name, expected=_NAME.pattern
            )
        return Identity(
            name=name,
            service=self.kind.value,
            cameras=tuple(self.cameras),
            host=host,
            pid=os.getpid(),
            version=version("platevault"),
        )


async def serve(settings: Settings, options: ServeOptions, metrics: Metrics) -> None:
    """Be a service until SIGTERM or SIGINT, or until its users end it.

    Raises
    ------
    ServiceOptionError
        The options do not fit the kind of service. Nothing was started.
    DrainError
        Something was cancelled at the end; it is done again by whoever takes it up.
    """
    check_options(settings, options)
    identity = options.identity()
    stop = StopToken()
    if options.kind is ServiceKind.SCHEMA_REGISTRY:
        await _serve_registry(settings, metrics, stop)
        return
    with _asked_while_opening():
        await _serve_with_servers(settings, options, identity, metrics, stop)


async def _serve_with_servers(
    settings: Settings,
    options: ServeOptions,
    identity: Identity,
    metrics: Metrics,
    stop: StopToken,
) -> None:
    clock, stack = SystemClock(), AsyncExitStack()
    servers = Servers(
        settings=settings,
        clock=clock,
        stack=stack,
        parts=PARTS[options.kind],
        instance=identity.name,
    )
    life = Life(problems=servers.problems, clock=clock, notify_address=notify_address())
    # Whoever asks hears from the first moment on what this process waits for.
    async with running_beneath(_end_point(settings, metrics, life), clock=clock), stack:
        presence = await servers.presence()
        signs = SignsOfLife(
            life=life,
            identity=identity,
            presence=presence,
            clock=clock,
            ttl_s=settings.serve.presence_s,
        )
        await stack.enter_async_context(running_beneath([signs], clock=clock))
        async with (
            opened_context(
                settings, options.cameras, metrics, options.keyword_files, servers, presence
            ) as context,
            AsyncExitStack() as readouts,
        ):
            services = await _services(context, options, identity, readouts)
            await run_services(
                [
                    ServersAnswer(
                        life=life, inquire=servers.inquire, look=servers.look, clock=clock
                    ),
                    *(Principal(service, stop) for service in services),
                    Readiness(life),
                ],
                clock=clock,
                drain_within_s=settings.serve.drain_within_s,
                stop=stop,
                install_signals=True,
            )


#: What processes share instead of memory, by setting.
_SHARED = {"bus": "kafka or dds", "queue": "rabbitmq or sqlite", "leases": "redis or sqlite"}


@contextmanager
def _asked_while_opening() -> Iterator[None]:
    """Let SIGTERM or SIGINT end the wait for servers; `run_services` takes them over."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # this is a coroutine's
    asked = False

    def leave() -> None:
        nonlocal asked
        asked = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    try:
        yield
    except asyncio.CancelledError:
        if not asked:
            raise
        task.uncancel()


def check_options(settings: Settings, options: ServeOptions) -> None:
    """Refuse options that do not fit the kind of service.

    Raises
    ------
    ServiceOptionError
        The field is named.
    """
    kind, cameras = options.kind, list(options.cameras)
    if kind in ONE_CAMERA and len(cameras) != 1:
        raise ServiceOptionError(
            f"The service {kind} has one camera",
            field="camera",
            value=cameras,
            expected="--camera once, such as --camera latiss",
        )
    if kind not in NO_CAMERA and not cameras:
        raise ServiceOptionError(
            f"The service {kind} needs a camera",
            field="camera",
            value=cameras,
            expected="--camera once or more, such as --camera latiss",
        )
    if kind is ServiceKind.SCHEMA_REGISTRY:
        return
    needed = {"leases": settings.leases}
    parts = {part.value for part in PARTS[kind]}
    needed |= {name: getattr(settings, name) for name in ("bus", "queue") if name in parts}
    for name, value in needed.items():
        if value == "memory":
            raise ServiceOptionError(
                "Processes do not share memory",
                field=name,
                value=value,
                expected=f"{_SHARED[name]}, in the file of the site: --config site.yaml",
            )
    if kind in {ServiceKind.ARCHIVER, ServiceKind.FORWARDER} and not settings.daq.host:
        raise ServiceOptionError(
            f"The service {kind} needs the address of the DAQ",
            field="daq.host",
            value="",
            expected="host and port of the DAQ or of an emulator",
        )


async def _services(
    context: ProcessContext, options: ServeOptions, identity: Identity, stack: AsyncExitStack
) -> list[Service]:
    factory = Factory(context)
    match options.kind:
        case ServiceKind.ARCHIVE_CONTROLLER:
            return [factory.create_state_watch(), factory.create_archive_controller()]
        case ServiceKind.FORWARDER:
            readouts = {
                name: await _readout(context, camera, stack)
                for name, camera in options.cameras.items()
            }
            return [factory.create_forwarder(identity.name, readouts)]
        case ServiceKind.DAQ_EMULATOR:
            return daq_emulator(context, seed=options.seed)
        case ServiceKind.OBSERVATORY:
            return await observatory_services(context, seed=options.seed, sensors=options.sensors)
        case _:
            (camera,) = options.cameras.values()
            return [await _component(context, options, factory, camera, stack)]


async def _component(
    context: ProcessContext,
    options: ServeOptions,
    factory: Factory,
    camera: Camera,
    stack: AsyncExitStack,
) -> Service:
    if options.kind is ServiceKind.HEADER_SERVICE:
        return factory.create_header_service(camera)
    if options.kind is ServiceKind.OODS:
        return factory.create_oods(camera)
    readout = await _readout(context, camera, stack)
    sensors = options.sensors or [one.name for one in camera.detectors]
    return factory.create_archiver(camera, readout, sensors=sensors)


async def _readout(context: ProcessContext, camera: Camera, stack: AsyncExitStack) -> DaqReadout:
    daq = context.settings.daq
    return await stack.enter_async_context(
        DaqReadout(host=daq.host, port=daq.port, partition=camera.partition)
    )


async def _serve_registry(settings: Settings, metrics: Metrics, stop: StopToken) -> None:
    clock = SystemClock()
    life = Life(problems={}, clock=clock, notify_address=notify_address())
    make_directory(settings.schemas_file.parent)
    registry = SchemaRegistryServer(
        store=SchemaStore(settings.schemas_file),
        host=settings.serve.registry_host,
        port=settings.serve.registry_port,
    )
    await run_services(
        [
            *_end_point(settings, metrics, life),
            Principal(registry, stop),
            Readiness(life),
        ],
        clock=clock,
        drain_within_s=settings.serve.drain_within_s,
        stop=stop,
        install_signals=True,
    )


def _end_point(settings: Settings, metrics: Metrics, life: Life) -> list[Service]:
    if not settings.metrics.port:
        return []
    return [
        MetricsServer(
            registry=metrics.registry,
            port=settings.metrics.port,
            host=settings.metrics.host,
            checks={"/livez": life.is_alive, "/readyz": life.is_ready},
        )
    ]
