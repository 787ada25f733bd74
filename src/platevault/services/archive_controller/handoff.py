"""Hand-off of archived files to the destinations, each with its own state."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from platevault.domain.errors import PermanentError, PlatevaultError, TransientError
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import ExposureRecord, FileRecord
from platevault.domain.lifecycles import Destination, FileState, done_states
from platevault.domain.messages import ImageInOods, IngestRequest
from platevault.domain.places import archiver_queue, exposure_directory, oods_queue
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import Change, FileLedger, StateConflictError
from platevault.ports.image_writer import DirectoryUnwritableError, LinkStore
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.steps import Steps
from platevault.runtime.work import send_together
from platevault.services.archive_controller.observing import ArchiveControllerObserver

#: Order of the destinations: the OODS gets its files first (LDM-230).
HANDOFF_ORDER = (Destination.OODS, Destination.BACKBONE)
#: States from which a file is brought to a destination.
DUE_STATES = frozenset(
    {
        FileState.EXPECTED,
        FileState.LATE,
        FileState.READY,
        FileState.RETRY,
        FileState.SENDING,
        FileState.SENT,
    }
)
#: Status of imageInOODS for a file that did not get that far (capture contract, section 4).
OODS_LINK_FAILED = 1
#: Links made at once; each waits for the disk.
_LINKS_AT_ONCE = 8

_log = structlog.get_logger(__name__)

Rows = Mapping[tuple[FileKey, Destination], FileRecord]


class LedgerMovedError(TransientError):
    """The ledger changed while the hand-off looked at it: look again."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Files that go together, in the order in which they appear: a sidecar, then its image."""

    sensor: str
    keys: tuple[FileKey, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a unit: ``placed`` are linked, the rest failed with ``error``."""

    unit: _Unit
    placed: tuple[FileKey, ...]
    error: PlatevaultError | None = None


def is_archived(key: FileKey, rows: Rows) -> bool:
    """Tell whether the file is durable in the archive."""
    row = rows.get((key, Destination.ARCHIVE))
    return row is not None and row.state in done_states(key.kind, Destination.ARCHIVE)


def keys_of(image: str, sensor: str) -> tuple[FileKey, ...]:
    """Give the files that go together: of one sensor, or the manifest for no sensor."""
    if not sensor:
        return (FileKey(image, "", FileKind.MANIFEST),)
    return (FileKey(image, sensor, FileKind.SIDECAR), FileKey(image, sensor, FileKind.RAW))


class Handoff:
    """Links the files of an exposure into the OODS and Data Backbone areas.

    Parameters
    ----------
    areas
        Root of each destination; one that is missing is not in use.
    ledger, queue, links, clock, steps
        Ports.
    worker
        Name in the ledger's attempts.
    observer
        Told of the work.
    """

    def __init__(
        self,
        *,
        areas: Mapping[Destination, Path],
        ledger: FileLedger,
        queue: WorkQueue,
        links: LinkStore,
        clock: Clock,
        steps: Steps,
        worker: str,
        observer: ArchiveControllerObserver,
    ) -> None:
        self._areas = areas
        self._ledger = ledger
        self._queue = queue
        self._links = links
        self._clock = clock
        self._steps = steps
        self._worker = worker
        self._observer = observer

    async def deliver(self, record: ExposureRecord, rows: Rows, sensors: Collection[str]) -> None:
        """Bring the archived files of some sensors to every destination.

        A destination that fails does not keep the next one waiting, nor one sensor another; what
        failed is in the ledger as ``retry`` or ``dead``.

        Parameters
        ----------
        record
            The exposure.
        rows
            Its files as the ledger has them.
        sensors
            Sensor names; the empty one is the manifest.

        Raises
        ------
        LedgerUnavailableError, QueueUnavailableError, LedgerMovedError
            Retry with fresh rows; what is done is found done.
        """
        image = record.exposure.image
        units = [_Unit(sensor, keys_of(image, sensor)) for sensor in sorted(sensors)]
        units = [unit for unit in units if all(is_archived(key, rows) for key in unit.keys)]
        for destination in HANDOFF_ORDER:
            due = [unit for unit in units if is_due(unit.keys, destination, rows)]
            area = self._areas.get(destination)
            if area is None:
                await self._abandon(destination, rows, due)
                continue
            folder = area / exposure_directory(record.exposure.camera, image)
            placed = await self._link_all(destination, folder, record, rows, due) if due else set()
            if destination is Destination.OODS:
                await self._request_ingest(folder, record, rows, units, placed)

    async def _abandon(self, destination: Destination, rows: Rows, units: Sequence[_Unit]) -> None:
        await self._apply(
            [
                Change(key, destination, FileState.ABANDONED, reason="destination is not in use")
                for unit in units
                for key in unit.keys
                if rows[key, destination].state in DUE_STATES - {FileState.SENDING, FileState.SENT}
            ]
        )

    async def _link_all(
        self,
        destination: Destination,
        folder: Path,
        record: ExposureRecord,
        rows: Rows,
        units: Sequence[_Unit],
    ) -> set[FileKey]:
        subject = f"{record.exposure.image}@{destination}"
        opened = [
            key
            for unit in units
            for key in unit.keys
            if rows[key, destination].state in DUE_STATES - {FileState.SENT}
        ]
        try:
            await self._ledger.begin(
                opened, destination, worker=self._worker, fence=0, now_tai=self._clock.now_tai()
            )
        except StateConflictError as error:
            raise LedgerMovedError("Files changed during hand-off", problem=str(error)) from error
        await self._steps.reached("delivery_begun", subject)
        slots = asyncio.Semaphore(_LINKS_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            linking = [
                tasks.create_task(
                    self._link(unit, folder, rows, slots), name=f"link-{unit.sensor or 'manifest'}"
                )
                for unit in units
            ]
        outcomes = [task.result() for task in linking]
        await self._steps.reached("linked", subject)
        await self._record(destination, record, folder, rows, outcomes, subject)
        for outcome in outcomes:
            if outcome.error is not None:
                await self._report_failure(destination, record, outcome.unit, outcome.error)
        return {key for outcome in outcomes for key in outcome.placed}

    async def _link(
        self, unit: _Unit, folder: Path, rows: Rows, slots: asyncio.Semaphore
    ) -> _Outcome:
        async with slots:
            for number, key in enumerate(unit.keys):
                archived = rows[key, Destination.ARCHIVE]
                target = folder / key.file_name
                try:
                    await self._links.link(Path(archived.path), target, digest=archived.digest)
                except PlatevaultError as error:
                    return _Outcome(unit, unit.keys[:number], error)
        return _Outcome(unit, unit.keys)

    async def _record(
        self,
        destination: Destination,
        record: ExposureRecord,
        folder: Path,
        rows: Rows,
        outcomes: Sequence[_Outcome],
        subject: str,
    ) -> None:
        first: list[Change] = []
        verified: list[Change] = []
        for outcome in outcomes:
            for key in outcome.unit.keys:
                if rows[key, destination].state not in DUE_STATES:
                    continue
                if key in outcome.placed:
                    archived = rows[key, Destination.ARCHIVE]
                    sent = Change(
                        key,
                        destination,
                        FileState.SENT,
                        path=str(folder / key.file_name),
                        size_bytes=archived.size_bytes,
                        digest=archived.digest,
                        degraded=archived.degraded,
                    )
                    first.append(sent)
                    verified.append(replace(sent, to=FileState.VERIFIED))
                elif outcome.error is not None:
                    reason = f"{type(outcome.error).__name__}: {outcome.error}"
                    state = state_after(outcome.error)
                    first.append(Change(key, destination, state, reason=reason))
        # The link store compared the digests already: no moment lies between.
        await self._apply([*first, *verified])
        now = self._clock.now_tai()
        for change in verified:
            latency_s = now - rows[change.key, Destination.ARCHIVE].changed_tai
            self._observer.file_delivered(record, change.key, destination, latency_s=latency_s)
        await self._steps.reached("verified", subject)

    async def _apply(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        try:
            await self._ledger.apply(changes, now_tai=self._clock.now_tai())
        except StateConflictError as error:
            raise LedgerMovedError("Files changed during hand-off", problem=str(error)) from error

    async def _report_failure(
        self, destination: Destination, record: ExposureRecord, unit: _Unit, error: PlatevaultError
    ) -> None:
        exposure = record.exposure
        final = state_after(error) is FileState.DEAD
        for key in unit.keys:
            self._observer.delivery_failed(record, key, destination, final=final)
        _log.error(
            "File could not be handed over",
            image=exposure.image,
            sensor=unit.sensor,
            destination=destination.value,
            final=final,
            problem=str(error),
        )
        if final and unit.sensor and destination is Destination.OODS:
            message = ImageInOods(
                camera=exposure.camera,
                image=exposure.image,
                sensor=unit.sensor,
                status_code=OODS_LINK_FAILED,
                description=f"{unit.sensor}: not linked into the OODS area: {error}",
            )
            await self._queue.send(archiver_queue(exposure.camera), message)

    async def _request_ingest(
        self,
        folder: Path,
        record: ExposureRecord,
        rows: Rows,
        units: Sequence[_Unit],
        placed: Collection[FileKey],
    ) -> None:
        exposure = record.exposure
        requests = [
            IngestRequest(
                camera=exposure.camera,
                image=exposure.image,
                sensor=unit.sensor,
                path=str(folder / unit.keys[-1].file_name),
            )
            for unit in units
            if unit.sensor
            and (
                unit.keys[-1] in placed
                or rows[unit.keys[-1], Destination.OODS].state is FileState.VERIFIED
            )
        ]
        await send_together(self._queue, oods_queue(exposure.camera), requests)
        for request in requests:
            await self._steps.reached("ingest_requested", f"{exposure.image}/{request.sensor}")


def is_due(keys: Sequence[FileKey], destination: Destination, rows: Rows) -> bool:
    """Tell whether files that go together are to be brought to a destination now.

    They are not when one of them waits for a person.
    """
    states = [(key, rows[key, destination].state) for key in keys]
    return any(state in DUE_STATES for _, state in states) and all(
        state in DUE_STATES or state in done_states(key.kind, destination) | {FileState.VERIFIED}
        for key, state in states
    )


def state_after(error: PlatevaultError) -> FileState:
    """Tell what becomes of a file: what time or a mended directory heals is tried again."""
    if isinstance(error, PermanentError) and not isinstance(error, DirectoryUnwritableError):
        return FileState.DEAD
    return FileState.RETRY
