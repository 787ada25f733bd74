"""One board of one exposure: from the DAQ to durable, recorded, announced files."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from platevault.domain.camera import Board, Camera
from platevault.domain.capture import RetrievalStatus, sensor_text
from platevault.domain.errors import IntegrityError, PermanentError, PlatevaultError, TransientError
from platevault.domain.ids import FileKey
from platevault.domain.inventory import AttemptRecord, FileRecord
from platevault.domain.lifecycles import FILE_TRANSITIONS, Destination, FileState, done_states
from platevault.domain.messages import EndReadout, FileTransferCompleted, ImageRetrieval
from platevault.domain.places import ARCHIVE_CONTROLLER_QUEUE, board_lease
from platevault.domain.wire import MalformedPixelsError
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import (
    Change,
    FileLedger,
    LedgerUnavailableError,
    StaleFenceError,
    StateConflictError,
    UnknownExposureError,
)
from platevault.ports.image_writer import DirectoryUnwritableError, LinkStore
from platevault.ports.leases import Grant, Leases, LeasesUnavailableError
from platevault.ports.readout import ImageMissingError
from platevault.ports.work_queue import QueueUnavailableError, WorkQueue
from platevault.runtime.limits import ungrouped
from platevault.runtime.service import Deadline
from platevault.runtime.steps import Steps
from platevault.services.forwarder.buffers import BoardBuffers
from platevault.services.forwarder.header_source import FileHeader, HeaderSource
from platevault.services.forwarder.reading import BoardReader, BoardReading
from platevault.services.forwarder.writing import SENSOR_KINDS, SensorJob, SensorWriter

ResultT = TypeVar("ResultT")
Rows = Mapping[FileKey, FileRecord]

#: Attempts at a file before an error that does not pass by itself is left to a person.
_ATTEMPTS = 5
#: Services that everybody needs: while they are away the board waits in its queue.
_OUTAGES = (LedgerUnavailableError, LeasesUnavailableError, QueueUnavailableError)

_log = structlog.get_logger(__name__)


class BadOrderError(PermanentError):
    """A board was ordered that cannot be read: set the order aside and look who sent it."""


class BoardTakenError(TransientError):
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


@dataclass(frozen=True, slots=True)
class _Order:
    """An order that was checked."""

    message: EndReadout
    camera: Camera
    board: Board
    folder: Path


class BoardWork:
    """Does boards, each under its lease; a board may be done twice and by several workers.

    Parameters
    ----------
    worker
        Name in leases and in the ledger's attempts.
    cameras
        Known cameras by name.
    ledger, queue, leases, links, clock, steps
        Ports.
    reader, header_source, sensor_writer
        Parts of the work.
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
        queue: WorkQueue,
        leases: Leases,
        links: LinkStore,
        clock: Clock,
        steps: Steps,
        reader: BoardReader,
        header_source: HeaderSource,
        sensor_writer: SensorWriter,
        limits: ForwarderLimits,
        concurrency: int,
    ) -> None:
        self._worker = worker
        self._cameras = cameras
        self._ledger = ledger
        self._queue = queue
        self._leases = leases
        self._links = links
        self._clock = clock
        self._steps = steps
        self._reader = reader
        self._header_source = header_source
        self._sensor_writer = sensor_writer
        self._limits = limits
        self._buffers = BoardBuffers(count=concurrency)
        self._writing = asyncio.Semaphore(concurrency)
        self._turns = itertools.count(1)

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
        order = await self._checked(message)
        rows = await self._rows(message.image)
        await self._check_done(message, rows)
        rows = await self._rows(message.image)
        await self._announce_done(message, rows)
        due = [sensor for sensor in message.sensors if _is_due(message.image, sensor, rows)]
        if not due:
            return
        # A name of its own for each turn: two deliveries of a board exclude each other too.
        grant = await self._leases.acquire(
            board_lease(message.image, message.board),
            holder=f"{self._worker}#{next(self._turns)}",
            ttl_s=self._limits.lease_s,
        )
        if grant is None:
            raise BoardTakenError("Another worker has the board", board=message.board)
        try:
            await self._steps.reached("claimed", _subject(message))
            with ungrouped():
                async with self._holding(grant):
                    await self._do_sensors(order, due, rows, grant)
        except (StaleFenceError, StateConflictError) as error:
            raise BoardTakenError("The board changed hands", problem=str(error)) from error
        finally:
            await self._give_back(grant)

    async def _checked(self, message: EndReadout) -> _Order:
        camera = self._cameras.get(message.camera)
        if camera is None:
            raise BadOrderError(
                "The camera is not known", camera=message.camera, expected=sorted(self._cameras)
            )
        board = camera.board_by_location.get(message.board)
        if board is None:
            raise BadOrderError(
                "The camera has no such board", board=message.board, camera=camera.name
            )
        record = await self._ledger.exposure(message.image)
        if record is None:
            raise UnknownExposureError("The exposure was never registered", image=message.image)
        strangers = [
            sensor
            for sensor in message.sensors
            if sensor not in board.detectors or sensor not in record.exposure.sensors
        ]
        if strangers or record.exposure.camera != camera.name:
            raise BadOrderError(
                "The order does not fit the exposure",
                image=message.image,
                camera=record.exposure.camera,
                board=board.location,
                sensors=strangers,
            )
        return _Order(message, camera, board, Path(record.target_dir or message.target_dir))

    async def _rows(self, image: str) -> dict[FileKey, FileRecord]:
        rows = await self._ledger.files(image=image, destination=Destination.ARCHIVE)
        return {row.key: row for row in rows}

    async def _check_done(self, message: EndReadout, rows: Rows) -> None:
        """Look whether files that the ledger has as written are what they were."""
        for sensor in message.sensors:
            for key in _keys(message.image, sensor):
                row = rows[key]
                if row.state is not FileState.WRITTEN:
                    continue
                algorithm = row.digest.partition(":")[0]
                digest = await self._links.digest_of(Path(row.path), algorithm=algorithm)
                if digest == row.digest:
                    continue
                reason = "file is missing" if digest is None else f"file has digest {digest}"
                _log.error("Archived file is damaged", file=key.file_name, problem=reason)
                changes = [Change(key, Destination.ARCHIVE, FileState.CORRUPT, reason=reason)]
                if digest is None:  # nothing stands in the way of writing it again
                    changes.append(Change(key, Destination.ARCHIVE, FileState.READY, reason=reason))
                await self._ledger.apply(changes, now_tai=self._clock.now_tai())

    async def _announce_done(self, message: EndReadout, rows: Rows) -> None:
        for sensor in message.sensors:
            states = [rows[key] for key in _keys(message.image, sensor)]
            if all(_is_done(row) for row in states):
                problem = "no full header" if any(row.degraded for row in states) else ""
                await self._announce(message, sensor, problem)

    async def _do_sensors(
        self, order: _Order, sensors: Sequence[str], rows: Rows, grant: Grant
    ) -> None:
        image = order.message.image
        earlier: list[AttemptRecord] = []
        if any(rows[key].attempt for sensor in sensors for key in _keys(image, sensor)):
            earlier = await self._ledger.attempts(image)
        keys = [key for sensor in sensors for key in _keys(image, sensor)]
        opened = await self._ledger.begin(
            keys,
            Destination.ARCHIVE,
            worker=self._worker,
            fence=grant.fence,
            now_tai=self._clock.now_tai(),
        )
        await self._steps.reached("begun", _subject(order.message))
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

    async def _resumed(self, order: _Order, job: SensorJob, rows: Rows) -> bool:
        if not await self._sensor_writer.resume(job):
            return False
        degraded = any(rows[key].degraded for key in job.keys)
        await self._announce(order.message, job.detector.name, "no full header" if degraded else "")
        return True

    async def _write_sensors(self, order: _Order, jobs: Sequence[SensorJob]) -> None:
        message = order.message
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(
                _outcome(
                    self._header_source.header(
                        order.camera,
                        message.image,
                        Deadline(self._clock, message.header_due_tai),
                    )
                ),
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
            await self._steps.reached("header", _subject(message))
            # A sensor that fails does not cancel the others: a staging that is cut short leaves a
            # temporary file.
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
        for task in writing:
            problem = task.result()
            if problem is not None:
                raise problem

    async def _read(self, order: _Order) -> BoardReading:
        image = order.message.image
        deadline = Deadline(self._clock, self._clock.now_tai() + self._limits.readout_s)
        description = await self._reader.describe(order.camera, image, order.board, deadline)
        buffer = self._buffers.take(description.size_bytes)
        reading = await self._reader.read(order.camera, image, description, deadline, buffer)
        await self._steps.reached("read", _subject(order.message))
        return reading

    async def _write_one(
        self, order: _Order, job: SensorJob, reading: BoardReading, header: FileHeader
    ) -> None:
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
            await self._announce(order.message, job.detector.name, header.problem)

    async def _fail(
        self,
        order: _Order,
        jobs: Sequence[SensorJob],
        error: PlatevaultError,
        status: RetrievalStatus,
    ) -> None:
        """Record why sensors were not written, and say so; catch-up looks after them."""
        if isinstance(error, _OUTAGES):
            raise error
        message = order.message
        reason = f"{type(error).__name__}: {error}"
        changes = []
        for job in jobs:
            number = max((attempt.number for attempt in job.attempts.values()), default=0)
            state = _state_after(error, number=number, catch_up=message.catch_up)
            changes += [
                Change(key, Destination.ARCHIVE, state, fence=job.fence, reason=reason)
                for key in job.attempts
            ]
            _log.error(
                "Sensor was not written", sensor=job.subject, state=state.value, problem=reason
            )
        await self._ledger.apply(changes, now_tai=self._clock.now_tai())
        await self._steps.reached("failed", _subject(message))
        for job in jobs:
            await self._tell(message, job.detector.name, status, reason)

    async def _announce(self, message: EndReadout, sensor: str, problem: str) -> None:
        await self._queue.send(
            ARCHIVE_CONTROLLER_QUEUE,
            FileTransferCompleted(camera=message.camera, image=message.image, sensor=sensor),
        )
        await self._steps.reached("handed_over", f"{message.image}/{sensor}")
        if problem:
            status, text = RetrievalStatus.HEADER_FAILED, f"file written, {problem}"
        else:
            status, text = RetrievalStatus.DONE, "file written"
        await self._tell(message, sensor, status, text)
        await self._steps.reached("announced", f"{message.image}/{sensor}")

    async def _tell(
        self, message: EndReadout, sensor: str, status: RetrievalStatus, text: str
    ) -> None:
        await self._queue.send(
            message.reply_queue,
            ImageRetrieval(
                camera=message.camera,
                image=message.image,
                sensor=sensor,
                status_code=int(status),
                description=sensor_text(sensor, text),
            ),
        )

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


def _subject(message: EndReadout) -> str:
    return f"{message.image}:{message.board}"


def _keys(image: str, sensor: str) -> Collection[FileKey]:
    return [FileKey(image, sensor, kind) for kind in SENSOR_KINDS]


def _is_done(row: FileRecord) -> bool:
    return row.state in done_states(row.key.kind, Destination.ARCHIVE)


def _is_due(image: str, sensor: str, rows: Rows) -> bool:
    states = [rows[key] for key in _keys(image, sensor)]
    if all(_is_done(row) for row in states):
        return False
    return all(
        _is_done(row)
        or row.state is FileState.SENDING
        or FileState.SENDING in FILE_TRANSITIONS[row.state]
        for row in states
    )


def _state_after(error: PlatevaultError, *, number: int, catch_up: bool) -> FileState:
    """Tell what becomes of a file that could not be written.

    What passes by itself or is mended without us is tried again for as long as it takes, at the
    pace of catch-up; other errors a few times; a conflict never.
    """
    if isinstance(error, TransientError | DirectoryUnwritableError):
        return FileState.RETRY
    if isinstance(error, IntegrityError):
        return FileState.DEAD
    if isinstance(error, ImageMissingError):
        return FileState.DEAD if catch_up else FileState.RETRY
    return FileState.RETRY if number < _ATTEMPTS else FileState.DEAD
