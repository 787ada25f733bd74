"""Write one topic: values checked, private fields filled, numbers and stamps in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import structlog

from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import BusUnavailableError, SampleBus
from platevault.sal.schema import rev_code
from platevault.sal.values import complete_fields, same_values

#: Least distance of two stamps of a topic [s]; a double still tells them apart for decades.
STAMP_STEP_S = 1e-6
#: First wait before a sample that the bus did not take is offered again [s]; doubled each time.
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0

_log = structlog.get_logger(__name__)


class TopicWriter:
    """The one writer of a topic within a component instance or a remote.

    Parameters
    ----------
    topic
        What is written.
    bus
        Where it goes.
    clock
        Gives the stamps.
    sal_index
        Instance of the component; 0 if it is not indexed, or if each sample says its ``salIndex``.
    identity, origin
        Who writes: ``Name[:index]`` or ``user@host``, and the process id.
    numbers
        Sequence numbers in use order; 1, 2, 3 ... unless given.
    retry_within_s
        How long a sample is offered again, with the same number, while the bus is unavailable [s].
    """

    def __init__(
        self,
        *,
        topic: TopicSchema,
        bus: SampleBus,
        clock: Clock,
        identity: str,
        origin: int,
        sal_index: int = 0,
        numbers: Iterator[int] | None = None,
        retry_within_s: float = 10.0,
    ) -> None:
        self.topic = topic
        self._bus = bus
        self._clock = clock
        self._sal_index = sal_index
        self._identity = identity
        self._origin = origin
        self._numbers = numbers if numbers is not None else itertools.count(1)
        self._retry_within_s = retry_within_s
        self._lock = asyncio.Lock()
        self._last: Sample | None = None
        self._last_stamp = 0.0

    @property
    def last(self) -> Sample | None:
        """The newest sample that the bus took."""
        return self._last

    def continue_after(self, stamp_tai: float) -> None:
        """Give only stamps later than ``stamp_tai`` [s, TAI], the last of a former writer."""
        self._last_stamp = max(self._last_stamp, stamp_tai)

    async def write(self, /, **fields: Any) -> Sample:
        """Publish a sample; fields that are not given have their defaults.

        Text that is too long is cut at a whole character, which is logged; short arrays are padded
        with defaults.

        Raises
        ------
        UnknownFieldError, FieldValueError
            Nothing was published. Do not retry.
        BusUnavailableError
            The bus did not take it in time; it may have gone out. Write again if it still matters.
        """
        async with self._lock:
            return await self._send(None, *self._completed(fields))

    async def write_numbered(self, sequence: int, /, **fields: Any) -> Sample:
        """Publish a sample under a number that the caller knows, as a reply does; like `write`."""
        async with self._lock:
            return await self._send(sequence, *self._completed(fields))

    async def write_if_changed(self, /, **fields: Any) -> bool:
        """Publish unless the last sample had the same fields; tell whether it did; like `write`."""
        async with self._lock:
            index, values = self._completed(fields)
            last = self._last
            if last is not None and last.sal_index == index and same_values(last.fields, values):
                return False
            await self._send(None, index, values)
            return True

    def _completed(self, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        index = self._sal_index
        if self.topic.indexed and index == 0:
            fields = dict(fields)
            index = int(fields.pop("salIndex", 0))
        values, changed = complete_fields(self.topic, fields)
        for name in changed:
            _log.warning(
                "Text changed to fit its field",
                component=self.topic.component,
                topic=self.topic.sal_name,
                field=name,
                value=fields[name],
            )
        return index, values

    async def _send(self, sequence: int | None, index: int, values: dict[str, Any]) -> Sample:
        self._last_stamp = max(self._clock.now_tai(), self._last_stamp + STAMP_STEP_S)
        sample = Sample(
            topic=self.topic,
            fields=values,
            sal_index=index,
            sent_tai=self._last_stamp,
            sequence=next(self._numbers) if sequence is None else sequence,
            identity=self._identity,
            origin=self._origin,
            rev_code=self._rev_code,
        )
        await self._publish(sample)
        self._last = sample
        return sample

    async def _publish(self, sample: Sample) -> None:
        waited_s, wait_s = 0.0, _FIRST_WAIT_S
        while True:
            try:
                return await self._bus.publish(sample)
            except BusUnavailableError:
                if waited_s >= self._retry_within_s:
                    raise
            await self._clock.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    @cached_property
    def _rev_code(self) -> str:
        return rev_code(self.topic)


class TopicWriters:
    """The writers of a process, each made when it is first asked for.

    Parameters
    ----------
    bus
        Where everything goes.
    clock
        Gives the stamps.
    origin
        Process id.
    """

    def __init__(self, *, bus: SampleBus, clock: Clock, origin: int) -> None:
        self._bus = bus
        self._clock = clock
        self._origin = origin
        self._writers: dict[tuple[str, str, int, str], TopicWriter] = {}

    def writer(self, topic: TopicSchema, *, identity: str, sal_index: int = 0) -> TopicWriter:
        """Give the one writer of a topic under ``identity``; parameters as of `TopicWriter`."""
        key = (topic.component, topic.sal_name, sal_index, identity)
        known = self._writers.get(key)
        if known is None:
            known = self._writers[key] = TopicWriter(
                topic=topic,
                bus=self._bus,
                clock=self._clock,
                identity=identity,
                origin=self._origin,
                sal_index=sal_index,
            )
        return known
