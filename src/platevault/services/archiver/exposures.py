"""Exposures from their announcement to boards in the work queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import structlog

from platevault.domain.camera import Board, Camera
from platevault.domain.capture import NO_HEADER, PRIORITY_CATCH_UP, PRIORITY_LIVE
from platevault.domain.errors import TransientError
from platevault.domain.headers import HeaderValue
from platevault.domain.ids import FileKey, FileKind, ImageName
from platevault.domain.inventory import Exposure, ExposureRecord, HeaderReference
from platevault.domain.messages import EndReadout, HeaderReady
from platevault.domain.places import exposure_directory, header_lease, work_queue
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import ConflictingExposureError, FileLedger
from platevault.ports.leases import Leases
from platevault.ports.work_queue import QueueUnavailableError, WorkQueue
from platevault.runtime.limits import ungrouped
from platevault.runtime.steps import Steps
from platevault.services.archiver.controller_link import ControllerLink, ControllerSilentError
from platevault.services.archiver.forwarder_pool import ForwarderPool
from platevault.services.archiver.notices import ExposureNotice
from platevault.services.archiver.observing import ArchiverObserver
from platevault.services.archiver.settings import ArchiverConfiguration

ItemT = TypeVar("ItemT")
KeyT = TypeVar("KeyT")

#: Exposures of which events are remembered that came while not ENABLED, or out of order.
_REMEMBERED = 2000
#: Boards of which is remembered when they were sent out: more than an hour of the largest camera.
_REMEMBERED_BOARDS = 20_000
#: Life of the lease under which a header is chosen [s]; the choice takes milliseconds.
_CHOICE_TTL_S = 10.0

#: Gives where the header object of an image is, ``None`` if nowhere.
FindHeader = Callable[[str], Awaitable[HeaderReference | None]]

_log = structlog.get_logger(__name__)


class HeaderChoiceBusyError(TransientError):
    """Somebody chooses the header of the exposure at this moment: try again."""


class ExposureDesk:
    """Registers exposures, finds their place, sends their boards out, and notes their header.

    Every method may be called again with the same facts.

    Parameters
    ----------
    camera
        Whose exposures.
    root
        Root of the archive, for the directory if the Archive Controller is silent.
    archiver, reply_queue
        Name of the Archiver, and where results go.
    ledger, queue, leases, clock
        Ports.
    controller, pool
        The Archive Controller, and the Forwarders.
    find_header
        Looks for the header of an image that was never announced to this process.
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
        archiver: str,
        reply_queue: str,
        ledger: FileLedger,
        queue: WorkQueue,
        leases: Leases,
        clock: Clock,
        controller: ControllerLink,
        pool: ForwarderPool,
        find_header: FindHeader,
        steps: Steps,
        observer: ArchiverObserver,
    ) -> None:
        self._camera = camera
        self._root = root
        self._archiver = archiver
        self._reply_queue = reply_queue
        self._ledger = ledger
        self._queue = queue
        self._leases = leases
        self._clock = clock
        self._controller = controller
        self._pool = pool
        self._find_header = find_header
        self._steps = steps
        self._observer = observer
        self._facts: OrderedDict[str, Mapping[str, HeaderValue]] = OrderedDict()
        self._headers: OrderedDict[str, HeaderReference] = OrderedDict()
        self._sent: OrderedDict[tuple[str, str], float] = OrderedDict()

    # -- what was said -------------------------------------------------------------------------

    def remember(self, notice: ExposureNotice) -> None:
        """Keep the facts of an exposure that is not registered now, for catch-up."""
        _keep(self._facts, str(notice.image), notice.facts)

    def remember_header(self, image: ImageName, header: HeaderReference) -> None:
        """Keep where the header of an exposure is, in case that it is registered later."""
        _keep(self._headers, str(image), header)

    # -- what is done --------------------------------------------------------------------------

    async def begin(self, notice: ExposureNotice, settings: ArchiverConfiguration) -> None:
        """Register an exposure with the sensors it must give, and ask for its place.

        Raises
        ------
        ConflictingExposureError
            The name is taken by another exposure. Nothing was touched.
        LedgerUnavailableError, QueueUnavailableError
            Retry.
        """
        record = await self._registered(notice.image, notice.facts, settings)
        contradictions = _contradictions(record.exposure.facts, notice.facts)
        if contradictions:
            raise ConflictingExposureError(
                "The image name is taken by another exposure",
                image=str(notice.image),
                **contradictions,
            )
        await self.placed(record, settings)

    async def end(self, notice: ExposureNotice, settings: ArchiverConfiguration) -> None:
        """Send the boards of an exposure out, now that its pixels are in the DAQ."""
        record = await self._registered(notice.image, notice.facts, settings)
        record = await self.placed(record, settings)
        await self._ledger.set_end_readout(str(notice.image), notice.moment_tai)
        await self._steps.reached("readout_stored", str(notice.image))
        boards = self.boards_of(record)
        await self.send_boards(record, boards, settings, end_tai=notice.moment_tai)

    async def adopt(
        self, image: ImageName, *, triggered_tai: float, settings: ArchiverConfiguration
    ) -> ExposureRecord:
        """Register an exposure that the DAQ holds and nobody registered; its readout has ended."""
        facts = self._facts.get(str(image), {})
        record = await self.placed(await self._registered(image, facts, settings), settings)
        end_tai = triggered_tai + self._camera.readout_s
        await self._ledger.set_end_readout(str(image), end_tai)
        return record

    async def header(self, image: ImageName, header: HeaderReference) -> bool:
        """Note the header object of an exposure, and tell the Forwarders.

        Returns
        -------
        bool
            ``False`` if the files of the exposure have another header already, or none: they
            must all describe it in the same words.
        """
        self.remember_header(image, header)
        record = await self._ledger.exposure(str(image))
        if record is None:
            return True  # it is noted when the exposure is registered
        if not await self._choose(str(image), header):
            return False
        hint = HeaderReady(
            camera=self._camera.name, image=str(image), url=header.url, version=header.version
        )
        await self._pool.hint(hint)
        return True

    async def note_header(self, record: ExposureRecord) -> None:
        """Note a header that is known and was not noted, as after a time without the Archiver."""
        if record.header is not None:
            return
        image = record.exposure.image
        header = self._headers.get(image) or await self._find_header(image)
        if header is not None:
            await self._choose(image, header)

    async def send_boards(
        self,
        record: ExposureRecord,
        boards: Collection[Board],
        settings: ArchiverConfiguration,
        *,
        end_tai: float,
        catch_up: bool = False,
    ) -> None:
        """Put boards into the work queue, live ones before those of catch-up."""
        # By this clock, not the camera's: a skew between them must not cost the header.
        header_due_tai = self._clock.now_tai() + settings.header_timeout_s
        # Together: a broker confirms many messages in the time of one.
        with ungrouped():
            async with asyncio.TaskGroup() as tasks:
                for board in boards:
                    order = EndReadout(
                        camera=self._camera.name,
                        image=record.exposure.image,
                        board=board.location,
                        sensors=tuple(
                            name for name in board.detectors if name in record.exposure.sensors
                        ),
                        target_dir=record.target_dir,
                        reply_queue=self._reply_queue,
                        end_readout_tai=end_tai,
                        header_due_tai=header_due_tai,
                        catch_up=catch_up,
                    )
                    tasks.create_task(self._send_board(order), name=f"send-{board.location}")

    async def _send_board(self, order: EndReadout) -> None:
        await self._queue.send(
            work_queue(self._camera.name),
            order,
            priority=PRIORITY_CATCH_UP if order.catch_up else PRIORITY_LIVE,
        )
        self._observer.board_sent(
            self._camera.name, order.image, order.board, catch_up=order.catch_up
        )
        await self._steps.reached("board_sent", f"{order.image}:{order.board}")
        _keep(self._sent, (order.image, order.board), self._clock.now_tai(), _REMEMBERED_BOARDS)

    def sent_tai(self, image: str, board: str) -> float | None:
        """Tell when a board was sent out by this process [s, TAI]; ``None`` if it was not."""
        return self._sent.get((image, board))

    def boards_of(self, record: ExposureRecord) -> list[Board]:
        """List the boards that read sensors which the exposure must give."""
        return [
            board
            for board in self._camera.boards
            if any(name in record.exposure.sensors for name in board.detectors)
        ]

    # -- parts ---------------------------------------------------------------------------------

    async def _registered(
        self,
        image: ImageName,
        facts: Mapping[str, HeaderValue],
        settings: ArchiverConfiguration,
    ) -> ExposureRecord:
        record = await self._ledger.exposure(str(image))
        if record is not None:
            return record
        exposure = Exposure(
            image=str(image),
            camera=self._camera.name,
            day_obs=image.day_obs,
            exposure_id=image.exposure_id,
            sensors=self._expected(settings),
            facts={**self._facts.get(str(image), {}), **facts},
        )
        files = [FileKey(str(image), "", FileKind.MANIFEST)]
        for sensor in exposure.sensors:
            files += [
                FileKey(str(image), sensor, kind) for kind in (FileKind.SIDECAR, FileKind.RAW)
            ]
        await self._ledger.register(exposure, files=files, now_tai=self._clock.now_tai())
        await self._steps.reached("registered", exposure.image)
        record = await self._ledger.exposure(str(image))
        assert record is not None
        self._observer.exposure_registered(record)
        if str(image) in self._headers:
            await self.note_header(record)
        return record

    def _expected(self, settings: ArchiverConfiguration) -> dict[str, str]:
        return {
            detector.name: detector.purpose.value
            for detector in self._camera.detectors
            if not settings.detectors or detector.name in settings.detectors
        }

    async def placed(
        self, record: ExposureRecord, settings: ArchiverConfiguration
    ) -> ExposureRecord:
        """Give the record with its directory, from the Archive Controller or by the same rule."""
        if record.target_dir:
            return record
        image = record.exposure.image
        try:
            await self._controller.place(
                self._camera.name, image, limit_s=settings.controller_timeout_s
            )
        except (ControllerSilentError, QueueUnavailableError) as error:
            folder = self._root / exposure_directory(self._camera.name, image)
            _log.error(
                "Archive Controller is silent, default directory taken",
                image=image,
                folder=str(folder),
                problem=str(error),
            )
            await self._ledger.set_target(image, str(folder))
        await self._steps.reached("placed", image)
        placed = await self._ledger.exposure(image)
        assert placed is not None
        return placed

    async def _choose(self, image: str, header: HeaderReference) -> bool:
        """Store the header unless the choice was made; Forwarders choose under the same lease."""
        grant = await self._leases.acquire(
            header_lease(image), holder=self._archiver, ttl_s=_CHOICE_TTL_S
        )
        if grant is None:
            raise HeaderChoiceBusyError("The header of the exposure is being chosen", image=image)
        try:
            record = await self._ledger.exposure(image)
            chosen = record.header if record is not None else None
            if chosen is None:
                await self._ledger.set_header(image, header)
                await self._steps.reached("header_chosen", image)
                return True
        finally:
            await self._leases.release(grant)
        if chosen.url == NO_HEADER.url:
            _log.warning("Header came too late", image=image, url=header.url)
        return chosen.url == header.url


def _contradictions(
    stored: Mapping[str, HeaderValue], told: Mapping[str, HeaderValue]
) -> dict[str, object]:
    """Give the first fact that was told twice in different words."""
    for name in sorted(stored.keys() & told.keys()):
        if stored[name] != told[name]:
            return {"field": name, "value": told[name], "expected": stored[name]}
    return {}


def _keep(
    items: OrderedDict[KeyT, ItemT], key: KeyT, item: ItemT, limit: int = _REMEMBERED
) -> None:
    items[key] = item
    items.move_to_end(key)
    while len(items) > limit:
        items.popitem(last=False)
