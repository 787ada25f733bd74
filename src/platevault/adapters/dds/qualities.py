"""Qualities of service of each kind of topic.

References
----------
SAL over Kafka and DDS, section 13. Histories differ from its table on purpose: with the last
sample alone in a writer's queue, one that is written before its forerunner was acknowledged
displaces it. What a late joiner gets is a setting of its own, and that is the last sample.
"""

from __future__ import annotations

from cyclonedds.qos import Policy, Qos

from platevault.domain.samples import TopicKind
from platevault.ports.sample_bus import History

#: A writer never waits within the library; the bus offers the sample again.
_RELIABLE = Policy.Reliability.Reliable(0)
#: Samples of telemetry that a writer keeps for readers that are behind.
_TELEMETRY_DEPTH = 1000
_UNLIMITED = -1


def writer_qualities(kind: TopicKind) -> Qos:
    """Give the qualities of writers of a kind of topic."""
    policies = [_RELIABLE, Policy.WriterDataLifecycle(autodispose=False)]
    match kind:
        case TopicKind.EVENT:
            policies += [
                Policy.Durability.TransientLocal,
                Policy.History.KeepAll,
                Policy.DurabilityService(
                    0, Policy.History.KeepLast(1), _UNLIMITED, _UNLIMITED, _UNLIMITED
                ),
            ]
        case TopicKind.TELEMETRY:
            policies += [Policy.Durability.Volatile, Policy.History.KeepLast(_TELEMETRY_DEPTH)]
        case TopicKind.COMMAND | TopicKind.ACKCMD:
            policies += [Policy.Durability.Volatile, Policy.History.KeepAll]
    return Qos(*policies)


def reader_qualities(kind: TopicKind, history: History, depth: int) -> Qos:
    """Give the qualities of readers; a reader never refuses, so it never holds up a writer."""
    past = kind is TopicKind.EVENT and history is History.LATEST
    return Qos(
        _RELIABLE,
        Policy.Durability.TransientLocal if past else Policy.Durability.Volatile,
        Policy.History.KeepLast(depth),
    )
