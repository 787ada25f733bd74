"""One board of one exposure: from the DAQ to durable, recorded, announced files."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from platevault.domain.camera import Camera
from platevault.domain.capture import RetrievalStatus
from platevault.domain.errors import PermanentError, PlatevaultError
from platevault.domain.ids import FileKey
from platevault.domain.inventory import AttemptRecord, FileRecord
from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.messages import EndReadout
from platevault.domain.places import board_lease
from platevault.domain.wire import MalformedPixelsError, largest_board_bytes
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import (
    Change,
    FileLedger,
    LedgerUnavailableError,
    StaleFenceError,
    StateConflictError,
)
from platevault.ports.image_writer import LinkStore
from platevault.ports.leases import Grant, Leases, LeasesUnavailableError
from platevault.ports.work_queue import QueueUnavailableError
from platevault.runtime.limits import ungrouped
from platevault.runtime.service import Deadline
from platevault.runtime.steps import Steps
from platevault.runtime.work import ComeBackError
from platevault.services.forwarder.announcing import Announcer
from platevault.services.forwarder.buffers import BoardBuffers
from platevault.services.forwarder.header_source import FileHeader, HeaderSource
from platevault.services.forwarder.observing import ForwarderObserver
from platevault.services.forwarder.orders import (
    Order,
    Rows,
    check_order,
    is_done,
    is_due,
    keys_of,
    state_after,
)
from platevault.services.forwarder.reading import BoardReader, BoardReading
from platevault.services.forwarder.writing import SensorJob, SensorWriter

ResultT = TypeVar("ResultT")

#: Services that everybody needs: while they are away the board waits in its queue.
_OUTAGES = (LedgerUnavailableError, LeasesUnavailableError, QueueUnavailableError)
#: Pause before a look whether a board is free [s].
_SHORTEST_PAUSE_S = 0.2
_DEGRADED = "no full header"

_log = structlog.get_logger(__name__)


class BoardTakenError(ComeBackError):
    """Another worker has the board: look again later whether it is done."""


@dataclass(frozen=True, slots=True)
class ForwarderLimits:
    """Time limits and lease times of a Forwarder [s].

    Attributes
    ----------
    readout_s
        Wait for the pixels of a board (capture contract, section 2.4).
    lease_s
        Life of the lease of a board; a board whose worker died is taken over after it.
    heartbeat_s, presence_s
        Interval and life of the sign of life (capture contract, section 2.4).
    """

    readout_s: float = 30.0
    lease_s: float = 10.0
    heartbeat_s: float = 3.0
    presence_s: float = 10.0


class BoardWork:
    """Does boards, each under its lease; a board may be done twice and by several workers.

    Parameters
    ----------
    worker
        Name in leases and in the ledger's attempts.
    cameras
        Known cameras by name.
    ledger, leases, links, clock, steps
        Ports.
    reader, header_source, sensor_writer, announcer
        Parts of the work.
    observer
        Told of the work.
    limits
        Times.
    concurrency
        Sensors that are written at once, and boards whose pixels are held.
    """

    def __init__(
        self,
        *,
        worker: str,
        cameras: Mapping[str, Camera],
        ledger: FileLedger,
        leases: Leases,
        links: LinkStore,
        clock: Clock,
        steps: Steps,
        reader: BoardReader,
        header_source: HeaderSource,
        sensor_writer: SensorWriter,
        announcer: Announcer,
        observer: ForwarderObserver,
        limits: ForwarderLimits,
        concurrency: int,
    ) -> None:
        self._worker = worker
        self._cameras = cameras
        self._ledger = ledger
        self._leases = leases
        self._links = links
        self._clock = clock
        self._steps = steps
        self._reader = reader
        self._header_source = header_source
        self._sensor_writer = sensor_writer
        self._announcer = announcer
        self._observer = observer
        self._limits = limits
        self._buffers = BoardBuffers(count=concurrency)
        self._writing = asyncio.Semaphore(concurrency)
        self._turns = itertools.count(1)

    def prepare(self) -> None:
        """Take the memory for the largest board of the cameras; it takes a moment."""
        self._buffers.prepare(max(map(largest_board_bytes, self._cameras.values()), default=0))

    async def do(self, message: EndReadout) -> None:
        """Bring every sensor of a board to its end; returning means that nothing more is due.

        Raises
        ------
        BadOrderError, UnknownExposureError
            The order cannot be carried out. Set it aside.
        BoardTakenError
            Somebody else is at it. Deliver the order again later.
        LedgerUnavailableError, LeasesUnavailableError, QueueUnavailableError
            Deliver the order again later.
        """
        order = check_order(message, self._cameras, await self._ledger.exposure(message.image))
        rows = await self._rows(message)
        if await self._found_damage(message, rows):
            rows = await self._rows(message)
        await self._announce_done(message, rows)
        due = [sensor for sensor in message.sensors if is_due(message.image, sensor, rows)]
        if not due:
            return
        # A name of its own for each turn: two deliveries of a board exclude each other too.
        grant = await self._leases.acquire(
            board_lease(message.image, message.board),
            holder=f"{self._worker}#{next(self._turns)}",
            ttl_s=self._limits.lease_s,
        )
        if grant is None:
            raise BoardTakenError(
                "Another worker has the board",
                board=message.board,
                pause_s=await self._until_free(message),
            )
        try:
            await self._steps.reached("claimed", order.subject)
            with ungrouped():
                async with self._holding(grant):
                    await self._do_sensors(order, due, rows, grant)
        except (StaleFenceError, StateConflictError) as error:
            raise BoardTakenError(
                "The board changed hands", problem=str(error), pause_s=self._limits.lease_s / 3
            ) from error
        finally:
            await self._give_back(grant)

    async def _until_free(self, message: EndReadout) -> float:
        """Give the time after which the board is free, if its worker is dead [s]."""
        grant = await self._leases.current(board_lease(message.image, message.board))
        left_s = 0.0 if grant is None else grant.expires_tai - self._clock.now_tai()
        return max(left_s, _SHORTEST_PAUSE_S)

    async def _rows(self, message: EndReadout) -> dict[FileKey, FileRecord]:
        rows = await self._ledger.files(
            image=message.image, sensors=message.sensors, destination=Destination.ARCHIVE
        )
        return {row.key: row for row in rows}

    async def _found_damage(self, message: EndReadout, rows: Rows) -> bool:
        """Look whether files that the ledger has as written are what they were; record it."""
        found = False
        for sensor in message.sensors:
            for key in keys_of(message.image, sensor):
                row = rows[key]
                if row.state is not FileState.WRITTEN:
                    continue
                algorithm = row.digest.partition(":")[0]
                digest = await self._links.digest_of(Path(row.path), algorithm=algorithm)
                if digest == row.digest:
                    continue
                found = True
                reason = "file is missing" if digest is None else f"file has digest {digest}"
                _log.error("Archived file is damaged", file=key.file_name, problem=reason)
                changes = [Change(key, Destination.ARCHIVE, FileState.CORRUPT, reason=reason)]
                if digest is None:  # nothing stands in the way of writing it again
                    changes.append(Change(key, Destination.ARCHIVE, FileState.READY, reason=reason))
                await self._ledger.apply(changes, now_tai=self._clock.now_tai())
        return found

    async def _announce_done(self, message: EndReadout, rows: Rows) -> None:
        done: dict[str, str] = {}
        for sensor in message.sensors:
            states = [rows[key] for key in keys_of(message.image, sensor)]
            if all(is_done(row) for row in states):
                done[sensor] = _DEGRADED if any(row.degraded for row in states) else ""
        await self._announcer.written(message, done)

    async def _do_sensors(
        self, order: Order, sensors: Sequence[str], rows: Rows, grant: Grant
    ) -> None:
        image = order.message.image
        keys = [key for sensor in sensors for key in keys_of(image, sensor)]
        earlier: list[AttemptRecord] = []
        if any(rows[key].attempt for key in keys):
            earlier = await self._ledger.attempts(image)
        opened = await self._ledger.begin(
            keys,
            Destination.ARCHIVE,
            worker=self._worker,
            fence=grant.fence,
            now_tai=self._clock.now_tai(),
        )
        await self._steps.reached("begun", order.subject)
        jobs = [
            SensorJob(
                camera=order.camera,
                detector=order.camera.detector_by_name[sensor],
                image=image,
                group=order.board.detectors.index(sensor),
                folder=order.folder,
                fence=grant.fence,
                attempts={
                    attempt.key: attempt for attempt in opened if attempt.key.sensor == sensor
                },
                earlier=[attempt for attempt in earlier if attempt.key.sensor == sensor],
            )
            for sensor in sensors
        ]
        left = [job for job in jobs if not await self._resumed(order, job, rows)]
        if left:
            await self._write_sensors(order, left)

    async def _resumed(self, order: Order, job: SensorJob, rows: Rows) -> bool:
        try:
            if not await self._sensor_writer.resume(job):
                return False
        except (StaleFenceError, StateConflictError, *_OUTAGES):
            raise
        except PlatevaultError as error:
            await self._fail(order, [job], error, RetrievalStatus.FILE_FAILED)
            return True
        degraded = any(rows[key].degraded for key in job.keys)
        self._note_written(order, job, degraded=degraded)
        problems = {job.detector.name: _DEGRADED if degraded else ""}
        await self._announcer.written(order.message, problems)
        return True

    async def _write_sensors(self, order: Order, jobs: Sequence[SensorJob]) -> None:
        message = order.message
        async with asyncio.TaskGroup() as tasks:
            due = Deadline(self._clock, message.header_due_tai)
            waiting = tasks.create_task(
                _outcome(self._header_source.header(order.camera, message.image, due)),
                name=f"header-{message.image}",
            )
            reading = await _outcome(self._read(order))
            if isinstance(reading, PlatevaultError):
                waiting.cancel()
        if isinstance(reading, PlatevaultError):
            await self._fail(order, jobs, reading, RetrievalStatus.PIXELS_FAILED)
            return
        try:
            header = waiting.result()
            if isinstance(header, PlatevaultError):
                await self._fail(order, jobs, header, RetrievalStatus.HEADER_FAILED)
                return
            await self._steps.reached("header", order.subject)
            # A sensor that fails does not cancel the others: each comes to its own end.
            async with asyncio.TaskGroup() as tasks:
                writing = [
                    tasks.create_task(
                        _outcome(self._write_one(order, job, reading, header)),
                        name=f"write-{job.subject}",
                    )
                    for job in jobs
                ]
        finally:
            self._buffers.give_back(reading.buffer)
        outcomes = [task.result() for task in writing]
        written = {
            job.detector.name: header.problem
            for job, outcome in zip(jobs, outcomes, strict=True)
            if outcome is True
        }
        await self._announcer.written(message, written)
        for outcome in outcomes:
            if isinstance(outcome, PlatevaultError):
                raise outcome

    async def _read(self, order: Order) -> BoardReading:
        image = order.message.image
        begin_tai = self._clock.now_tai()
        deadline = Deadline(self._clock, begin_tai + self._limits.readout_s)
        description = await self._reader.describe(order.camera, image, order.board, deadline)
        buffer = self._buffers.take(description.size_bytes)
        reading = await self._reader.read(order.camera, image, description, deadline, buffer)
        self._observer.board_read(
            order.message,
            size_bytes=description.size_bytes,
            duration_s=self._clock.now_tai() - begin_tai,
        )
        await self._steps.reached("read", order.subject)
        return reading

    async def _write_one(
        self, order: Order, job: SensorJob, reading: BoardReading, header: FileHeader
    ) -> bool:
        """Write the files of a sensor, and tell whether they are durable and recorded."""
        try:
            async with self._writing:
                await self._sensor_writer.write(job, reading, header)
        except (StaleFenceError, StateConflictError, *_OUTAGES):
            raise
        except MalformedPixelsError as error:
            await self._fail(order, [job], error, RetrievalStatus.PIXELS_FAILED)
        except PlatevaultError as error:
            await self._fail(order, [job], error, RetrievalStatus.FILE_FAILED)
        except Exception as error:  # noqa: BLE001  outermost of a sensor: the others go on
            _log.exception("Sensor could not be written after a bug", sensor=job.subject)
            problem = PermanentError("Bug", type=type(error).__name__, text=str(error))
            await self._fail(order, [job], problem, RetrievalStatus.FILE_FAILED)
        else:
            self._note_written(order, job, degraded=bool(header.problem))
            return True
        return False

    def _note_written(self, order: Order, job: SensorJob, *, degraded: bool) -> None:
        self._observer.file_written(
            order.message,
            job.detector.name,
            latency_s=self._clock.now_tai() - order.message.end_readout_tai,
            degraded=degraded,
        )

    async def _fail(
        self,
        order: Order,
        jobs: Sequence[SensorJob],
        error: PlatevaultError,
        status: RetrievalStatus,
    ) -> None:
        """Record why sensors were not written, and say so; catch-up looks after them."""
        if isinstance(error, _OUTAGES):
            raise error
        message = order.message
        reason = f"{type(error).__name__}: {error}"
        states: dict[str, FileState] = {}
        changes: list[Change] = []
        for job in jobs:
            number = max((attempt.number for attempt in job.attempts.values()), default=0)
            state = state_after(error, number=number, catch_up=message.catch_up)
            states[job.detector.name] = state
            changes += [
                Change(key, Destination.ARCHIVE, state, fence=job.fence, reason=reason)
                for key in job.attempts
            ]
            _log.error(
                "Sensor was not written", sensor=job.subject, state=state.value, problem=reason
            )
        await self._ledger.apply(changes, now_tai=self._clock.now_tai())
        for sensor, state in states.items():
            self._observer.sensor_failed(message, sensor, status=status, state=state)
        await self._announcer.tell(message, states, status, reason)

    @asynccontextmanager
    async def _holding(self, grant: Grant) -> AsyncIterator[None]:
        """Renew a lease while the block runs."""
        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(self._renew(grant), name=f"renew-{grant.name}")
            try:
                yield
            finally:
                renewing.cancel()

    async def _renew(self, grant: Grant) -> None:
        while True:
            await self._clock.sleep(self._limits.lease_s / 3)
            try:
                renewed = await self._leases.renew(grant, ttl_s=self._limits.lease_s)
            except LeasesUnavailableError as error:
                # Nobody can take it meanwhile, and the ledger knows the newest fence.
                _log.warning("Lease could not be renewed", lease=grant.name, problem=str(error))
                continue
            if renewed is None:
                # The ledger refuses whatever this worker still has to say.
                _log.warning("Lease was lost", lease=grant.name)
                return

    async def _give_back(self, grant: Grant) -> None:
        try:
            await self._leases.release(grant)
        except LeasesUnavailableError as error:
            _log.warning("Lease runs out by itself", lease=grant.name, problem=str(error))


async def _outcome(work: Coroutine[Any, Any, ResultT]) -> ResultT | PlatevaultError:
    try:
        return await work
    except PlatevaultError as error:
        return error
