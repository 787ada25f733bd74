"""Results of sensors, told once each on the bus."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from platevault.domain.camera import Camera
from platevault.domain.capture import RetrievalStatus, shortened
from platevault.domain.errors import PermanentError
from platevault.domain.ids import FileKind, SensorName
from platevault.domain.inventory import FileRecord
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState, done_states
from platevault.domain.messages import ImageInOods, ImageRetrieval
from platevault.ports.file_ledger import FileLedger

#: Events that tell the result of a sensor.
RETRIEVAL_EVENT = "imageRetrievalForArchiving"
INGEST_EVENT = "imageInOODS"
CLOSED_EVENT = "exposureClosed"
#: Exposures whose results are remembered, so that none is told twice.
_REMEMBERED = 1000


class ClosedStatus(IntEnum):
    """Values of ``exposureClosed.status``."""

    COMPLETE = 1
    DEGRADED = 2
    INCOMPLETE = 3


class Speaker(Protocol):
    """What the Archiver says things with."""

    async def publish(self, event: str, /, *, force: bool = False, **fields: object) -> bool:
        """Publish an event."""

    async def log(self, level: int, message: str, /, **facts: object) -> None:
        """Log, and publish the message."""


@dataclass(slots=True)
class _Told:
    """What was told of one exposure."""

    statuses: set[tuple[str, str, int]] = field(default_factory=set)
    done: set[tuple[str, str]] = field(default_factory=set)
    closed: set[ClosedStatus] = field(default_factory=set)


class ResultDesk:
    """Publishes the result of each sensor and step once, and when an exposure is closed.

    A failure is told once for each code, a success once, and no failure after it. A message that
    comes again, after a crash of its sender or of the queue, is found told.

    Parameters
    ----------
    camera, archiver
        What the events name.
    ledger
        Decides whether an exposure is closed.
    publish, log
        The voice of the component.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        archiver: str,
        ledger: FileLedger,
        publish: Callable[..., Awaitable[bool]],
        log: Callable[..., Awaitable[None]],
    ) -> None:
        self._camera = camera
        self._archiver = archiver
        self._ledger = ledger
        self._publish = publish
        self._log = log
        self._told: OrderedDict[str, _Told] = OrderedDict()

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
        sensor = SensorName.parse(result.sensor)
        event = RETRIEVAL_EVENT if isinstance(result, ImageRetrieval) else INGEST_EVENT
        told = self._of(result.image)
        status = (event, result.sensor, result.status_code)
        if status in told.statuses or (event, result.sensor) in told.done:
            return False
        await self._publish(
            event,
            force=True,
            camera=self._camera.name,
            obsid=result.image,
            raft=sensor.raft,
            sensor=sensor.slot,
            archiverName=self._archiver,
            statusCode=result.status_code,
            description=shortened(result.description),
        )
        told.statuses.add(status)
        if result.status_code == RetrievalStatus.DONE:
            told.done.add((event, result.sensor))
        if event == RETRIEVAL_EVENT:
            await self.close(result.image)
        return True

    async def close(self, image: str, *, overdue: bool = False) -> None:
        """Publish that an exposure is closed, if it is.

        Parameters
        ----------
        image
            Image name.
        overdue
            Its time is up: what is missing now is told as missing.
        """
        told = self._of(image)
        heard = {sensor for event, sensor, _ in told.statuses if event == RETRIEVAL_EVENT}
        record = await self._ledger.exposure(image)
        if record is None or (not overdue and not heard >= record.exposure.sensors.keys()):
            return
        rows = await self._ledger.files(image=image, destination=Destination.ARCHIVE)
        raws = [row for row in rows if row.key.kind is FileKind.RAW]
        status = _closed_status(raws, overdue=overdue)
        if status is None or status in told.closed:
            return
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
        told.closed.add(status)
        level = logging.INFO if status is ClosedStatus.COMPLETE else logging.WARNING
        await self._log(
            level,
            "Exposure closed",
            image=image,
            status=status.name,
            expected=len(raws),
            written=len(raws) - len(missing),
        )

    def _of(self, image: str) -> _Told:
        told = self._told.setdefault(image, _Told())
        self._told.move_to_end(image)
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return told


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
