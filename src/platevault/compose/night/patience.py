"""An observatory does not end because a broker is away: its samples wait."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager

from typing_extensions import override

from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import History, Recording, SampleBus, Subscription
from platevault.runtime.retry import Backoff, retry

_PAUSES = Backoff(first_s=0.1, ceiling_s=2.0)


class PatientSampleBus(SampleBus):
    """A bus whose `publish` goes on, with the same sequence number, until the transport takes it.

    Parameters
    ----------
    bus
        Does the work.
    clock
        Time of the pauses.
    """

    def __init__(self, *, bus: SampleBus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock

    @override
    async def publish(self, sample: Sample) -> None:
        await retry(lambda: self._bus.publish(sample), clock=self._clock, backoff=_PAUSES)

    @override
    def subscribe(
        self,
        topics: Collection[TopicSchema],
        *,
        history: History,
        sal_index: int = 0,
        recall_s: float = 0.0,
    ) -> AbstractAsyncContextManager[Subscription]:
        return self._bus.subscribe(topics, history=history, sal_index=sal_index, recall_s=recall_s)

    @override
    def record(
        self, topics: Collection[TopicSchema], *, group: str
    ) -> AbstractAsyncContextManager[Recording]:
        return self._bus.record(topics, group=group)
