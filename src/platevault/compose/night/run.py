"""A whole night: everything started, observed, checked and reported."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from platevault.compose.context import ProcessContext, process_context
from platevault.compose.factory import Factory
from platevault.compose.night.drills import Drills, Fault, Mortal, refuse_kills
from platevault.compose.night.driver import NightDriver
from platevault.compose.night.figures import camera_figures
from platevault.compose.night.invariants import Evidence, check_invariants
from platevault.compose.night.local_site import (
    REGISTRY,
    Deployment,
    LocalSite,
    local_site,
    serverless_site,
)
from platevault.compose.night.observatory import (
    SimulatedObservatory,
    simulate_observatory,
    simulated_cameras,
    simulated_services,
)
from platevault.compose.night.patience import PatientSampleBus
from platevault.compose.night.progress import ExposureProgress, NightProgress
from platevault.compose.night.records import NightRecord
from platevault.compose.night.replay import FrameVisit
from platevault.compose.night.report import Invariant, NightReport
from platevault.compose.settings import Settings
from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.ports.file_ledger import LedgerUnavailableError
from platevault.runtime.metrics import Metrics
from platevault.runtime.process import run_services
from platevault.runtime.service import Service, StopToken
from platevault.runtime.steps import Steps
from platevault.sim.daq_readout import SimReadout

#: Time for the last files, and for each exposure, before the night is called unfinished [s].
_SETTLE_S, _SETTLE_PER_EXPOSURE_S = 120.0, 30.0
_LOOK_S = 0.5
#: Gives how far the night is, and how many exposures it will have.
Watcher = Callable[[Sequence[ExposureProgress], int], None]
_KILOBYTE = 1024


@dataclass(frozen=True, kw_only=True)
class NightOptions:
    """What is to be observed.

    Attributes
    ----------
    cameras
        Cameras by name.
    exposures
        Exposures of each camera; replayed frames are taken instead if there are any.
    cadence_s
        Wall time from one start to the next [s]; 0 as fast as files are done.
    seed
        Chooses fields, stars, noise and weather.
    sensors
        Sensors that are read, ``R22_S01``; empty for all.
    faults
        What goes wrong on purpose.
    replayed
        Real frames, by camera name, taken instead of simulated exposures.
    keyword_files
        Files with header keywords of their own, by camera name.
    stay
        Stay up after the last exposure until a stop is asked for.
    deployment
        Whether all is in this process, or every service a process of its own.
    """

    cameras: Mapping[str, Camera]
    exposures: int
    cadence_s: float = 0.0
    seed: int = 1
    sensors: Sequence[str] = ()
    faults: Sequence[Fault] = ()
    replayed: Mapping[str, Sequence[FrameVisit]] = field(default_factory=dict)
    keyword_files: Mapping[str, Path] = field(default_factory=dict)
    stay: bool = False
    deployment: Deployment = Deployment.EMBEDDED

    @property
    def planned(self) -> int:
        """Exposures of all cameras."""
        if self.replayed:
            return sum(len(visits) for visits in self.replayed.values())
        return self.exposures * len(self.cameras)

    @property
    def begin_tai(self) -> float | None:
        """Device time at first [s, TAI], if the frames say it."""
        begins = [
            visit.begin_tai
            for visits in self.replayed.values()
            for visit in visits
            if visit.begin_tai is not None
        ]
        return min(begins, default=None)


async def run_night(
    settings: Settings,
    options: NightOptions,
    *,
    watch: Watcher,
    stop: StopToken,
    metrics: Metrics,
) -> NightReport:
    """Run a night and check what must hold at its end."""
    if options.deployment is Deployment.EMBEDDED:
        refuse_kills(options.faults)
        return await _run(settings, options, None, watch=watch, stop=stop, metrics=metrics)
    deployed = serverless_site if options.deployment is Deployment.DDS else local_site
    async with deployed(settings) as site:
        return await _run(site.settings, options, site, watch=watch, stop=stop, metrics=metrics)


async def _run(
    settings: Settings,
    options: NightOptions,
    site: LocalSite | None,
    *,
    watch: Watcher,
    stop: StopToken,
    metrics: Metrics,
) -> NightReport:
    record = NightRecord()
    async with process_context(settings, options.cameras, metrics, options.keyword_files) as opened:
        bus = PatientSampleBus(bus=opened.bus, clock=opened.clock)
        context = replace(opened, bus=bus)
        simulated: SimulatedObservatory
        hooks: list[Callable[[str, str, str], Awaitable[int]]] = []

        async def on_event(camera: str, topic: str, image: str) -> int:
            return await hooks[0](camera, topic, image)

        simulated = await simulate_observatory(
            context,
            seed=options.seed,
            sensors=options.sensors,
            on_event=on_event,
            begin_tai=options.begin_tai,
        )
        drills = Drills(
            plan=options.faults,
            daqs=simulated.daqs,
            kill=site.kill if site is not None else None,
        )
        driver = NightDriver(context=context, simulated=simulated, record=record, drills=drills)
        hooks.append(driver.on_event)
        began_tai = context.clock.now_tai()
        async with _deployed(context, simulated, drills, site), driver.listening():
            await simulated.observatory.start()
            await driver.start()
            async with _watching(context, record, options, watch):
                await _observe(driver, options)
                if options.stay:
                    await stop.wait()
                await driver.settled(within_s=_SETTLE_S + _SETTLE_PER_EXPOSURE_S * options.planned)
            await driver.finish()
        observed_tai = context.clock.now_tai()
        record.faults += drills.injected
        evidence = Evidence(
            settings=settings,
            record=record,
            ledger=context.ledger,
            links=context.links,
            ingest=context.ingest,
            leases=context.leases,
            queue=context.queue,
            annex=context.annex,
            daqs=simulated.daqs,
        )
        invariants = await check_invariants(evidence)
        if site is not None:
            invariants.append(_ended_well(site))
        return NightReport(
            root=str(settings.root),
            images=list(record.images),
            cameras=[
                await camera_figures(context, record, camera) for camera in options.cameras.values()
            ],
            invariants=invariants,
            faults=record.faults,
            observing_s=observed_tai - began_tai,
            verifying_s=context.clock.now_tai() - observed_tai,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILOBYTE,
            settings=_notable(context, record),
        )


def _ended_well(site: LocalSite) -> Invariant:
    codes = {name: code for name, code in site.supervisor.exit_codes.items() if name != REGISTRY}
    wrong = [f"{name} with {code}" for name, code in codes.items() if code != 0]
    detail = ", ".join(wrong) if wrong else f"{len(codes)} processes"
    return Invariant("every service process stops in good order", not wrong, detail)


async def _observe(driver: NightDriver, options: NightOptions) -> None:
    if not options.replayed:
        await driver.observe(
            exposures=options.exposures, cadence_s=options.cadence_s, seed=options.seed
        )
        return
    for name, visits in options.replayed.items():
        await driver.replay(options.cameras[name], visits, options.cadence_s)


@asynccontextmanager
async def _deployed(
    context: ProcessContext,
    simulated: SimulatedObservatory,
    drills: Drills,
    site: LocalSite | None,
) -> AsyncIterator[None]:
    """Run every service for the time of the context."""
    if site is not None:
        observatory = simulated_services(context, simulated)
        sensors = {
            name: [one.name for one in device.detectors]
            for name, device in simulated.devices.items()
        }
        async with (
            _running(context, observatory),
            site.services(context.cameras, sensors, context.keyword_files),
        ):
            yield
        return
    async with _running(context, _services(context, simulated, drills)):
        yield


@asynccontextmanager
async def _running(context: ProcessContext, services: Sequence[Service]) -> AsyncIterator[None]:
    stop = StopToken()
    last = _Last()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(
            run_services([*services, last], clock=context.clock, stop=stop), name="services"
        )
        up = group.create_task(last.up.wait(), name="services-up")
        await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if running.done():
            return
        try:
            yield
        finally:
            stop.request()


class _Last:
    """Starts after all others, so that its readiness is that of the deployment."""

    name = "deployment"

    def __init__(self) -> None:
        self.up = asyncio.Event()

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        ready()
        self.up.set()
        await stop.wait()


def _services(
    context: ProcessContext, simulated: SimulatedObservatory, drills: Drills
) -> list[Service]:
    factory = Factory(context)
    services: list[Service] = [
        *factory.create_watchers(),
        factory.create_bus_link(),
        factory.create_archive_controller(),
    ]
    readouts = {name: SimReadout(daq) for name, daq in simulated.daqs.items()}
    for number in range(1, context.settings.forwarder.count * len(readouts) + 1):
        name = f"forwarder-{number}"
        make = partial(_forwarder, factory, name, readouts)
        services.append(Mortal(make=make, name=name, drills=drills, clock=context.clock))
    services += simulated_cameras(context, simulated)
    for camera in context.cameras.values():
        services += [
            factory.create_header_service(camera),
            factory.create_oods(camera),
            factory.create_archiver(
                camera,
                readouts[camera.name],
                sensors=[one.name for one in simulated.devices[camera.name].detectors],
            ),
        ]
    return services


def _forwarder(
    factory: Factory, name: str, readouts: Mapping[str, SimReadout], steps: Steps
) -> Service:
    return factory.create_forwarder(name, readouts, steps=steps)


@asynccontextmanager
async def _watching(
    context: ProcessContext, record: NightRecord, options: NightOptions, watch: Watcher
) -> AsyncIterator[None]:
    progress = NightProgress(context.ledger)

    async def look() -> None:
        while True:
            # While the ledger is away the view stands still.
            with suppress(LedgerUnavailableError):
                watch(await progress.look(list(record.images)), options.planned)
            await context.clock.sleep(_LOOK_S)

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look(), name="night-view")
        try:
            yield
        finally:
            looking.cancel()
            watch(await progress.look(list(record.images)), options.planned)


def _notable(context: ProcessContext, record: NightRecord) -> dict[str, str]:
    notable = {
        "version": context.version,
        "digest": context.settings.forwarder.digest,
        "durability": context.settings.forwarder.durability,
        "compression": context.settings.forwarder.compression,
        "bus": context.settings.bus,
        "queue": context.settings.queue,
        "leases": context.settings.leases,
        "ledger": context.settings.ledger,
    }
    if record.images:
        last = list(record.images.values())[-1]
        notable["last_camera"] = last.camera.name
        notable["last_exposure_id"] = str(ImageName.parse(last.image).exposure_id)
    return notable
