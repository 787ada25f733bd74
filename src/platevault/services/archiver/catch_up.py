"""What is missing, from what the DAQ holds and what the ledger has, and its way back to work."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import structlog

from platevault.domain.camera import Board, Camera
from platevault.domain.errors import PermanentError, PlatevaultError
from platevault.domain.ids import FileKey, FileKind, ImageName, InvalidNameError
from platevault.domain.inventory import AttemptRecord, ExposureRecord, FileRecord
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState, done_states
from platevault.domain.places import work_queue
from platevault.domain.timescales import day_obs_of
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import Change, FileLedger, StateConflictError
from platevault.ports.readout import ImageAnnouncement, Readout
from platevault.ports.work_queue import WorkQueue
from platevault.services.archiver.exposures import ExposureDesk
from platevault.services.archiver.results import ResultDesk
from platevault.services.archiver.settings import ArchiverConfiguration

#: A file whose workers died so often is left to a person: it may be what kills them.
_LOST_LIMIT = 5
#: States in which a board may be sent out again.
_OPEN = frozenset(
    {FileState.EXPECTED, FileState.LATE, FileState.READY, FileState.SENDING, FileState.RETRY}
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CatchUpReport:
    """What one look found.

    Attributes
    ----------
    adopted
        Exposures that the DAQ holds and nobody had registered.
    boards
        Boards sent out again.
    missing
        Raw files that should be there and are not.
    """

    adopted: int = 0
    boards: int = 0
    missing: int = 0


class CatchUp:
    """Compares what there is with what should be, and sends out what is overdue.

    Parameters
    ----------
    camera
        Whose exposures.
    readout
        Its DAQ; ``None`` goes by the ledger alone.
    ledger, queue, clock
        Ports.
    desk, results
        Parts of the Archiver.
    turn
        Gives an image's turn: events and catch-up do not meet on one image.
    log
        Says what a person should know.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        readout: Readout | None,
        ledger: FileLedger,
        queue: WorkQueue,
        clock: Clock,
        desk: ExposureDesk,
        results: ResultDesk,
        turn: Callable[[str], AbstractAsyncContextManager[None]],
        log: Callable[..., Awaitable[None]],
    ) -> None:
        self._camera = camera
        self._readout = readout
        self._ledger = ledger
        self._queue = queue
        self._clock = clock
        self._desk = desk
        self._results = results
        self._turn = turn
        self._log = log
        self._known: set[str] = set()
        self._since: dict[str, float] = {}
        self._unfinished_before: set[str] = set()
        self._looked_back = False

    async def look(self, settings: ArchiverConfiguration, *, begun: bool = False) -> CatchUpReport:
        """Look once; one bad exposure does not keep the others waiting.

        Parameters
        ----------
        settings
            Those in use.
        begun
            The Archiver has just begun to listen.

        Raises
        ------
        LedgerUnavailableError, QueueUnavailableError
            Look again later.
        """
        stored = await self._stored()
        self._note_stored(stored, begun=begun)
        adopted = await self._adopt(stored, settings)
        boards = missing = 0
        room = settings.catch_up_boards - await self._queue.depth(work_queue(self._camera.name))
        unfinished = await self._unfinished()
        for image in sorted(self._unfinished_before - unfinished.keys()):
            await self._results.reconcile(image)  # finished since; had it a result that got lost?
        self._unfinished_before = set(unfinished)
        for image, record in unfinished.items():
            try:
                await self._results.reconcile(image)
                async with self._turn(image):
                    sent, open_files = await self._look_at(
                        record, stored.get(image), settings, room=max(0, room - boards)
                    )
            except PermanentError as error:
                _log.error("Exposure cannot be caught up", image=image, problem=str(error))
                continue
            boards += sent
            missing += open_files
        if not self._looked_back:
            await self._look_back()
        return CatchUpReport(adopted, boards, missing)

    async def _unfinished(self) -> dict[str, ExposureRecord]:
        """Give the exposures of this camera with a file that is not in the archive, by name.

        The question goes by states, which are few: what waits for others only costs nothing.
        """
        rows = await self._ledger.files(destination=Destination.ARCHIVE, states=_OPEN)
        found = {}
        for image in sorted({row.key.image for row in rows if _is_missing(row)}):
            record = await self._ledger.exposure(image)
            if record is not None and record.exposure.camera == self._camera.name:
                found[image] = record
        return found

    async def _look_back(self) -> None:
        """Tell results of finished exposures that a former process may have kept to itself."""
        now = self._clock.now_tai()
        for day_obs in {day_obs_of(now), day_obs_of(now - 86400.0)}:
            for record in await self._ledger.exposures(camera=self._camera.name, day_obs=day_obs):
                await self._results.reconcile(record.exposure.image)
        self._looked_back = True

    async def _stored(self) -> dict[str, ImageAnnouncement]:
        if self._readout is None:
            return {}
        try:
            images = await self._readout.images()
        except PlatevaultError as error:
            await self._log(logging.WARNING, "DAQ does not tell what it holds", problem=str(error))
            return {}
        return {image.image: image for image in images}

    def _note_stored(self, stored: Mapping[str, ImageAnnouncement], *, begun: bool) -> None:
        """Note since when the DAQ holds each image, by this clock; its own may be another.

        What it holds when the Archiver begins to listen had its events before that.
        """
        now = self._clock.now_tai()
        complete = {name for name, announcement in stored.items() if announcement.complete}
        for name in self._since.keys() - complete:
            del self._since[name]
        for name in complete:
            self._since.setdefault(name, now)
            if begun:
                self._since[name] = 0.0

    def _is_settled(self, image: str, settings: ArchiverConfiguration) -> bool:
        """Tell whether the DAQ has held an image so long that its events are not to be awaited."""
        since_tai = self._since.get(image)
        return (
            since_tai is not None and self._clock.now_tai() - since_tai >= settings.board_timeout_s
        )

    async def _adopt(
        self, stored: Mapping[str, ImageAnnouncement], settings: ArchiverConfiguration
    ) -> int:
        """Register what was read out while nobody listened."""
        self._known &= stored.keys()
        adopted = 0
        for name, announcement in stored.items():
            if name in self._known or not self._is_settled(name, settings):
                continue
            try:
                if await self._adopt_one(name, announcement, settings):
                    adopted += 1
            except PermanentError as error:
                _log.error("Exposure cannot be caught up", image=name, problem=str(error))
            self._known.add(name)
        return adopted

    async def _adopt_one(
        self, name: str, announcement: ImageAnnouncement, settings: ArchiverConfiguration
    ) -> bool:
        try:
            image = ImageName.parse(name)
        except InvalidNameError:
            return False  # engineering images have free names
        if image.source != self._camera.code:
            return False
        async with self._turn(name):
            if await self._ledger.exposure(name) is not None:
                return False
            triggered_tai = announcement.triggered_tai
            await self._desk.adopt(image, triggered_tai=triggered_tai, settings=settings)
        await self._log(logging.WARNING, "Unknown image found in the DAQ", image=name)
        return True

    async def _look_at(
        self,
        record: ExposureRecord,
        stored: ImageAnnouncement | None,
        settings: ArchiverConfiguration,
        *,
        room: int,
    ) -> tuple[int, int]:
        """Send what is overdue of one exposure; give the boards sent and the files missing."""
        image = record.exposure.image
        record = await self._reread(record)
        rows = await self._ledger.files(image=image, destination=Destination.ARCHIVE)
        due = [row for row in rows if _is_missing(row)]
        if not due:
            return 0, 0
        now = self._clock.now_tai()
        if record.end_readout_tai is None:
            if stored is None or not stored.complete:
                await self._unread(record, due, stored, now, settings)
                return 0, len(due)
            if not self._is_settled(image, settings):
                return 0, len(due)  # its event may still come
            end_tai = stored.triggered_tai + self._camera.readout_s
            await self._ledger.set_end_readout(image, end_tai)
            record = await self._reread(record)
        await self._desk.note_header(record)
        due = await self._without_poison(image, due)
        sent = 0
        for board in self._desk.boards_of(record):
            if sent < room and self._is_overdue(record, board, due, now, settings):
                await self._mark_late(record, board, due)
                record = await self._desk.placed(record, settings)
                await self._desk.send_boards(
                    record,
                    [board],
                    settings,
                    end_tai=record.end_readout_tai or now,
                    catch_up=True,
                )
                sent += 1
        return sent, len(due)

    def _is_overdue(
        self,
        record: ExposureRecord,
        board: Board,
        due: list[FileRecord],
        now: float,
        settings: ArchiverConfiguration,
    ) -> bool:
        rows = [row for row in due if row.key.sensor in board.detectors]
        if not rows:
            return False
        sent_tai = self._desk.sent_tai(record.exposure.image, board.location)
        if sent_tai is not None and now - sent_tai < settings.board_timeout_s:
            # It waits in the queue or is in hand, unless its worker said that it failed.
            rows = [
                row for row in rows if row.state is FileState.RETRY and row.changed_tai >= sent_tai
            ]
        return any(now >= _next_try_tai(row, settings) for row in rows)

    async def _mark_late(self, record: ExposureRecord, board: Board, due: list[FileRecord]) -> None:
        late = [
            row.key
            for row in due
            if row.state is FileState.EXPECTED and row.key.sensor in board.detectors
        ]
        first = self._desk.sent_tai(record.exposure.image, board.location) is None
        if not late or first:
            return  # the first order of this process is no delay
        await self._change(late, FileState.LATE, "nothing was written in time")
        await self._log(
            logging.ERROR,
            "Image is late",
            image=record.exposure.image,
            board=board.name,
            files=len(late),
        )
        await self._results.close(record.exposure.image, overdue=True)

    async def _unread(
        self,
        record: ExposureRecord,
        due: list[FileRecord],
        stored: ImageAnnouncement | None,
        now: float,
        settings: ArchiverConfiguration,
    ) -> None:
        """Care for an exposure that began and was never read out."""
        image = record.exposure.image
        age_s = now - record.registered_tai
        exposure_s = record.exposure.facts.get("exposureTime")
        allowed_s = settings.unread_after_s + (
            exposure_s if isinstance(exposure_s, int | float) else 0.0
        )
        if stored is None and age_s >= settings.abandon_after_s:
            keys = [row.key for row in due if row.state in {FileState.LATE, FileState.EXPECTED}]
            await self._change(keys, FileState.ABANDONED, "the exposure was never read out")
            await self._results.close(image, overdue=True)
            return
        keys = [row.key for row in due if row.state is FileState.EXPECTED]
        if keys and age_s >= allowed_s:
            await self._change(keys, FileState.LATE, "no end of readout")
            await self._log(logging.ERROR, "Image was not read out", image=image)
            await self._results.close(image, overdue=True)

    async def _without_poison(self, image: str, due: list[FileRecord]) -> list[FileRecord]:
        """Set files aside at which one worker after the other died."""
        if not any(row.attempt >= _LOST_LIMIT for row in due):
            return due
        lost: dict[FileKey, int] = {}
        for attempt in await self._ledger.attempts(image):
            if attempt.destination is Destination.ARCHIVE and _was_lost(attempt):
                lost[attempt.key] = lost.get(attempt.key, 0) + 1
        poison = [row for row in due if lost.get(row.key, 0) >= _LOST_LIMIT]
        keys = [row.key for row in poison if row.state in {FileState.SENDING, FileState.RETRY}]
        if keys:
            await self._change(keys, FileState.DEAD, f"{_LOST_LIMIT} workers were lost with it")
            await self._log(
                logging.ERROR, "Files set aside", image=image, files=[key.file_name for key in keys]
            )
            await self._results.close(image, overdue=True)
        return [row for row in due if row not in poison]

    async def _change(self, keys: list[FileKey], state: FileState, reason: str) -> None:
        changes = [Change(key, Destination.ARCHIVE, state, reason=reason) for key in keys]
        try:
            await self._ledger.apply(changes, now_tai=self._clock.now_tai())
        except StateConflictError as error:
            _log.info("A worker was faster", problem=str(error))

    async def _reread(self, record: ExposureRecord) -> ExposureRecord:
        return await self._ledger.exposure(record.exposure.image) or record


def _is_missing(row: FileRecord) -> bool:
    return (
        row.key.kind is not FileKind.MANIFEST
        and row.state in _OPEN
        and row.state not in SETTLED_STATES
        and row.state not in done_states(row.key.kind, row.destination)
    )


def _was_lost(attempt: AttemptRecord) -> bool:
    return attempt.outcome == "lost"


def _next_try_tai(row: FileRecord, settings: ArchiverConfiguration) -> float:
    if row.state is not FileState.RETRY:
        return 0.0
    pause_s = settings.retry_s * 2.0 ** min(max(row.attempt - 1, 0), 20)
    return row.changed_tai + min(pause_s, settings.retry_ceiling_s)
