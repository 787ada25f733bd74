"""A whole capture corridor in one process, on real adapters, with time that tests move."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from platevault.adapters.filesystem.durable import SyncPolicy
from platevault.adapters.filesystem.links import FilesystemLinkStore
from platevault.adapters.filesystem.object_store import FilesystemObjectStore
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.adapters.memory.leases import MemoryLeases
from platevault.adapters.memory.presence import MemoryPresence
from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.adapters.sqlite import SqliteFileLedger
from platevault.domain.camera import Camera
from platevault.domain.header_fallback import fallback_document
from platevault.domain.header_formats import format_yaml
from platevault.domain.headers import HeaderStatus
from platevault.domain.ids import FileKind, ImageName
from platevault.domain.inventory import FileRecord, HeaderReference
from platevault.domain.lifecycles import Destination, FileState, SummaryState
from platevault.domain.samples import Sample
from platevault.ports.image_writer import ImageWriter
from platevault.ports.leases import LeasesUnavailableError
from platevault.ports.sample_bus import History
from platevault.runtime.service import Service, StopToken
from platevault.runtime.steps import Steps
from platevault.sal.remote import Remote
from platevault.sal.schema import Interfaces, load_interfaces
from platevault.sal.topics import TopicWriters
from platevault.services.archive_controller import ArchiveController
from platevault.services.archiver import ArchiverConfiguration, ArchiverCsc
from platevault.services.forwarder import Forwarder, ForwarderLimits
from platevault.sim.daq import SimDaq
from platevault.sim.daq_readout import SimReadout
from platevault.sim.recipe import ImageType, PixelRecipe
from platevault.testing.cameras import tiny_camera
from platevault.testing.clocks import START_TAI, SteppedClock
from platevault.testing.crashes import is_crash
from platevault.testing.outages import Outage

#: Observing day of `START_TAI`.
DAY_OBS = 20330517
#: One turn of `CaptureRig.until`: time that threads get [s, machine], and that passes [s].
_THREADS_S = 0.002
_STEP_S = 0.1
#: Turns in which something must come to pass at least, for threads have their own time.
_TURNS = 500
_SHORT_S = 20.0
_LONG_STEP_S = 0.5

Condition = Callable[[], bool | Awaitable[bool]]


class CaptureRig:
    """Camera, DAQ, ledger, queue, leases, bus and stores; services are started by the test.

    Parameters
    ----------
    root
        Empty directory.
    camera
        Whose night.
    first_fence
        First fencing number; above those of a former rig with the same root.
    """

    def __init__(self, root: Path, camera: Camera | None = None, *, first_fence: int = 1) -> None:
        self.root = root
        self.camera = camera if camera is not None else tiny_camera()
        self.clock = SteppedClock()
        self.daq = SimDaq(camera=self.camera, seed=7, start_tai=START_TAI)
        self.readout = SimReadout(self.daq)
        self.bus = MemorySampleBus(clock=self.clock)
        self.interfaces: Interfaces = load_interfaces()
        self.queue = MemoryWorkQueue(clock=self.clock)
        self.presence = MemoryPresence(clock=self.clock)
        self.leases = MemoryLeases(clock=self.clock, first_fence=first_fence)
        self.objects = FilesystemObjectStore(root / "annex", sync=SyncPolicy.RAMDISK)
        self.ledger = SqliteFileLedger(root / "ledger.sqlite")
        self.links = FilesystemLinkStore(sync=SyncPolicy.RAMDISK)
        self.areas = {Destination.OODS: root / "oods", Destination.BACKBONE: root / "backbone"}
        self.archive = root / "archive"
        self.samples: list[Sample] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, StopToken] = {}
        self._writers = TopicWriters(bus=self.bus, clock=self.clock, origin=1)
        self._processes: dict[str, ImageWriter] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.ledger)
            await stack.enter_async_context(self.links)
            names = ("imageRetrievalForArchiving", "imageInOODS", "exposureClosed", "errorCode")
            archiver = self.interfaces.component(self.camera.components.archiver)
            topics = [archiver.event(name) for name in (*names, "summaryState", "logMessage")]
            samples = await stack.enter_async_context(
                self.bus.subscribe(topics, history=History.NONE)
            )
            self._tasks["samples"] = asyncio.get_running_loop().create_task(
                self._collect(samples), name="rig-samples"
            )
            self.remote = await stack.enter_async_context(
                Remote(
                    component=self.camera.components.archiver,
                    bus=self.bus,
                    interfaces=self.interfaces,
                    clock=self.clock,
                )
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in [name for name in self._tasks if name != "samples"]:
            await self.kill(name)
        self._tasks["samples"].cancel()
        await asyncio.wait({self._tasks["samples"]})
        await self._stack.aclose()

    async def _collect(self, samples: Any) -> None:
        async for sample in samples:
            self.samples.append(sample)

    # -- services ------------------------------------------------------------------------------

    async def writer(self, **options: Any) -> FitsImageWriter:
        """Open a writer, one for each process that is played."""
        writer = FitsImageWriter(sync=SyncPolicy.RAMDISK, workers=1, **options)
        return await self._stack.enter_async_context(writer)

    async def controller(self, *, steps: Steps | None = None, **options: Any) -> ArchiveController:
        """Make an Archive Controller."""
        writer = options.pop("writer", None) or await self.writer()
        self._processes["archive_controller"] = writer
        return ArchiveController(
            root=self.archive,
            areas=options.pop("areas", self.areas),
            ledger=options.pop("ledger", self.ledger),
            queue=self.queue,
            links=options.pop("links", self.links),
            writer=writer,
            clock=self.clock,
            steps=steps,
            **options,
        )

    async def forwarder(
        self, name: str = "forwarder1", *, steps: Steps | None = None, **options: Any
    ) -> Forwarder:
        """Make a Forwarder."""
        writer: ImageWriter = options.pop("writer", None) or await self.writer()
        self._processes[name] = writer
        return Forwarder(
            name=name,
            cameras=options.pop("cameras", {self.camera.name: self.camera}),
            readouts={self.camera.name: options.pop("readout", self.readout)},
            ledger=options.pop("ledger", self.ledger),
            queue=self.queue,
            leases=options.pop("leases", self.leases),
            presence=options.pop("presence", self.presence),
            objects=options.pop("objects", self.objects),
            writer=writer,
            links=self.links,
            clock=self.clock,
            steps=steps,
            limits=options.pop("limits", ForwarderLimits()),
            **options,
        )

    def archiver(self, **options: Any) -> ArchiverCsc:
        """Make an Archiver."""
        return ArchiverCsc(
            camera=self.camera,
            root=self.archive,
            bus=self.bus,
            interfaces=self.interfaces,
            clock=self.clock,
            version="1.2.3",
            ledger=options.pop("ledger", self.ledger),
            queue=options.pop("queue", self.queue),
            leases=options.pop("leases", self.leases),
            presence=self.presence,
            readout=options.pop("readout", self.readout),
            settings=options.pop("settings", ArchiverConfiguration()),
            **options,
        )

    async def start(self, service: Service) -> None:
        """Run a service; return when it is ready."""
        ready = asyncio.Event()
        stop = StopToken()
        task = asyncio.get_running_loop().create_task(
            service.run(stop, ready.set), name=f"rig-{service.name}"
        )
        self._tasks[service.name] = task
        self._stops[service.name] = stop
        await self.until(lambda: ready.is_set() or task.done())
        if task.done():
            task.result()

    async def stop(self, name: str) -> None:
        """Ask a service to stop, as an operator does; wait for it."""
        self._stops[name].request()
        task = self._tasks[name]
        await self.until(task.done)
        await self._end(name)

    async def kill(self, name: str) -> None:
        """End a service without asking; one that has crashed is buried."""
        self._tasks[name].cancel()
        await asyncio.wait({self._tasks[name]})
        await self._end(name, quiet=True)

    async def bury(self, name: str) -> None:
        """Clear away a service that crashed, with what its process held."""
        await self.until(self._tasks[name].done)
        await self._end(name)
        writer = self._processes.pop(name, None)
        if isinstance(writer, FitsImageWriter):
            await writer.__aexit__(None, None, None)

    def doomed(self) -> dict[str, Any]:
        """Give ports for a service that will crash: it can neither release nor withdraw."""
        leases = Outage(self.leases, _gone, only=("release",))
        presence = Outage(self.presence, _gone, only=("withdraw",))
        leases.down = presence.down = True
        return {"leases": leases, "presence": presence}

    def has_ended(self, name: str) -> bool:
        """Tell whether a service has ended, by itself or by a crash."""
        return self._tasks[name].done()

    async def _end(self, name: str, *, quiet: bool = False) -> None:
        task = self._tasks.pop(name)
        self._stops.pop(name)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not (quiet or is_crash(error)):
            raise error

    async def corridor(self, *, forwarders: int = 1, **options: Any) -> ArchiverCsc:
        """Start Archive Controller, Forwarders and Archiver, and enable it."""
        await self.start(await self.controller())
        for number in range(1, forwarders + 1):
            await self.start(await self.forwarder(f"forwarder{number}"))
        archiver = self.archiver(**options)
        await self.start(archiver)
        await self.enable()
        return archiver

    # -- time ----------------------------------------------------------------------------------

    async def until(self, condition: Condition, *, limit_s: float = 120.0) -> None:
        """Let time pass until a condition holds; fail after ``limit_s`` [s]."""
        end_tai = self.clock.now_tai() + limit_s
        while not await _holds(condition):
            if self.clock.now_tai() >= end_tai:
                raise AssertionError(f"It did not come to pass within {limit_s} s")
            await self.step(min(_STEP_S, limit_s / _TURNS))

    async def pass_time(self, duration_s: float) -> None:
        """Let time pass, in longer steps when there is much of it."""
        end_tai = self.clock.now_tai() + duration_s
        step_s = _STEP_S if duration_s <= _SHORT_S else _LONG_STEP_S
        while self.clock.now_tai() < end_tai - 1e-6:
            await self.step(min(step_s, end_tai - self.clock.now_tai()))

    async def step(self, duration_s: float) -> None:
        """Move clock and device on."""
        await asyncio.sleep(_THREADS_S)
        self.daq.step(duration_s)
        await self.clock.advance(duration_s)

    # -- the operator --------------------------------------------------------------------------

    async def command(self, name: str) -> None:
        """Command the Archiver; raises what the command failed with."""
        task = asyncio.get_running_loop().create_task(
            self.remote.command(name), name=f"rig-command-{name}"
        )
        await self.until(task.done)
        task.result()

    async def enable(self) -> None:
        """Bring the Archiver from STANDBY to ENABLED."""
        await self.command("start")
        await self.command("enable")

    # -- the camera ----------------------------------------------------------------------------

    def image_name(self, sequence: int = 1) -> str:
        """Name an image of the camera."""
        return str(ImageName(self.camera.code, "O", DAY_OBS, sequence))

    def exposure_fields(self, image: str, **changes: Any) -> dict[str, Any]:
        """Give the fields that startIntegration and endReadout share."""
        try:
            name = ImageName.parse(image)
        except ValueError:
            name = ImageName("XX", "O", DAY_OBS, 1)
        return {
            "additionalKeys": "imageType:groupId",
            "additionalValues": "BIAS:2033-05-18T03\\:33\\:20.000",
            "imagesInSequence": 1,
            "imageName": image,
            "imageIndex": 1,
            "imageSource": name.source,
            "imageController": name.controller,
            "imageDate": str(name.day_obs),
            "imageNumber": name.sequence,
            "timestampAcquisitionStart": START_TAI + name.sequence,
            **changes,
        }

    async def say(self, event: str, /, component: str = "", **fields: Any) -> None:
        """Publish an event of the camera, or of another component."""
        component = component or self.camera.components.camera
        topic = self.interfaces.component(component).event(event)
        await self._writers.writer(topic, identity=component).write(**fields)

    async def begin(self, image: str, **changes: Any) -> None:
        """Begin an exposure, as the camera says it."""
        fields = self.exposure_fields(image, **changes)
        await self.say("startIntegration", exposureTime=0.0, **fields)

    def read_out(self, image: str, **options: Any) -> None:
        """Trigger the readout in the DAQ."""
        self.daq.trigger(image, recipe=PixelRecipe(ImageType.BIAS), **options)

    async def end(self, image: str, **changes: Any) -> None:
        """End an exposure, as the camera says it."""
        fields = self.exposure_fields(image, **changes)
        await self.say(
            "endReadout",
            requestedExposureTime=0.0,
            timestampEndOfReadout=self.clock.now_tai(),
            **fields,
        )

    async def take(self, image: str, *, header: bool = True) -> None:
        """Take an exposure: begin, read out, end, publish its header."""
        await self.begin(image)
        await self.step(_STEP_S)
        self.read_out(image)
        await self.pass_time(self.camera.readout_s + _STEP_S)
        await self.end(image)
        if header:
            await self.publish_header(image)

    async def store_header(self, image: str, *, version: int = 1) -> HeaderReference:
        """Put a header object into the annex."""
        facts: Mapping[str, Any] = {
            **self.exposure_fields(image),
            "OBJECT": "from the Header Service",
            "PROGRAM": f"version {version}",
        }
        document = fallback_document(image, self.camera, facts)
        document = replace(document, status=HeaderStatus.COMPLETE, version=version)
        body = format_yaml(document)
        stored = await self.objects.put_if_absent(f"headers/{image}_v{version}.yaml", body)
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return HeaderReference(stored.url, version, len(body), md5)

    async def announce_header(self, image: str, header: HeaderReference, **changes: Any) -> None:
        """Say where a header is."""
        fields = {
            "url": header.url,
            "generator": self.camera.components.header_service,
            "version": float(header.version),
            "byteSize": header.size_bytes,
            "checkSum": header.md5,
            "mimeType": "YAML",
            "id": image,
            **changes,
        }
        await self.say("largeFileObjectAvailable", self.camera.components.header_service, **fields)

    async def publish_header(self, image: str, *, version: int = 1) -> None:
        """Store a header and say where it is."""
        await self.announce_header(image, await self.store_header(image, version=version))

    # -- what came of it -----------------------------------------------------------------------

    def events(self, name: str, **fields: Any) -> list[Sample]:
        """List what the Archiver said."""
        return [
            sample
            for sample in self.samples
            if sample.topic.name == name
            and all(sample.fields[key] == value for key, value in fields.items())
        ]

    def logged(self, text: str) -> list[str]:
        """List messages of the Archiver that contain a text."""
        return [
            sample.fields["message"]
            for sample in self.events("logMessage")
            if text in sample.fields["message"]
        ]

    @property
    def state(self) -> SummaryState:
        """The state of the Archiver, as it said last."""
        return SummaryState(self.events("summaryState")[-1].fields["summaryState"])

    async def files(
        self,
        image: str,
        *,
        destination: Destination = Destination.ARCHIVE,
        kind: FileKind = FileKind.RAW,
    ) -> dict[str, FileRecord]:
        """Give the files of a kind by sensor."""
        rows = await self.ledger.files(image=image, destination=destination)
        return {row.key.sensor: row for row in rows if row.key.kind is kind}

    async def states(
        self, image: str, destination: Destination = Destination.ARCHIVE
    ) -> dict[str, FileState]:
        """Give the states of the raw files by sensor."""
        return {
            sensor: row.state
            for sensor, row in (await self.files(image, destination=destination)).items()
        }

    async def is_registered(self, image: str) -> bool:
        """Tell whether the ledger has the exposure."""
        return await self.ledger.exposure(image) is not None

    async def is_archived(self, image: str) -> bool:
        """Tell whether every raw file is written."""
        states = (await self.states(image)).values()
        return bool(states) and set(states) == {FileState.WRITTEN}

    async def is_delivered(self, image: str) -> bool:
        """Tell whether every raw file is at OODS and backbone."""
        states = {
            state
            for destination in (Destination.OODS, Destination.BACKBONE)
            for state in (await self.states(image, destination)).values()
        }
        return states == {FileState.VERIFIED}


def _gone() -> LeasesUnavailableError:
    return LeasesUnavailableError("the process has ended")


async def _holds(condition: Condition) -> bool:
    result = condition()
    return result if isinstance(result, bool) else await result
