"""Results of sensors, told once each on the bus."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

from platevault.domain.camera import Camera
from platevault.domain.capture import RetrievalStatus, sensor_text, shortened
from platevault.domain.errors import PermanentError
from platevault.domain.ids import FileKind, SensorName
from platevault.domain.inventory import FileRecord, ToldResult
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState, done_states
from platevault.domain.messages import ImageInOods, ImageRetrieval
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import FileLedger
from platevault.runtime.steps import Steps
from platevault.runtime.turns import Turns
from platevault.services.archiver.observing import ArchiverObserver

#: Events that tell the result of a sensor.
RETRIEVAL_EVENT = "imageRetrievalForArchiving"
INGEST_EVENT = "imageInOODS"
CLOSED_EVENT = "exposureClosed"
#: Status codes of imageInOODS (capture contract, section 4).
_INGESTED = 0
_NOT_INGESTED = 1
#: Reasons of files that could not be read, by the class that begins them.
_PIXEL_ERRORS = ("Image", "Board", "MalformedPixels", "Readout", "TimeLimit")
#: Exposures whose results are kept at hand.
_REMEMBERED = 1000


class ClosedStatus(IntEnum):
    """Values of ``exposureClosed.status``."""

    COMPLETE = 1
    DEGRADED = 2
    INCOMPLETE = 3


@dataclass(slots=True)
class _Known:
    """What was told of an exposure, and its sensors once it is found registered."""

    told: set[ToldResult]
    sensors: frozenset[str] | None = None


class ResultDesk:
    """Publishes the result of each sensor and step once, and when an exposure is closed.

    A failure is told once for each code, a success once, and no failure after it. The ledger keeps
    what was told: a message that comes again is found told, also by the next process, and a result
    whose message was lost is told by `reconcile`. Only a crash between the bus and the ledger can
    make a result come twice.

    Parameters
    ----------
    camera, archiver
        What the events name.
    ledger, clock
        Ports.
    publish, log
        The voice of the component.
    steps
        Told at each step.
    observer
        Told of the work.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        archiver: str,
        ledger: FileLedger,
        clock: Clock,
        publish: Callable[..., Awaitable[bool]],
        log: Callable[..., Awaitable[None]],
        steps: Steps,
        observer: ArchiverObserver,
    ) -> None:
        self._camera = camera
        self._archiver = archiver
        self._ledger = ledger
        self._clock = clock
        self._publish = publish
        self._log = log
        self._steps = steps
        self._observer = observer
        self._turns = Turns()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def tell(self, result: ImageRetrieval | ImageInOods) -> bool:
        """Publish a result; ``False`` if it was told before.

        Raises
        ------
        InvalidNameError, PermanentError
            The result names no sensor, or another camera. Set it aside.
        BusUnavailableError, LedgerUnavailableError
            Retry.
        """
        if result.camera != self._camera.name:
            raise PermanentError(
                "Result of another camera", camera=result.camera, expected=self._camera.name
            )
        SensorName.parse(result.sensor)
        event = RETRIEVAL_EVENT if isinstance(result, ImageRetrieval) else INGEST_EVENT
        async with self._turns.of(result.image):
            is_new = await self._tell(
                result.image,
                ToldResult(result.sensor, event, result.status_code),
                result.description,
            )
            if is_new and event == RETRIEVAL_EVENT:
                await self._close(result.image, overdue=False)
        return is_new

    async def close(self, image: str, *, overdue: bool = False) -> None:
        """Publish that an exposure is closed, if it is.

        Parameters
        ----------
        image
            Image name.
        overdue
            Its time is up: what is missing now is told as missing.
        """
        async with self._turns.of(image):
            await self._close(image, overdue=overdue)

    async def reconcile(self, image: str) -> None:
        """Tell the final results of an exposure that the ledger has and nobody told."""
        async with self._turns.of(image):
            for row in await self._ledger.files(image=image):
                if row.key.kind is FileKind.RAW:
                    found = final_result(row)
                    if found is not None:
                        await self._tell(image, *found)
            await self._close(image, overdue=False)

    async def _tell(self, image: str, result: ToldResult, description: str) -> bool:
        told = (await self._known_of(image)).told
        done = ToldResult(result.sensor, result.event, RetrievalStatus.DONE)
        if result in told or done in told:
            return False
        sensor = SensorName.parse(result.sensor)
        await self._publish(
            result.event,
            force=True,
            camera=self._camera.name,
            obsid=image,
            raft=sensor.raft,
            sensor=sensor.slot,
            archiverName=self._archiver,
            statusCode=result.status_code,
            description=shortened(description),
        )
        self._observer.result_told(self._camera.name, result.event, result.status_code)
        await self._remember(image, result)
        return True

    async def _close(self, image: str, *, overdue: bool) -> None:
        known = await self._known_of(image)
        told = known.told
        heard = {result.sensor for result in told if result.event == RETRIEVAL_EVENT}
        if not overdue and known.sensors is not None and not heard >= known.sensors:
            return  # the common case costs no look at the ledger
        record = await self._ledger.exposure(image)
        if record is None:
            return
        known.sensors = frozenset(record.exposure.sensors)
        if not overdue and not heard >= known.sensors:
            return
        rows = await self._ledger.files(image=image, destination=Destination.ARCHIVE)
        raws = [row for row in rows if row.key.kind is FileKind.RAW]
        status = _closed_status(raws, overdue=overdue)
        if status is None or ToldResult("", CLOSED_EVENT, int(status)) in told:
            return
        finals = [found[0] for row in raws if (found := final_result(row)) is not None]
        if not overdue and not told.issuperset(finals):
            return  # each sensor speaks for itself first
        missing = [SensorName.parse(row.key.sensor).compact for row in raws if not _is_written(row)]
        troubles = sorted({row.reason for row in raws if row.reason and not _is_written(row)})
        await self._publish(
            CLOSED_EVENT,
            force=True,
            camera=self._camera.name,
            obsid=image,
            status=int(status),
            expected=len(raws),
            written=len(raws) - len(missing),
            missing=":".join(missing),
            description=shortened("; ".join(troubles) or status.name.lower()),
        )
        await self._remember(image, ToldResult("", CLOSED_EVENT, int(status)))
        ended_tai = record.end_readout_tai or record.registered_tai
        self._observer.exposure_closed(
            record,
            status=status.name.lower(),
            missing=len(missing),
            latency_s=self._clock.now_tai() - ended_tai,
        )
        level = logging.INFO if status is ClosedStatus.COMPLETE else logging.WARNING
        await self._log(
            level,
            "Exposure closed",
            image=image,
            status=status.name,
            expected=len(raws),
            written=len(raws) - len(missing),
        )

    async def _known_of(self, image: str) -> _Known:
        if image not in self._known:
            self._known[image] = _Known(set(await self._ledger.told(image)))
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(image)
        return self._known[image]

    async def _remember(self, image: str, result: ToldResult) -> None:
        (await self._known_of(image)).told.add(result)
        await self._steps.reached("published", f"{image}/{result.sensor}")
        await self._ledger.set_told(image, result, now_tai=self._clock.now_tai())
        await self._steps.reached("told", f"{image}/{result.sensor}")


def final_result(row: FileRecord) -> tuple[ToldResult, str] | None:
    """Give the result that a raw file's state stands for; ``None`` if it is not final.

    Parameters
    ----------
    row
        State of a raw file at one destination.

    Returns
    -------
    tuple or None
        The result, and its description.
    """
    sensor = row.key.sensor
    match row.destination:
        case Destination.ARCHIVE if _is_written(row):
            if row.degraded:
                code, text = RetrievalStatus.HEADER_FAILED, "file written, no full header"
            else:
                code, text = RetrievalStatus.DONE, "file written"
            return ToldResult(sensor, RETRIEVAL_EVENT, int(code)), sensor_text(sensor, text)
        case Destination.ARCHIVE if row.state is FileState.DEAD:
            unread = row.reason.startswith(_PIXEL_ERRORS)
            code = RetrievalStatus.PIXELS_FAILED if unread else RetrievalStatus.FILE_FAILED
            text = sensor_text(sensor, row.reason)
            return ToldResult(sensor, RETRIEVAL_EVENT, int(code)), text
        case Destination.OODS if row.state is FileState.CATALOGUED:
            return ToldResult(sensor, INGEST_EVENT, _INGESTED), sensor_text(sensor, "ingested")
        case Destination.OODS if row.state is FileState.DEAD:
            text = sensor_text(sensor, row.reason)
            return ToldResult(sensor, INGEST_EVENT, _NOT_INGESTED), text
        case _:
            return None


def _is_written(row: FileRecord) -> bool:
    return row.state in done_states(row.key.kind, row.destination)


def _closed_status(raws: list[FileRecord], *, overdue: bool) -> ClosedStatus | None:
    if all(_is_written(row) for row in raws):
        degraded = any(row.degraded for row in raws)
        return ClosedStatus.DEGRADED if degraded else ClosedStatus.COMPLETE
    final = all(
        _is_written(row) or row.state in SETTLED_STATES or row.state is FileState.CORRUPT
        for row in raws
    )
    return ClosedStatus.INCOMPLETE if final or overdue else None
