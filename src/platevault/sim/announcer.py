"""Puts what devices say on the bus, stamped with device time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from platevault.domain.samples import TopicKind, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import SampleBus
from platevault.sal.schema import Interfaces, UnknownTopicError
from platevault.sal.topics import TopicWriter, TopicWriters
from platevault.sim.telemetry import Said


class SalAnnouncer:
    """Publishes samples of many components, with one writer for each topic and index.

    Parameters
    ----------
    bus
        Where samples go.
    interfaces
        Topics of the components.
    clock
        Device time, the stamp of every sample.
    """

    def __init__(self, *, bus: SampleBus, interfaces: Interfaces, clock: Clock) -> None:
        self._interfaces = interfaces
        self._writers = TopicWriters(bus=bus, clock=clock, origin=os.getpid())

    async def say(self, said: Said) -> None:
        """Publish one sample, stamped with the present device time."""
        await self._writer(said, self._topic(said)).write(**said.fields)

    async def say_known(self, said: Said) -> None:
        """Publish what the component's interface has of a sample; nothing if it lacks the topic."""
        try:
            topic = self._topic(said)
        except UnknownTopicError:
            return
        await self._writer(said, topic).write(**_fitted(topic, said.fields))

    def _topic(self, said: Said) -> TopicSchema:
        try:
            return self._interfaces.topic(said.component, f"logevent_{said.topic}")
        except UnknownTopicError:
            return self._interfaces.topic(said.component, said.topic)

    def _writer(self, said: Said, topic: TopicSchema) -> TopicWriter:
        identity = f"{said.component}:{said.index}" if topic.indexed else said.component
        return self._writers.writer(topic, identity=identity, sal_index=said.index)


def _fitted(topic: TopicSchema, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the topic does not have; a list of one becomes a scalar where it is one."""
    assert topic.kind in {TopicKind.EVENT, TopicKind.TELEMETRY}
    fitted: dict[str, Any] = {}
    for field in topic.fields:
        if field.name not in fields:
            continue
        value = fields[field.name]
        scalar = field.count == 1 and isinstance(value, list) and len(value) == 1
        fitted[field.name] = value[0] if scalar else value
    return fitted
