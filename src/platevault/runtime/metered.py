"""Ports that count what passes through them, and a watch over what waits."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog
from typing_extensions import override

from platevault.domain.errors import PlatevaultError, TransientError
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    ExposureRecord,
    FileRecord,
    HeaderReference,
    ToldResult,
)
from platevault.domain.lifecycles import Destination, FileState, done_state, done_states
from platevault.domain.messages import Message
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import Change, FileLedger, Staged
from platevault.ports.work_queue import DeadLetter, Delivery, WorkQueue
from platevault.runtime.metrics import Metrics
from platevault.runtime.service import StopToken
from platevault.runtime.waiting import wait_first

ResultT = TypeVar("ResultT")

#: Exposures of which camera and end of readout are kept in mind; older ones are read again.
_IN_MIND = 256
#: Exposures kept for a watch that may not be there; the oldest are forgotten.
_REGISTERED_LIMIT = 10_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    camera: str
    end_readout_tai: float | None


class MeteredLedger(FileLedger):
    """A ledger that counts changes, attempts, bytes and latencies; nothing else is different.

    Parameters
    ----------
    ledger
        Does the work.
    metrics
        Where it is counted.
    clock
        Time of latencies and durations.
    """

    def __init__(self, *, ledger: FileLedger, metrics: Metrics, clock: Clock) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._registered: OrderedDict[str, str] = OrderedDict()

    @override
    async def register(
        self, exposure: Exposure, *, files: Collection[FileKey], now_tai: float
    ) -> bool:
        new = await self._timed(
            "register", self._ledger.register(exposure, files=files, now_tai=now_tai)
        )
        if new:
            self._metrics.exposures.labels(exposure.camera, "seen").inc()
            self._registered[exposure.image] = exposure.camera
            if len(self._registered) > _REGISTERED_LIMIT:
                self._registered.popitem(last=False)
        return new

    def take_registered(self) -> dict[str, str]:
        """Give the exposures registered since the last call: image -> camera."""
        taken = dict(self._registered)
        self._registered.clear()
        return taken

    @override
    async def exposure(self, image: str) -> ExposureRecord | None:
        return await self._ledger.exposure(image)

    @override
    async def exposures(
        self, *, camera: str = "", day_obs: int = 0, unfinished: bool = False
    ) -> list[ExposureRecord]:
        return await self._ledger.exposures(camera=camera, day_obs=day_obs, unfinished=unfinished)

    @override
    async def set_target(self, image: str, target_dir: str) -> str:
        return await self._timed("set_target", self._ledger.set_target(image, target_dir))

    @override
    async def set_end_readout(self, image: str, end_readout_tai: float) -> None:
        await self._timed("set_end_readout", self._ledger.set_end_readout(image, end_readout_tai))

    @override
    async def set_header(self, image: str, header: HeaderReference) -> None:
        await self._timed("set_header", self._ledger.set_header(image, header))
        known = await self._about(image)
        if header.version == 1 and known is not None and known.end_readout_tai is not None:
            latency_s = self._clock.now_tai() - known.end_readout_tai
            self._metrics.header_seconds.labels(known.camera).observe(latency_s)

    @override
    async def begin(
        self,
        keys: Sequence[FileKey],
        destination: Destination,
        *,
        worker: str,
        fence: int,
        now_tai: float,
    ) -> list[AttemptRecord]:
        opened = await self._timed(
            "begin",
            self._ledger.begin(keys, destination, worker=worker, fence=fence, now_tai=now_tai),
        )
        for attempt in opened:
            which = "first" if attempt.number == 1 else "further"
            self._metrics.attempts.labels(destination.value, which).inc()
        return opened

    @override
    async def stage(self, staged: Sequence[Staged]) -> None:
        await self._timed("stage", self._ledger.stage(staged))

    @override
    async def apply(self, changes: Sequence[Change], *, now_tai: float) -> None:
        await self._timed("apply", self._ledger.apply(changes, now_tai=now_tai))
        for change in changes:
            self._metrics.changes.labels(change.destination.value, change.to.value).inc()
            if change.to is done_state(change.key.kind, change.destination):
                await self._count_done(change)

    @override
    async def files(
        self,
        *,
        image: str = "",
        sensors: Collection[str] = (),
        destination: Destination | None = None,
        states: Collection[FileState] = (),
    ) -> list[FileRecord]:
        return await self._ledger.files(
            image=image, sensors=sensors, destination=destination, states=states
        )

    @override
    async def attempts(self, image: str) -> list[AttemptRecord]:
        return await self._ledger.attempts(image)

    @override
    async def set_told(self, image: str, result: ToldResult, *, now_tai: float) -> None:
        await self._timed("set_told", self._ledger.set_told(image, result, now_tai=now_tai))

    @override
    async def told(self, image: str) -> list[ToldResult]:
        return await self._ledger.told(image)

    async def _timed(self, call: str, work: Awaitable[ResultT]) -> ResultT:
        began_tai = self._clock.now_tai()
        result = await work
        self._metrics.ledger_seconds.labels(call).observe(self._clock.now_tai() - began_tai)
        return result

    async def _count_done(self, change: Change) -> None:
        known = await self._about(change.key.image)
        if known is None:
            return
        metrics = self._metrics
        if change.destination is Destination.ARCHIVE:
            metrics.written_bytes.labels(known.camera).inc(change.size_bytes or 0)
            if change.degraded and change.key.kind is FileKind.RAW:
                metrics.degraded.labels(known.camera).inc()
        if change.key.kind is FileKind.RAW and known.end_readout_tai is not None:
            latency = {
                Destination.ARCHIVE: metrics.durable_seconds,
                Destination.OODS: metrics.ingested_seconds,
                Destination.BACKBONE: metrics.replicated_seconds,
            }[change.destination]
            latency.labels(known.camera).observe(self._clock.now_tai() - known.end_readout_tai)

    async def _about(self, image: str) -> _Known | None:
        """Tell what metrics need of an exposure; ``None`` if that cannot be known now.

        The change is stored already, so a reader that fails must not make it look undone.
        """
        known = self._known.get(image)
        if known is None:
            try:
                record = await self._ledger.exposure(image)
            except PlatevaultError as error:
                _log.warning("An exposure was not counted", image=image, problem=str(error))
                return None
            if record is None:
                return None
            known = _Known(record.exposure.camera, record.end_readout_tai)
            if known.end_readout_tai is not None:  # another process may still set it
                self._known[image] = known
            if len(self._known) > _IN_MIND:
                self._known.popitem(last=False)
        return known


class MeteredWorkQueue(WorkQueue):
    """A work queue that counts how deliveries end; nothing else is different.

    Parameters
    ----------
    queue
        Does the work.
    metrics
        Where it is counted.
    """

    def __init__(self, *, queue: WorkQueue, metrics: Metrics) -> None:
        self._queue = queue
        self._metrics = metrics

    @override
    async def send(self, queue: str, message: Message, *, priority: int = 0) -> None:
        await self._queue.send(queue, message, priority=priority)

    @override
    @asynccontextmanager
    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        def count(ending: str) -> None:
            self._metrics.deliveries.labels(queue, ending).inc()

        async with self._queue.consume(queue, prefetch=prefetch) as deliveries:
            yield _Metered(deliveries, count)

    @override
    async def depth(self, queue: str) -> int:
        return await self._queue.depth(queue)

    @override
    async def dead_letters(self, queue: str = "") -> list[DeadLetter]:
        return await self._queue.dead_letters(queue)

    @override
    async def redrive(self, letter_id: str) -> None:
        await self._queue.redrive(letter_id)

    @override
    async def dismiss(self, letter_id: str, *, reason: str) -> None:
        await self._queue.dismiss(letter_id, reason=reason)


class _Metered(AsyncIterator[Delivery]):
    def __init__(self, deliveries: AsyncIterator[Delivery], count: Callable[[str], None]) -> None:
        self._deliveries = deliveries
        self._count = count

    @override
    async def __anext__(self) -> Delivery:
        return _MeteredDelivery(await anext(self._deliveries), self._count)


class _MeteredDelivery(Delivery):
    def __init__(self, delivery: Delivery, count: Callable[[str], None]) -> None:
        self._delivery = delivery
        self._count = count

    @property
    @override
    def message(self) -> Message:
        return self._delivery.message

    @property
    @override
    def attempt(self) -> int:
        return self._delivery.attempt

    @override
    async def ack(self) -> None:
        await self._delivery.ack()
        self._count("ack")

    @override
    async def retry(self, *, delay_s: float, reason: str) -> None:
        await self._delivery.retry(delay_s=delay_s, reason=reason)
        self._count("retry")

    @override
    async def set_aside(self, *, reason: str) -> None:
        await self._delivery.set_aside(reason=reason)
        self._count("set_aside")


class StateWatch:
    """Looks at ledger and queues on a timer and sets the gauges; a service.

    Parameters
    ----------
    ledger, queue
        What is looked at.
    queues
        Names of the queues whose depth is shown.
    metrics
        Where it is shown.
    clock
        Time between looks, and of ages.
    interval_s
        Between looks [s].
    """

    name = "state-watch"

    def __init__(
        self,
        *,
        ledger: MeteredLedger,
        queue: WorkQueue,
        queues: Collection[str],
        metrics: Metrics,
        clock: Clock,
        interval_s: float = 5.0,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._queues = tuple(queues)
        self._metrics = metrics
        self._clock = clock
        self._interval_s = interval_s
        self._cameras: set[str] = set()
        self._open: dict[str, str] = {}

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Look until ``stop``, and once more then."""
        ready()
        while not stop.requested:
            await self._look()
            await wait_first(stop.wait(), self._clock.sleep(self._interval_s))
        await self._look()

    async def _look(self) -> None:
        try:
            await self._look_at_ledger()
            await self._look_at_queues()
        except TransientError as error:
            _log.warning("State cannot be seen", problem=str(error))

    async def _look_at_ledger(self) -> None:
        self._open |= self._ledger.take_registered()
        unfinished = await self._ledger.exposures(unfinished=True)
        states: Counter[tuple[str, str]] = Counter()
        for record in unfinished:
            for file in await self._ledger.files(image=record.exposure.image):
                states[file.destination.value, file.state.value] += 1
        self._metrics.files.clear()
        for labels, count in states.items():
            self._metrics.files.labels(*labels).set(count)
        cameras = Counter(record.exposure.camera for record in unfinished)
        self._cameras |= set(cameras)
        for camera in self._cameras:
            self._metrics.unfinished.labels(camera).set(cameras[camera])
        oldest_tai = min(
            (record.registered_tai for record in unfinished), default=self._clock.now_tai()
        )
        self._metrics.oldest_unfinished.set(max(0.0, self._clock.now_tai() - oldest_tai))
        await self._count_outcomes(
            {record.exposure.image: record.exposure.camera for record in unfinished}
        )

    async def _count_outcomes(self, unfinished: dict[str, str]) -> None:
        """Count exposures that were open since the last look and are no more."""
        for image in [image for image in self._open if image not in unfinished]:
            files = await self._ledger.files(image=image)
            camera = self._open.pop(image)
            self._metrics.exposures.labels(camera, outcome_of(files)).inc()
        self._open |= unfinished

    async def _look_at_queues(self) -> None:
        letters = Counter(letter.queue for letter in await self._queue.dead_letters())
        for name in self._queues:
            self._metrics.queue_depth.labels(name).set(await self._queue.depth(name))
            self._metrics.dead_letters.labels(name).set(letters[name])


def outcome_of(files: Collection[FileRecord]) -> str:
    """Tell how an exposure without unfinished files ended: complete, degraded or incomplete."""
    if any(file.state not in done_states(file.key.kind, file.destination) for file in files):
        return "incomplete"
    return "degraded" if any(file.degraded for file in files) else "complete"
