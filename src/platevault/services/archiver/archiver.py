"""The Archiver CSC: turns events of a camera into work, and results into events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from platevault.csc.configuration import ConfigurationSource
from platevault.csc.csc import Csc
from platevault.domain.camera import Camera
from platevault.domain.errors import PermanentError, PlatevaultError, TransientError
from platevault.domain.inventory import HeaderReference
from platevault.domain.lifecycles import SummaryState
from platevault.domain.messages import (
    AssociatedAck,
    HealthCheckAck,
    ImageInOods,
    ImageRetrieval,
    Message,
    NewArchiveItemAck,
)
from platevault.domain.places import archiver_queue
from platevault.domain.samples import Sample
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import FileLedger, LedgerUnavailableError
from platevault.ports.leases import Leases
from platevault.ports.presence import Presence
from platevault.ports.readout import Readout
from platevault.ports.sample_bus import BusUnavailableError, History, SampleBus
from platevault.ports.work_queue import QueueUnavailableError, WorkQueue
from platevault.runtime.limits import ungrouped
from platevault.runtime.retry import Backoff, retry
from platevault.runtime.service import Deadline, StopToken
from platevault.runtime.steps import NoSteps, Steps
from platevault.runtime.turns import Turns
from platevault.runtime.work import pause, work_off
from platevault.sal.acks import CommandRefusedError
from platevault.sal.schema import Interfaces
from platevault.services.archiver.catch_up import CatchUp
from platevault.services.archiver.controller_link import ControllerLink, ControllerSilentError
from platevault.services.archiver.exposures import ExposureDesk, FindHeader
from platevault.services.archiver.faults import ArchiverFault, ArchiverFaultError
from platevault.services.archiver.forwarder_pool import ForwarderPool
from platevault.services.archiver.notices import (
    END,
    HEADER,
    START,
    read_exposure,
    read_header,
)
from platevault.services.archiver.observing import ArchiverObserver, NoObserver
from platevault.services.archiver.results import ResultDesk
from platevault.services.archiver.settings import ArchiverConfiguration
from platevault.services.archiver.watching import Watch

#: Where a test may fail or kill an Archiver, in the order of one exposure.
ARCHIVER_STEPS = (
    "registered",
    "placed",
    "readout_stored",
    "board_sent",
    "header_chosen",
    "published",
    "told",
)
_LISTENING = {
    SummaryState.STANDBY,
    SummaryState.DISABLED,
    SummaryState.ENABLED,
    SummaryState.FAULT,
}
_CONNECTED = {SummaryState.DISABLED, SummaryState.ENABLED}
#: Messages and events in hand at once.
_PREFETCH = 64
_EVENTS_AT_ONCE = 64
#: How long an event is tried while ledger or queue are away [s]; catch-up comes back to it.
_EVENT_LIMIT_S = 60.0
_BACKOFF = Backoff(first_s=0.2, ceiling_s=5.0)


async def no_header(image: str) -> HeaderReference | None:  # noqa: ARG001 - as `FindHeader`
    """Find nothing: for deployments that cannot look headers up."""
    return None


class ArchiverCsc(Csc):
    """Archiver of one camera.

    Parameters
    ----------
    camera
        Whose images.
    root
        Root of the archive.
    bus, interfaces, clock, version, configuration, check_duplicates, simulation_mode
        As for `Csc`; ``configuration`` gives `ArchiverConfiguration`.
    ledger, queue, leases, presence
        Ports.
    readout
        The camera's DAQ, for catch-up; ``None`` goes by the ledger alone.
    find_header
        Looks for the header of an image that was announced while nobody listened.
    settings
        Used until ``start`` gives others.
    initial_state
        As for `Csc`.
    steps
        Told at each step.
    observer
        Told of the work.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        root: Path,
        bus: SampleBus,
        interfaces: Interfaces,
        clock: Clock,
        version: str,
        ledger: FileLedger,
        queue: WorkQueue,
        leases: Leases,
        presence: Presence,
        readout: Readout | None = None,
        find_header: FindHeader = no_header,
        settings: ArchiverConfiguration | None = None,
        configuration: ConfigurationSource | None = None,
        simulation_mode: int = 0,
        initial_state: SummaryState = SummaryState.STANDBY,
        check_duplicates: bool = False,
        steps: Steps | None = None,
        observer: ArchiverObserver | None = None,
    ) -> None:
        steps = steps if steps is not None else NoSteps()
        super().__init__(
            component=camera.components.archiver,
            bus=bus,
            interfaces=interfaces,
            clock=clock,
            version=version,
            configuration=configuration,
            simulation_mode=simulation_mode,
            initial_state=initial_state,
            check_duplicates=check_duplicates,
        )
        self._camera = camera
        self._observer = observer if observer is not None else NoObserver()
        self._samples = bus
        self._topics = interfaces
        self._ledger = ledger
        self._queue = queue
        self._replies = archiver_queue(camera.name)
        self._settings = settings if settings is not None else ArchiverConfiguration()
        self._controller_link = ControllerLink(
            sender=self.name, reply_queue=self._replies, queue=queue, clock=clock
        )
        self._pool = ForwarderPool(
            archiver=self.name,
            camera=camera.name,
            reply_queue=self._replies,
            leases=leases,
            presence=presence,
            queue=queue,
            clock=clock,
        )
        self._desk = ExposureDesk(
            camera=camera,
            root=root,
            archiver=self.name,
            reply_queue=self._replies,
            ledger=ledger,
            queue=queue,
            leases=leases,
            clock=clock,
            controller=self._controller_link,
            pool=self._pool,
            find_header=find_header,
            steps=steps,
            observer=self._observer,
        )
        self._turns = Turns()
        self._results = ResultDesk(
            camera=camera,
            archiver=self.name,
            ledger=ledger,
            clock=clock,
            publish=self.publish,
            log=self.log,
            steps=steps,
            observer=self._observer,
        )
        self._catch_up = CatchUp(
            camera=camera,
            readout=readout,
            ledger=ledger,
            queue=queue,
            clock=clock,
            desk=self._desk,
            results=self._results,
            turn=self._turns.of,
            log=self.log,
        )
        self._watch = Watch(
            camera=camera.name,
            clock=clock,
            controller=self._controller_link,
            pool=self._pool,
            observer=self._observer,
            settings=lambda: self._settings,
            fault=self.fault,
            log=self.log,
        )
        #: Events that came while not ENABLED.
        self.ignored = 0
        failed = ArchiverFault.WORK_FAILED
        self.while_in(_LISTENING, self._listen, name="events", error_code=failed)
        self.while_in(_CONNECTED, self._hear_replies, name="replies", error_code=failed)
        self.while_in(_CONNECTED, self._watch.forwarders, name="forwarders", error_code=failed)
        self.while_in(_CONNECTED, self._watch.controller, name="controller", error_code=failed)
        self.while_enabled(self._keep_catching_up, name="catch-up", error_code=failed)

    @property
    def forwarders(self) -> list[str]:
        """Names of the paired Forwarders, sorted."""
        return self._pool.paired

    # -- states --------------------------------------------------------------------------------

    @override
    async def on_start(self, settings: Any) -> None:
        """Reach everything that is needed and pair with Forwarders; else FAULT, with its code."""
        if isinstance(settings, ArchiverConfiguration):
            self._settings = settings
        self._check_detectors()
        try:
            await self._connect()
        except ArchiverFaultError as error:
            await self._pool.release_all()
            report = f"{int(error.code)}: {error}"
            await self.fault(int(error.code), report)
            raise CommandRefusedError(report) from error
        self._watch.forget()

    @override
    async def on_standby(self) -> None:
        """Give every Forwarder back."""
        await self._pool.release_all()

    def _check_detectors(self) -> None:
        strangers = set(self._settings.detectors) - set(self._camera.detector_by_name)
        if strangers:
            raise CommandRefusedError(
                "Sensor is not in the camera",
                field="detectors",
                value=sorted(strangers),
                camera=self._camera.name,
            )

    async def _connect(self) -> None:
        try:
            await self._ledger.exposure("")
        except PlatevaultError as error:  # damaged or forbidden, it is of no more use
            raise ArchiverFaultError(
                ArchiverFault.LEDGER_DOWN, "The ledger does not answer", problem=str(error)
            ) from error
        enough = StopToken()
        with ungrouped():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear_replies(enough), name=f"{self.name} start")
                try:
                    await self._reach_controller()
                    await self._pool.pair(self._settings)
                finally:
                    enough.request()

    async def _reach_controller(self) -> None:
        try:
            await self._controller_link.check(limit_s=self._settings.controller_timeout_s)
        except ControllerSilentError as error:
            raise ArchiverFaultError(
                ArchiverFault.CONTROLLER_SILENT,
                "The Archive Controller does not answer",
                problem=str(error),
            ) from error
        except QueueUnavailableError as error:
            raise ArchiverFaultError(
                ArchiverFault.QUEUE_DOWN, "The work queue does not answer", problem=str(error)
            ) from error

    # -- replies -------------------------------------------------------------------------------

    async def _hear_replies(self, stop: StopToken) -> None:
        await work_off(
            self._queue,
            self._replies,
            self._hear,
            prefetch=_PREFETCH,
            stop=stop,
            clock=self.clock,
        )

    async def _hear(self, message: Message, attempt: int) -> None:
        match message:
            case AssociatedAck():
                self._pool.heard(message)
            case HealthCheckAck() | NewArchiveItemAck():
                self._controller_link.heard(message)
            case ImageRetrieval() | ImageInOods():
                await self._results.tell(message)
            case _:
                raise PermanentError(
                    "Message is not for an Archiver", type=message.type, attempt=attempt
                )

    # -- catch-up ------------------------------------------------------------------------------

    async def _keep_catching_up(self, stop: StopToken) -> None:
        begun = True
        while not stop.requested:
            try:
                report = await self._catch_up.look(self._settings, begun=begun)
            except LedgerUnavailableError as error:
                await self._watch.is_out(ArchiverFault.LEDGER_DOWN, str(error))
            except TransientError as error:
                await self.log(logging.WARNING, "Catch-up looks again later", problem=str(error))
            else:
                begun = False
                await self._watch.is_back(ArchiverFault.LEDGER_DOWN)
                self._observer.looked(
                    self._camera.name,
                    adopted=report.adopted,
                    boards=report.boards,
                    missing=report.missing,
                )
                if report.adopted or report.boards:
                    await self.log(
                        logging.INFO,
                        "Catch-up",
                        adopted=report.adopted,
                        boards=report.boards,
                        missing=report.missing,
                    )
            await pause(self.clock, stop, self._settings.catch_up_s)

    # -- events --------------------------------------------------------------------------------

    async def _listen(self, stop: StopToken) -> None:
        components = self._camera.components
        camera = self._topics.component(components.camera)
        header_service = self._topics.component(components.header_service)
        topics = [camera.event(START), camera.event(END), header_service.event(HEADER)]
        failures = _BACKOFF.pauses()
        slots = asyncio.Semaphore(_EVENTS_AT_ONCE)
        while not stop.requested:
            try:
                async with (
                    self._samples.subscribe(
                        topics, history=History.NONE, sal_index=components.sal_index
                    ) as samples,
                    asyncio.TaskGroup() as tasks,
                ):
                    failures.reset()
                    problem = await self._take(stop.until(samples), tasks, slots)
            except BusUnavailableError as error:
                problem = error
            if problem is not None:
                await self.log(logging.ERROR, "Events were lost", problem=str(problem))
                await pause(self.clock, stop, failures.next_s())

    async def _take(
        self, samples: AsyncIterator[Sample], tasks: asyncio.TaskGroup, slots: asyncio.Semaphore
    ) -> PlatevaultError | None:
        try:
            async for sample in samples:
                await slots.acquire()
                task = tasks.create_task(
                    self._on_event(sample, self.state), name=f"{self.name} {sample.topic.name}"
                )
                task.add_done_callback(lambda _: slots.release())
        except PlatevaultError as error:
            return error  # events in hand go on; catch-up finds what was lost
        return None

    async def _on_event(self, sample: Sample, state: SummaryState) -> None:
        topic = sample.topic.name
        try:
            deadline = Deadline(self.clock, self.clock.now_tai() + _EVENT_LIMIT_S)
            if state is SummaryState.ENABLED:
                await retry(
                    lambda: self._act_on(sample),
                    clock=self.clock,
                    backoff=_BACKOFF,
                    deadline=deadline,
                )
            else:
                await self._ignore(sample, state)
        except PlatevaultError as error:
            self._observer.event_refused(self._camera.name, topic, type(error).__name__)
            await self.log(
                logging.ERROR,
                "Event could not be handled",
                topic=topic,
                error=type(error).__name__,
                problem=str(error),
            )

    async def _ignore(self, sample: Sample, state: SummaryState) -> None:
        """Do nothing, say so, and keep what catch-up will want to know."""
        self.ignored += 1
        self._observer.event_ignored(self._camera.name, sample.topic.name)
        if sample.topic.name == HEADER:
            header = read_header(sample, self._camera)
            image = header[0] if header is not None else None
            if header is not None:
                self._desk.remember_header(*header)
        else:
            notice = read_exposure(sample, self._camera)
            image = notice.image
            self._desk.remember(notice)
        await self.log(
            logging.WARNING,
            "Event ignored, not ENABLED",
            topic=sample.topic.name,
            image=str(image),
            state=state.name,
            ignored=self.ignored,
        )

    async def _act_on(self, sample: Sample) -> None:
        if sample.topic.name == HEADER:
            header = read_header(sample, self._camera)
            if header is not None:
                async with self._turns.of(str(header[0])):
                    used = await self._desk.header(*header)
                if not used:
                    await self.log(
                        logging.WARNING,
                        "Header is not used, the files have another",
                        image=str(header[0]),
                        url=header[1].url,
                        version=header[1].version,
                    )
            return
        notice = read_exposure(sample, self._camera)
        async with self._turns.of(str(notice.image)):
            if sample.topic.name == START:
                await self._desk.begin(notice, self._settings)
            else:
                await self._desk.end(notice, self._settings)
