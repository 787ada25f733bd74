"""Samples survive brokers that restart, hang and are cut off, and a registry that is lost."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from confluent_kafka.admin import AdminClient

from platevault.adapters.kafka import (
    BusState,
    KafkaSampleBus,
    KafkaSettings,
    RegistryUnavailableError,
)
from platevault.adapters.kafka.codec import topic_name
from platevault.adapters.kafka.consumer import LIBRARY_LOG, ThreadedConsumer
from platevault.adapters.kafka.reader import TopicReader
from platevault.adapters.kafka.topics import TopicDirectory
from platevault.adapters.schema_registry import SchemaRegistryServer, SchemaStore
from platevault.adapters.system_clock import SystemClock
from platevault.adapters.unread_samples import UnreadSamples
from platevault.csc.csc import Csc
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.sample_bus import BusUnavailableError, Gap, History, Recording
from platevault.runtime.service import StopToken
from platevault.sal.acks import AckCode
from platevault.sal.avro import avro_schema, rev_code
from platevault.sal.remote import Remote
from platevault.sal.schema import load_interfaces
from platevault.sal.topics import TopicWriter
from platevault.sal.values import complete_fields
from platevault.testing.sample_bus_contract import contract_sample, contract_topic
from platevault.testing.servers import KafkaServer, ServerMissingError, free_port
from platevault.testing.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(150)]

PATIENCE_S = 50.0
TOPIC = contract_topic()
INTERFACES = load_interfaces()


@asynccontextmanager
async def opened(settings: KafkaSettings) -> AsyncIterator[KafkaSampleBus]:
    async with KafkaSampleBus(
        settings=settings, clock=SystemClock(), avro_schema=avro_schema
    ) as bus:
        yield bus


@pytest.fixture
async def bus(kafka_settings: KafkaSettings) -> AsyncIterator[KafkaSampleBus]:
    async with opened(replace(kafka_settings, publish_within_s=1.0, probe_every_s=0.5)) as bus:
        yield bus


async def publish(bus: KafkaSampleBus, sample: Sample) -> None:
    """Publish as services do: again, until the broker, just started perhaps, has taken it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await bus.publish(sample)
            except BusUnavailableError:
                await asyncio.sleep(0.1)


class Stream:
    """One writer, one subscriber and one recorder of an event, and what they saw."""

    def __init__(self, bus: KafkaSampleBus) -> None:
        self.bus = bus
        self.writer = TopicWriter(
            topic=TOPIC,
            bus=bus,
            clock=SystemClock(),
            identity="PVDemo:1",
            origin=1,
            sal_index=1,
            retry_within_s=PATIENCE_S,
        )
        self.read: list[int] = []
        self.recorded: list[int] = []
        self.gaps: list[Gap] = []
        self.written = 0
        self.news = asyncio.Event()

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not ready():
                self.news.clear()
                await self.news.wait()

    async def write(self, stop: StopToken) -> None:
        while not stop.requested:
            await self.writer.write(string0=f"number {self.written + 1}")
            self.written += 1
            self.news.set()
            await asyncio.sleep(0.01)

    async def subscribe(self, samples: AsyncIterator[Sample]) -> None:
        async for sample in samples:
            check(sample)
            self.read.append(sample.sequence)
            self.news.set()

    async def record(self, recording: Recording) -> None:
        async for item in recording:
            if isinstance(item, Gap):
                self.gaps.append(item)
            else:
                check(item)
                self.recorded.append(item.sequence)
                if len(self.recorded) % 10 == 0:
                    await commit(recording)
            self.news.set()


def check(sample: Sample) -> None:
    expected, _ = complete_fields(TOPIC, {"string0": f"number {sample.sequence}"})
    assert sample.fields == expected
    assert (sample.identity, sample.origin, sample.sal_index) == ("PVDemo:1", 1, 1)
    assert sample.rev_code == rev_code(TOPIC)
    assert abs(sample.received_tai - sample.sent_tai) < 2 * PATIENCE_S


async def commit(recording: Recording) -> None:
    while True:
        try:
            return await recording.commit()
        except BusUnavailableError:
            await asyncio.sleep(0.2)


@asynccontextmanager
async def streaming(bus: KafkaSampleBus, *, recorded: bool = True) -> AsyncIterator[Stream]:
    """Let samples flow around the body; then all must have arrived, once and in order."""
    stream, stop = Stream(bus), StopToken()
    async with (
        bus.subscribe([TOPIC], history=History.NONE) as samples,
        bus.record([TOPIC], group="efd") as recording,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(stream.subscribe(samples))]
        if recorded:
            tasks.append(group.create_task(stream.record(recording)))
        writing = group.create_task(stream.write(stop))
        await stream.until(lambda: len(stream.read) >= 20)
        yield stream
        before = len(stream.read)
        await stream.until(lambda: len(stream.read) >= before + 20)
        stop.request()
        await writing
        last = stream.written
        await stream.until(
            lambda: stream.read[-1] == last and (not recorded or stream.recorded[-1] == last)
        )
        for task in tasks:
            task.cancel()
    assert stream.read == list(range(1, last + 1))
    if recorded:
        assert sorted(set(stream.recorded)) == list(range(1, last + 1))
        assert stream.gaps == []


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_broker_restart_loses_and_repeats_nothing(
    bus: KafkaSampleBus, kafka_server: KafkaServer, how: str
) -> None:
    async with streaming(bus) as stream:
        assert bus.health.state is BusState.CONNECTED
        await asyncio.to_thread(kafka_server.stop if how == "restart" else kafka_server.kill)
        try:
            async with asyncio.timeout(PATIENCE_S):
                health = await bus.wait_health(BusState.DEGRADED)
            assert health.reason
            assert health.since_tai > 0
        finally:
            await asyncio.to_thread(kafka_server.start)
        async with asyncio.timeout(PATIENCE_S):
            await bus.wait_health(BusState.CONNECTED)
        assert stream.written >= 20


async def test_who_asks_a_broker_while_it_restarts_is_answered_again(
    kafka_settings: KafkaSettings, kafka_server: KafkaServer
) -> None:
    directories = [TopicDirectory(settings=kafka_settings) for _ in range(6)]
    answered = [0] * len(directories)
    stop, news = StopToken(), asyncio.Event()

    async def ask(number: int) -> None:
        while not stop.requested:
            with suppress(BusUnavailableError):
                await directories[number].probe(1.0)
                answered[number] += 1
            news.set()
            await asyncio.sleep(0.02)

    async def all_are_answered() -> None:
        before = answered.copy()
        async with asyncio.timeout(PATIENCE_S):
            while any(now == then for now, then in zip(answered, before, strict=True)):
                news.clear()
                await news.wait()

    for directory in directories:
        directory.open(logger=LIBRARY_LOG)
    async with asyncio.TaskGroup() as group:
        for number in range(len(directories)):
            group.create_task(ask(number))
        for _ in range(2):
            await all_are_answered()
            await asyncio.to_thread(kafka_server.stop)
            await asyncio.to_thread(kafka_server.start)
        await all_are_answered()
        stop.request()
    for directory in directories:
        directory.close()


async def test_a_broker_that_hangs_is_waited_for(
    bus: KafkaSampleBus, kafka_server: KafkaServer
) -> None:
    other = contract_topic("logevent_other")
    await bus.prepare([other])
    async with streaming(bus, recorded=False):
        kafka_server.pause()
        try:
            with pytest.raises(BusUnavailableError):
                await bus.publish(contract_sample(1, topic=other))
            async with asyncio.timeout(PATIENCE_S):
                await bus.wait_health(BusState.DEGRADED)
        finally:
            kafka_server.resume()
        async with asyncio.timeout(PATIENCE_S):
            await bus.wait_health(BusState.CONNECTED)


async def test_a_sample_retried_while_the_broker_hangs_is_stored_once(
    bus: KafkaSampleBus, kafka_server: KafkaServer
) -> None:
    command = contract_topic("command_store")
    await publish(bus, contract_sample(1, topic=command))
    async with bus.subscribe([command], history=History.NONE) as samples:
        kafka_server.pause()
        try:
            for _ in range(2):
                with pytest.raises(BusUnavailableError):
                    await bus.publish(contract_sample(2, topic=command))
        finally:
            kafka_server.resume()
        async with asyncio.timeout(PATIENCE_S):
            await publish(bus, contract_sample(2, topic=command))
            await publish(bus, contract_sample(3, topic=command))
            assert [(await anext(samples)).sequence for _ in range(2)] == [2, 3]


async def test_a_command_given_while_the_broker_restarts_is_done(
    bus: KafkaSampleBus, kafka_server: KafkaServer
) -> None:
    csc = Csc(
        component="CCHeaderService",
        bus=bus,
        interfaces=INTERFACES,
        clock=SystemClock(),
        version="1",
    )
    stop, ready = StopToken(), asyncio.Event()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(csc.run(stop, ready.set))
        await ready.wait()
        async with Remote(
            component="CCHeaderService", bus=bus, interfaces=INTERFACES, clock=SystemClock()
        ) as remote:
            await asyncio.to_thread(kafka_server.stop)
            command = group.create_task(remote.command("start", timeout_s=PATIENCE_S))
            await bus.wait_health(BusState.DEGRADED)
            await asyncio.to_thread(kafka_server.start)
            assert (await command).code is AckCode.COMPLETE
            await remote.command("enable", timeout_s=PATIENCE_S)
        stop.request()


async def test_without_a_broker_the_bus_opens_and_says_so(kafka_settings: KafkaSettings) -> None:
    settings = replace(
        kafka_settings,
        brokers=f"127.0.0.1:{free_port()}",
        publish_within_s=0.5,
        answer_within_s=1.0,
        probe_every_s=0.5,
    )
    async with opened(settings) as bus, asyncio.timeout(PATIENCE_S):
        health = await bus.wait_health(BusState.DEGRADED)
        assert re.search("broker|refused", health.reason.lower())
        with pytest.raises(BusUnavailableError):
            await bus.publish(contract_sample(1))
        with pytest.raises(BusUnavailableError):
            async with bus.subscribe([TOPIC], history=History.LATEST):
                pass
        with pytest.raises(BusUnavailableError):
            async with bus.record([TOPIC], group="efd"):
                pass


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_opening_and_closing_may_be_cancelled(
    kafka_settings: KafkaSettings, turns: int
) -> None:
    async def use(inside: asyncio.Event) -> None:
        async with opened(kafka_settings) as bus:
            inside.set()
            async with bus.subscribe([TOPIC], history=History.LATEST):
                await bus.publish(contract_sample(1))
                await asyncio.Event().wait()

    for wait_inside in (False, True):
        inside = asyncio.Event()
        task = asyncio.get_running_loop().create_task(use(inside))
        if wait_inside:
            async with asyncio.timeout(PATIENCE_S):
                await inside.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_a_topic_made_anew_is_read_on_and_old_commands_are_not_given_again(
    bus: KafkaSampleBus, kafka_server: KafkaServer, kafka_settings: KafkaSettings
) -> None:
    event, command = TOPIC, contract_topic("command_store")
    for topic in (event, command):
        for sequence in range(1, 6):
            await publish(bus, contract_sample(sequence, topic=topic))
    admin = AdminClient({"bootstrap.servers": kafka_server.address})
    names = [
        f"lsst.{kafka_settings.subname}.PVDemo.{name}"
        for name in ("logevent_frameStored", "command_store")
    ]

    got: list[tuple[str, int]] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        bus.subscribe([event, command], history=History.NONE) as samples,
        bus.record([event], group="efd") as recording,
    ):
        iterator = aiter(recording)
        assert [(await anext(iterator)) for _ in range(5)]
        await recording.commit()
        for future in admin.delete_topics(names).values():
            future.result()
        await publish(bus, contract_sample(6, topic=event))
        # Commands are read on from the moment at which the loss is noticed.
        sequence = 6
        while len(got) < 3:
            await publish(bus, contract_sample(sequence, topic=command))
            sequence += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    sample = await anext(samples)
                    got.append((sample.topic.sal_name, sample.sequence))
        item = await anext(iterator)
        assert isinstance(item, Sample)
        assert item.sequence == 6
    assert ("logevent_frameStored", 6) in got
    assert min(number for _, number in got) == 6


@pytest.mark.parametrize(
    ("topic", "goes_on_at"),
    [(TOPIC, 1), (contract_topic("command_store"), 4)],
    ids=["event", "command"],
)
async def test_a_reader_beyond_the_end_reads_events_again_and_commands_on(
    bus: KafkaSampleBus, kafka_settings: KafkaSettings, topic: TopicSchema, goes_on_at: int
) -> None:
    for sequence in (1, 2, 3):  # what a broker has that lost the end of its log
        await publish(bus, contract_sample(sequence, topic=topic))
    name = topic_name(kafka_settings.subname, topic)
    subscription = UnreadSamples(limit=1000)
    async with (
        asyncio.timeout(PATIENCE_S),
        ThreadedConsumer(
            options=kafka_settings.consumer(kafka_settings.group("beyond")), name="beyond"
        ) as consumer,
        asyncio.TaskGroup() as group,
    ):
        await consumer.assign({name: 9})
        reader = TopicReader(
            topics={name: topic},
            sal_index=0,
            first={name: 9},
            past_ends={},
            recalled={},
            consumer=consumer,
            reach=bus._directory.reach,
            subscription=subscription,
            schemas=bus._schemas,
        )
        reading = group.create_task(reader.run())
        # Commands are read on from the moment at which the loss is noticed.
        got: list[int] = []
        for sequence in itertools.count(4):
            await publish(bus, contract_sample(sequence, topic=topic))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    got.append((await anext(subscription)).sequence)
            if got:
                break
        while got[-1] != sequence:
            got.append((await anext(subscription)).sequence)
        reading.cancel()
    assert got[0] >= goes_on_at
    assert got == list(range(got[0], sequence + 1))
    if topic is TOPIC:
        assert got[0] == 1


# The registry


class LostRegistry:
    """A registry that goes away and comes back with what it knew."""

    def __init__(self) -> None:
        self.store = SchemaStore()
        self.port = 0
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        server = SchemaRegistryServer(store=self.store, port=self.port)
        await self._stack.enter_async_context(server.serving())
        self.port = server.port

    async def stop(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def lost_registry() -> AsyncIterator[LostRegistry]:
    registry = LostRegistry()
    await registry.start()
    yield registry
    await registry.stop()


@pytest.fixture
async def pair(
    kafka_settings: KafkaSettings, lost_registry: LostRegistry
) -> AsyncIterator[tuple[KafkaSampleBus, KafkaSampleBus]]:
    """Give two processes' buses, each with a memory of its own."""
    settings = replace(
        kafka_settings,
        registry_url=f"http://127.0.0.1:{lost_registry.port}",
        probe_every_s=0.2,
    )
    async with opened(settings) as one, opened(settings) as two:
        yield one, two


async def test_topics_in_use_need_no_registry(
    pair: tuple[KafkaSampleBus, KafkaSampleBus], lost_registry: LostRegistry
) -> None:
    writer, reader = pair
    await publish(writer, contract_sample(1))
    async with (
        asyncio.timeout(PATIENCE_S),
        reader.subscribe([TOPIC], history=History.LATEST) as samples,
    ):
        await lost_registry.stop()
        for bus in pair:
            assert "registry" in (await bus.wait_health(BusState.DEGRADED)).reason
        await publish(writer, contract_sample(2))
        assert [(await anext(samples)).sequence for _ in range(2)] == [1, 2]
        async with reader.subscribe([TOPIC], history=History.LATEST) as late:
            assert (await anext(late)).sequence == 2
        with pytest.raises(RegistryUnavailableError):
            await writer.publish(contract_sample(1, topic=contract_topic("logevent_new")))
        await lost_registry.start()
        for bus in pair:
            assert (await bus.wait_health(BusState.CONNECTED)).reason == ""
        await publish(writer, contract_sample(1, topic=contract_topic("logevent_new")))


async def test_a_sample_of_an_unknown_schema_waits_for_the_registry(
    pair: tuple[KafkaSampleBus, KafkaSampleBus], lost_registry: LostRegistry
) -> None:
    writer, reader = pair
    await writer.prepare([TOPIC])
    async with (
        asyncio.timeout(PATIENCE_S),
        reader.subscribe([TOPIC], history=History.NONE) as samples,
        reader.record([TOPIC], group="efd") as recording,
    ):
        await lost_registry.stop()
        await publish(writer, contract_sample(1))
        await publish(writer, contract_sample(2))
        await reader.wait_health(BusState.DEGRADED)
        await lost_registry.start()
        assert [(await anext(samples)).sequence for _ in range(2)] == [1, 2]
        assert [await anext(aiter(recording)) for _ in range(2)]


# The way there


@pytest.fixture(scope="module")
def distant_broker(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[tuple[KafkaServer, int]]:
    """Run a broker that tells its clients to come through the port of a proxy."""
    port = free_port()
    server = KafkaServer(
        Path(tmp_path_factory.mktemp("distant")),
        settings={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"},
    )
    try:
        server.__enter__()
    except ServerMissingError as error:
        service_missing(str(error))
    try:
        yield server, port
    finally:
        server.stop()


@pytest.fixture
async def proxy(distant_broker: tuple[KafkaServer, int]) -> AsyncIterator[TcpProxy]:
    server, port = distant_broker
    async with TcpProxy(target_port=server.port, port=port) as proxy:
        yield proxy


@pytest.fixture
async def distant_bus(
    proxy: TcpProxy, schema_registry: SchemaRegistryServer, request: pytest.FixtureRequest
) -> AsyncIterator[KafkaSampleBus]:
    settings = KafkaSettings(
        brokers=f"127.0.0.1:{proxy.port}",
        registry_url=schema_registry.url,
        subname=request.node.name.replace("[", "_").replace("]", "_"),
        publish_within_s=1.0,
        probe_every_s=0.5,
    )
    async with opened(settings) as bus:
        yield bus


async def test_a_cut_is_bridged(distant_bus: KafkaSampleBus, proxy: TcpProxy) -> None:
    async with streaming(distant_bus):
        for _ in range(3):
            proxy.reset()
            await asyncio.sleep(0.1)
        proxy.cut()
        async with asyncio.timeout(PATIENCE_S):
            await distant_bus.wait_health(BusState.DEGRADED)
        proxy.mend()
        async with asyncio.timeout(PATIENCE_S):
            await distant_bus.wait_health(BusState.CONNECTED)


async def test_a_stalled_way_is_bridged(distant_bus: KafkaSampleBus, proxy: TcpProxy) -> None:
    async with streaming(distant_bus):
        proxy.stall()
        async with asyncio.timeout(PATIENCE_S):
            await distant_bus.wait_health(BusState.DEGRADED)
        proxy.mend()
        async with asyncio.timeout(PATIENCE_S):
            await distant_bus.wait_health(BusState.CONNECTED)


async def test_a_slow_way_delays_and_loses_nothing(
    distant_bus: KafkaSampleBus, proxy: TcpProxy
) -> None:
    async with streaming(distant_bus) as stream:
        proxy.slow(30_000)
        before = stream.written
        await stream.until(lambda: stream.written >= before + 20)
        proxy.mend()


@pytest.mark.parametrize("recorded", [False, True])
async def test_corrupted_bytes_do_not_become_samples(
    distant_bus: KafkaSampleBus, proxy: TcpProxy, recorded: bool
) -> None:
    async with streaming(distant_bus, recorded=recorded) as stream:
        for _ in range(5):
            proxy.corrupt(mark=b"number ")  # within the text of a sample
            before = stream.written
            await stream.until(lambda before=before: stream.written >= before + 5)  # type: ignore[misc]
        assert not proxy.corrupting
