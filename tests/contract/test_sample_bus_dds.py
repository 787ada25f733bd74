"""The sample bus over DDS keeps the contract."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import make_idl_struct, types
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from typing_extensions import override

from platevault.adapters.dds import DdsSampleBus, DdsSettings
from platevault.adapters.system_clock import SystemClock
from platevault.domain.samples import Sample, TopicKind, TopicSchema
from platevault.ports.sample_bus import SampleBus
from platevault.testing.sample_bus_contract import QUEUE_LIMIT, SampleBusContract

#: Of its own for each run, so that runs on one host do not meet.
DOMAIN_ID = 1 + os.getpid() % 200


@pytest.fixture
def settings(tmp_path: Path) -> DdsSettings:
    return DdsSettings(
        domain_id=DOMAIN_ID,
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
        self._participant = DomainParticipant(DOMAIN_ID)
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
