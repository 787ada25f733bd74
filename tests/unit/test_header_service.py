"""The component: one header per exposure, whatever the order, the losses and the outages."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.compose.cameras import load_camera
from platevault.compose.header_keywords import load_keyword_set
from platevault.domain.camera import Camera
from platevault.domain.header_cards import PRIMARY, cards_by_keyword
from platevault.domain.header_formats import parse_header
from platevault.domain.header_validation import RejectedValueError
from platevault.domain.headers import HeaderDocument, HeaderStatus, HeaderValue
from platevault.domain.lifecycles import SummaryState
from platevault.domain.samples import Sample
from platevault.ports.object_store import ObjectMissingError
from platevault.ports.sample_bus import History
from platevault.runtime.service import StopToken
from platevault.sal.acks import CommandRefusedError
from platevault.sal.remote import Remote
from platevault.services.header_service.delivery import header_key
from platevault.services.header_service.images import Timing
from platevault.services.header_service.observing import NoObserver
from platevault.services.header_service.service import (
    ErrorCode,
    HeaderServiceCsc,
    HeaderServiceOptions,
)
from platevault.testing.clocks import SteppedClock
from platevault.testing.header_samples import (
    IMAGE,
    MemoryObjectStore,
    Speaker,
    exposure,
    image_name,
    interfaces,
    states,
)

COMCAM = load_camera("comcam")
KEYWORDS = load_keyword_set(COMCAM)
WHOLE = exposure(COMCAM)
TIMING = Timing(margin_s=30.0, settle_s=0.5, end_wait_s=5.0)
#: More turns than the steps of one header, each of which may wait for a thread.
_TURNS = 30


class Notebook(NoObserver):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int, float]] = []
        self.store_failures: list[bool] = []
        self.failed: list[str] = []

    @override
    def header_published(self, document: HeaderDocument, *, latency_s: float) -> None:
        self.published.append((document.image, document.version, latency_s))

    @override
    def store_failed(self, *, held_back: bool) -> None:
        self.store_failures.append(held_back)

    @override
    def image_failed(self, image: str) -> None:
        self.failed.append(image)


class Desk:
    """One Header Service, and everything around it."""

    def __init__(
        self,
        *,
        bus: MemorySampleBus | None = None,
        clock: SteppedClock | None = None,
        store: MemoryObjectStore | None = None,
        spool: MemoryObjectStore | None = None,
        with_spool: bool = True,
        state: SummaryState = SummaryState.ENABLED,
        camera: Camera = COMCAM,
        options: HeaderServiceOptions | None = None,
    ) -> None:
        self.clock = clock or SteppedClock()
        self.bus = bus or MemorySampleBus(clock=self.clock)
        self.store = store or MemoryObjectStore()
        self.spool = spool or MemoryObjectStore()
        self.notes = Notebook()
        self.camera = camera
        self.csc = HeaderServiceCsc(
            camera=camera,
            keywords=load_keyword_set(camera) if camera is not COMCAM else KEYWORDS,
            store=self.store,
            spool=self.spool if with_spool else None,
            bus=self.bus,
            interfaces=interfaces(),
            clock=self.clock,
            version="1",
            initial_state=state,
            options=options or HeaderServiceOptions(timing=TIMING),
            observer=self.notes,
        )
        self._events: AsyncIterator[Sample] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        component = interfaces().component(self.camera.components.header_service)
        stop = StopToken()
        ready = asyncio.Event()
        async with (
            self.bus.subscribe(
                [component.event("largeFileObjectAvailable")], history=History.NONE
            ) as self._events,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self.csc.run(stop, ready.set), name="csc")
            await self._spin(ready.is_set)
            try:
                yield self
            finally:
                stop.request()

    async def _spin(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not done():
                await asyncio.to_thread(int)
                await self.clock.settle()

    async def say(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            await self.bus.publish(sample)

    async def header(self) -> tuple[HeaderDocument, dict[str, Any]]:
        """Wait for the next announcement; give the header and the event."""
        assert self._events is not None
        async with asyncio.timeout(10):
            event = dict((await anext(self._events)).fields)
        return parse_header(self.store.objects[event["url"].removeprefix("memory:///")]), event

    async def quiet(self) -> None:
        """Let everything that can be done without time passing be done."""
        for _ in range(_TURNS):
            await asyncio.to_thread(int)
            await self.clock.settle()

    async def until(self, done: Callable[[], bool]) -> None:
        await self._spin(done)

    @property
    def headers(self) -> list[str]:
        return [key for key in self.store.objects if key.endswith(".yaml")]

    async def command(self, name: str) -> None:
        component = self.camera.components.header_service
        async with Remote(
            component=component, bus=self.bus, interfaces=interfaces(), clock=self.clock
        ) as remote:
            await remote.command(name, timeout_s=60.0)


def values_of(document: HeaderDocument) -> dict[str, HeaderValue]:
    return cards_by_keyword(document.sections[PRIMARY])


def without(*topics: str) -> list[Sample]:
    return [sample for sample in WHOLE if sample.topic.name not in topics]


def topic(name: str, samples: Iterable[Sample] = WHOLE) -> list[Sample]:
    return [sample for sample in samples if sample.topic.name == name]


# --- one exposure ---------------------------------------------------------------------------------


async def test_an_exposure_gives_a_complete_header_and_a_true_event() -> None:
    async with Desk().open() as desk:
        await desk.say(WHOLE)
        document, event = await desk.header()
        data = desk.store.objects[header_key("CCHeaderService", IMAGE, 1)]
        await desk.until(
            lambda: header_key("CCHeaderService", IMAGE, 1, "json") in desk.store.objects
        )
        json_form = desk.store.objects[header_key("CCHeaderService", IMAGE, 1, "json")]
    assert document.status is HeaderStatus.COMPLETE
    assert event == {
        "url": f"memory:///CCHeaderService/header/2025/04/15/CCHeaderService_header_{IMAGE}.yaml",
        "generator": "CCHeaderService",
        "version": 1.0,
        "byteSize": len(data),
        "checkSum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "mimeType": "application/yaml",
        "id": IMAGE,
    }
    assert parse_header(json_form) == document
    assert desk.notes.published == [(IMAGE, 1, 0.0)]
    assert desk.spool.objects == {}


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_camera_events_in_any_order_and_twice_give_one_header(random: Any) -> None:
    events = [
        sample
        for sample in WHOLE
        if sample.fields.get("imageName") or sample.topic.name.endswith(("Open", "Close"))
    ]
    rest = [sample for sample in WHOLE if sample not in events]
    shuffled = [*events, *random.sample(events, 3)]
    random.shuffle(shuffled)

    async def night() -> HeaderDocument:
        async with Desk().open() as desk:
            await desk.say(rest)
            await desk.say(shuffled)
            document, _ = await desk.header()
            while document.missing:  # a closing event that came first: the rest amends
                document, _ = await desk.header()
            await desk.quiet()
            assert len(desk.headers) == document.version
            return document

    document = asyncio.run(night())
    reference = asyncio.run(_reference())
    assert {k: v for k, v in values_of(document).items() if k not in {"DATE", "MJD"}} == {
        k: v for k, v in values_of(reference).items() if k not in {"DATE", "MJD"}
    }


async def _reference() -> HeaderDocument:
    async with Desk().open() as desk:
        await desk.say(WHOLE)
        return (await desk.header())[0]


async def test_ten_exposures_may_be_open_at_once() -> None:
    speaker = Speaker()
    said = [
        sample
        for number in range(12)
        for sample in exposure(COMCAM, speaker=speaker, number=number, period_s=2.3)
    ]
    ends = topic("endOfImageTelemetry", said)
    async with Desk().open() as desk:
        await desk.say(sample for sample in said if sample not in ends)
        await desk.quiet()
        assert desk.headers == []
        await desk.say(ends)
        found = {}
        for _ in range(12):
            document, _ = await desk.header()
            found[document.image] = values_of(document)
    for number in range(12):
        values = found[image_name(number)]
        assert values["OBSANNOT"] == f"note of {image_name(number)}"
        assert values["RASTART"] == pytest.approx(127.5 + 0.023 * number, abs=1e-6)


async def test_the_same_event_again_changes_nothing() -> None:
    async with Desk().open() as desk:
        await desk.say(WHOLE)
        await desk.header()
        await desk.say(topic("endOfImageTelemetry"))
        await desk.say(topic("startIntegration"))
        await desk.quiet()
        assert len(desk.headers) == 1


async def test_an_event_that_names_no_image_is_passed_over() -> None:
    async with Desk().open() as desk:
        (start,) = topic("startIntegration")
        await desk.say([replace(start, fields={**start.fields, "imageName": "../../etc"})])
        await desk.say(WHOLE)
        document, _ = await desk.header()
        assert document.image == IMAGE


# --- what does not come ---------------------------------------------------------------------------


async def test_on_timeout_what_there_is_goes_out_and_says_what_is_missing() -> None:
    async with Desk().open() as desk:
        await desk.say(without("endOfImageTelemetry", "endReadout"))
        await desk.clock.advance(59.0)
        await desk.quiet()
        assert desk.headers == []
        await desk.clock.advance(1.5)  # timeout 30 s of the exposure, margin 30 s
        document, event = await desk.header()
    assert document.status is HeaderStatus.PARTIAL
    assert set(document.missing) == {"SHUTTIME", "DARKTIME"}
    assert document.completeness < 1.0
    assert values_of(document)["RASTART"] == pytest.approx(127.5, abs=1e-6)
    assert event["version"] == 1.0


async def test_after_the_end_of_readout_nobody_waits_long_for_the_last_event() -> None:
    async with Desk().open() as desk:
        await desk.say(without("endOfImageTelemetry"))
        await desk.clock.advance(4.5)
        await desk.quiet()
        assert desk.headers == []
        await desk.clock.advance(1.0)
        document, _ = await desk.header()
    assert document.status is HeaderStatus.PARTIAL


async def test_an_end_without_a_start_gives_a_header() -> None:
    async with Desk().open() as desk:
        await desk.say(without("startIntegration"))
        await desk.clock.advance(1.0)
        document, _ = await desk.header()
    assert document.missing == ()
    assert values_of(document)["EXPTIME"] == 15.0


async def test_a_late_end_amends_the_header_that_is_out() -> None:
    async with Desk().open() as desk:
        await desk.say(without("endOfImageTelemetry"))
        await desk.clock.advance(6.0)
        first, _ = await desk.header()
        await desk.say(topic("endOfImageTelemetry"))
        second, event = await desk.header()
        assert len(desk.headers) == 2
        old = parse_header(desk.store.objects[header_key("CCHeaderService", IMAGE, 1)])
    assert old == first
    assert (second.version, event["version"], event["id"]) == (2, 2.0, IMAGE)
    assert event["url"].endswith(f"_header_{IMAGE}_v2.yaml")
    assert second.status is HeaderStatus.COMPLETE
    assert {"SHUTTIME", "DARKTIME"} <= set(second.changed)
    assert values_of(second)["DATE"] == values_of(first)["DATE"]


async def test_a_generic_camera_is_done_at_the_start_of_readout() -> None:
    components = replace(
        COMCAM.components, camera="GenericCamera", header_service="GCHeaderService", sal_index=101
    )
    camera = replace(
        COMCAM, keyword_set="GenericCamera", components=components, code="GC1", constants={}
    )
    speaker = Speaker()
    name = "GC1_O_20250415_000060"
    said = []
    for sample in without("endOfImageTelemetry", "imageReadoutParameters", "endReadout"):
        if sample.topic.component != "CCCamera":
            said.append(sample)
        elif sample.topic.name in {"startIntegration", "startReadout"}:
            fields = {
                key: value for key, value in sample.fields.items() if key not in {"mode", "timeout"}
            }
            fields |= {"imageName": name, "imageSource": "GC1", "imageIndex": 0}
            said.append(
                speaker.say("GenericCamera", sample.topic.name, sample.sent_tai, 101, **fields)
            )
    async with Desk(camera=camera).open() as desk:
        await desk.say(said)
        await desk.quiet()
        assert desk.headers == []
        await desk.clock.advance(1.0)
        document, event = await desk.header()
    values = values_of(document)
    assert event["generator"] == "GCHeaderService:101"
    assert (values["CURINDEX"], values["EXPTIME"]) == (1, 15.0)
    assert values["DATE-END"] == "2025-04-16T00:53:29.500"
    assert document.missing == ()


# --- states ---------------------------------------------------------------------------------------


async def test_images_missed_while_not_enabled_are_made_up() -> None:
    async with Desk(state=SummaryState.DISABLED).open() as desk:
        await desk.say(WHOLE)
        await desk.clock.advance(5.0)
        await desk.quiet()
        assert desk.store.objects == {}
        await desk.command("enable")
        document, _ = await desk.header()
    assert document.status is HeaderStatus.COMPLETE


async def test_an_exposure_open_at_disable_comes_out_at_enable() -> None:
    async with Desk().open() as desk:
        await desk.say(without("endOfImageTelemetry"))
        await desk.quiet()
        await desk.command("disable")
        await desk.say(topic("endOfImageTelemetry"))
        await desk.quiet()
        assert desk.store.objects == {}
        await desk.command("enable")
        document, _ = await desk.header()
    assert document.status is HeaderStatus.COMPLETE


# --- outages --------------------------------------------------------------------------------------


async def test_while_the_annex_is_down_headers_are_held_and_nothing_faults() -> None:
    async with Desk().open() as desk:
        desk.store.is_down = True
        await desk.say(WHOLE)
        await desk.until(lambda: any("/held/" in key for key in desk.spool.objects))
        await desk.say(exposure(COMCAM, number=1))
        await desk.until(lambda: sum("/held/" in key for key in desk.spool.objects) == 2)
        for _ in range(20):
            await desk.clock.advance(10.0)
            await desk.quiet()
        assert desk.csc.state is SummaryState.ENABLED
        assert True in desk.notes.store_failures
        desk.store.is_down = False
        await desk.clock.advance(40.0)
        images = {(await desk.header())[0].image, (await desk.header())[0].image}
        await desk.until(lambda: desk.spool.objects == {})
    assert images == {IMAGE, image_name(1)}


async def test_a_header_that_can_be_put_nowhere_is_a_fault_and_is_not_lost() -> None:
    async with Desk().open() as desk:
        desk.store.is_down = desk.spool.is_down = True
        await desk.say(WHOLE)
        for _ in range(20):
            await desk.clock.advance(10.0)
            await desk.quiet()
        assert desk.csc.state is SummaryState.FAULT
        desk.store.is_down = desk.spool.is_down = False
        for name in ("standby", "start", "enable"):
            await desk.command(name)
        await desk.clock.advance(40.0)
        document, _ = await desk.header()
    assert document.status is HeaderStatus.COMPLETE


async def test_without_a_spool_a_short_outage_is_waited_out_in_memory() -> None:
    async with Desk(with_spool=False).open() as desk:
        desk.store.is_down = True
        await desk.say(WHOLE)
        await desk.until(lambda: desk.store.refused > 0)
        desk.store.is_down = False
        await desk.clock.advance(1.0)
        document, _ = await desk.header()
        assert desk.csc.state is SummaryState.ENABLED
    assert document.image == IMAGE


async def test_one_broken_exposure_does_not_stop_the_next() -> None:
    async with Desk().open() as desk:
        (tagged,) = topic("endOfImageTelemetry")
        # Somebody else's object stands where the header must go, and is no header.
        desk.store.objects[header_key("CCHeaderService", IMAGE, 1)] = b"not a header"
        await desk.say(WHOLE)
        await desk.until(lambda: desk.notes.failed == [tagged.fields["imageName"]])
        await desk.say(exposure(COMCAM, number=1))
        document, _ = await desk.header()
    assert document.image == image_name(1)
    assert desk.store.objects[header_key("CCHeaderService", IMAGE, 1)] == b"not a header"


# --- restarts -------------------------------------------------------------------------------------


async def test_an_open_exposure_survives_a_restart_with_its_telemetry() -> None:
    clock = SteppedClock()
    spool, store = MemoryObjectStore(), MemoryObjectStore()
    async with Desk(clock=clock, spool=spool, store=store).open() as desk:
        await desk.say(without("endOfImageTelemetry"))
        await desk.until(lambda: any("/open/" in key for key in spool.objects))
        await desk.quiet()
    assert store.objects == {}
    # Another bus: all telemetry from before is gone.
    async with Desk(clock=clock, spool=spool, store=store).open() as desk:
        await desk.say(states(Speaker(), COMCAM))
        await desk.say(topic("endOfImageTelemetry"))
        document, _ = await desk.header()
        await desk.until(lambda: spool.objects == {})
    assert document.missing == ()
    assert values_of(document)["RASTART"] == pytest.approx(127.5, abs=1e-6)


async def test_a_header_that_was_held_back_goes_out_after_a_restart() -> None:
    clock = SteppedClock()
    spool, store = MemoryObjectStore(), MemoryObjectStore()
    async with Desk(clock=clock, spool=spool, store=store).open() as desk:
        store.is_down = True
        await desk.say(WHOLE)
        await desk.until(lambda: any("/held/" in key for key in spool.objects))
    store.is_down = False
    async with Desk(clock=clock, spool=spool, store=store).open() as desk:
        document, _ = await desk.header()
        await desk.quiet()
        assert len(desk.headers) == 1
    assert document.status is HeaderStatus.COMPLETE


async def test_an_exposure_that_is_out_is_not_made_again_after_a_restart() -> None:
    clock = SteppedClock()
    bus, store = MemorySampleBus(clock=clock), MemoryObjectStore()
    async with Desk(clock=clock, bus=bus, store=store).open() as desk:
        await desk.say(WHOLE)
        first, _ = await desk.header()
        await desk.quiet()
    before = dict(store.objects)
    # The bus tells a late joiner the last events again.
    async with Desk(clock=clock, bus=bus, store=store).open() as desk:
        for _ in range(10):
            await desk.clock.advance(10.0)
            await desk.quiet()
        assert desk.notes.published == []
        assert desk.notes.failed == []
    assert store.objects == before
    assert values_of(first)["EXPTIME"] == 15.0


async def test_what_the_camera_said_while_nobody_listened_is_made_up() -> None:
    clock = SteppedClock()
    bus, store = MemorySampleBus(clock=clock), MemoryObjectStore()
    speaker = Speaker()
    async with Desk(clock=clock, bus=bus, store=store).open() as desk:
        await desk.say(exposure(COMCAM, speaker=speaker))
        await desk.header()
    silent = [exposure(COMCAM, speaker=speaker, number=number) for number in (1, 2, 3)]
    for samples in silent:
        for sample in samples:
            await bus.publish(sample)
    async with Desk(clock=clock, bus=bus, store=store).open() as desk:
        await desk.clock.advance(10.0)
        images = {(await desk.header())[0].image for _ in range(3)}
    assert images == {image_name(number) for number in (1, 2, 3)}


async def test_an_unreadable_journal_entry_is_set_aside() -> None:
    spool = MemoryObjectStore()
    spool.objects["CCHeaderService/open/CC_O_20250415_000001.000001.json"] = b"{half"
    async with Desk(spool=spool).open() as desk:
        await desk.say(WHOLE)
        await desk.header()
        await desk.quiet()
    assert list(spool.objects) == ["CCHeaderService/bad/open/CC_O_20250415_000001.000001.json"]


async def test_services_that_share_a_spool_leave_each_other_alone() -> None:
    spool = MemoryObjectStore()
    theirs = "MTHeaderService/open/MC_O_20250415_000001.000001.json"
    spool.objects[theirs] = b"{theirs"
    spool.objects["MTHeaderService/held/MTHeaderService/header/x.yaml"] = b"theirs"
    before = dict(spool.objects)
    async with Desk(spool=spool).open() as desk:
        await desk.say(WHOLE)
        await desk.header()
        await desk.quiet()
    assert spool.objects == before


async def test_what_is_held_back_and_conflicts_is_set_aside_and_the_rest_goes_out() -> None:
    spool, store = MemoryObjectStore(), MemoryObjectStore()
    async with Desk(spool=spool, store=store).open() as desk:
        store.is_down = True
        await desk.say(WHOLE)
        await desk.say(exposure(COMCAM, number=1))
        await desk.until(lambda: sum("/held/" in key for key in spool.objects) == 2)
    store.is_down = False
    store.objects[header_key("CCHeaderService", IMAGE, 1)] = b"somebody else's"
    for key in [key for key in spool.objects if "/open/" in key]:
        del spool.objects[key]
    async with Desk(spool=spool, store=store).open() as desk:
        document, _ = await desk.header()
        await desk.until(
            lambda: not any("/held/CC" in key for key in spool.objects if "/bad/" not in key)
        )
    assert document.image == image_name(1)
    assert store.objects[header_key("CCHeaderService", IMAGE, 1)] == b"somebody else's"
    assert [key for key in spool.objects if "/bad/held/" in key] != []


# --- corrections ----------------------------------------------------------------------------------


async def test_a_correction_becomes_the_next_version() -> None:
    async with Desk().open() as desk:
        await desk.say(WHOLE)
        await desk.header()
        version = await desk.csc.amend(
            IMAGE, {"PROGRAM": "BLOCK-7"}, author="me", reason="misspelt"
        )
        document, event = await desk.header()
    assert (version, document.version, event["version"]) == (2, 2, 2.0)
    assert document.changed == ("PROGRAM",)
    assert values_of(document)["PROGRAM"] == "BLOCK-7"


async def test_a_correction_of_an_open_exposure_is_in_its_first_version() -> None:
    async with Desk().open() as desk, asyncio.TaskGroup() as group:
        await desk.say(without("endOfImageTelemetry"))
        await desk.quiet()
        task = group.create_task(
            desk.csc.amend(IMAGE, {"PROGRAM": "BLOCK-7"}, author="me", reason="misspelt")
        )
        await desk.quiet()
        await desk.say(topic("endOfImageTelemetry"))
        document, _ = await desk.header()
        assert await task == 1
    assert values_of(document)["PROGRAM"] == "BLOCK-7"


async def test_a_header_of_long_ago_is_corrected_from_the_annex() -> None:
    store = MemoryObjectStore()
    async with Desk(store=store).open() as desk:
        await desk.say(WHOLE)
        await desk.header()
    async with Desk(store=store).open() as desk:
        for number in (2, 3):
            version = await desk.csc.amend(
                IMAGE, {"ROTPA": 10.0 + number}, author="me", reason="better known"
            )
            document, event = await desk.header()
            assert (version, document.version) == (number, number)
            assert event["url"].endswith(f"_v{number}.yaml")
            assert values_of(document)["ROTPA"] == 10.0 + number
            assert values_of(document)["EXPTIME"] == 15.0


async def test_bad_corrections_are_refused() -> None:
    async with Desk().open() as desk:
        await desk.say(WHOLE)
        await desk.header()
        with pytest.raises(RejectedValueError):
            await desk.csc.amend(IMAGE, {"AMSTART": 0.1}, author="me", reason="x")
        with pytest.raises(ObjectMissingError):
            await desk.csc.amend(image_name(9), {"AMSTART": 1.1}, author="me", reason="x")
        await desk.command("disable")
        with pytest.raises(CommandRefusedError):
            await desk.csc.amend(IMAGE, {"AMSTART": 1.1}, author="me", reason="x")
        assert len(desk.headers) == 1


def test_codes_of_faults_differ() -> None:
    assert len({int(code) for code in ErrorCode}) == len(ErrorCode)
