"""The sample bus over DDS keeps the contract."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import make_idl_struct, types
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from typing_extensions import override

from platevault.adapters.dds import DdsSampleBus, DdsSettings, domains
from platevault.adapters.dds.codec import DdsEncodingError
from platevault.adapters.dds.spool import SpoolInUseError
from platevault.adapters.system_clock import SystemClock
from platevault.domain.errors import UsageError
from platevault.domain.samples import FieldSchema, Sample, TopicKind, TopicSchema
from platevault.ports.sample_bus import BusUnavailableError, Gap, History, SampleBus
from platevault.testing.dds_domains import own_domain
from platevault.testing.sample_bus_contract import (
    QUEUE_LIMIT,
    SampleBusContract,
    contract_sample,
    contract_topic,
    numbers_of,
    take_recorded,
)


@pytest.fixture
def settings(tmp_path: Path) -> DdsSettings:
    return DdsSettings(
        domain_id=own_domain(),
        discover_s=0.0,
        queue_limit=QUEUE_LIMIT,
        spool_directory=tmp_path / "spool",
    )


def _struct(topic: TopicSchema) -> Any:
    """Write down what the contract's topics are on the wire."""
    array: Any = types.array
    members: dict[str, Any] = {
        "private_sndStamp": types.float64,
        "private_rcvStamp": types.float64,
        "private_efdStamp": types.float64,
        "private_kafkaStamp": types.float64,
        "private_seqNum": types.int32,
        "private_revCode": str,
        "private_identity": str,
        "private_origin": types.int32,
        "boolean0": bool,
        "byte0": types.uint8,
        "short0": types.int16,
        "int0": types.int32,
        "long0": types.int32,
        "longlong0": types.int64,
        "unsignedshort0": types.uint16,
        "unsignedint0": types.uint32,
        "float0": types.float32,
        "double0": types.float64,
        "string0": str,
        "stageTime": array[types.float32, 2],
        "places": array[types.int32, 3],
    }
    name = f"{topic.component}_{topic.sal_name}"
    if not topic.indexed:
        return make_idl_struct(name, f"SAL.{name}", members)
    return make_idl_struct(
        name,
        f"SAL.{name}",
        {"salIndex": types.int32, **members},
        field_annotations={"salIndex": {"key": True}},
    )


class _Raw:
    """A topic without the bus."""

    def __init__(self, topic: TopicSchema) -> None:
        self._schema = topic
        self._struct = _struct(topic)
        self._participant = DomainParticipant(own_domain())
        name = f"{topic.component}_{topic.sal_name}"
        self._topic: Topic[Any] = Topic(self._participant, name, self._struct)
        past = topic.kind is TopicKind.EVENT
        self._qos = Qos(
            Policy.Reliability.Reliable(0),
            Policy.Durability.TransientLocal if past else Policy.Durability.Volatile,
            Policy.History.KeepLast(1),
        )

    def write(self, sample: Sample) -> None:
        writer: DataWriter[Any] = DataWriter(self._participant, self._topic, qos=self._qos)
        index = {"salIndex": sample.sal_index} if self._schema.indexed else {}
        writer.write(
            self._struct(
                **index,
                private_sndStamp=sample.sent_tai,
                private_rcvStamp=0.0,
                private_efdStamp=sample.sent_tai - 37.0,
                private_kafkaStamp=0.0,
                private_seqNum=sample.sequence,
                private_revCode=sample.rev_code,
                private_identity=sample.identity,
                private_origin=sample.origin,
                **sample.fields,
            )
        )

    def read(self) -> list[Sample]:
        reader: DataReader[Any] = DataReader(self._participant, self._topic, qos=self._qos)
        wholes: list[Any] = reader.take(100)
        return [
            Sample(
                topic=self._schema,
                fields={field.name: getattr(whole, field.name) for field in self._schema.fields},
                sequence=whole.private_seqNum,
            )
            for whole in wholes
        ]


class TestDdsSampleBus(SampleBusContract):
    @pytest.fixture
    async def bus(self, settings: DdsSettings) -> AsyncIterator[SampleBus]:
        async with DdsSampleBus(settings=settings, clock=SystemClock()) as bus:
            yield bus

    @override
    async def put_raw(self, bus: SampleBus, sample: Sample) -> None:
        _Raw(sample.topic).write(sample)

    @override
    async def retained_raw(self, bus: SampleBus, topic: TopicSchema) -> list[Sample]:
        return _Raw(topic).read()


def _bus(settings: DdsSettings) -> DdsSampleBus:
    return DdsSampleBus(settings=settings, clock=SystemClock())


async def test_what_an_absent_group_cannot_keep_is_a_gap(settings: DdsSettings) -> None:
    topic = contract_topic()
    async with _bus(replace(settings, spool_limit=50)) as bus:
        async with bus.record([topic], group="efd"):
            pass
        for sequence in range(1, 56):
            await bus.publish(contract_sample(sequence))
        async with bus.record([topic], group="efd") as recording:
            await _spooled(bus, "efd", 55)
            got = await take_recorded(recording, 51)
    assert got[0] == Gap(topic, 1, "PVDemo:1", 1, 5)
    assert numbers_of(got[1:]) == list(range(6, 56))


async def _spooled(bus: DdsSampleBus, group: str, number: int) -> None:
    """Wait until a sample is on disk."""
    known = bus._recordings._groups[group]
    loop = asyncio.get_running_loop()
    numbers: list[int] = []
    async with asyncio.timeout(20):
        while number not in numbers:
            rows = await loop.run_in_executor(known._disk, known._spool.fetch, 0, 1000)
            numbers = [sample.sequence for _, sample in rows]


async def test_a_recording_outlives_the_bus(settings: DdsSettings) -> None:
    topic = contract_topic()
    async with _bus(settings) as bus, bus.record([topic], group="a/b ü") as recording:
        for sequence in (1, 2, 3):
            await bus.publish(contract_sample(sequence, text="1e400 NaN"))
        await take_recorded(recording, 2)
        await recording.commit()
    async with _bus(settings) as bus:
        for sequence in (4, 5):  # before anybody has joined again
            await bus.publish(contract_sample(sequence))
        async with bus.record([topic], group="a/b ü") as recording:
            got = await take_recorded(recording, 3)
            await recording.commit()
    assert numbers_of(got) == [3, 4, 5]
    async with _bus(settings) as bus, bus.record([topic], group="a/b ü") as recording:
        await bus.publish(contract_sample(7))
        assert (await take_recorded(recording, 1)) == [Gap(topic, 1, "PVDemo:1", 6, 6)]
    first = got[0]
    assert isinstance(first, Sample)
    expected = replace(contract_sample(3, text="1e400 NaN"), received_tai=first.received_tai)
    assert first == expected


async def test_numbers_that_are_no_json_survive_the_spool(settings: DdsSettings) -> None:
    sample = contract_sample(1)
    odd = replace(sample, fields={**sample.fields, "float0": math.inf, "double0": math.nan})
    async with _bus(settings) as bus, bus.record([odd.topic], group="efd") as recording:
        await bus.publish(odd)
        (got,) = await take_recorded(recording, 1)
    assert isinstance(got, Sample)
    assert got.fields["float0"] == math.inf
    assert math.isnan(got.fields["double0"])


async def test_a_group_does_not_begin_with_the_past(settings: DdsSettings) -> None:
    async with _bus(settings) as bus:
        await bus.publish(contract_sample(1))
        async with bus.record([contract_topic()], group="efd") as recording:
            await bus.publish(contract_sample(2))
            assert numbers_of(await take_recorded(recording, 1)) == [2]


async def test_two_buses_of_one_process_share_their_domain(settings: DdsSettings) -> None:
    plain = replace(settings, spool_directory=None)
    async with _bus(plain) as one:
        async with _bus(plain) as two:
            await two.publish(contract_sample(1))
            async with one.subscribe([contract_topic()], history=History.LATEST) as samples:
                assert (await anext(samples)).sequence == 1
                await two.publish(contract_sample(2))
                assert (await anext(samples)).sequence == 2
        async with one.subscribe([contract_topic()], history=History.NONE) as samples:
            await one.publish(contract_sample(3))
            assert (await anext(samples)).sequence == 3
    assert not domains._shared


async def test_one_domain_cannot_have_two_configurations(settings: DdsSettings) -> None:
    async with _bus(settings):
        with pytest.raises(UsageError, match="another configuration"):
            async with _bus(replace(settings, lease_s=7.0)):
                pytest.fail("it was opened")
    assert not domains._shared


async def test_a_spool_has_one_process(settings: DdsSettings) -> None:
    async with _bus(settings):
        with pytest.raises(SpoolInUseError):
            async with _bus(settings):
                pytest.fail("it was opened")
    async with _bus(settings) as bus, bus.record([contract_topic()], group="efd"):
        pass


async def test_recording_without_a_directory_is_refused(settings: DdsSettings) -> None:
    async with _bus(replace(settings, spool_directory=None)) as bus:
        with pytest.raises(UsageError, match="needs a directory"):
            async with bus.record([contract_topic()], group="efd"):
                pytest.fail("it was joined")


async def test_an_interface_that_is_not_there_is_unavailable(settings: DdsSettings) -> None:
    with pytest.raises(BusUnavailableError):
        async with _bus(replace(settings, interface="no-such-interface")):
            pytest.fail("it was opened")
    assert not domains._shared


async def test_a_bus_that_is_not_open_says_so(settings: DdsSettings) -> None:
    bus = _bus(settings)
    with pytest.raises(BusUnavailableError):
        await bus.publish(contract_sample(1))
    for _ in range(2):
        async with bus:
            await bus.publish(contract_sample(1))
    with pytest.raises(BusUnavailableError):
        await bus.publish(contract_sample(1))
    with pytest.raises(BusUnavailableError):
        async with bus.subscribe([contract_topic()], history=History.NONE):
            pytest.fail("it was entered")
    with pytest.raises(BusUnavailableError):
        async with bus.record([contract_topic()], group="efd"):
            pytest.fail("it was joined")


async def test_a_writer_in_a_tight_loop_overruns_no_reader_of_its_process(
    settings: DdsSettings,
) -> None:
    shallow = replace(settings, reader_depth=16, queue_limit=1000)
    async with (
        _bus(shallow) as bus,
        bus.subscribe([contract_topic()], history=History.NONE) as samples,
    ):
        for number in range(1, 501):
            await bus.publish(contract_sample(number))
        assert [(await anext(samples)).sequence for _ in range(500)] == [*range(1, 501)]


async def test_closing_the_bus_ends_what_is_still_subscribed(settings: DdsSettings) -> None:
    bus = _bus(settings)
    async with AsyncExitStack() as stack:
        async with bus:
            subscription = bus.subscribe([contract_topic()], history=History.NONE)
            samples = await stack.enter_async_context(subscription)
            joined = bus.record([contract_topic()], group="efd")
            recording = await stack.enter_async_context(joined)
        with pytest.raises(BusUnavailableError):
            async with asyncio.timeout(20):
                await anext(samples)
        with pytest.raises(StopAsyncIteration):
            async with asyncio.timeout(20):
                await anext(aiter(recording))


@pytest.mark.parametrize(
    "wrong", [{"byte0": 256}, {"string0": 5}, {"places": [1, 2]}, {"float0": "x"}], ids=str
)
async def test_a_sample_that_does_not_fit_is_refused_and_nothing_goes_out(
    settings: DdsSettings, wrong: dict[str, Any]
) -> None:
    sample = contract_sample(1)
    async with (
        _bus(settings) as bus,
        bus.subscribe([sample.topic], history=History.NONE) as samples,
    ):
        with pytest.raises(DdsEncodingError):
            await bus.publish(replace(sample, fields={**sample.fields, **wrong}))
        await bus.publish(contract_sample(2))
        assert (await anext(samples)).sequence == 2


async def test_names_and_arrays_of_any_kind_arrive(settings: DdsSettings) -> None:
    topic = TopicSchema(
        component="PVDemo",
        sal_name="logevent_odd",
        kind=TopicKind.EVENT,
        indexed=True,
        fields=(
            FieldSchema("from", "string"),
            FieldSchema("serialize", "long"),
            FieldSchema("sample_info", "long"),
            FieldSchema("bytes", "byte", count=3),
            FieldSchema("flags", "boolean", count=2),
            FieldSchema("names", "string", count=2),
            FieldSchema("empty", "string"),
        ),
    )
    fields = {
        "from": "there",
        "serialize": 1,
        "sample_info": 2,
        "bytes": [1, 2, 255],
        "flags": [True, False],
        "names": ["a", "Ångström"],
        "empty": "",
    }
    async with _bus(settings) as bus, bus.subscribe([topic], history=History.NONE) as samples:
        await bus.publish(Sample(topic, fields, sal_index=3, sequence=1, identity="x@y"))
        got = await anext(samples)
    assert got.fields == fields
    assert got.sal_index == 3


async def test_a_topic_has_one_schema_on_a_bus(settings: DdsSettings) -> None:
    topic = contract_topic()
    other = replace(topic, fields=topic.fields[:1])
    async with _bus(settings) as bus:
        await bus.publish(contract_sample(1))
        with pytest.raises(UsageError, match="two schemas"):
            await bus.publish(Sample(other, {"boolean0": True}, sal_index=1, sequence=1))


async def test_a_failure_of_reception_ends_the_subscriptions_and_no_more(
    settings: DdsSettings,
) -> None:
    class Broken:
        def now_tai(self) -> float:
            if broken:
                raise ValueError("the clock has stopped")
            return 1.0

        async def sleep(self, duration_s: float) -> None:
            await asyncio.sleep(duration_s)

    broken: list[bool] = []
    async with DdsSampleBus(settings=settings, clock=Broken()) as bus:
        async with bus.subscribe([contract_topic()], history=History.NONE) as samples:
            await bus.publish(contract_sample(1))
            assert (await anext(samples)).sequence == 1
            broken.append(True)
            await bus.publish(contract_sample(2))
            with pytest.raises(BusUnavailableError):
                async with asyncio.timeout(20):
                    await anext(samples)
        broken.clear()
        async with bus.subscribe([contract_topic()], history=History.LATEST) as samples:
            assert (await anext(samples)).sequence == 2


@pytest.mark.parametrize("turns", range(0, 12, 2))
async def test_opening_and_closing_may_be_cancelled(settings: DdsSettings, turns: int) -> None:
    async def use() -> None:
        async with _bus(settings) as bus, bus.record([contract_topic()], group="efd"):
            await bus.publish(contract_sample(1))

    task = asyncio.get_running_loop().create_task(use())
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    task.cancel()
    await asyncio.wait({task})
    async with _bus(settings) as bus, bus.record([contract_topic()], group="efd") as recording:
        await bus.publish(contract_sample(9))
        while numbers_of(await take_recorded(recording, 1)) != [9]:
            pass
    assert not domains._shared


@pytest.mark.parametrize(
    "bad",
    [
        {"domain_id": -1},
        {"domain_id": 233},
        {"queue_limit": 0},
        {"settle_s": -0.1},
        {"interface": ""},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        DdsSettings(**bad)


def test_settings_reach_the_configuration() -> None:
    text = DdsSettings(interface="192.168.7.2", peers=("a", 'b"<'), multicast=True).configuration()
    tree = ET.fromstring(text)
    interface = tree.find("Domain/General/Interfaces/NetworkInterface")
    assert interface is not None
    assert interface.attrib == {"address": "192.168.7.2", "multicast": "true"}
    peers = tree.findall("Domain/Discovery/Peers/Peer")
    assert [peer.attrib["address"] for peer in peers] == ["a", 'b"<']
    assert DdsSettings(config="file:///etc/dds.xml").configuration() == "file:///etc/dds.xml"
