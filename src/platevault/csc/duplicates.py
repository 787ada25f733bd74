"""Find out whether another process already is the component."""

from __future__ import annotations

from platevault.domain.errors import UsageError
from platevault.domain.samples import TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import History, SampleBus
from platevault.sal.timing import time_limit

#: How long another instance is listened for [s] (SAL over Kafka, section 10).
LISTEN_S = 3.0


class DuplicateCscError(UsageError):
    """Another process already is this component: end it first, or mend the index."""


async def refuse_duplicate(
    *, name: str, heartbeat: TopicSchema, sal_index: int, bus: SampleBus, clock: Clock
) -> None:
    """Listen for a sign of life of ``name`` before the first one of our own.

    Raises
    ------
    DuplicateCscError
        There was one. Do not retry.
    """
    try:
        async with (
            time_limit(clock, LISTEN_S),
            bus.subscribe([heartbeat], history=History.NONE, sal_index=sal_index) as beats,
        ):
            other = await anext(beats)
    except TimeoutError:
        return
    raise DuplicateCscError("The component runs already", component=name, origin=other.origin)
