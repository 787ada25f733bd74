"""What goes over the wire is what the contract says, and what comes is read in every version."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from platevault.adapters.kafka import KafkaSampleBus, KafkaSettings, SchemaRefusedError
from platevault.adapters.schema_registry import SchemaRegistryServer
from platevault.adapters.system_clock import SystemClock
from platevault.domain.samples import FieldSchema, Sample, TopicKind, TopicSchema
from platevault.ports.sample_bus import Gap, History
from platevault.sal.avro import avro_schema, rev_code
from platevault.testing.sample_bus_contract import (
    contract_sample,
    contract_topic,
    numbers_of,
    take_recorded,
)

pytestmark = pytest.mark.servers

PATIENCE_S = 20.0
#: The worked example of the wire contract.
FRAME_STORED = TopicSchema(
    component="PVDemo",
    sal_name="logevent_frameStored",
    kind=TopicKind.EVENT,
    indexed=True,
    fields=(
        FieldSchema("obsId", "string", description="Observation id."),
        FieldSchema("byteCount", "long long", units="byte", description="File size."),
        FieldSchema(
            "stageTime", "float", count=2, units="second", description="Seconds per stage."
        ),
    ),
    description="A frame reached the archive.",
)
FRAME = Sample(
    topic=FRAME_STORED,
    fields={"obsId": "PV_O_20330517_000042", "byteCount": 70, "stageTime": [0.5, 1.25]},
    sal_index=7,
    sent_tai=2_000_000_037.0,
    sequence=1,
    identity="PVDemo:7",
    origin=4321,
    rev_code="56a5799c",
)
FRAME_BODY = bytes.fromhex(
    "0e 0000400965cddd41 0000000000000000 0000000065cddd41 0000400965cddd41 02"
    "10 3536613537393963 10 505644656d6f3a37 c243"
    "28 50565f4f5f32303333303531375f303030303432 8c01 04 0000003f 0000a03f 00"
)


@pytest.fixture
async def bus(kafka_settings: KafkaSettings) -> AsyncIterator[KafkaSampleBus]:
    async with KafkaSampleBus(
        settings=kafka_settings, clock=SystemClock(), avro_schema=avro_schema
    ) as bus:
        yield bus


class Raw:
    """The brokers without the bus."""

    def __init__(self, settings: KafkaSettings, registry: SchemaRegistryServer) -> None:
        self.settings = settings
        self.store = registry._store

    def name(self, topic: TopicSchema) -> str:
        return f"lsst.{self.settings.subname}.{topic.component}.{topic.sal_name}"

    def read(self, topic: TopicSchema) -> list[Message]:
        consumer = Consumer({"bootstrap.servers": self.settings.brokers, "group.id": "raw"})
        place = TopicPartition(self.name(topic), 0, 0)
        _, high = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([place])
        messages = consumer.consume(high, 10)
        consumer.close()
        return list(messages)

    def end(self, topic: TopicSchema) -> int:
        consumer = Consumer({"bootstrap.servers": self.settings.brokers, "group.id": "raw"})
        place = TopicPartition(self.name(topic), 0)
        _, high = consumer.get_watermark_offsets(place, timeout=10, cached=False)
        consumer.close()
        return high

    def put(self, topic: TopicSchema, value: bytes | None, key: bytes = b"k") -> None:
        producer = Producer({"bootstrap.servers": self.settings.brokers})
        producer.produce(self.name(topic), value, key)
        assert producer.flush(10) == 0

    def put_record(
        self, topic: TopicSchema, schema: Mapping[str, Any], record: Mapping[str, Any]
    ) -> None:
        text = json.dumps(schema)
        known = self.store._check
        self.store._check = False
        schema_id = self.store.register(f"{self.name(topic)}-value", text).schema_id
        self.store._check = known
        stream = BytesIO()
        stream.write(b"\0" + schema_id.to_bytes(4, "big"))
        fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(text)), dict(record))
        self.put(topic, stream.getvalue())


@pytest.fixture
def raw(kafka_settings: KafkaSettings, schema_registry: SchemaRegistryServer) -> Raw:
    return Raw(kafka_settings, schema_registry)


def record_of(sample: Sample, **more: Any) -> dict[str, Any]:
    return {
        "salIndex": sample.sal_index,
        "private_sndStamp": sample.sent_tai,
        "private_rcvStamp": 0.0,
        "private_efdStamp": 0.0,
        "private_kafkaStamp": 0.0,
        "private_seqNum": sample.sequence,
        "private_revCode": "00000000",
        "private_identity": sample.identity,
        "private_origin": sample.origin,
        **sample.fields,
        **more,
    }


# Written


async def test_the_worked_example_is_met_byte_by_byte(bus: KafkaSampleBus, raw: Raw) -> None:
    assert rev_code(FRAME_STORED) == "56a5799c"
    await bus.publish(FRAME)
    (message,) = raw.read(FRAME_STORED)
    value = message.value()
    assert value is not None
    assert len(value) == 92
    assert value[0] == 0
    assert value[5:] == FRAME_BODY
    place = raw.store.find(f"{raw.name(FRAME_STORED)}-value", json.dumps(avro_schema(FRAME_STORED)))
    assert int.from_bytes(value[1:5], "big") == place.schema_id
    assert message.headers() is None


@pytest.mark.parametrize(
    ("sal_name", "indexed", "key"),
    [
        (
            "logevent_frameStored",
            True,
            b'{ "name": "PVDemo", "index": 1, "topic": "logevent_frameStored" }',
        ),
        ("logevent_frameStored", False, b'{ "name": "PVPlain", "topic": "logevent_frameStored" }'),
        ("command_store", True, b'{ "name": "PVDemo", "index": 1, "topic": "command_store" }'),
        ("ackcmd", False, b'{ "name": "PVPlain", "topic": "ackcmd" }'),
        ("temperature", True, b""),
    ],
)
async def test_keys_and_topics_are_as_stock_clients_make_them(
    bus: KafkaSampleBus, raw: Raw, sal_name: str, indexed: bool, key: bytes
) -> None:
    topic = contract_topic(sal_name, indexed=indexed)
    await bus.publish(contract_sample(1, topic=topic))
    (message,) = raw.read(topic)
    assert message.key() == key
    admin = AdminClient({"bootstrap.servers": raw.settings.brokers})
    described = admin.list_topics(raw.name(topic), timeout=10).topics[raw.name(topic)]
    assert list(described.partitions) == [0]
    resource = ConfigResource(ResourceType.TOPIC, raw.name(topic))
    configured = admin.describe_configs([resource])[resource].result()
    compacted = sal_name.startswith("logevent_")
    assert configured["cleanup.policy"].value == ("compact" if compacted else "delete")


async def test_all_that_a_component_writes_can_be_made_at_once(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    topics = [contract_topic(f"logevent_number{number}") for number in range(30)]
    await bus.prepare(topics)
    assert raw.store.subjects() == sorted(f"{raw.name(topic)}-value" for topic in topics)
    await bus.prepare(topics)
    assert {entry.version for entry in raw.store} == {1}


async def test_readers_register_nothing(bus: KafkaSampleBus, raw: Raw) -> None:
    async with bus.subscribe([FRAME_STORED], history=History.LATEST):
        pass
    assert raw.store.subjects() == []


async def test_a_schema_that_readers_could_not_follow_is_refused(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    other = replace(FRAME_STORED, fields=(FieldSchema("byteCount", "string"),))
    await bus.publish(FRAME)
    with pytest.raises(SchemaRefusedError):
        await bus.publish(replace(FRAME, topic=other, fields={"byteCount": "70"}))


# Read


async def test_fields_that_the_writer_does_not_know_have_their_defaults(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    older = avro_schema(FRAME_STORED)
    older["fields"] = [
        field
        for field in older["fields"]
        if field["name"] not in {"stageTime", "private_kafkaStamp", "byteCount"}
    ]
    async with bus.subscribe([FRAME_STORED], history=History.NONE) as samples:
        raw.put_record(FRAME_STORED, older, record_of(FRAME))
        got = await anext(samples)
    assert got.fields == {"obsId": FRAME.fields["obsId"], "byteCount": 0, "stageTime": [0.0, 0.0]}
    assert (got.sal_index, got.sequence, got.identity) == (7, 1, "PVDemo:7")


async def test_fields_that_only_the_writer_knows_are_left_out(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    newer = avro_schema(FRAME_STORED)
    fields = newer["fields"]
    fields.insert(0, {"name": "site", "type": "string", "default": ""})
    fields.append({"name": "nested", "type": {"type": "map", "values": "long"}, "default": {}})
    byte_count = next(field for field in fields if field["name"] == "byteCount")
    byte_count["type"] = "int"
    async with bus.subscribe([FRAME_STORED], history=History.NONE) as samples:
        raw.put_record(FRAME_STORED, newer, record_of(FRAME, site="south", nested={"a": 1}))
        got = await anext(samples)
    assert got.fields == FRAME.fields
    assert got.sequence == 1
    assert raw.store.versions(f"{raw.name(FRAME_STORED)}-value") == [1]


async def test_topics_defined_in_avro_are_read_by_name(bus: KafkaSampleBus, raw: Raw) -> None:
    topic = TopicSchema(
        component="PVPlain",
        sal_name="focal_plane",
        kind=TopicKind.TELEMETRY,
        indexed=False,
        fields=(
            FieldSchema("temperature", "double"),
            FieldSchema("location", "string"),
            FieldSchema("currents", "double", count=3),
            FieldSchema("busy", "boolean"),
            FieldSchema("steps", "long"),
        ),
    )
    private = [
        field for field in avro_schema(topic)["fields"] if field["name"].startswith("private_")
    ]
    native = {
        "type": "record",
        "name": "focal_plane",
        "namespace": "lsst.sal.PVPlain",
        "fields": [
            {"name": "location", "type": "string"},
            {"name": "unknown_to_us", "type": {"type": "array", "items": "int"}},
            {"name": "temperature", "type": ["null", "double"], "default": None},
            {"name": "currents", "type": ["null", {"type": "array", "items": "float"}]},
            {"name": "busy", "type": ["boolean", "null"]},
            {"name": "steps", "type": ["null", "int"]},
            *private,
        ],
    }
    sample = contract_sample(1, topic=topic)
    common = {"location": "R22", "unknown_to_us": [1, 2]}
    async with bus.subscribe([topic], history=History.NONE) as samples:
        for values in (
            {"temperature": -120.5, "currents": [1.0, 2.0, 3.0], "busy": True, "steps": 4},
            {"temperature": None, "currents": None, "busy": None, "steps": None},
        ):
            raw.put_record(topic, native, {**record_of(sample), **common, **values})
            sample = replace(sample, sequence=2, sent_tai=sample.sent_tai + 1)
        full, empty = await anext(samples), await anext(samples)
    assert full.fields == {
        "temperature": -120.5, "location": "R22", "currents": [1.0, 2.0, 3.0], "busy": True,
        "steps": 4,
    }  # fmt: skip
    assert math.isnan(empty.fields["temperature"])
    assert {**empty.fields, "temperature": 0.0} == {
        "temperature": 0.0, "location": "R22", "currents": [0.0, 0.0, 0.0], "busy": False,
        "steps": 0,
    }  # fmt: skip
    assert empty.sequence == 2


async def test_what_cannot_be_read_is_skipped(bus: KafkaSampleBus, raw: Raw) -> None:
    unreadable = avro_schema(FRAME_STORED)
    count = next(field for field in unreadable["fields"] if field["name"] == "byteCount")
    count.update(type="string", default="")
    async with bus.subscribe([FRAME_STORED], history=History.NONE) as samples:
        for value in (b"", b"text", b"\0\0\0\x7f\xff" + FRAME_BODY, None):
            raw.put(FRAME_STORED, value)
        raw.put_record(FRAME_STORED, unreadable, record_of(FRAME, byteCount="seventy"))
        raw.put_record(FRAME_STORED, avro_schema(FRAME_STORED), record_of(FRAME))
        assert (await anext(samples)).fields == FRAME.fields


async def test_a_past_that_cannot_be_read_gives_way_to_what_can(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    await bus.publish(FRAME)
    key = raw.read(FRAME_STORED)[0].key()
    assert isinstance(key, bytes)
    raw.put(FRAME_STORED, b"text", key)
    async with bus.subscribe([FRAME_STORED], history=History.LATEST) as samples:
        assert (await anext(samples)).sequence == 1


async def test_an_emptied_topic_does_not_hold_a_reader_up(bus: KafkaSampleBus, raw: Raw) -> None:
    topic = contract_topic("logevent_gone", indexed=False)
    admin = AdminClient({"bootstrap.servers": raw.settings.brokers})
    # Records of a compacted topic cannot be deleted.
    admin.create_topics([NewTopic(raw.name(topic), 1, 1)])[raw.name(topic)].result()
    await bus.publish(contract_sample(1, topic=topic))
    place = TopicPartition(raw.name(topic), 0, 1)
    admin.delete_records([place])[place].result()
    async with asyncio.timeout(PATIENCE_S):
        async with bus.subscribe([topic], history=History.LATEST) as samples:
            await bus.publish(contract_sample(2, topic=topic))
            assert (await anext(samples)).sequence == 2


async def test_the_marker_of_a_transaction_does_not_hold_a_reader_up(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    await bus.publish(FRAME)
    (message,) = raw.read(FRAME_STORED)
    producer = Producer({"bootstrap.servers": raw.settings.brokers, "transactional.id": "foreign"})
    await asyncio.to_thread(producer.init_transactions, PATIENCE_S)
    producer.begin_transaction()
    producer.produce(raw.name(FRAME_STORED), message.value(), message.key())
    await asyncio.to_thread(producer.commit_transaction, PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while raw.end(FRAME_STORED) < 3:  # noqa: ASYNC110 - the marker follows the commit
            await asyncio.sleep(0.05)
    async with (
        asyncio.timeout(PATIENCE_S),
        bus.subscribe([FRAME_STORED], history=History.LATEST) as samples,
    ):
        assert (await anext(samples)).sequence == 1


async def test_the_past_of_an_indexed_topic_reaches_so_far_and_no_further(
    kafka_settings: KafkaSettings,
) -> None:
    topic = contract_topic()
    settings = replace(kafka_settings, history_limit=500, history_limits={"PVDemo": 5})
    async with KafkaSampleBus(
        settings=settings, clock=SystemClock(), avro_schema=avro_schema
    ) as bus:
        await bus.publish(contract_sample(1, sal_index=9))
        for sequence in range(1, 6):
            await bus.publish(contract_sample(sequence, sal_index=1))
        async with bus.subscribe([topic], history=History.LATEST) as samples:
            await bus.publish(contract_sample(2, sal_index=9))
            got = [await anext(samples), await anext(samples)]
    assert [(sample.sal_index, sample.sequence) for sample in got] == [(1, 5), (9, 2)]


async def test_samples_of_older_date_are_dropped_and_commands_are_not(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    event, command = contract_topic(), contract_topic("command_store")
    async with bus.subscribe([event, command], history=History.NONE) as samples:
        for topic in (event, command):
            for sequence, sent in ((1, 10.0), (2, 5.0), (3, 11.0)):
                sample = contract_sample(sequence, topic=topic)
                await bus.publish(replace(sample, sent_tai=sample.sent_tai + sent))
        got = [await anext(samples) for _ in range(5)]
    assert [sample.sequence for sample in got if sample.topic is event] == [1, 3]
    assert [sample.sequence for sample in got if sample.topic is command] == [1, 2, 3]


async def test_an_event_that_is_stored_twice_arrives_once(bus: KafkaSampleBus) -> None:
    async with bus.subscribe([contract_topic()], history=History.NONE) as samples:
        await bus.publish(contract_sample(1))
        await bus.publish(contract_sample(1))
        await bus.publish(contract_sample(2))
        assert [(await anext(samples)).sequence for _ in range(2)] == [1, 2]


async def test_a_recording_names_the_gap_that_an_unreadable_sample_leaves(
    bus: KafkaSampleBus, raw: Raw
) -> None:
    async with bus.record([FRAME_STORED], group="efd") as recording:
        await bus.publish(FRAME)
        raw.put(FRAME_STORED, b"text")
        await bus.publish(replace(FRAME, sequence=3, sent_tai=FRAME.sent_tai + 1))
        got = await take_recorded(recording, 3)
        await recording.commit()
    assert got[1] == Gap(FRAME_STORED, 7, "PVDemo:7", 2, 2)
    assert numbers_of(got) == [1, 3]


async def test_members_of_a_group_share_the_topics(bus: KafkaSampleBus) -> None:
    topics: Sequence[TopicSchema] = [
        contract_topic(f"logevent_number{number}") for number in range(4)
    ]
    async with (
        bus.record(topics, group="efd") as one,
        bus.record(topics, group="efd") as two,
    ):
        for topic in topics:
            for sequence in (1, 2):
                await bus.publish(contract_sample(sequence, topic=topic))
        first, second = await take_recorded(one, 4), await take_recorded(two, 4)
        await one.commit()
        await two.commit()
    names = [
        {item.topic.sal_name for item in got if isinstance(item, Sample)} for got in (first, second)
    ]
    assert len(names[0]) == len(names[1]) == 2
    assert not names[0] & names[1]
    async with bus.record(topics, group="efd") as again:
        await bus.publish(contract_sample(3, topic=topics[0]))
        assert numbers_of(await take_recorded(again, 1)) == [3]
