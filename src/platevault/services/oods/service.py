"""The OODS of a camera: files that arrived become datasets of the Butler."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from platevault.domain.camera import Camera
from platevault.domain.capture import sensor_text
from platevault.domain.errors import PermanentError, TransientError, UsageError
from platevault.domain.ids import FileKey, FileKind, ImageName
from platevault.domain.inventory import FileRecord
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState
from platevault.domain.messages import ImageInOods, IngestRequest, Message
from platevault.domain.places import archiver_queue, exposure_directory, oods_queue
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import (
    Change,
    FileLedger,
    LedgerUnavailableError,
    StateConflictError,
)
from platevault.ports.image_writer import DiskFullError, LinkStore
from platevault.ports.ingest import Ingest, IngestFile, IngestResult
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.service import StopToken
from platevault.runtime.steps import NoSteps, Steps
from platevault.runtime.work import pause, pause_before, send_together, work_off
from platevault.services.oods.gathering import Batch, Gathering

#: Where a test may fail or kill the OODS, in order.
OODS_STEPS = ("ingested", "set_aside", "catalogued", "told")
#: Values of ``imageInOODS.statusCode`` (capture contract, section 4).
INGESTED, INGEST_FAILED, METADATA_FAILED = 0, 1, 2
#: Begins the reason of a file whose metadata are bad, in the ledger.
METADATA_REASON = "metadata: "
#: Begins that of any other bad file.
FILE_REASON = "file: "
#: Messages in hand at once: two full exposures of LSSTCam.
_PREFETCH = 512
#: Results remembered so that none is told twice.
_REMEMBERED = 10_000

_log = structlog.get_logger(__name__)

#: Hears the result of each sensor, besides the Archiver.
Announce = Callable[[ImageInOods], Awaitable[None]]


class NotArrivedError(TransientError):
    """A file was announced that the ledger does not have as verified: look again later."""


class LedgerMovedError(TransientError):
    """The ledger changed while files were catalogued: look again."""


class StoppedError(TransientError):
    """The service stops before the file could be catalogued: the message comes again."""


class Oods:
    """Catalogues the files of one camera, one ingest call per exposure.

    Files are gathered for a moment; what comes later goes in later calls. The ledger decides what
    is to be done, a message only makes it sooner: files that have arrived and are not catalogued
    are found at start and every ``reconcile_s``. A file that cannot be catalogued is ``dead`` in
    the ledger with its reason and is linked into the quarantine; it is never removed. While the
    catalogue is down the service waits, and no attempt of a message is used up.

    Parameters
    ----------
    camera
        Whose files.
    ingest, ledger, queue, links, clock, steps
        Ports.
    quarantine
        Root of the area for bad files, on the file system of the OODS area.
    gather_s
        Wait for the next file of an exposure [s].
    gather_limit_s
        Longest wait for all its files [s].
    reconcile_s
        Time between looks at the ledger [s].
    settle_s
        Files that changed more recently are left to their messages [s].
    announce
        Hears each result too.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        ingest: Ingest,
        ledger: FileLedger,
        queue: WorkQueue,
        links: LinkStore,
        quarantine: Path,
        clock: Clock,
        steps: Steps | None = None,
        gather_s: float = 0.5,
        gather_limit_s: float = 2.0,
        reconcile_s: float = 30.0,
        settle_s: float = 10.0,
        announce: Announce | None = None,
    ) -> None:
        self._camera = camera
        self._ingest = ingest
        self._ledger = ledger
        self._queue = queue
        self._links = links
        self._quarantine = quarantine
        self._clock = clock
        self._steps = steps if steps is not None else NoSteps()
        self._gather_s = gather_s
        self._gather_limit_s = gather_limit_s
        self._reconcile_s = reconcile_s
        self._settle_s = settle_s
        self._announce = announce
        self._told: OrderedDict[tuple[str, str, int], None] = OrderedDict()

    @property
    def name(self) -> str:
        """Unique within the process."""
        return f"oods-{self._camera.name}"

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Find what was left, then serve the queue until the stop."""
        gathering = Gathering(
            clock=self._clock, idle_s=self._gather_s, limit_s=self._gather_limit_s
        )

        async def handle(message: Message, attempt: int) -> None:
            await self._take(gathering, message, attempt)

        await self._reconcile(gathering, settle_s=0.0)
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(self._work(gathering, stop), name=f"{self.name}-ingest"),
                tasks.create_task(
                    self._keep_reconciling(gathering, stop), name=f"{self.name}-reconcile"
                ),
            ]
            await work_off(
                self._queue,
                oods_queue(self._camera.name),
                handle,
                prefetch=_PREFETCH,
                stop=stop,
                clock=self._clock,
                consuming=ready,
            )
            for helper in helpers:
                helper.cancel()

    # -- messages ------------------------------------------------------------------------------

    async def _take(self, gathering: Gathering, message: Message, attempt: int) -> None:
        """Bring one file into its batch; return once its result is durable and told."""
        if not isinstance(message, IngestRequest) or message.camera != self._camera.name:
            raise PermanentError(
                "Message is not for this OODS", type=message.type, service=self.name
            )
        ImageName.parse(message.image)
        if message.sensor not in self._camera.detector_by_name:
            raise PermanentError(
                "Sensor is not in the camera", image=message.image, sensor=message.sensor
            )
        if attempt > 1:
            _log.info("Message came again", image=message.image, attempt=attempt)
        batch, waiting = gathering.join(message.image, message.sensor)
        if not batch.asked:
            batch.asked = True
            gathering.expect(batch, await self._still_expected(message.image))
        await waiting

    async def _still_expected(self, image: str) -> set[str]:
        """Tell which sensors of an exposure may still come to be catalogued."""
        try:
            rows = await self._ledger.files(image=image, destination=Destination.OODS)
        except LedgerUnavailableError as error:
            _log.warning("Ledger does not answer", image=image, problem=str(error))
            return set(self._camera.detector_by_name)
        return {
            row.key.sensor
            for row in rows
            if row.key.kind is FileKind.RAW and row.state not in _FINAL_STATES
        }

    # -- batches -------------------------------------------------------------------------------

    async def _work(self, gathering: Gathering, stop: StopToken) -> None:
        failures = 0
        while True:
            try:
                await self._ingest.register_camera(self._camera)
                break
            except TransientError as error:
                failures += 1
                await self._wait_out(error, failures, stop, image="")
                if stop.requested:
                    await self._refuse_all(gathering, stop)
        while True:
            batch = await gathering.next(stop)
            outcome: Exception = StoppedError("OODS stops", image=batch.image)
            try:
                await self._settle(batch, stop)
            except UsageError:
                raise
            except Exception as error:  # noqa: BLE001  outermost loop of a unit of work
                _log.exception("Exposure could not be catalogued", image=batch.image)
                outcome = error
            batch.settle_rest(outcome)

    async def _refuse_all(self, gathering: Gathering, stop: StopToken) -> None:
        while True:
            batch = await gathering.next(stop)
            batch.settle_rest(StoppedError("OODS stops", image=batch.image))

    async def _settle(self, batch: Batch, stop: StopToken) -> None:
        """Catalogue what has arrived of an exposure, however long that takes."""
        failures = 0
        while True:
            try:
                rows = await self._catalogue(batch)
            except TransientError as error:
                failures += 1
                if stop.requested:
                    return
                await self._wait_out(error, failures, stop, image=batch.image)
            else:
                for sensor in tuple(batch.sensors):
                    batch.settle(sensor, _complaint(batch.image, sensor, rows.get(sensor)))
                return

    async def _wait_out(
        self, error: TransientError, failures: int, stop: StopToken, *, image: str
    ) -> None:
        _log.warning("OODS waits", image=image, failures=failures, problem=str(error))
        await pause(self._clock, stop, pause_before(failures))

    async def _catalogue(self, batch: Batch) -> dict[str, FileRecord]:
        """Ingest what is due, record it, tell it; give the raw files as they are then."""
        image = batch.image
        began_tai = self._clock.now_tai()
        rows = await self._ledger.files(image=image, destination=Destination.OODS)
        raws = {row.key.sensor: row for row in rows if row.key.kind is FileKind.RAW}
        due = [row for row in raws.values() if row.state is FileState.VERIFIED]
        await self._tell(
            [
                row
                for row in raws.values()
                if row.key.sensor in batch.sensors and row.state in _TOLD_STATES
            ]
        )
        if not due:
            return raws
        sidecars = {
            row.key.sensor: Path(row.path)
            for row in rows
            if row.key.kind is FileKind.SIDECAR and row.path
        }
        results = await self._ingest.ingest(
            self._camera,
            image,
            [IngestFile(Path(r.path), r.key.sensor, sidecars.get(r.key.sensor)) for r in due],
        )
        await self._steps.reached("ingested", image)
        records = await self._record(image, due, {result.sensor: result for result in results})
        await self._tell(records)
        await self._steps.reached("told", image)
        bad = [row for row in records if row.state is FileState.DEAD]
        _log.info(
            "Exposure catalogued",
            image=image,
            files=len(records) - len(bad),
            bad=len(bad),
            missing=sum(row.state not in _FINAL_STATES for row in raws.values()) - len(due),
            duration_s=round(self._clock.now_tai() - began_tai, 3),
        )
        return raws | {row.key.sensor: row for row in records}

    async def _record(
        self, image: str, due: Sequence[FileRecord], results: dict[str, IngestResult]
    ) -> list[FileRecord]:
        """Store the results in the ledger, after bad files got their link in the quarantine."""
        changes, records = [], []
        for row in due:
            result = results[row.key.sensor]
            if not result.problem:
                state, reason = FileState.CATALOGUED, ""
            else:
                await self._set_aside(row)
                kind = METADATA_REASON if result.bad_metadata else FILE_REASON
                state, reason = FileState.DEAD, kind + result.problem
                _log.error("File was set aside", image=image, sensor=row.key.sensor, problem=reason)
            changes.append(
                Change(row.key, Destination.OODS, state, digest=row.digest or None, reason=reason)
            )
            records.append(replace(row, state=state, reason=reason))
        await self._steps.reached("set_aside", image)
        try:
            await self._ledger.apply(changes, now_tai=self._clock.now_tai())
        except StateConflictError as error:
            raise LedgerMovedError("Files changed during ingest", problem=str(error)) from error
        await self._steps.reached("catalogued", image)
        return records

    async def _set_aside(self, row: FileRecord) -> None:
        """Link a bad file and its sidecar into the quarantine; what cannot be linked stays."""
        source = Path(row.path)
        folder = self._quarantine / exposure_directory(self._camera.name, row.key.image)
        try:
            await self._links.link(source, folder / row.key.file_name, digest=row.digest)
        except (PermanentError, DiskFullError) as error:
            # A file that is gone, or is not what was verified, stays where it is.
            _log.warning(
                "Bad file has no link in the quarantine",
                image=row.key.image,
                sensor=row.key.sensor,
                problem=str(error),
            )

    async def _tell(self, rows: Sequence[FileRecord]) -> None:
        """Send the results of sensors to the Archiver, once for each outcome."""
        results = [
            self._result(row)
            for row in rows
            if (row.key.image, row.key.sensor, _status(row)) not in self._told
        ]
        await send_together(self._queue, archiver_queue(self._camera.name), results)
        for result in results:
            if self._announce is not None:
                await self._announce(result)
            self._told[result.image, result.sensor, result.status_code] = None
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    def _result(self, row: FileRecord) -> ImageInOods:
        key: FileKey = row.key
        status = _status(row)
        text = row.reason or ("ingested" if status == INGESTED else row.state.value)
        return ImageInOods(
            camera=self._camera.name,
            image=key.image,
            sensor=key.sensor,
            status_code=status,
            description=sensor_text(key.sensor, text),
        )

    # -- ledger --------------------------------------------------------------------------------

    async def _keep_reconciling(self, gathering: Gathering, stop: StopToken) -> None:
        while not stop.requested:
            await self._reconcile(gathering, settle_s=self._settle_s)
            await pause(self._clock, stop, self._reconcile_s)

    async def _reconcile(self, gathering: Gathering, *, settle_s: float) -> None:
        """Make every exposure due of which a file has arrived and is not catalogued."""
        before_tai = self._clock.now_tai() - settle_s
        try:
            for record in await self._ledger.exposures(camera=self._camera.name, unfinished=True):
                image = record.exposure.image
                rows = await self._ledger.files(
                    image=image, destination=Destination.OODS, states={FileState.VERIFIED}
                )
                if any(r.key.kind is FileKind.RAW and r.changed_tai <= before_tai for r in rows):
                    gathering.hurry(image)
        except LedgerUnavailableError as error:
            _log.warning("Ledger does not answer", service=self.name, problem=str(error))


_TOLD_STATES = frozenset({FileState.CATALOGUED, FileState.DEAD, FileState.CORRUPT})
_FINAL_STATES = frozenset({FileState.CATALOGUED, FileState.CORRUPT, *SETTLED_STATES})


def _status(row: FileRecord) -> int:
    if row.state is FileState.CATALOGUED:
        return INGESTED
    return METADATA_FAILED if row.reason.startswith(METADATA_REASON) else INGEST_FAILED


def _complaint(image: str, sensor: str, row: FileRecord | None) -> Exception | None:
    """Tell why a message about a sensor cannot be acknowledged; ``None`` if it can."""
    if row is None:
        return PermanentError("File is not in the ledger", image=image, sensor=sensor)
    if row.state not in _FINAL_STATES:
        return NotArrivedError(
            "File is not in the OODS area yet", image=image, sensor=sensor, state=row.state.value
        )
    return None
