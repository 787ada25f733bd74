"""The Archive Controller: makes places for exposures and hands their files over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from platevault.domain.capture import PRIORITY_ANSWER
from platevault.domain.errors import PermanentError, PlatevaultError, TransientError
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import AttemptRecord, ExposureRecord, FileRecord
from platevault.domain.lifecycles import Destination, FileState, done_states
from platevault.domain.messages import (
    FileTransferCompleted,
    HealthCheck,
    HealthCheckAck,
    Message,
    NewArchiveItem,
    NewArchiveItemAck,
)
from platevault.domain.places import ARCHIVE_CONTROLLER_QUEUE, exposure_directory
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import (
    Change,
    FileLedger,
    LedgerUnavailableError,
    Staged,
    StaleFenceError,
    StateConflictError,
    UnknownExposureError,
)
from platevault.ports.image_writer import (
    DirectoryUnwritableError,
    DiskFullError,
    ImageWriter,
    LinkStore,
)
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.service import StopToken
from platevault.runtime.steps import NoSteps, Steps
from platevault.runtime.turns import Turns
from platevault.runtime.work import pause, pause_before, work_off
from platevault.services.archive_controller.handoff import (
    DUE_STATES,
    HANDOFF_ORDER,
    Handoff,
    LedgerMovedError,
    Rows,
    is_archived,
    is_due,
    keys_of,
    state_after,
)
from platevault.services.archive_controller.manifest import encode_manifest
from platevault.services.archive_controller.observing import (
    ArchiveControllerObserver,
    NoObserver,
)

#: Where a test may fail or kill the Archive Controller, in order.
ARCHIVE_CONTROLLER_STEPS = (
    "directory_made",
    "manifest_begun",
    "manifest_staged",
    "manifest_named",
    "manifest_recorded",
    "target_stored",
    "place_told",
    "delivery_begun",
    "linked",
    "verified",
    "ingest_requested",
)
#: Messages in hand at once; those of one image are worked off together.
_PREFETCH = 256

_log = structlog.get_logger(__name__)


class NotArchivedError(TransientError):
    """A file was announced that the ledger does not have as written: look again later."""


class ArchiveController:
    """Answers where an exposure goes, and links its files into the OODS and backbone areas.

    It works off its queue, and looks at the ledger at start and every ``reconcile_s``: what is in
    the archive and not at a destination is delivered, message or not.

    Parameters
    ----------
    root
        Root of the archive.
    areas
        Root of each further destination; one that is missing is not in use.
    ledger, queue, links, writer, clock, steps
        Ports.
    name
        Name of the service, in answers and in the ledger's attempts.
    reconcile_s
        Time between looks at the ledger [s].
    settle_s
        Files that changed more recently are left to their messages [s].
    observer
        Told of the work.
    """

    def __init__(
        self,
        *,
        root: Path,
        areas: Mapping[Destination, Path],
        ledger: FileLedger,
        queue: WorkQueue,
        links: LinkStore,
        writer: ImageWriter,
        clock: Clock,
        steps: Steps | None = None,
        name: str = "archive_controller",
        reconcile_s: float = 30.0,
        settle_s: float = 10.0,
        observer: ArchiveControllerObserver | None = None,
    ) -> None:
        observer = observer if observer is not None else NoObserver()
        self._observer = observer
        self._root = root
        self._ledger = ledger
        self._queue = queue
        self._links = links
        self._writer = writer
        self._clock = clock
        self._steps = steps if steps is not None else NoSteps()
        self._name = name
        self._reconcile_s = reconcile_s
        self._settle_s = settle_s
        self._handoff = Handoff(
            areas=areas,
            ledger=ledger,
            queue=queue,
            links=links,
            clock=clock,
            steps=self._steps,
            worker=name,
            observer=observer,
        )
        self._turns = Turns()
        self._pending: dict[str, set[str]] = {}

    @property
    def name(self) -> str:
        """Unique within the process."""
        return self._name

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Finish what was left, then serve the queue until the stop."""
        await self._reconcile(settle_s=0.0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_reconciling(stop), name="archive-controller-reconcile")
            await work_off(
                self._queue,
                ARCHIVE_CONTROLLER_QUEUE,
                self.handle,
                prefetch=_PREFETCH,
                stop=stop,
                clock=self._clock,
                consuming=ready,
            )

    async def handle(self, message: Message, attempt: int) -> None:
        """Do what one message asks for; returning means that the effect is durable.

        Parameters
        ----------
        message
            What is asked for.
        attempt
            How often it was delivered.
        """
        match message:
            case HealthCheck():
                answer = HealthCheckAck(sender=self._name, ack_id=message.ack_id)
                await self._queue.send(message.reply_queue, answer, priority=PRIORITY_ANSWER)
            case NewArchiveItem():
                await self._new_item(message)
            case FileTransferCompleted():
                await self._hand_over(message.image, message.sensor)
            case _:
                raise PermanentError(
                    "Message is not for the Archive Controller", type=message.type, attempt=attempt
                )

    async def _new_item(self, message: NewArchiveItem) -> None:
        record = await self._record(message.image)
        try:
            async with self._turns.of(message.image):
                target_dir = await self._make_place(record)
                # Now, so that pixels need not wait until the manifest is written.
                answer = NewArchiveItemAck(
                    camera=message.camera, image=message.image, target_dir=target_dir
                )
                await self._queue.send(message.reply_queue, answer, priority=PRIORITY_ANSWER)
                await self._steps.reached("place_told", message.image)
                await self._write_manifest(record, Path(target_dir))
        except (DiskFullError, DirectoryUnwritableError) as error:
            # No answer: the Archiver stores the same directory itself, and the manifest follows.
            _log.error("No place for an exposure", image=message.image, problem=str(error))
            return
        await self._hand_over(message.image, "")

    async def _make_place(self, record: ExposureRecord) -> str:
        """Make the directory of an exposure, and store where it is."""
        exposure = record.exposure
        folder = Path(
            record.target_dir or self._root / exposure_directory(exposure.camera, exposure.image)
        )
        await self._links.make_directory(folder)
        await self._steps.reached("directory_made", exposure.image)
        target_dir = await self._ledger.set_target(exposure.image, str(folder))
        await self._steps.reached("target_stored", exposure.image)
        self._observer.place_made(record)
        return target_dir

    async def _write_manifest(self, record: ExposureRecord, folder: Path) -> None:
        image = record.exposure.image
        key = FileKey(image, "", FileKind.MANIFEST)
        try:
            attempts = await self._ledger.begin(
                [key],
                Destination.ARCHIVE,
                worker=self._name,
                fence=0,
                now_tai=self._clock.now_tai(),
            )
        except StateConflictError as error:
            _log.warning("Manifest is left as it is", image=image, problem=str(error))
            return
        await self._steps.reached("manifest_begun", image)
        for attempt in attempts:  # none if it is written
            try:
                change = await self._put_manifest(record, folder / key.file_name, attempt)
            except (LedgerUnavailableError, StaleFenceError) as error:
                raise LedgerMovedError("Manifest changed hands", problem=str(error)) from error
            except PlatevaultError as error:
                _log.error("Manifest could not be written", image=image, problem=str(error))
                await self._ledger.apply(
                    [Change(key, Destination.ARCHIVE, state_after(error), reason=str(error))],
                    now_tai=self._clock.now_tai(),
                )
                if isinstance(error, DiskFullError):
                    raise
            else:
                await self._ledger.apply([change], now_tai=self._clock.now_tai())
                await self._steps.reached("manifest_recorded", image)

    async def _put_manifest(
        self, record: ExposureRecord, final: Path, attempt: AttemptRecord
    ) -> Change:
        image = record.exposure.image
        staged = await self._writer.stage_bytes(encode_manifest(record.exposure), final)
        await self._ledger.stage(
            [
                Staged(
                    attempt.key,
                    Destination.ARCHIVE,
                    number=attempt.number,
                    path=str(staged.temporary),
                    size_bytes=staged.size_bytes,
                    digest=staged.digest,
                )
            ]
        )
        await self._steps.reached("manifest_staged", image)
        await self._writer.commit([staged])
        await self._steps.reached("manifest_named", image)
        return Change(
            attempt.key,
            Destination.ARCHIVE,
            FileState.WRITTEN,
            path=str(staged.final),
            size_bytes=staged.size_bytes,
            digest=staged.digest,
        )

    async def _hand_over(self, image: str, sensor: str) -> None:
        """Deliver a sensor together with the others of its image that wait for their turn."""
        self._pending.setdefault(image, set()).add(sensor)
        async with self._turns.of(image):
            if sensor not in self._pending.get(image, ()):
                return  # delivered with one that came before
            sensors = self._pending.pop(image)
            try:
                record = await self._record(image)
                rows = await self._rows(image)
                self._require_archived(rows, image, sensor)
                await self._handoff.deliver(record, rows, sensors)
            except BaseException:
                self._pending.setdefault(image, set()).update(sensors)  # those that wait go on
                raise
            await self._tidy(record, rows)

    def _require_archived(self, rows: Rows, image: str, sensor: str) -> None:
        for key in keys_of(image, sensor):
            if not is_archived(key, rows) and sensor:
                raise NotArchivedError("The file is not in the archive", file=key.file_name)

    async def _tidy(self, record: ExposureRecord, rows: Rows) -> None:
        """Remove what interrupted attempts left behind, once everything is written."""
        archived = [row for row in rows.values() if row.destination is Destination.ARCHIVE]
        if record.target_dir and all(
            row.state in done_states(row.key.kind, Destination.ARCHIVE) for row in archived
        ):
            removed = await self._writer.sweep(Path(record.target_dir), keep={})
            if removed:
                _log.info(
                    "Temporary files removed", image=record.exposure.image, count=len(removed)
                )

    async def _record(self, image: str) -> ExposureRecord:
        record = await self._ledger.exposure(image)
        if record is None:
            raise UnknownExposureError("The exposure was never registered", image=image)
        return record

    async def _rows(self, image: str) -> Rows:
        return {(row.key, row.destination): row for row in await self._ledger.files(image=image)}

    async def _keep_reconciling(self, stop: StopToken) -> None:
        while not stop.requested:
            await pause(self._clock, stop, self._reconcile_s)
            if not stop.requested:
                await self._reconcile(settle_s=self._settle_s)

    async def _reconcile(self, *, settle_s: float) -> None:
        try:
            images = await self._unfinished()
        except TransientError as error:
            _log.warning("Ledger does not answer", problem=str(error))
            return
        for image in images:
            try:
                await self._reconcile_exposure(await self._record(image), settle_s=settle_s)
            except (TransientError, PermanentError) as error:
                _log.warning("Exposure could not be reconciled", image=image, problem=str(error))

    async def _unfinished(self) -> list[str]:
        """Name the images that may need something; the question goes by states, which are few."""
        images = {
            row.key.image
            for destination in HANDOFF_ORDER
            for row in await self._ledger.files(destination=destination, states=DUE_STATES)
        }
        return sorted(images)

    async def _reconcile_exposure(self, record: ExposureRecord, *, settle_s: float) -> None:
        image = record.exposure.image
        rows = await self._rows(image)
        now = self._clock.now_tai()
        manifest = rows.get((FileKey(image, "", FileKind.MANIFEST), Destination.ARCHIVE))
        if (
            manifest is not None
            and manifest.state not in done_states(FileKind.MANIFEST, Destination.ARCHIVE)
            and manifest.state is not FileState.DEAD
            and now - record.registered_tai >= settle_s
        ):
            async with self._turns.of(image):
                await self._write_manifest(record, Path(await self._make_place(record)))
            rows = await self._rows(image)
        for sensor in self._overdue(record, rows, now - settle_s):
            await self._hand_over(image, sensor)

    def _overdue(self, record: ExposureRecord, rows: Rows, before_tai: float) -> list[str]:
        image = record.exposure.image
        overdue = []
        for sensor in ["", *record.exposure.sensors]:
            keys = [key for key in keys_of(image, sensor) if (key, Destination.ARCHIVE) in rows]
            if not keys or not all(is_archived(key, rows) for key in keys):
                continue
            if any(
                is_due(keys, destination, rows)
                and all(
                    _next_try_tai(rows[key, place]) <= before_tai
                    for key in keys
                    for place in (Destination.ARCHIVE, destination)
                )
                for destination in (Destination.OODS, Destination.BACKBONE)
            ):
                overdue.append(sensor)
        return overdue


def _next_try_tai(row: FileRecord) -> float:
    if row.state is FileState.RETRY:
        return row.changed_tai + pause_before(row.attempt)
    return row.changed_tai
