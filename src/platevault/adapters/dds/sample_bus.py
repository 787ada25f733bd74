"""The sample bus over DDS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from cyclonedds.core import DDSException
from cyclonedds.pub import DataWriter
from typing_extensions import override

from platevault.adapters.dds.codec import TopicCodec, topic_name
from platevault.adapters.dds.network import interface_problem
from platevault.adapters.dds.qualities import reader_qualities, writer_qualities
from platevault.adapters.dds.reception import Opened, Reception
from platevault.adapters.dds.recording import Recordings
from platevault.adapters.dds.settings import DdsSettings
from platevault.adapters.dds.subscription import Subscription
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import BusUnavailableError, History, Recording, SampleBus

#: How often a sample is offered again while a reader is behind [s].
_OFFER_AGAIN_S = 0.005
#: After so many samples a writer lets the receiving thread of its process have its turn.
_PACE = 8
#: Longest wait for the past of writers that do not fall silent, in times of ``settle_s``.
_SETTLE_ROUNDS = 20


class DdsSampleBus(SampleBus, AbstractAsyncContextManager["DdsSampleBus", None]):
    """A `SampleBus` among processes that find each other; open it with ``async with``.

    No server is needed. A writer keeps its newest event of each key as long as its process lives;
    late joiners get it from there.

    Parameters
    ----------
    settings
        Domain, network and limits.
    clock
        Gives the moment of reception.

    Raises
    ------
    BusUnavailableError
        On entering: the network interface is not there. Retry, or correct the settings.
    SpoolInUseError
        On entering: another process records in the same directory.
    """

    def __init__(self, *, settings: DdsSettings, clock: Clock) -> None:
        self._settings = settings
        self._reception = Reception(settings=settings, clock=clock)
        self._recordings = Recordings(settings=settings, reception=self._reception)
        self._writers: dict[str, tuple[DataWriter[Any], TopicCodec]] = {}
        self._published = 0
        self._refusal = ""
        self._meeting: dict[str, asyncio.Lock] = {}

    @override
    async def __aenter__(self) -> Self:
        opened = False
        try:
            await self._reception.start()
            await self._recordings.start()
            await asyncio.sleep(self._settings.discover_s)
            opened = True
        except BusUnavailableError as error:
            network = self._network_problem
            if not network:
                raise
            raise BusUnavailableError(
                "The network of the DDS domain is not there",
                domain_id=self._settings.domain_id,
                problem=network,
            ) from error
        finally:
            if not opened:
                await self._close()
        return self

    @override
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    @property
    def problem(self) -> str:
        """What is wrong with the bus at this moment, for people; empty if nothing is.

        It has no server, so what can fail is the network, and this process's own part.
        """
        found = (
            self._network_problem,
            self._reception.problem,
            self._recordings.problem,
            self._refusal,
        )
        return ", ".join(text for text in found if text)

    @property
    def _network_problem(self) -> str:
        name = self._settings.interface_name
        return interface_problem(name) if name else ""

    async def _close(self) -> None:
        self._writers.clear()
        try:
            await self._reception.stop()
        finally:
            await self._recordings.stop()

    @override
    async def publish(self, sample: Sample) -> None:
        # A writer in a tight loop must not starve the readers of its own process.
        self._published += 1
        if self._published % _PACE:
            await asyncio.sleep(0)
        else:
            await self._reception.catch_up()
        known = self._writers.get(topic_name(sample.topic))
        if known is None or (known[1].topic is not sample.topic and known[1].topic != sample.topic):
            known = await self._writer(sample.topic)
        writer, codec = known
        whole = codec.encode(sample)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.accept_within_s
        while True:
            try:
                # Neither waits nor does more than send a packet.
                writer.write(whole)
            except DDSException as error:
                busy = error.code == DDSException.DDS_RETCODE_TIMEOUT
                if not busy or loop.time() >= deadline:
                    self._refusal = f"{topic_name(sample.topic)} is not taken: {error}"
                    raise BusUnavailableError(
                        "DDS did not take the sample",
                        topic=topic_name(sample.topic),
                        problem=str(error),
                    ) from error
            except Exception as error:
                raise codec.misfit(error) from error
            else:
                self._refusal = ""
                return
            await asyncio.sleep(_OFFER_AGAIN_S)

    async def _writer(self, topic: TopicSchema) -> tuple[DataWriter[Any], TopicCodec]:
        name = topic_name(topic)
        async with self._meeting.setdefault(name, asyncio.Lock()):
            made = await self._reception.run(
                lambda: self._reception.open_writer(topic, writer_qualities(topic.kind))
            )
            if name not in self._writers:
                # A reader elsewhere takes what is written after it has heard of the writer.
                if await self._reception.run(lambda: self._reception.meets_others(made[0])):
                    await asyncio.sleep(self._settings.settle_s)
                self._writers[name] = made
            return made

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
        subscription = Subscription(sal_index=sal_index, limit=self._settings.queue_limit)
        opened: list[Opened] = []

        def open_all() -> bool:
            for topic in topics:
                qualities = reader_qualities(topic.kind, history, self._settings.reader_depth)
                opened.append(self._reception.open_reader(topic, qualities, subscription))
            return any(self._reception.meets_others(one.reader) for one in opened)

        def close_all() -> None:
            for one in opened:
                self._reception.close_reader(one)

        with_past = history is History.LATEST
        try:
            if await self._reception.run(open_all):
                await self._settle(subscription, with_past=with_past)
            await self._reception.run(lambda: subscription.go_live(with_past=with_past))
            yield subscription
        finally:
            subscription.close()
            self._reception.post(close_all)

    async def _settle(self, subscription: Subscription, *, with_past: bool) -> None:
        """Wait until writers elsewhere know the readers and have sent what they keep."""
        before = -1
        for _ in range(_SETTLE_ROUNDS):
            if subscription.gathered == before:
                return
            before = subscription.gathered
            await asyncio.sleep(self._settings.settle_s)
            if not with_past:
                return

    @override
    def record(
        self, topics: Collection[TopicSchema], *, group: str
    ) -> AbstractAsyncContextManager[Recording]:
        return self._recordings.join(topics, group=group)
