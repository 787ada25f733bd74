"""Runs the plan of a night: commands components, points telescopes, takes exposures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from platevault.compose.context import ProcessContext
from platevault.compose.night.drills import Drills
from platevault.compose.night.observatory import SimulatedObservatory
from platevault.compose.night.records import NightRecord, TakenImage
from platevault.compose.night.replay import FrameVisit, load_exposure
from platevault.domain.camera import Camera
from platevault.domain.errors import PermanentError
from platevault.domain.places import night_queues
from platevault.ports.file_ledger import LedgerUnavailableError
from platevault.ports.sample_bus import History
from platevault.sal.remote import Remote
from platevault.sim.camera import Request
from platevault.sim.night import Visit, plan_night

#: Limit of each state command [s].
_COMMAND_S = 60.0
#: Time a telescope takes to slew, in device time [s].
_SLEW_S = 5.0
#: Exposures that may be unfinished at once when the night runs as fast as it goes.
_IN_FLIGHT = 2
_LOOK_S = 0.1
#: So many looks in a row must find nothing: an answer may lie between the ledger and its queue.
_CALM_LOOKS = 3


class NightDriver:
    """What an observer would do in a night.

    Parameters
    ----------
    context
        The ports.
    simulated
        The devices.
    record
        Filled in as the night goes on.
    drills
        Faults on purpose.
    """

    def __init__(
        self,
        *,
        context: ProcessContext,
        simulated: SimulatedObservatory,
        record: NightRecord,
        drills: Drills,
    ) -> None:
        self._context = context
        self._simulated = simulated
        self._record = record
        self._drills = drills
        self._taken = 0
        self._registered: set[str] = set()

    async def on_event(self, camera: str, topic: str, image: str) -> int:
        """Note the wall time of an event, and say how often it goes out."""
        times = self._drills.times_told(camera, topic, image)
        now_tai = self._context.clock.now_tai()
        device = self._simulated.devices[camera]
        taken = self._record.images.setdefault(
            image,
            TakenImage(image, device.camera, tuple(one.name for one in device.detectors)),
        )
        if topic == "endReadout":
            taken.end_readout_tai = now_tai
        if topic == "endOfImageTelemetry":
            taken.end_telemetry_tai = now_tai
        return times

    async def start(self) -> None:
        """Bring every commandable component to ENABLED."""
        for component, index in self._components():
            async with self._remote(component, index) as remote:
                await remote.command("start", timeout_s=_COMMAND_S)
                await remote.command("enable", timeout_s=_COMMAND_S)

    async def finish(self) -> None:
        """Bring every commandable component to STANDBY."""
        for component, index in reversed(self._components()):
            async with self._remote(component, index) as remote:
                await remote.command("disable", timeout_s=_COMMAND_S)
                await remote.command("standby", timeout_s=_COMMAND_S)

    async def observe(self, *, exposures: int, cadence_s: float, seed: int) -> None:
        """Take ``exposures`` exposures with each camera, turn by turn.

        Parameters
        ----------
        exposures
            Of each camera.
        cadence_s
            Wall time from one start to the next [s]; 0 goes as fast as the files are done.
        seed
            Chooses the fields.
        """
        plans = {
            camera.name: plan_night(
                camera,
                self._simulated.observatory.telescopes[camera.components.telescope],
                begin_tai=self._simulated.clock.now_tai(),
                exposures=exposures,
                seed=seed,
            )
            for camera in self._context.cameras.values()
        }
        while plans:
            for name in list(plans):
                visit = next(plans[name], None)
                if visit is None:
                    del plans[name]
                    continue
                await self._visit(self._context.cameras[name], visit, cadence_s)

    async def replay(self, camera: Camera, visits: Sequence[FrameVisit], cadence_s: float) -> None:
        """Send real frames through the camera, one exposure each, at the time each was taken."""
        observatory = self._simulated.observatory
        for visit in visits:
            try:
                exposure = await asyncio.to_thread(load_exposure, visit, camera)
            except PermanentError as error:
                self._record.faults.append(f"frame left out: {error}")
                continue
            if visit.begin_tai is not None:
                await observatory.skip_to(visit.begin_tai - _SLEW_S)
            if exposure.filter_name:
                await self._simulated.devices[camera.name].set_filter(exposure.filter_name)
            await observatory.point(camera.components.telescope, exposure.target)
            await observatory.advance(_SLEW_S)
            await self._take(camera, exposure.request, cadence_s)

    async def settled(self, *, within_s: float) -> bool:
        """Wait until no file may still get anywhere and no message waits; ``False`` in time [s]."""
        try:
            async with asyncio.timeout(within_s):
                calm = 0
                while True:
                    busy = await self._unfinished() or await self._waiting()
                    calm = 0 if busy else calm + 1
                    if calm == _CALM_LOOKS:
                        return True
                    await self._context.clock.sleep(_LOOK_S)
        except TimeoutError:
            return False

    async def _waiting(self) -> int:
        """Count messages in the queues; a repeat of what is done is still to be acknowledged."""
        return sum(
            [await self._context.queue.depth(name) for name in night_queues(self._context.cameras)]
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Count the events of Archivers and headers for the time of the context."""
        async with asyncio.TaskGroup() as group:
            tasks = []
            for camera in self._context.cameras.values():
                components = camera.components
                for component, index, events in (
                    (
                        components.archiver,
                        0,
                        ("imageRetrievalForArchiving", "imageInOODS"),
                    ),
                    (
                        components.header_service,
                        components.sal_index,
                        ("largeFileObjectAvailable",),
                    ),
                ):
                    ready = asyncio.Event()
                    tasks.append(
                        group.create_task(
                            self._listen(component, index, events, ready),
                            name=f"listen-{component}",
                        )
                    )
                    await ready.wait()
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _listen(
        self, component: str, index: int, events: Sequence[str], ready: asyncio.Event
    ) -> None:
        interface = self._context.interfaces.component(component)
        topics = [interface.event(name) for name in events]
        async with self._context.bus.subscribe(
            topics, history=History.NONE, sal_index=index
        ) as samples:
            ready.set()
            async for sample in samples:
                self._count(sample.topic.name, sample.fields)

    def _count(self, event: str, fields: Mapping[str, object]) -> None:
        if event == "largeFileObjectAvailable":
            taken = self._record.images.get(str(fields["id"]))
            if taken is not None and not taken.header_tai:
                taken.header_tai = self._context.clock.now_tai()
            return
        status = fields["statusCode"]
        assert isinstance(status, int)
        sensor = f"R{fields['raft']}_S{fields['sensor']}"
        self._record.events[event, str(fields["obsid"]), _known_sensor(fields, sensor), status] += 1

    async def _visit(self, camera: Camera, visit: Visit, cadence_s: float) -> None:
        observatory = self._simulated.observatory
        device = self._simulated.devices[camera.name]
        await device.set_filter(visit.filter_name)
        await observatory.point(camera.components.telescope, visit.target)
        await observatory.advance(_SLEW_S)
        await self._take(
            camera,
            Request(
                image_type=visit.image_type,
                exposure_s=visit.exposure_s,
                count=visit.snaps,
                keys={"program": visit.program, "reason": visit.reason},
            ),
            cadence_s,
        )

    async def _take(self, camera: Camera, request: Request, cadence_s: float) -> None:
        clock = self._context.clock
        began_tai = clock.now_tai()
        self._taken += 1
        disabled = self._drills.disables_archiver(self._taken)
        async with self._archiver_disabled(camera, disabled=disabled):
            await self._simulated.devices[camera.name].take(request)
        self._taken += request.count - 1
        if cadence_s > 0:
            await clock.sleep(began_tai + cadence_s * request.count - clock.now_tai())
        else:
            while len(await self._unfinished()) > _IN_FLIGHT:
                await clock.sleep(_LOOK_S)

    @asynccontextmanager
    async def _archiver_disabled(self, camera: Camera, *, disabled: bool) -> AsyncIterator[None]:
        if not disabled:
            yield
            return
        async with self._remote(camera.components.archiver, 0) as remote:
            await remote.command("disable", timeout_s=_COMMAND_S)
            yield
            await remote.command("enable", timeout_s=_COMMAND_S)

    async def _unfinished(self) -> list[str]:
        images = list(self._record.images)
        ledger = self._context.ledger
        try:
            for image in images:
                if image not in self._registered and await ledger.exposure(image) is not None:
                    self._registered.add(image)
            # After the above: what was registered a moment ago must not seem to be finished.
            open_images = {one.exposure.image for one in await ledger.exposures(unfinished=True)}
        except LedgerUnavailableError:
            return images
        return [one for one in images if one in open_images or one not in self._registered]

    def _components(self) -> list[tuple[str, int]]:
        found = []
        for camera in self._context.cameras.values():
            components = camera.components
            found += [
                (components.camera, components.sal_index),
                (components.header_service, components.sal_index),
                (components.oods, 0),
                (components.archiver, 0),
            ]
        return found

    def _remote(self, component: str, index: int) -> Remote:
        return Remote(
            component=component,
            sal_index=index,
            bus=self._context.bus,
            interfaces=self._context.interfaces,
            clock=self._context.clock,
            watch=(),
        )


def _known_sensor(fields: Mapping[str, object], spelled: str) -> str:
    """Give ``R22_S01`` for the raft and sensor texts of an event: ``22`` and ``01``, or in full."""
    raft, sensor = str(fields["raft"]), str(fields["sensor"])
    if raft.startswith("R"):
        return f"{raft}_{sensor}"
    return spelled if sensor.isdigit() else f"R{raft}_{sensor}"
