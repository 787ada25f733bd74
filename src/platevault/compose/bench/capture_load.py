"""Exposures of many small frames through Forwarder processes over real servers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import override

from platevault.compose.bench.emulator import Emulator, emulated
from platevault.compose.bench.messaging import MessagingCost, measure_messaging
from platevault.compose.bench.processor_time import child_named, tree, tree_seconds
from platevault.compose.bench.small_frames import with_small_frames
from platevault.compose.cameras import format_camera, load_camera
from platevault.compose.context import ProcessContext, process_context
from platevault.compose.factory import Factory
from platevault.compose.night.local_site import LocalSite, local_site, service_plans
from platevault.compose.night.processes import ProcessPlan
from platevault.compose.server_context import Part
from platevault.compose.settings import ForwarderSettings, ServeSettings, Settings
from platevault.csc.csc import Csc
from platevault.domain.camera import Camera
from platevault.domain.errors import PlatevaultError
from platevault.domain.header_fallback import fallback_document
from platevault.domain.header_formats import format_yaml
from platevault.domain.headers import HeaderStatus, HeaderValue
from platevault.domain.ids import ImageName
from platevault.domain.lifecycles import SummaryState
from platevault.domain.samples import Sample
from platevault.ports.ingest import Ingest, IngestFile, IngestResult
from platevault.ports.sample_bus import History
from platevault.runtime.metrics import Metrics
from platevault.runtime.process import run_services
from platevault.runtime.service import StopToken
from platevault.sal.topics import TopicWriters
from platevault.services.archiver import ArchiverConfiguration, ArchiverCsc

_CAMERA = "lsstcam"
FORWARDERS = 4
#: Data of a small amplifier [pixel].
COLUMNS, ROWS = 32, 16
_DAY_OBS = 20330517
#: Exposures that are under way at once; a camera reads the next one out meanwhile.
_IN_FLIGHT = 3
#: Longest wait for a result [s].
_PATIENCE_S = 120.0
_PAUSE_S = 0.2
#: Files whose messages are measured by themselves.
_ALONE_FILES = 1500
_DELIVERIES = "platevault_queue_deliveries"
_HERE = "archiver, oods"


class CaptureStalledError(PlatevaultError):
    """No result came for long: the logs of the processes are below the root."""


@dataclass(frozen=True, slots=True)
class CaptureLoad:
    """What was measured.

    Attributes
    ----------
    files
        Raw files; each has a sidecar besides.
    pixels
        Pixels of a file.
    seconds
        From the first event to the last result [s].
    core_ms
        Processor time per file, by process [ms].
    messages
        Messages per file that were sent, taken and acknowledged.
    alone
        The messages by themselves, over the same broker, right after.
    """

    files: int
    pixels: int
    seconds: float
    core_ms: Mapping[str, float]
    messages: float
    alone: MessagingCost

    @property
    def client_core_ms(self) -> float:
        """Processor time per file that services spend on messages, in clients of the broker [ms].

        As many messages as there were, at the price of one that is measured alone.
        """
        return self.messages * self.alone.client_core_ms * self.alone.files / self.alone.messages

    @property
    def messaging_core_ms(self) -> float:
        """Processor time per file for messages, of clients and of the broker [ms]."""
        return self.client_core_ms + self.core_ms["rabbitmq"]

    @property
    def total_core_ms(self) -> float:
        """Processor time per file, of everything but the emulated camera [ms]."""
        return sum(value for name, value in self.core_ms.items() if name != "daq (emulated)")


class _Accepting(Ingest):
    """A catalogue that takes everything: what a Butler costs is measured elsewhere."""

    @override
    async def register_camera(self, camera: Camera) -> None:
        return None

    @override
    async def ingest(
        self, camera: Camera, image: str, files: Sequence[IngestFile]
    ) -> list[IngestResult]:
        return [IngestResult(file.sensor, dataset_id=file.sensor) for file in files]

    @override
    async def catalogued(self, camera: Camera, image: str) -> Mapping[str, str]:
        return {}


async def measure_capture_load(
    directory: Path, *, exposures: int, progress: Callable[[str], None]
) -> CaptureLoad:
    """Take exposures of all detectors of LSSTCam, with small frames.

    RabbitMQ, Redis, PostgreSQL, an emulated DAQ, the Archive Controller and four Forwarders are
    processes of their own, as ``serve`` runs them; the Archiver and the OODS, its catalogue left
    out, run here.

    Parameters
    ----------
    directory
        For archive, servers and logs; the caller removes it.
    exposures
        How many.
    progress
        Told what is going on.

    Raises
    ------
    ServerMissingError
        A server is not installed.
    CaptureStalledError
        No result came for long.
    """
    camera = with_small_frames(load_camera(_CAMERA), columns=COLUMNS, rows=ROWS)
    images = [
        str(ImageName(camera.code, "O", _DAY_OBS, number)) for number in range(1, exposures + 2)
    ]
    document = await asyncio.to_thread(_written, camera, directory)
    settings = Settings(
        root=directory,
        bus="dds",  # leaves Kafka out: events go through the memory of this process
        serve=ServeSettings(initial_state="enabled"),
        forwarder=ForwarderSettings(count=FORWARDERS, durability="ramdisk"),
    )
    async with AsyncExitStack() as stack:
        progress("starting RabbitMQ, Redis, PostgreSQL and services")
        site = await stack.enter_async_context(local_site(settings))
        emulator = stack.enter_context(
            emulated(
                str(document),
                images=images,
                partition=camera.partition,
                port=site.settings.daq.port,
            )
        )
        plans = [
            plan
            for plan in service_plans(site.settings, {camera.name: document}, {camera.name: ()})
            if plan.arguments[0] in {"archive-controller", "forwarder"}
        ]
        await stack.enter_async_context(site.supervisor.running(plans))
        return await _measured(site, plans, emulator, camera, images, progress)


def _written(camera: Camera, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    document = directory / "camera.yaml"
    document.write_text(format_camera(camera), encoding="utf-8")
    return document


async def _measured(
    site: LocalSite,
    plans: Sequence[ProcessPlan],
    emulator: Emulator,
    camera: Camera,
    images: Sequence[str],
    progress: Callable[[str], None],
) -> CaptureLoad:
    metrics = Metrics(CollectorRegistry())
    here = site.settings.model_copy(update={"bus": "memory"})
    parts = {Part.QUEUE, Part.LEASES, Part.LEDGER}
    async with process_context(here, {camera.name: camera}, metrics, {}, parts=parts) as context:
        night = _Night(context=context, camera=camera)
        async with night.open():
            progress("one exposure that does not count")
            await night.take(images[:1])
            usage = _Usage(site, plans, emulator)
            before, messages = usage.seconds(), await _messages(plans, metrics)
            began = time.perf_counter()
            progress(f"{len(images) - 1} exposures of {len(camera.detectors)} files")
            await night.take(images[1:])
            seconds = time.perf_counter() - began
            after, messages = usage.seconds(), await _messages(plans, metrics) - messages
        progress("the messages alone")
        broker = tree(site.servers["rabbitmq"].pid)
        alone = await measure_messaging(context.queue, files=_ALONE_FILES, broker=broker)
    files = (len(images) - 1) * len(camera.detectors)
    kind = camera.detectors[0].type
    return CaptureLoad(
        files=files,
        pixels=len(kind.amplifiers) * kind.columns * kind.rows,
        seconds=seconds,
        core_ms={name: (after[name] - before[name]) * 1000 / files for name in after},
        messages=messages / files,
        alone=alone,
    )


class _Usage:
    """Processor time of everything that takes part, by name."""

    def __init__(self, site: LocalSite, plans: Sequence[ProcessPlan], emulator: Emulator) -> None:
        self._servers = {name: server.pid for name, server in site.servers.items()}
        self._services: dict[str, list[int]] = {}
        for plan in plans:
            pid = child_named(plan.name)
            if pid is None:
                raise CaptureStalledError("Process is not there", process=plan.name)
            self._services.setdefault(f"{plan.arguments[0]}", []).append(pid)
        self._emulator = emulator.pid

    def seconds(self) -> dict[str, float]:
        found = {
            (f"{len(pids)} {name}s" if len(pids) > 1 else name): sum(map(tree_seconds, pids))
            for name, pids in self._services.items()
        }
        own = time.process_time()
        found |= {name: tree_seconds(pid) for name, pid in self._servers.items()}
        return found | {_HERE: own, "daq (emulated)": tree_seconds(self._emulator)}


async def _messages(plans: Sequence[ProcessPlan], metrics: Metrics) -> float:
    """Count the deliveries that ended, in this process and in those of the plans."""
    texts = await asyncio.to_thread(
        lambda: [_read(f"http://127.0.0.1:{plan.port}/metrics") for plan in plans]
    )
    families = [*metrics.registry.collect()]
    for text in texts:
        families += text_string_to_metric_families(text)
    return math.fsum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"{_DELIVERIES}_total"
    )


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - a process of ours
        return str(answer.read(), "utf-8")


class _Night:
    """The camera and its Header Service as far as they are heard, with Archiver and OODS."""

    def __init__(self, *, context: ProcessContext, camera: Camera) -> None:
        self._context = context
        self._camera = camera
        self._writers = TopicWriters(bus=context.bus, clock=context.clock, origin=os.getpid())
        self._results: dict[str, int] = {}
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        context, camera = self._context, self._camera
        stop, up = StopToken(), _Up()
        events = context.interfaces.component(camera.components.archiver)
        async with (
            context.bus.subscribe(
                [events.event("imageInOODS"), events.event("logMessage")], history=History.NONE
            ) as results,
            asyncio.TaskGroup() as group,
        ):
            hearing = group.create_task(self._hear(results), name="bench-results")
            oods, archiver = self._components()
            running = group.create_task(
                run_services([oods, archiver, up], clock=context.clock, stop=stop),
                name="bench-services",
            )
            await up.reached.wait()
            await self._paired(archiver)
            try:
                yield
            finally:
                stop.request()
                await running
                hearing.cancel()

    async def take(self, images: Sequence[str]) -> None:
        """Take exposures, and return when all their results are told."""
        started: list[str] = []
        for image in images:
            started.append(image)
            await self._expose(image)
            while sum(not self._done(one) for one in started) >= _IN_FLIGHT:
                await self._change()
        while not all(map(self._done, started)):
            await self._change()

    async def _paired(self, archiver: ArchiverCsc) -> None:
        """Wait until every Forwarder works for the Archiver, which listens by then."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while len(archiver.forwarders) < FORWARDERS:
                    await self._context.clock.sleep(_PAUSE_S)
        except TimeoutError:
            raise CaptureStalledError(
                "Forwarders do not pair", paired=archiver.forwarders
            ) from None

    def _components(self) -> tuple[Csc, ArchiverCsc]:
        context, camera = self._context, self._camera
        archiver = ArchiverCsc(
            camera=camera,
            bus=context.bus,
            interfaces=context.interfaces,
            clock=context.clock,
            version=context.version,
            ledger=context.ledger,
            queue=context.queue,
            root=context.settings.archive_dir,
            leases=context.leases,
            presence=context.presence,
            settings=ArchiverConfiguration(forwarders=FORWARDERS, board_timeout_s=600.0),
            initial_state=SummaryState.ENABLED,
        )
        return Factory(replace(context, ingest=_Accepting())).create_oods(camera), archiver

    async def _expose(self, image: str) -> None:
        name, now_tai = ImageName.parse(image), self._context.clock.now_tai()
        fields: dict[str, HeaderValue] = {
            "additionalKeys": "imageType",
            "additionalValues": "BIAS",
            "imagesInSequence": 1,
            "imageName": image,
            "imageIndex": 1,
            "imageSource": name.source,
            "imageController": name.controller,
            "imageDate": str(name.day_obs),
            "imageNumber": name.sequence,
            "timestampAcquisitionStart": now_tai,
        }
        components = self._camera.components
        await self._say(components.camera, "startIntegration", exposureTime=0.0, **fields)
        document = replace(
            fallback_document(image, self._camera, fields), status=HeaderStatus.COMPLETE
        )
        body = format_yaml(document)
        stored = await self._context.annex.put_if_absent(f"headers/{image}.yaml", body)
        await self._say(
            components.header_service,
            "largeFileObjectAvailable",
            url=stored.url,
            generator=components.header_service,
            version=1.0,
            byteSize=len(body),
            checkSum=hashlib.md5(body, usedforsecurity=False).hexdigest(),
            mimeType="YAML",
            id=image,
        )
        await self._say(
            components.camera,
            "endReadout",
            requestedExposureTime=0.0,
            timestampEndOfReadout=self._context.clock.now_tai(),
            **fields,
        )

    async def _say(self, component: str, event: str, **fields: object) -> None:
        topic = self._context.interfaces.component(component).event(event)
        await self._writers.writer(topic, identity=component).write(**fields)

    async def _hear(self, samples: AsyncIterator[Sample]) -> None:
        async for sample in samples:
            fields = sample.fields
            if sample.topic.name == "logMessage":
                if fields["level"] >= logging.ERROR:
                    raise CaptureStalledError("The Archiver complains", problem=fields["message"])
                continue
            if fields["statusCode"]:
                raise CaptureStalledError("A file failed", problem=fields["description"])
            image = fields["obsid"]
            self._results[image] = self._results.get(image, 0) + 1
            self._changed.set()

    def _done(self, image: str) -> bool:
        return self._results.get(image, 0) >= len(self._camera.detectors)

    async def _change(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._changed.wait()
        except TimeoutError:
            raise CaptureStalledError("No result came", results=self._results) from None


class _Up:
    """The last service to start."""

    name = "bench-up"

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        ready()
        self.reached.set()
        await stop.wait()
