"""The sample bus on Kafka brokers and a schema registry."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError
from typing_extensions import override

from platevault.adapters.kafka.codec import AvroSchemaOf, TopicCodec, message_key, topic_name
from platevault.adapters.kafka.consumer import LIBRARY_LOG, ThreadedConsumer
from platevault.adapters.kafka.errors import TopicMissingError
from platevault.adapters.kafka.health import BusHealth, BusState, HealthBoard
from platevault.adapters.kafka.outbox import Outbox
from platevault.adapters.kafka.reader import DATED, TopicReader, first_offset
from platevault.adapters.kafka.recorder import GROUP_OPTIONS, KafkaRecording
from platevault.adapters.kafka.registry import RegistryUnavailableError, SchemaRegistryClient
from platevault.adapters.kafka.schemas import REGISTRY, SchemaBook
from platevault.adapters.kafka.settings import KafkaSettings
from platevault.adapters.kafka.topics import TopicDirectory
from platevault.adapters.unread_samples import UnreadSamples
from platevault.domain.errors import PermanentError, PlatevaultError, UsageError
from platevault.domain.samples import Sample, TopicKind, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import (
    BusUnavailableError,
    History,
    PastUnavailableError,
    Recording,
    SampleBus,
    Subscription,
)

#: Source of problems on the health board.
BROKER = "broker"
#: Longest wait for a sign of life, and time between looks while there is none [s].
_PROBE_S = 3.0
_PROBE_AGAIN_S = 0.5
#: Messages of one topic that are recalled at most: 3 min at 100 Hz.
_RECALL_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class _Outlet:
    """All that is needed to write one topic."""

    name: str
    codec: TopicCodec
    schema_id: int
    keys: dict[int, bytes] = field(default_factory=dict)

    def key(self, sal_index: int) -> bytes:
        """Give the message key of an index."""
        key = self.keys.get(sal_index)
        if key is None:
            key = self.keys[sal_index] = message_key(self.codec.topic, sal_index)
        return key


class KafkaSampleBus(SampleBus, AbstractAsyncContextManager["KafkaSampleBus", None]):
    """A `SampleBus` as SAL components speak it over Kafka; open it with ``async with``.

    Parameters
    ----------
    settings
        Brokers, registry, accounts, limits.
    clock
        Gives the moments of reception.
    avro_schema
        Gives the Avro record of a topic, keys in the order of its text.

    Notes
    -----
    Opening does not wait for a broker; `health` says whether one answers. While brokers or registry
    are away, subscriptions wait and go on where they were, and `publish` raises
    `BusUnavailableError`; topics already in use need no registry. A new recording group begins with
    all that the broker still has.

    References
    ----------
    SAL over Kafka.
    """

    def __init__(self, *, settings: KafkaSettings, clock: Clock, avro_schema: AvroSchemaOf) -> None:
        self._settings = settings
        self._clock = clock
        self._board = HealthBoard(clock=clock)
        self._registry = SchemaRegistryClient(
            url=settings.registry_url,
            answer_within_s=settings.answer_within_s,
            ca_file=settings.registry_ca_file,
            username=settings.registry_username,
            password=settings.registry_password,
        )
        self._schemas = SchemaBook(
            registry=self._registry, avro_schema=avro_schema, health=self._board, clock=clock
        )
        self._directory = TopicDirectory(settings=settings)
        self._outlets: dict[str, _Outlet] = {}
        self._preparing: dict[str, asyncio.Lock] = {}
        self._look = asyncio.Event()
        self._outbox: Outbox | None = None
        self._group: asyncio.TaskGroup | None = None
        self._stack = AsyncExitStack()

    @override
    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._directory.open(**self._callbacks(), logger=LIBRARY_LOG)
            stack.callback(self._directory.close)
            await stack.enter_async_context(self._registry)
            self._outbox = await stack.enter_async_context(
                Outbox(
                    options={**self._settings.producer(), **self._callbacks()},
                    within_s=self._settings.publish_within_s,
                    health=self._board,
                )
            )
            self._group = await stack.enter_async_context(asyncio.TaskGroup())
            watching = self._group.create_task(self._watch(), name="kafka-health")
            stack.callback(watching.cancel)
            self._stack = stack.pop_all()
        return self

    @override
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def health(self) -> BusHealth:
        """Whether brokers and registry serve, and if not, why."""
        return self._board.health

    async def wait_health(self, state: BusState) -> BusHealth:
        """Return once the health is ``state``."""
        return await self._board.wait_for(state)

    async def inquire(self) -> None:
        """Ask brokers and registry now; `health` tells what they answered."""
        await self._look_at_broker()
        await self._look_at_registry()

    async def prepare(self, topics: Collection[TopicSchema]) -> None:
        """Make topics and register their schemas now, so that no first sample waits for that.

        Raises
        ------
        BusUnavailableError
            Retry; or go on, each first sample then does it.
        BusAccessError, BusRefusalError, SchemaRefusedError
            Do not retry.
        """
        for name, topic in (await self._directory.ensure(topics)).items():
            await self._prepare(name, topic)

    @override
    async def publish(self, sample: Sample) -> None:
        """See `SampleBus.publish`; the broker has acknowledged it on return.

        Raises
        ------
        BusUnavailableError
            It may have gone out. Retry with the same sequence number; while the first is still
            under way, the retry waits for it and nothing is sent twice.
        BusAccessError, BusRefusalError, SchemaRefusedError
            Do not retry.
        """
        topic = sample.topic
        name = topic_name(self._settings.subname, topic)
        outlet = await self._outlet(name, topic)
        message = (
            name,
            sample.sal_index,
            sample.identity,
            sample.origin,
            sample.sequence,
            sample.sent_tai,
        )
        try:
            await self._opened_outbox().send(
                message,
                topic=name,
                key=outlet.key(sample.sal_index),
                value=outlet.codec.encode(sample, outlet.schema_id),
            )
        except TopicMissingError:
            self._outlets.pop(name, None)
            self._directory.forget(name)
            raise
        except BusUnavailableError as error:
            self._broker_failed(str(error), vague=True)
            raise
        self._board.good(BROKER)

    @override
    @asynccontextmanager
    async def subscribe(
        self,
        topics: Collection[TopicSchema],
        *,
        history: History,
        sal_index: int = 0,
        recall_s: float = 0.0,
    ) -> AsyncIterator[Subscription]:
        """See `SampleBus.subscribe`.

        Raises
        ------
        BusUnavailableError
            On entering: retry.
        BusAccessError, BusRefusalError
            Do not retry.
        """
        async with AsyncExitStack() as stack:
            yield await self._subscribed(stack, topics, history, sal_index, recall_s)

    @override
    @asynccontextmanager
    async def record(
        self, topics: Collection[TopicSchema], *, group: str
    ) -> AsyncIterator[Recording]:
        """See `SampleBus.record`; errors as in `subscribe`."""
        async with AsyncExitStack() as stack:
            named = await self._directory.ensure(topics)
            consumer = await stack.enter_async_context(
                ThreadedConsumer(
                    options={
                        **GROUP_OPTIONS,
                        **self._settings.consumer(self._settings.group(f"record.{group}")),
                        **self._callbacks(),
                    },
                    name="kafka-record",
                )
            )
            recording = KafkaRecording(
                topics=named, consumer=consumer, reach=self._directory.reach, schemas=self._schemas
            )
            await stack.enter_async_context(recording.joined(self._opened_group()))
            yield recording

    async def _subscribed(
        self,
        stack: AsyncExitStack,
        topics: Collection[TopicSchema],
        history: History,
        sal_index: int,
        recall_s: float,
    ) -> Subscription:
        named = await self._directory.ensure(topics)
        ends = await self._directory.ends(named)
        past, recalled = {}, {}
        if history is History.LATEST:
            recalled = await self._recalled(named, ends, recall_s)
            past = {**recalled, **await self._past(named, ends)}
            past.update({name: min(past[name], offset) for name, offset in recalled.items()})
        options = self._settings.consumer(self._settings.group(f"live.{secrets.token_hex(6)}"))
        if past:
            options = {**options, "enable.partition.eof": "true"}
        consumer = await stack.enter_async_context(
            ThreadedConsumer(options={**options, **self._callbacks()}, name="kafka-live")
        )
        first = {**ends, **past}
        await consumer.assign(first)
        subscription = UnreadSamples(limit=self._settings.queue_limit)
        reader = TopicReader(
            topics=named,
            sal_index=sal_index,
            first=first,
            past_ends={name: ends[name] for name in past},
            recalled=recalled,
            consumer=consumer,
            reach=self._directory.reach,
            subscription=subscription,
            schemas=self._schemas,
        )
        task = self._opened_group().create_task(reader.run(), name="kafka-reader")
        stack.push_async_callback(_ended, task)
        stack.callback(subscription.close)
        try:
            async with asyncio.timeout(self._settings.answer_within_s):
                await reader.past_complete.wait()
        except TimeoutError as error:
            raise PastUnavailableError(
                "The past of the topics was not given in time", topics=sorted(past)
            ) from error
        return subscription

    async def _past(
        self, named: Mapping[str, TopicSchema], ends: Mapping[str, int]
    ) -> dict[str, int]:
        """Give the offset at which to begin for each event that has a past."""
        events = {name: topic for name, topic in named.items() if topic.kind is TopicKind.EVENT}
        starts = await self._directory.starts([name for name in events if ends[name] > 0])
        return {
            name: first_offset(events[name], start=start, end=ends[name], settings=self._settings)
            for name, start in starts.items()
            if start < ends[name]
        }

    async def _recalled(
        self, named: Mapping[str, TopicSchema], ends: Mapping[str, int], recall_s: float
    ) -> dict[str, int]:
        """Give the offset of the first message to recall of each topic that has some."""
        if recall_s <= 0:
            return {}
        told = [name for name, topic in named.items() if topic.kind in DATED and ends[name] > 0]
        # Brokers and clients stamp messages with the time of their machines.
        since_ms = time.time_ns() // 1_000_000 - int(recall_s * 1000)
        return {
            name: max(offset, ends[name] - _RECALL_LIMIT)
            for name, offset in (await self._directory.since(told, since_ms)).items()
            if 0 <= offset < ends[name]
        }

    async def _outlet(self, name: str, topic: TopicSchema) -> _Outlet:
        outlet = self._outlets.get(name)
        if outlet is None or outlet.codec is not self._schemas.codec(topic):
            async with self._preparing.setdefault(name, asyncio.Lock()):
                await self._directory.ensure([topic])
                outlet = await self._prepare(name, topic)
        return outlet

    async def _prepare(self, name: str, topic: TopicSchema) -> _Outlet:
        schema_id = await self._schemas.id_to_write(name, topic)
        outlet = self._outlets[name] = _Outlet(name, self._schemas.codec(topic), schema_id)
        return outlet

    def _opened_outbox(self) -> Outbox:
        if self._outbox is None:
            raise UsageError("The bus is not open")
        return self._outbox

    def _opened_group(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise UsageError("The bus is not open")
        return self._group

    def _callbacks(self) -> dict[str, Any]:
        """Give what every client calls in its own thread."""
        loop = asyncio.get_running_loop()

        def failed(problem: KafkaError) -> None:
            # A client that is closed late has nobody left to tell.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._client_complained, problem)

        return {"error_cb": failed}

    def _client_complained(self, problem: KafkaError) -> None:
        # That all brokers are down is said after the reason, and must not hide it.
        vague = problem.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 (librdkafka's form)
        self._broker_failed(problem.str(), vague=vague)

    def _broker_failed(self, reason: str, *, vague: bool) -> None:
        self._board.bad(BROKER, reason, vague=vague)
        self._look.set()

    async def _watch(self) -> None:
        """Look at brokers and registry now and then, and soon after a client complained."""
        while True:
            await self.inquire()
            self._directory.poll()
            degraded = self.health.state is BusState.DEGRADED
            pause_s = _PROBE_AGAIN_S if degraded else self._settings.probe_every_s
            self._look.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    if degraded:
                        await asyncio.sleep(pause_s)
                    await self._look.wait()

    async def _look_at_broker(self) -> None:
        try:
            await self._directory.probe(_PROBE_S)
        except PlatevaultError as error:
            self._board.bad(BROKER, str(error), vague=True)
        else:
            self._board.good(BROKER)

    async def _look_at_registry(self) -> None:
        try:
            await self._registry.probe()
        except RegistryUnavailableError as error:
            self._board.bad(REGISTRY, str(error))
        except PermanentError:
            self._board.good(REGISTRY)  # it answers, if not to this
        else:
            self._board.good(REGISTRY)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
