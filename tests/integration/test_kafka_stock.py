"""Stock SAL clients and ours work together over Kafka.

The clients here are written from the wire contract alone, with the client library, serializers and
registry client that stock SAL uses, and share no code with the product. Their descriptions of
fields are other texts than ours, as those of another interface release are.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from typing_extensions import override

from platevault.adapters.kafka import KafkaSampleBus, KafkaSettings
from platevault.adapters.schema_registry import SchemaRegistryServer
from platevault.adapters.system_clock import SystemClock
from platevault.csc.csc import Csc
from platevault.domain.lifecycles import SummaryState
from platevault.ports.sample_bus import History
from platevault.runtime.service import StopToken
from platevault.sal.acks import Ack, AckCode, CommandFailedError
from platevault.sal.avro import avro_schema
from platevault.sal.remote import Remote
from platevault.sal.schema import load_interfaces

pytestmark = pytest.mark.servers

PATIENCE_S = 30.0
INTERFACES = load_interfaces()

Field = tuple[str, Any, Any, str, str]

PRIVATE: Sequence[Field] = (
    ("private_sndStamp", "double", 0.0, "Time of instance publication", "second"),
    ("private_rcvStamp", "double", 0.0, "Time of instance reception", "second"),
    (
        "private_efdStamp",
        "double",
        0.0,
        (
            "UTC time for EFD timestamp. An integer (the number of leap seconds) different from "
            "private_sndStamp."
        ),
        "second",
    ),
    (
        "private_kafkaStamp",
        "double",
        0.0,
        "TAI time at which the Kafka message was created.",
        "second",
    ),
    ("private_seqNum", "int", 0, "Sequence number", "unitless"),
    ("private_revCode", "string", "", "Revision hashcode", "unitless"),
    (
        "private_identity",
        "string",
        "",
        "Identity of publisher: SAL component name for a CSC or user@host for a user",
        "unitless",
    ),
    ("private_origin", "int", 0, "Process ID of publisher", "unitless"),
)
SAL_INDEX: Field = (
    "salIndex",
    "int",
    0,
    "SAL index (only present for indexed SAL components)",
    "unitless",
)
ACKCMD: Sequence[Field] = (
    ("ack", "int", 0, "Acknowledgement code", "unitless"),
    ("error", "int", 0, "An error code; only relevant if ack=FAILED", "unitless"),
    ("result", "string", "", "Message", "unitless"),
    (
        "identity",
        "string",
        "",
        "private_identity field of the command being acknowledged",
        "unitless",
    ),
    ("origin", "int", 0, "private_origin field of the command being acknowledged", "unitless"),
    (
        "cmdtype",
        "int",
        0,
        "Index of command in alphabetical list of commands, with 0 being the first",
        "unitless",
    ),
    (
        "timeout",
        "double",
        0.0,
        "Estimated remaining duration of command; only relevant if ack=INPROGRESS",
        "second",
    ),
)
#: Fields of the topics that the tests use; descriptions as another interface release words them.
TOPICS: Mapping[str, Sequence[Field]] = {
    "ackcmd": ACKCMD,
    "command_start": (
        ("configurationOverride", "string", "", "\n  Another wording. \n", "unitless"),
    ),
    "command_enable": (),
    "command_disable": (),
    "command_standby": (),
    "command_exitControl": (),
    "logevent_summaryState": (("summaryState", "int", 0, "State number", "unitless"),),
    "logevent_errorCode": (
        ("errorCode", "int", 0, "Number", "unitless"),
        ("errorReport", "string", "", "Text", "unitless"),
        ("traceback", "string", "", "Trace", "unitless"),
    ),
    "logevent_simulationMode": (("mode", "int", 0, "Mode", "unitless"),),
    "logevent_softwareVersions": (
        ("salVersion", "string", "", "a", "unitless"),
        ("xmlVersion", "string", "", "b", "unitless"),
        ("cscVersion", "string", "", "c", "unitless"),
        ("subsystemVersions", "string", "", "d", "unitless"),
    ),
}


def tai() -> float:
    return SystemClock().now_tai()


class StockSal:
    """One stock client: a reader with history and a writer, for one component and index."""

    def __init__(
        self,
        settings: KafkaSettings,
        component: str,
        *,
        index: int | None = None,
        identity: str,
        reads: Sequence[str],
        writes: Sequence[str],
    ) -> None:
        self.component = component
        self.index = index
        self.identity = identity
        self.origin = os.getpid()
        self._prefix = f"lsst.{settings.subname}.{component}."
        self._brokers = {"bootstrap.servers": settings.brokers}
        self._stack = ExitStack()
        self._registry = self._stack.enter_context(
            SchemaRegistryClient({"url": settings.registry_url})
        )
        self._reads, self._writes = list(reads), list(writes)
        self._numbers: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._assigned = False
        self._past: dict[str, dict[int, dict[str, Any]]] = {}
        self._stamps: dict[tuple[str, int], float] = {}
        self.samples: deque[tuple[str, dict[str, Any]]] = deque()

    def start(self) -> None:
        self._make_topics()
        schemas = {name: json.dumps(self._schema(name)) for name in {*self._reads, *self._writes}}
        for name, text in schemas.items():
            self._registry.register_schema(f"{self._prefix}{name}-value", Schema(text, "AVRO"))
        self._serializers = {
            name: AvroSerializer(
                self._registry,
                schemas[name],
                conf={"auto.register.schemas": False, "normalize.schemas": False},
            )
            for name in self._writes
        }
        self._deserializers = {
            name: AvroDeserializer(self._registry, schemas[name]) for name in self._reads
        }
        self._producer = Producer({**self._brokers, "acks": 1, "queue.buffering.max.ms": 0})
        self._consumer = Consumer(
            {
                **self._brokers,
                "group.id": f"{self.identity}-{self.component}-{uuid.uuid4().hex}",
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.subscribe(
            [self._prefix + name for name in self._reads], on_assign=self._on_assign
        )
        deadline = time.monotonic() + PATIENCE_S
        while not self._assigned or self._ends:
            assert time.monotonic() < deadline, f"history never came: {self._ends}"
            self.poll()

    def close(self) -> None:
        self._consumer.close()
        self._producer.flush(5)
        self._stack.close()

    def poll(self) -> None:
        message = self._consumer.poll(0.1)
        if message is None:
            return
        assert message.error() is None, message.error()
        name = str(message.topic()).removeprefix(self._prefix)
        data = self._deserializers[name](
            message.value(), SerializationContext(str(message.topic()), MessageField.VALUE)
        )
        assert isinstance(data, dict)
        index = data.get("salIndex", 0)
        stamp = data["private_sndStamp"]
        if name.startswith("logevent_"):
            if stamp < self._stamps.get((name, index), 0.0):
                return
            self._stamps[name, index] = stamp
        data["private_rcvStamp"] = tai()
        wanted = self.index in {None, 0, index}
        if name in self._ends:
            if wanted:
                self._past.setdefault(name, {})[index] = data
            if (message.offset() or 0) >= self._ends[name]:
                del self._ends[name]
                self.samples.extend((name, past) for past in self._past.pop(name, {}).values())
        elif wanted:
            self.samples.append((name, data))

    def next(self, accept: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for sample in self.samples:
                if accept(*sample):
                    self.samples.remove(sample)
                    return sample[1]
            self.poll()
        raise AssertionError("nothing came")

    def write(self, name: str, *, number: int | None = None, **fields: Any) -> dict[str, Any]:
        stamp = tai()
        self._numbers[name] = self._numbers.get(name, 0) + 1
        data = {
            "private_sndStamp": stamp,
            "private_rcvStamp": 0.0,
            "private_efdStamp": stamp - 37.0,
            "private_kafkaStamp": stamp,
            "private_seqNum": self._numbers[name] if number is None else number,
            "private_revCode": "0badcafe",
            "private_identity": self.identity,
            "private_origin": self.origin,
            **fields,
        }
        indexed = ""
        if self.index is not None:
            data.setdefault("salIndex", self.index)
            indexed = f' "index": {self.index},'
        topic = self._prefix + name
        value = self._serializers[name](data, SerializationContext(topic, MessageField.VALUE))
        key = f'{{ "name": "{self.component}",{indexed} "topic": "{name}" }}'
        self._producer.produce(topic, value, key)
        self._producer.flush(10)
        return data

    def command(self, name: str, *, number: int, **fields: Any) -> list[dict[str, Any]]:
        """Send a command and give its replies, the final one last."""
        self.write(f"command_{name}", number=number, **fields)
        acks: list[dict[str, Any]] = []
        while not acks or acks[-1]["ack"] in {300, 301}:
            acks.append(
                self.next(
                    lambda topic, data: (
                        topic == "ackcmd"
                        and data["identity"] == self.identity
                        and data["origin"] == self.origin
                        and data["private_seqNum"] == number
                    )
                )
            )
        return acks

    def event(self, name: str) -> dict[str, Any]:
        return self.next(lambda topic, _: topic == f"logevent_{name}")

    def _schema(self, name: str) -> dict[str, Any]:
        private = PRIVATE if self.index is None else (SAL_INDEX, *PRIVATE)
        return {
            "type": "record",
            "name": name,
            "namespace": f"lsst.sal.{self.component}",
            "fields": [
                {
                    "name": field,
                    "type": avro,
                    "default": default,
                    "description": description,
                    "units": units,
                }
                for field, avro, default, description, units in (*private, *TOPICS[name])
            ],
            "description": "Command acknowledgement" if name == "ackcmd" else "Other words",
        }

    def _make_topics(self) -> None:
        admin = AdminClient({**self._brokers})
        wanted = {self._prefix + name for name in {*self._reads, *self._writes}}
        while missing := wanted - set(admin.list_topics(timeout=10).topics):
            made = admin.create_topics(
                [
                    NewTopic(
                        name,
                        1,
                        1,
                        config={"cleanup.policy": "compact"} if "logevent" in name else {},
                    )
                    for name in missing
                ]
            )
            for future in made.values():
                future.result()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            low, high = self._watermarks(consumer, place)
            if high <= 0:
                place.offset = OFFSET_BEGINNING
            elif "logevent_" not in str(place.topic):
                place.offset = high
            else:
                depth = 1 if self.index is None else 500
                place.offset = max(low, high - depth)
                self._ends[str(place.topic).removeprefix(self._prefix)] = high - 1
        consumer.assign(partitions)
        self._assigned = True

    def _watermarks(self, consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return consumer.get_watermark_offsets(place, cached=False)
            except KafkaException:  # a topic made just now has no leader for a moment
                assert time.monotonic() < deadline


def stock_remote(settings: KafkaSettings, component: str, *, index: int | None = None) -> StockSal:
    commands = [name for name in TOPICS if name.startswith("command_")]
    return StockSal(
        settings,
        component,
        index=index,
        identity="operator@console",
        reads=[name for name in TOPICS if name not in commands],
        writes=commands,
    )


def stock_csc(settings: KafkaSettings, component: str, *, index: int | None = None) -> StockSal:
    commands = [name for name in TOPICS if name.startswith("command_")]
    return StockSal(
        settings,
        component,
        index=index,
        identity=component if index is None else f"{component}:{index}",
        reads=commands,
        writes=[name for name in TOPICS if name not in commands],
    )


class Listed(Csc):
    """A component that notes what it was started with."""

    def __init__(self, **more: Any) -> None:
        super().__init__(interfaces=INTERFACES, version="1.2.3", clock=SystemClock(), **more)
        self.done: list[str] = []

    @override
    async def on_start(self, settings: Any) -> None:
        self.done.append("start")

    @override
    async def on_enable(self) -> None:
        self.done.append("enable")


@pytest.fixture
async def bus(kafka_settings: KafkaSettings) -> AsyncIterator[KafkaSampleBus]:
    async with KafkaSampleBus(
        settings=kafka_settings, clock=SystemClock(), avro_schema=avro_schema
    ) as bus:
        yield bus


@asynccontextmanager
async def running(csc: Csc) -> AsyncIterator[StopToken]:
    stop, ready = StopToken(), asyncio.Event()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(csc.run(stop, ready.set), name="csc")
        await ready.wait()
        yield stop
        stop.request()


async def test_a_stock_remote_drives_our_component(
    bus: KafkaSampleBus, kafka_settings: KafkaSettings
) -> None:
    csc = Listed(component="CCHeaderService", bus=bus)

    def drive() -> list[tuple[str, int, str]]:
        remote = stock_remote(kafka_settings, "CCHeaderService")
        with closing(remote):
            remote.start()
            assert remote.event("summaryState")["summaryState"] == SummaryState.STANDBY
            seen = []
            for number, name in enumerate(
                ("enable", "start", "enable", "disable", "standby", "exitControl"), start=7001
            ):
                (ack,) = remote.command(name, number=number)
                assert ack["private_identity"] == "CCHeaderService"
                seen.append((name, ack["ack"], ack["result"]))
                if ack["ack"] == 303:
                    # The event is on the bus before the final reply.
                    state = remote.event("summaryState")
                    assert state["private_revCode"]
                    assert state["private_efdStamp"] == pytest.approx(
                        state["private_sndStamp"] - 37.0
                    )
                    seen.append(("state", state["summaryState"], ""))
            return seen

    async with running(csc):
        seen = await asyncio.to_thread(drive)
    states = [number for name, number, _ in seen if name == "state"]
    assert states == [1, 2, 1, 5, 4]
    assert seen[0][1] == -302
    assert seen[0][2].startswith("Failed: ")
    assert [text for _, code, text in seen if code == 303] == ["Done"] * 5


async def test_a_stock_remote_that_comes_late_reads_the_past(
    bus: KafkaSampleBus, kafka_settings: KafkaSettings
) -> None:
    def read() -> dict[str, dict[str, Any]]:
        remote = stock_remote(kafka_settings, "CCHeaderService")
        with closing(remote):
            remote.start()
            return dict(remote.samples)

    async with (
        running(Listed(component="CCHeaderService", bus=bus)),
        Remote(
            component="CCHeaderService", bus=bus, interfaces=INTERFACES, clock=SystemClock()
        ) as ours,
    ):
        await ours.command("start", timeout_s=PATIENCE_S)
        await ours.command("enable", timeout_s=PATIENCE_S)
        past = await asyncio.to_thread(read)
    assert past["logevent_summaryState"]["summaryState"] == SummaryState.ENABLED
    assert past["logevent_softwareVersions"]["cscVersion"] == "1.2.3"
    assert past["logevent_simulationMode"]["mode"] == 0
    assert past["logevent_errorCode"]["errorCode"] == 0


async def test_only_the_commanded_instance_answers(
    bus: KafkaSampleBus, kafka_settings: KafkaSettings
) -> None:
    one, two = (Listed(component="OCPS", sal_index=index, bus=bus) for index in (1, 2))

    def drive() -> list[dict[str, Any]]:
        remote = stock_remote(kafka_settings, "OCPS", index=2)
        with closing(remote):
            remote.start()
            assert {data["salIndex"] for _, data in remote.samples} == {2}
            assert remote.event("summaryState")["summaryState"] == SummaryState.STANDBY
            acks = remote.command("start", number=1)
            assert remote.event("summaryState")["summaryState"] == SummaryState.DISABLED
            # A command to nobody is for nobody with an index.
            remote.write("command_enable", number=2, salIndex=0)
            remote.write("command_enable", number=3, salIndex=3)
            return [*acks, *remote.command("standby", number=4)]

    async with running(one), running(two):
        acks = await asyncio.to_thread(drive)
    assert [(ack["salIndex"], ack["private_identity"], ack["ack"]) for ack in acks] == [
        (2, "OCPS:2", 303)
    ] * 2
    assert (one.done, two.done) == ([], ["start"])


async def test_a_command_that_comes_twice_is_done_once_and_answered_twice(
    bus: KafkaSampleBus, kafka_settings: KafkaSettings
) -> None:
    csc = Listed(component="CCHeaderService", bus=bus)

    def drive() -> list[dict[str, Any]]:
        remote = stock_remote(kafka_settings, "CCHeaderService")
        with closing(remote):
            remote.start()
            return [
                remote.command("start", number=5)[-1],
                remote.command("start", number=5)[-1],
                remote.command("enable", number=6)[-1],
            ]

    async with running(csc):
        acks = await asyncio.to_thread(drive)
    assert [(ack["private_seqNum"], ack["ack"]) for ack in acks] == [(5, 303), (5, 303), (6, 303)]
    assert csc.done == ["start", "enable"]


def serve_commands(csc: StockSal, until: str) -> list[dict[str, Any]]:
    """Be a stock component: report progress, change state, say so, reply."""
    states = {"start": 1, "enable": 2, "disable": 1, "standby": 5, "exitControl": 4}
    got = []
    name = ""
    while name != until:
        topics: list[str] = []

        def accept(topic: str, _: dict[str, Any], topics: list[str] = topics) -> bool:
            topics.append(topic)
            return True

        data = csc.next(accept)
        name = topics[-1].removeprefix("command_")
        got.append({"name": name, **data})
        answer = {
            "identity": data["private_identity"],
            "origin": data["private_origin"],
            "cmdtype": 1,
        }
        number = data["private_seqNum"]
        csc.write("ackcmd", number=number, ack=301, error=0, result="", timeout=5.0, **answer)
        if name == "disable":
            csc.write(
                "ackcmd", number=number, ack=-302, error=1, result="Failed: no", timeout=0.0,
                **answer,
            )  # fmt: skip
            continue
        csc.write("logevent_summaryState", summaryState=states[name])
        csc.write("ackcmd", number=number, ack=303, error=0, result="Done", timeout=0.0, **answer)
    return got


@pytest.fixture(params=[None, 3], ids=["not indexed", "indexed"])
async def stock(
    request: pytest.FixtureRequest, kafka_settings: KafkaSettings
) -> AsyncIterator[StockSal]:
    component = "CCHeaderService" if request.param is None else "OCPS"
    csc = stock_csc(kafka_settings, component, index=request.param)
    await asyncio.to_thread(csc.start)
    with closing(csc):
        yield csc


async def test_our_remote_drives_a_stock_component(bus: KafkaSampleBus, stock: StockSal) -> None:
    await asyncio.to_thread(stock.write, "logevent_summaryState", summaryState=5)
    progress: list[Ack] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        asyncio.TaskGroup() as group,
        Remote(
            component=stock.component,
            sal_index=stock.index or 0,
            bus=bus,
            interfaces=INTERFACES,
            clock=SystemClock(),
            identity="us@here",
            origin=77,
        ) as remote,
    ):
        serving = group.create_task(asyncio.to_thread(serve_commands, stock, "exitControl"))
        state = remote.latest("summaryState")
        assert state is not None
        assert state.fields == {"summaryState": 5}
        assert state.rev_code == "0badcafe"
        async with remote.events("summaryState", history=History.NONE) as states:
            for name, code in (("start", 1), ("enable", 2)):
                more: dict[str, Any] = {}
                if name == "start":
                    more["configurationOverride"] = "night.yaml"
                ack = await remote.command(name, on_progress=progress.append, **more)
                assert (ack.code, ack.result) == (AckCode.COMPLETE, "Done")
                assert (await anext(states)).fields == {"summaryState": code}
            with pytest.raises(CommandFailedError):
                await remote.command("disable")
            await remote.command("exitControl")
            assert (await anext(states)).fields == {"summaryState": 4}
        got = await serving
    assert [ack.timeout_s for ack in progress] == [5.0, 5.0]
    assert [data["name"] for data in got] == ["start", "enable", "disable", "exitControl"]
    assert got[0]["configurationOverride"] == "night.yaml"
    assert got[0]["private_identity"] == "us@here"
    assert got[0]["private_origin"] == 77
    assert all(data["private_seqNum"] > 0 for data in got)
    assert got[0].get("salIndex") == stock.index


async def test_the_registry_satisfies_the_stock_client(
    schema_registry: SchemaRegistryServer,
) -> None:
    def use() -> None:
        with SchemaRegistryClient({"url": schema_registry.url}) as client:
            text = json.dumps({"type": "record", "name": "r", "fields": []})
            first = client.register_schema("a/b c-value", Schema(text, "AVRO"))
            assert client.register_schema("other-value", Schema(text, "AVRO")) == first
            found = client.lookup_schema("a/b c-value", Schema(text, "AVRO"))
            assert (found.schema_id, found.version) == (first, 1)
            assert json.loads(client.get_schema(first).schema_str or "") == json.loads(text)
            assert client.get_subjects() == ["a/b c-value", "other-value"]
            assert client.get_latest_version("other-value").schema_id == first
            assert client.delete_subject("other-value") == [1]
            assert client.delete_subject("other-value", permanent=True) == [1]
            assert client.get_subjects() == ["a/b c-value"]

    await asyncio.to_thread(use)
