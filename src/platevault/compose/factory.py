"""Builds each service from the context of its process."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence

from platevault.adapters.bus_link import BusLinkServer
from platevault.compose.context import ProcessContext
from platevault.compose.csc_configuration import archiver_configuration
from platevault.compose.header_keywords import load_keyword_set
from platevault.compose.remotes import bus_link_file
from platevault.domain.camera import Camera
from platevault.domain.inventory import HeaderReference
from platevault.domain.lifecycles import Destination, SummaryState
from platevault.domain.places import night_queues
from platevault.ports.readout import Readout
from platevault.runtime.metered import StateWatch
from platevault.runtime.metrics_server import MetricsServer
from platevault.runtime.service import Service
from platevault.runtime.steps import Steps
from platevault.services.archive_controller import ArchiveController
from platevault.services.archiver import ArchiverCsc
from platevault.services.forwarder import Forwarder, ForwarderLimits
from platevault.services.header_service.delivery import header_key
from platevault.services.header_service.images import Timing
from platevault.services.header_service.metering import MeteredHeaders
from platevault.services.header_service.service import HeaderServiceCsc, HeaderServiceOptions
from platevault.services.oods import OodsCsc

#: What follows the stem of a header's key: its version, if it is not the first.
_VERSION = re.compile(r"(?:_v(\d+))?\.yaml")


class Factory:
    """One ``create_...`` for each service of the product.

    Parameters
    ----------
    context
        What the services share.
    """

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._headers = MeteredHeaders(context.metrics.registry)

    @property
    def _initial_state(self) -> SummaryState:
        return SummaryState[self._context.settings.serve.initial_state.upper()]

    def create_archive_controller(self) -> ArchiveController:
        """Build the Archive Controller of the site."""
        context, settings = self._context, self._context.settings
        return ArchiveController(
            root=settings.archive_dir,
            areas={
                Destination.OODS: settings.oods_dir,
                Destination.BACKBONE: settings.backbone_dir,
            },
            ledger=context.ledger,
            queue=context.queue,
            links=context.links,
            writer=context.writer,
            clock=context.clock,
        )

    def create_forwarder(
        self, name: str, readouts: Mapping[str, Readout], *, steps: Steps | None = None
    ) -> Forwarder:
        """Build a Forwarder for the cameras that it can read."""
        context, settings = self._context, self._context.settings
        return Forwarder(
            name=name,
            cameras={camera: context.cameras[camera] for camera in readouts},
            readouts=readouts,
            ledger=context.ledger,
            queue=context.queue,
            leases=context.leases,
            presence=context.presence,
            objects=context.annex,
            writer=context.writer,
            links=context.links,
            clock=context.clock,
            steps=steps,
            concurrency=settings.forwarder.concurrency,
            limits=ForwarderLimits(readout_s=settings.forwarder.readout_timeout_s),
            host=socket.gethostname(),
            version=context.version,
        )

    def create_archiver(
        self, camera: Camera, readout: Readout, *, sensors: Sequence[str]
    ) -> ArchiverCsc:
        """Build the Archiver of a camera, for some of its sensors."""
        context = self._context
        return ArchiverCsc(
            camera=camera,
            root=context.settings.archive_dir,
            bus=context.bus,
            interfaces=context.interfaces,
            clock=context.clock,
            version=context.version,
            ledger=context.ledger,
            queue=context.queue,
            leases=context.leases,
            presence=context.presence,
            readout=readout,
            find_header=lambda image: self._find_header(camera, image),
            initial_state=self._initial_state,
            configuration=archiver_configuration(context.settings, camera, sensors),
        )

    def create_header_service(self, camera: Camera) -> HeaderServiceCsc:
        """Build the Header Service of a camera."""
        context, settings = self._context, self._context.settings
        return HeaderServiceCsc(
            camera=camera,
            keywords=load_keyword_set(camera, own_file=context.keyword_files.get(camera.name)),
            observer=self._headers,
            store=context.annex,
            spool=context.spool,
            initial_state=self._initial_state,
            options=HeaderServiceOptions(
                timing=Timing(
                    margin_s=settings.header_service.margin_s,
                    settle_s=settings.header_service.settle_s,
                )
            ),
            bus=context.bus,
            interfaces=context.interfaces,
            clock=context.clock,
            version=context.version,
        )

    def create_oods(self, camera: Camera) -> OodsCsc:
        """Build the OODS of a camera."""
        context, settings = self._context, self._context.settings
        return OodsCsc(
            camera=camera,
            bus=context.bus,
            interfaces=context.interfaces,
            clock=context.clock,
            version=context.version,
            ingest=context.ingest,
            ledger=context.ledger,
            queue=context.queue,
            links=context.links,
            quarantine=settings.quarantine_dir,
            gather_s=settings.oods.gather_s,
            gather_limit_s=settings.oods.gather_limit_s,
            initial_state=self._initial_state,
        )

    def create_state_watch(self) -> StateWatch:
        """Build what shows the state of ledger and queues as gauges."""
        context = self._context
        queues = night_queues(context.cameras)
        return StateWatch(
            ledger=context.ledger,
            queue=context.queue,
            queues=queues,
            metrics=context.metrics,
            clock=context.clock,
        )

    def create_watchers(self) -> list[Service]:
        """Build what shows the state of the process: gauges, and their end point if it has one."""
        context, settings = self._context, self._context.settings
        watchers: list[Service] = [self.create_state_watch()]
        if settings.metrics.port:
            watchers.append(
                MetricsServer(
                    registry=context.metrics.registry,
                    port=settings.metrics.port,
                    host=settings.metrics.host,
                )
            )
        return watchers

    def create_bus_link(self) -> BusLinkServer:
        """Build what lends this process's bus to other terminals."""
        context = self._context
        return BusLinkServer(
            bus=context.bus,
            resolve=context.interfaces.topic,
            file=bus_link_file(context.settings),
        )

    async def _find_header(self, camera: Camera, image: str) -> HeaderReference | None:
        component = camera.components.header_service
        if camera.components.sal_index:
            component += f":{camera.components.sal_index}"
        stem = header_key(component, image, 1).removesuffix(".yaml")
        found: HeaderReference | None = None
        for key in await self._context.annex.list(stem):
            match = _VERSION.fullmatch(key.removeprefix(stem))
            stored = await self._context.annex.stat(key) if match is not None else None
            if match is None or stored is None:
                continue
            version = int(match[1] or 1)
            if found is None or version > found.version:
                found = HeaderReference(stored.url, version, stored.size_bytes, stored.md5)
        return found
