"""Counters and gauges say what happened to exposures, files and messages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.adapters.sqlite import SqliteFileLedger
from platevault.domain.errors import TransientError
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import HeaderReference, ToldResult
from platevault.domain.lifecycles import Destination, FileState
from platevault.ports.file_ledger import Change, LedgerUnavailableError, Staged, StateConflictError
from platevault.runtime.metered import MeteredLedger, MeteredWorkQueue, StateWatch
from platevault.runtime.metrics import Metrics
from platevault.runtime.retry import Backoff, retry
from platevault.runtime.service import StopToken
from platevault.testing.clocks import SteppedClock
from platevault.testing.exposures_contract import an_exposure, files_of
from platevault.testing.outages import Outage
from platevault.testing.work_queue_contract import a_message

A, O, B = Destination.ARCHIVE, Destination.OODS, Destination.BACKBONE  # noqa: E741
CAMERA = {"camera": "LSSTComCam"}


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteFileLedger]:
    async with SqliteFileLedger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def metered(ledger: SqliteFileLedger, metrics: Metrics, clock: SteppedClock) -> MeteredLedger:
    return MeteredLedger(ledger=ledger, metrics=metrics, clock=clock)


class Shown:
    """Reads metrics by name, without the name's beginning."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"platevault_{name}", labels)


@pytest.fixture
def shown(metrics: Metrics) -> Shown:
    return Shown(metrics)


def _raw() -> FileKey:
    return files_of(an_exposure())[0]


async def _registered(metered: MeteredLedger, clock: SteppedClock) -> None:
    exposure = an_exposure()
    await metered.register(exposure, files=files_of(exposure), now_tai=clock.now_tai())
    await metered.set_end_readout(exposure.image, clock.now_tai())


async def _finished(metered: MeteredLedger, *, degraded: bool = False, dead: bool = False) -> None:
    for key in files_of(an_exposure()):
        ways = {A: [FileState.WRITTEN], B: [FileState.SENDING, FileState.SENT, FileState.VERIFIED]}
        ways[O] = [*ways[B], FileState.CATALOGUED] if key.kind is FileKind.RAW else ways[B]
        if dead and key == _raw():
            ways[O] = [FileState.DEAD]
        for place, states in ways.items():
            for state in states:
                change = Change(key, place, state, size_bytes=10, degraded=degraded)
                await metered.apply([change], now_tai=1.0)


def test_every_name_has_its_service_and_unit(metrics: Metrics) -> None:
    names = [family.name for family in metrics.registry.collect()]
    assert len(names) > 15
    for name in names:
        assert re.fullmatch(
            r"platevault_(archiver|ledger|forwarder|oods|backbone|header|queue|csc|process)"
            r"_[a-z_]*(exposures|files|changes|attempts|seconds|bytes|messages|deliveries|faults"
            r"|retries|lines)",
            name,
        ), name


async def test_a_new_exposure_is_seen_once(
    metered: MeteredLedger, clock: SteppedClock, shown: Shown
) -> None:
    await _registered(metered, clock)
    await _registered(metered, clock)
    assert shown("archiver_exposures_total", **CAMERA, outcome="seen") == 1.0
    assert shown("ledger_call_seconds_count", call="register") == 2.0


async def test_latencies_run_from_the_end_of_readout(
    metered: MeteredLedger, clock: SteppedClock, shown: Shown
) -> None:
    await _registered(metered, clock)
    image = an_exposure().image
    await clock.advance(2.0)
    await metered.set_header(image, HeaderReference("u", 1))
    await metered.set_header(image, HeaderReference("u2", 2))
    await clock.advance(1.0)
    await metered.apply([Change(_raw(), A, FileState.WRITTEN, size_bytes=7)], now_tai=1.0)
    await clock.advance(1.0)
    for state in (FileState.SENDING, FileState.SENT, FileState.VERIFIED, FileState.CATALOGUED):
        await metered.apply([Change(_raw(), O, state)], now_tai=1.0)
    await clock.advance(5.0)
    for state in (FileState.SENDING, FileState.SENT, FileState.VERIFIED):
        await metered.apply([Change(_raw(), B, state)], now_tai=1.0)
    for name, seconds in (
        ("header_latency_seconds", 2.0),
        ("forwarder_durable_latency_seconds", 3.0),
        ("oods_ingest_latency_seconds", 4.0),
        ("backbone_latency_seconds", 9.0),
    ):
        assert (shown(f"{name}_count", **CAMERA), shown(f"{name}_sum", **CAMERA)) == (1.0, seconds)
    assert shown("forwarder_written_bytes_total", **CAMERA) == 7.0
    assert shown("forwarder_degraded_files_total", **CAMERA) is None


async def test_sidecars_have_no_latency(
    metered: MeteredLedger, clock: SteppedClock, shown: Shown
) -> None:
    await _registered(metered, clock)
    sidecar = files_of(an_exposure())[1]
    await metered.apply([Change(sidecar, A, FileState.WRITTEN, size_bytes=7)], now_tai=1.0)
    assert shown("forwarder_durable_latency_seconds_count", **CAMERA) is None
    assert shown("forwarder_written_bytes_total", **CAMERA) == 7.0


async def test_an_end_of_readout_that_another_process_stores_counts(
    metered: MeteredLedger, ledger: SqliteFileLedger, clock: SteppedClock, shown: Shown
) -> None:
    exposure = an_exposure()
    await metered.register(exposure, files=files_of(exposure), now_tai=clock.now_tai())
    await metered.set_header(exposure.image, HeaderReference("u", 1))
    await ledger.set_end_readout(exposure.image, clock.now_tai())
    await clock.advance(3.0)
    await metered.apply([Change(_raw(), A, FileState.WRITTEN, size_bytes=7)], now_tai=1.0)
    assert shown("forwarder_durable_latency_seconds_sum", **CAMERA) == 3.0


async def test_changes_and_attempts_are_counted_only_when_stored(
    metered: MeteredLedger, clock: SteppedClock, shown: Shown
) -> None:
    await _registered(metered, clock)
    keys = files_of(an_exposure())[:2]
    for _ in range(2):
        await metered.begin(keys, A, worker="f1", fence=1, now_tai=1.0)
    with pytest.raises(StateConflictError):
        await metered.apply([Change(keys[0], A, FileState.HELD)], now_tai=1.0)
    await metered.apply([Change(keys[0], A, FileState.RETRY, fence=1)], now_tai=1.0)
    assert shown("ledger_attempts_total", destination="archive", which="first") == 2.0
    assert shown("ledger_attempts_total", destination="archive", which="further") == 2.0
    assert shown("ledger_changes_total", destination="archive", state="retry") == 1.0
    assert shown("ledger_changes_total", destination="archive", state="held") is None


async def test_a_change_that_cannot_be_counted_is_a_change_all_the_same(
    ledger: SqliteFileLedger, metrics: Metrics, clock: SteppedClock, shown: Shown
) -> None:
    outage = Outage(ledger, lambda: LedgerUnavailableError("x"), only=("exposure",))
    metered = MeteredLedger(ledger=outage, metrics=metrics, clock=clock)
    await _registered(metered, clock)
    outage.down = True
    await metered.apply([Change(_raw(), A, FileState.WRITTEN)], now_tai=1.0)
    assert outage.refused == 1
    assert shown("ledger_changes_total", destination="archive", state="written") == 1.0


async def test_a_metered_ledger_answers_as_the_ledger_does(
    metered: MeteredLedger, ledger: SqliteFileLedger, clock: SteppedClock
) -> None:
    await _registered(metered, clock)
    image = an_exposure().image
    assert await metered.set_target(image, "/a") == "/a"
    (attempt,) = await metered.begin([_raw()], A, worker="f1", fence=1, now_tai=1.0)
    await metered.stage([Staged(_raw(), A, 1, "/a/.f", 3, "md5:a")])
    assert await metered.exposure(image) == await ledger.exposure(image)
    assert await metered.exposures(unfinished=True) == await ledger.exposures(unfinished=True)
    assert await metered.exposures(camera="none") == []
    files = await metered.files(image=image, destination=A, states=[FileState.SENDING])
    assert [file.key for file in files] == [attempt.key]
    assert [one.staged_path for one in await metered.attempts(image)] == ["/a/.f"]
    told = ToldResult("R22_S00", "imageInOODS", 0)
    await metered.set_told(image, told, now_tai=1.0)
    assert await metered.told(image) == await ledger.told(image) == [told]


async def test_deliveries_are_counted_by_how_they_ended(
    metrics: Metrics, clock: SteppedClock, shown: Shown
) -> None:
    queue = MeteredWorkQueue(queue=MemoryWorkQueue(clock=clock), metrics=metrics)
    for number in range(3):
        await queue.send("q", a_message(number), priority=number)
    async with queue.consume("q", prefetch=1) as deliveries:
        first = await anext(deliveries)
        assert (first.message, first.attempt) == (a_message(2), 1)
        await first.retry(delay_s=100.0, reason="x")
        await (await anext(deliveries)).ack()
        await (await anext(deliveries)).set_aside(reason="y")
    assert await queue.depth("q") == 1
    (letter,) = await queue.dead_letters()
    await queue.redrive(letter.letter_id)
    assert await queue.depth("q") == 2
    for ending in ("ack", "retry", "set_aside"):
        assert shown("queue_deliveries_total", queue="q", ending=ending) == 1.0


async def test_retries_and_faults_are_counted(
    metrics: Metrics, clock: SteppedClock, shown: Shown
) -> None:
    errors: list[Exception] = [TransientError("1"), TransientError("2")]

    async def operation() -> None:
        if errors:
            raise errors.pop()

    async with asyncio.TaskGroup() as group:
        group.create_task(
            retry(
                operation,
                clock=clock,
                backoff=Backoff(),
                on_retry=metrics.count_retries("fetch header"),
            )
        )
        await clock.advance(60.0)
    metrics.faults.labels("CCArchiver", "5701").inc()
    assert shown("process_retries_total", what="fetch header") == 2.0
    assert shown("csc_faults_total", component="CCArchiver", code="5701") == 1.0


async def _asleep(clock: SteppedClock) -> None:
    """Wait until a task sleeps; the ledger's thread works meanwhile, which no event tells."""
    await clock.settle()
    while clock.sleepers == 0:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class TestStateWatch:
    @pytest.fixture
    def queue(self, clock: SteppedClock) -> MemoryWorkQueue:
        return MemoryWorkQueue(clock=clock)

    @pytest.fixture
    async def stop(
        self,
        metered: MeteredLedger,
        queue: MemoryWorkQueue,
        metrics: Metrics,
        clock: SteppedClock,
    ) -> AsyncIterator[StopToken]:
        watch = StateWatch(
            ledger=metered, queue=queue, queues=["q"], metrics=metrics, clock=clock, interval_s=5.0
        )
        stop = StopToken()
        task = asyncio.get_running_loop().create_task(watch.run(stop, lambda: None))
        yield stop
        stop.request()
        await task

    @staticmethod
    async def _look(clock: SteppedClock) -> None:
        """Let the watch look once more."""
        async with asyncio.timeout(5.0):
            await _asleep(clock)
            await clock.advance(5.0)
            await _asleep(clock)

    async def test_gauges_rise_and_fall_with_what_is_unfinished(
        self, metered: MeteredLedger, clock: SteppedClock, shown: Shown, stop: StopToken
    ) -> None:
        await _registered(metered, clock)
        await self._look(clock)
        assert shown("ledger_unfinished_exposures", **CAMERA) == 1.0
        assert shown("ledger_oldest_unfinished_seconds") == 5.0
        assert shown("ledger_files", destination="oods", state="expected") == 5.0
        await _finished(metered)
        await self._look(clock)
        assert shown("ledger_unfinished_exposures", **CAMERA) == 0.0
        assert shown("ledger_oldest_unfinished_seconds") == 0.0
        assert shown("ledger_files", destination="oods", state="expected") is None

    @pytest.mark.parametrize(
        ("how", "outcome"),
        [({}, "complete"), ({"degraded": True}, "degraded"), ({"dead": True}, "incomplete")],
    )
    async def test_each_exposure_has_one_outcome(
        self,
        metered: MeteredLedger,
        clock: SteppedClock,
        shown: Shown,
        stop: StopToken,
        how: dict[str, bool],
        outcome: str,
    ) -> None:
        await _registered(metered, clock)
        await _finished(metered, **how)  # between two looks
        for _ in range(3):
            await self._look(clock)
        for each in ("complete", "degraded", "incomplete"):
            expected = 1.0 if each == outcome else None
            assert shown("archiver_exposures_total", **CAMERA, outcome=each) == expected

    async def test_an_exposure_open_at_an_earlier_look_has_an_outcome_too(
        self, metered: MeteredLedger, clock: SteppedClock, shown: Shown, stop: StopToken
    ) -> None:
        await _registered(metered, clock)
        await self._look(clock)
        assert shown("archiver_exposures_total", **CAMERA, outcome="complete") is None
        await _finished(metered)
        await self._look(clock)
        assert shown("archiver_exposures_total", **CAMERA, outcome="complete") == 1.0

    async def test_an_exposure_of_another_process_has_an_outcome_too(
        self,
        ledger: SqliteFileLedger,
        metered: MeteredLedger,
        clock: SteppedClock,
        shown: Shown,
        stop: StopToken,
    ) -> None:
        exposure = an_exposure()
        await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
        await self._look(clock)
        await _finished(metered)
        await self._look(clock)
        assert shown("archiver_exposures_total", **CAMERA, outcome="complete") == 1.0

    async def test_queues_are_shown(
        self, queue: MemoryWorkQueue, clock: SteppedClock, shown: Shown, stop: StopToken
    ) -> None:
        for number in range(3):
            await queue.send("q", a_message(number))
        async with queue.consume("q", prefetch=1) as deliveries:
            await (await anext(deliveries)).set_aside(reason="x")
        await self._look(clock)
        assert shown("queue_depth_messages", queue="q") == 2.0
        assert shown("queue_dead_letter_messages", queue="q") == 1.0

    async def test_an_outage_does_not_end_the_watch(
        self, ledger: SqliteFileLedger, metrics: Metrics, clock: SteppedClock, shown: Shown
    ) -> None:
        outage = Outage(ledger, lambda: LedgerUnavailableError("x"), only=("exposures",))
        metered = MeteredLedger(ledger=outage, metrics=metrics, clock=clock)
        watch = StateWatch(
            ledger=metered,
            queue=MemoryWorkQueue(clock=clock),
            queues=["q"],
            metrics=metrics,
            clock=clock,
        )
        stop = StopToken()
        await _registered(metered, clock)
        async with asyncio.TaskGroup() as group:
            outage.down = True
            group.create_task(watch.run(stop, lambda: None))
            await self._look(clock)
            assert outage.refused == 2
            outage.down = False
            await self._look(clock)
            stop.request()
        assert shown("ledger_unfinished_exposures", **CAMERA) == 1.0
