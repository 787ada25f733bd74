"""The sample bus on a real Kafka broker keeps the contract."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from typing_extensions import override

from platevault.adapters.kafka import KafkaSampleBus, KafkaSettings
from platevault.adapters.schema_registry import SchemaRegistryServer
from platevault.adapters.system_clock import SystemClock
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.sample_bus import Gap, SampleBus
from platevault.sal.avro import avro_schema
from platevault.testing.sample_bus_contract import (
    QUEUE_LIMIT,
    SampleBusContract,
    contract_sample,
    contract_topic,
    numbers_of,
    take_recorded,
)

pytestmark = pytest.mark.servers


class TestKafkaSampleBus(SampleBusContract):
    recalls = True

    @pytest.fixture
    async def bus(
        self, kafka_settings: KafkaSettings, schema_registry: SchemaRegistryServer
    ) -> AsyncIterator[SampleBus]:
        self.settings = kafka_settings
        self.registry = schema_registry
        async with KafkaSampleBus(
            settings=replace(kafka_settings, queue_limit=QUEUE_LIMIT),
            clock=SystemClock(),
            avro_schema=avro_schema,
        ) as bus:
            yield bus

    @override
    async def put_raw(self, bus: SampleBus, sample: Sample) -> None:
        schema = fastavro.parse_schema(avro_schema(sample.topic))
        name = self.name_of(sample.topic)
        place = self.registry._store.register(
            f"{name}-value", json.dumps(avro_schema(sample.topic))
        )
        record = {
            "salIndex": sample.sal_index,
            "private_sndStamp": sample.sent_tai,
            "private_seqNum": sample.sequence,
            "private_identity": sample.identity,
            "private_origin": sample.origin,
            **sample.fields,
        }
        stream = BytesIO()
        stream.write(b"\0" + place.schema_id.to_bytes(4, "big"))
        fastavro.schemaless_writer(stream, schema, record)
        producer = Producer({"bootstrap.servers": self.settings.brokers})
        producer.produce(name, stream.getvalue(), b"k")
        assert producer.flush(10) == 0

    @override
    async def retained_raw(self, bus: SampleBus, topic: TopicSchema) -> list[Sample]:
        consumer = Consumer({"bootstrap.servers": self.settings.brokers, "group.id": "raw"})
        newest: dict[bytes, dict[str, Any]] = {}
        name = self.name_of(topic)
        low, high = consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=10)
        consumer.assign([TopicPartition(name, 0, low)])
        for message in consumer.consume(high - low, 10):
            value = message.value()
            assert value is not None
            schema = json.loads(self.registry._store.schema(int.from_bytes(value[1:5], "big")))
            record = fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)
            assert isinstance(record, dict)
            newest[bytes(message.key() or b"")] = record
        consumer.close()
        own = [field.name for field in topic.fields]
        return [
            Sample(
                topic=topic,
                fields={field: record[field] for field in own},
                sequence=record["private_seqNum"],
            )
            for record in newest.values()
        ]

    def name_of(self, topic: TopicSchema) -> str:
        return f"lsst.{self.settings.subname}.{topic.component}.{topic.sal_name}"

    # What this bus does beyond

    async def test_a_second_member_takes_over_from_the_last_commit(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd") as first:
            for sequence in (1, 2, 3):
                await bus.publish(contract_sample(sequence))
            await take_recorded(first, 1)
            await first.commit()
            await take_recorded(first, 1)
        async with bus.record([topic], group="efd") as second:
            assert numbers_of(await take_recorded(second, 2)) == [2, 3]

    async def test_a_new_group_begins_with_all_that_is_kept(self, bus: SampleBus) -> None:
        for sequence in (1, 2):
            await bus.publish(contract_sample(sequence))
        async with bus.record([contract_topic()], group="new") as recording:
            assert numbers_of(await take_recorded(recording, 2)) == [1, 2]

    async def test_gaps_of_many_writers_are_found_after_a_pause(self, bus: SampleBus) -> None:
        topic = contract_topic()
        async with bus.record([topic], group="efd") as recording:
            for index in range(1, 31):
                await bus.publish(contract_sample(1, sal_index=index))
            await take_recorded(recording, 30)
            await recording.commit()
        for index in range(1, 31):
            await bus.publish(contract_sample(3, sal_index=index))
        async with bus.record([topic], group="efd") as recording:
            got = await take_recorded(recording, 60)
        gaps = [item for item in got if isinstance(item, Gap)]
        assert {(gap.sal_index, gap.first, gap.last) for gap in gaps} == {
            (index, 2, 2) for index in range(1, 31)
        }
