"""What the services of a process share, opened in order and closed in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from platevault.adapters.butler.ingest import ButlerIngest
from platevault.adapters.filesystem.durable import DigestAlgorithm, SyncPolicy
from platevault.adapters.filesystem.links import FilesystemLinkStore
from platevault.adapters.filesystem.object_store import FilesystemObjectStore
from platevault.adapters.fits.codec import Encoding
from platevault.adapters.fits.codec_choice import choose_codec
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.adapters.system_clock import SystemClock
from platevault.compose.server_context import EVERY_PART, Part, Servers
from platevault.compose.settings import Settings, make_directory
from platevault.domain.camera import Camera
from platevault.ports.clock import Clock
from platevault.ports.image_writer import ImageWriter, LinkStore
from platevault.ports.ingest import Ingest
from platevault.ports.leases import Leases
from platevault.ports.object_store import ObjectStore
from platevault.ports.presence import Presence
from platevault.ports.sample_bus import SampleBus
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.metered import MeteredLedger, MeteredWorkQueue
from platevault.runtime.metrics import Metrics
from platevault.sal.schema import Interfaces, load_interfaces


@dataclass(frozen=True, kw_only=True)
class ProcessContext:
    """Settings and one open adapter for each port.

    Attributes
    ----------
    settings
        Settings of the site.
    version
        Version of the product.
    cameras
        Cameras of the site, by name.
    keyword_files
        Files with header keywords of their own, by camera name.
    clock
        Time of services; devices of the simulation have their own.
    interfaces
        Topics of every component.
    metrics
        What is counted in this process.
    bus, queue, leases, presence, ledger, writer, links, annex, spool, ingest
        The ports; ``spool`` is a store of this host.
    servers
        How it stands with them.
    """

    settings: Settings
    version: str
    cameras: Mapping[str, Camera]
    clock: Clock
    interfaces: Interfaces
    metrics: Metrics
    bus: SampleBus
    queue: WorkQueue
    leases: Leases
    presence: Presence
    ledger: MeteredLedger
    writer: ImageWriter
    links: LinkStore
    annex: ObjectStore
    spool: ObjectStore
    ingest: Ingest
    servers: Servers
    keyword_files: Mapping[str, Path] = field(default_factory=dict)


@asynccontextmanager
async def process_context(
    settings: Settings,
    cameras: Mapping[str, Camera],
    metrics: Metrics,
    keyword_files: Mapping[str, Path],
    *,
    parts: Collection[Part] = EVERY_PART,
) -> AsyncIterator[ProcessContext]:
    """Open the adapter that the settings name for each port, in ``parts`` of them only.

    With defaults everything is in this process: bus, queue and leases in memory, SQLite, files.
    """
    async with AsyncExitStack() as stack:
        servers = Servers(settings=settings, clock=SystemClock(), stack=stack, parts=parts)
        presence = await servers.presence()
        yield await stack.enter_async_context(
            opened_context(settings, cameras, metrics, keyword_files, servers, presence)
        )


@asynccontextmanager
async def opened_context(
    settings: Settings,
    cameras: Mapping[str, Camera],
    metrics: Metrics,
    keyword_files: Mapping[str, Path],
    servers: Servers,
    presence: Presence,
) -> AsyncIterator[ProcessContext]:
    """Open the rest for a process that is already seen; waits for a ledger that is away.

    Parameters
    ----------
    settings, cameras, metrics, keyword_files
        As of `process_context`.
    servers
        Opens them, in its own stack.
    presence
        What it gave before.
    """
    clock = servers.clock
    make_directory(settings.root)
    sync = SyncPolicy(settings.forwarder.durability)
    # What opens while its server is away comes first: then each that is missing is named.
    bus, queue = await servers.bus(), await servers.queue()
    ledger = await servers.ledger()
    leases = await servers.leases(ledger)
    servers.offer_registry_password()
    async with (
        FitsImageWriter(
            sync=sync,
            algorithm=DigestAlgorithm(settings.forwarder.digest),
            encoding=Encoding(
                compressed=settings.forwarder.compression == "rice",
                tile_rows=settings.forwarder.tile_rows,
            ),
            codec=choose_codec(settings.forwarder.codec),
        ) as writer,
        FilesystemLinkStore(sync=sync) as links,
        ButlerIngest(repository=servers.repository()) as ingest,
    ):
        yield ProcessContext(
            settings=settings,
            version=version("platevault"),
            cameras=cameras,
            keyword_files=keyword_files,
            clock=clock,
            interfaces=load_interfaces(),
            bus=bus,
            metrics=metrics,
            queue=MeteredWorkQueue(queue=queue, metrics=metrics),
            leases=leases,
            presence=presence,
            ledger=MeteredLedger(ledger=ledger, metrics=metrics, clock=clock),
            writer=writer,
            links=links,
            annex=FilesystemObjectStore(settings.annex_dir),
            spool=FilesystemObjectStore(settings.spool_dir),
            ingest=ingest,
            servers=servers,
        )
