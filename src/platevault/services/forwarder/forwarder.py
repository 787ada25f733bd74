"""The Forwarder: present, paired with an Archiver, working off its camera's boards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from platevault.domain.camera import Camera
from platevault.domain.capture import PRIORITY_ANSWER
from platevault.domain.errors import PermanentError
from platevault.domain.messages import (
    Associated,
    AssociatedAck,
    EndReadout,
    HeaderReady,
    Message,
)
from platevault.domain.places import FORWARDER_ROLE, forwarder_lease, forwarder_queue
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import FileLedger
from platevault.ports.image_writer import ImageWriter, LinkStore
from platevault.ports.leases import Leases, LeasesUnavailableError
from platevault.ports.object_store import ObjectStore
from platevault.ports.presence import Presence
from platevault.ports.readout import Readout
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.limits import TimeLimitError, within
from platevault.runtime.service import StopToken
from platevault.runtime.steps import NoSteps, Steps
from platevault.runtime.waiting import wait_first
from platevault.runtime.work import pause, work_off
from platevault.services.forwarder.announcing import Announcer
from platevault.services.forwarder.board import BoardWork, ForwarderLimits
from platevault.services.forwarder.header_source import HeaderSource
from platevault.services.forwarder.observing import ForwarderObserver, NoObserver
from platevault.services.forwarder.reading import BoardReader
from platevault.services.forwarder.writing import SensorWriter

#: Where a test may fail or kill a Forwarder, in order.
FORWARDER_STEPS = (
    "claimed",
    "begun",
    "read",
    "header",
    "staged",
    "digest_recorded",
    "named",
    "recorded",
    "handed_over",
    "announced",
)
#: Messages on the Forwarder's own queue in hand at once; they take microseconds.
_OWN_PREFETCH = 16
#: A withdrawal that takes longer is left to the life of the presence [s].
_WITHDRAW_S = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Association:
    """The Archiver for which the Forwarder works."""

    archiver: str
    work_queue: str
    fence: int
    ended: StopToken = field(default_factory=StopToken, compare=False)


class Forwarder:
    """Takes boards of the camera whose Archiver holds it, ``concurrency`` at once.

    Parameters
    ----------
    name
        Unique among Forwarders.
    cameras
        Cameras it can work for, by name.
    readouts
        The DAQ of each camera, by camera name.
    ledger, queue, leases, presence, objects, writer, links, clock, steps
        Ports.
    concurrency
        Boards in hand at once; the pixels of each are held.
    limits
        Times.
    host, version
        Said of it in its presence.
    header_poll_s
        Time between looks for a header, if no hint comes [s].
    header_patience_s
        Time after the end of readout during which a header that was announced and cannot be had is
        waited for [s]; the file is written without it then.
    observer
        Told of the work.
    """

    def __init__(
        self,
        *,
        name: str,
        cameras: Mapping[str, Camera],
        readouts: Mapping[str, Readout],
        ledger: FileLedger,
        queue: WorkQueue,
        leases: Leases,
        presence: Presence,
        objects: ObjectStore,
        writer: ImageWriter,
        links: LinkStore,
        clock: Clock,
        steps: Steps | None = None,
        concurrency: int = 2,
        limits: ForwarderLimits | None = None,
        host: str = "",
        version: str = "",
        header_poll_s: float = 1.0,
        header_patience_s: float = 600.0,
        observer: ForwarderObserver | None = None,
    ) -> None:
        steps = steps if steps is not None else NoSteps()
        self._observer = observer if observer is not None else NoObserver()
        self._name = name
        self._cameras = frozenset(cameras)
        self._queue = queue
        self._leases = leases
        self._presence = presence
        self._clock = clock
        self._concurrency = concurrency
        self._limits = limits if limits is not None else ForwarderLimits()
        self._host = host
        self._version = version
        self._header_source = HeaderSource(
            ledger=ledger,
            leases=leases,
            objects=objects,
            clock=clock,
            holder=name,
            poll_s=header_poll_s,
            patience_s=header_patience_s,
        )
        self._boards = BoardWork(
            worker=name,
            cameras=cameras,
            ledger=ledger,
            leases=leases,
            links=links,
            clock=clock,
            steps=steps,
            reader=BoardReader(readouts=readouts, clock=clock, version=version),
            header_source=self._header_source,
            sensor_writer=SensorWriter(
                writer=writer, links=links, ledger=ledger, clock=clock, steps=steps
            ),
            announcer=Announcer(queue=queue, steps=steps),
            observer=self._observer,
            limits=self._limits,
            concurrency=concurrency,
        )
        self._association: _Association | None = None
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        """Unique within the process."""
        return self._name

    @property
    def archiver(self) -> str:
        """Name of the Archiver for which it works; empty if for none."""
        return self._association.archiver if self._association is not None else ""

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Be present and work until the stop; boards in hand are finished."""
        await asyncio.to_thread(self._boards.prepare)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._live(stop), name=f"{self._name}-presence")
                tasks.create_task(self._work(stop), name=f"{self._name}-work")
                await work_off(
                    self._queue,
                    forwarder_queue(self._name),
                    self._hear,
                    prefetch=_OWN_PREFETCH,
                    stop=stop,
                    clock=self._clock,
                    consuming=ready,
                )
        finally:
            await self._withdraw()

    async def _hear(self, message: Message, attempt: int) -> None:
        match message:
            case Associated():
                await self._associate(message)
            case HeaderReady():
                self._header_source.hint(message.image)
            case _:
                raise PermanentError(
                    "Message is not for a Forwarder", type=message.type, attempt=attempt
                )

    async def _associate(self, message: Associated) -> None:
        present = self._association
        if present is not None and message.fence < present.fence:
            _log.warning("Pairing is out of date", forwarder=self._name, archiver=message.archiver)
            return
        wanted = _Association(message.archiver, message.work_queue, message.fence)
        if wanted != present:
            self._change_to(wanted)
            _log.info("Forwarder paired", forwarder=self._name, archiver=message.archiver)
            await self._announce()
        await self._queue.send(
            message.reply_queue,
            AssociatedAck(archiver=message.archiver, forwarder=self._name, fence=message.fence),
            priority=PRIORITY_ANSWER,
        )

    def _change_to(self, association: _Association | None) -> None:
        if self._association is not None:
            self._association.ended.request()
        self._association = association
        self._observer.paired(self._name, self.archiver)
        self._changed.set()

    async def _work(self, stop: StopToken) -> None:
        while not stop.requested:
            self._changed.clear()
            association = self._association
            if association is None:
                await wait_first(self._changed.wait(), stop.wait())
                continue
            async with asyncio.TaskGroup() as tasks:
                ending = tasks.create_task(
                    _pass_on(stop, association.ended), name=f"{self._name}-ending"
                )
                await work_off(
                    self._queue,
                    association.work_queue,
                    self._board,
                    prefetch=self._concurrency,
                    stop=association.ended,
                    clock=self._clock,
                )
                ending.cancel()

    async def _board(self, message: Message, attempt: int) -> None:
        if not isinstance(message, EndReadout):
            raise PermanentError("Message is no board", type=message.type, attempt=attempt)
        await self._boards.do(message)

    async def _live(self, stop: StopToken) -> None:
        while not stop.requested:
            try:
                await self._announce()
                await self._check_association()
            except LeasesUnavailableError as error:
                _log.warning("Forwarder is not seen", forwarder=self._name, problem=str(error))
            await pause(self._clock, stop, self._limits.heartbeat_s)

    async def _announce(self) -> None:
        facts = {
            "queue": forwarder_queue(self._name),
            "host": self._host,
            "version": self._version,
            "cameras": ",".join(sorted(self._cameras)),
            "archiver": self.archiver,
        }
        await self._presence.announce(
            FORWARDER_ROLE, self._name, facts, ttl_s=self._limits.presence_s
        )

    async def _check_association(self) -> None:
        """Take no more boards of an Archiver that let go of the Forwarder, or is gone."""
        association = self._association
        if association is None:
            return
        grant = await self._leases.current(forwarder_lease(self._name))
        if (grant is None or grant.fence != association.fence) and (
            self._association is association
        ):
            _log.info("Forwarder is free", forwarder=self._name, archiver=association.archiver)
            self._change_to(None)
            await self._announce()

    async def _withdraw(self) -> None:
        try:
            await asyncio.shield(
                within(
                    self._clock,
                    _WITHDRAW_S,
                    self._presence.withdraw(FORWARDER_ROLE, self._name),
                    what="withdraw",
                )
            )
        except (LeasesUnavailableError, TimeLimitError) as error:
            _log.warning("Presence runs out by itself", forwarder=self._name, problem=str(error))


async def _pass_on(stop: StopToken, to: StopToken) -> None:
    await stop.wait()
    to.request()
