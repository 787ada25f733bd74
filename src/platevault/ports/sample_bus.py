"""Typed SAL samples by key, on Kafka, DDS or in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from platevault.domain.errors import TransientError
from platevault.domain.samples import Sample, TopicSchema


class BusUnavailableError(TransientError):
    """The transport did not take or give a sample: retry with the same sequence number."""


class PastUnavailableError(BusUnavailableError):
    """The past did not come in time: subscribe again, and recall less of it."""


class SubscriberOverflowError(TransientError):
    """The subscriber was too slow and lost samples: subscribe again, with the latest as history.

    Raised after the samples that were still in hand.
    """


class History(Enum):
    """What a new subscriber gets of the past."""

    LATEST = auto()
    NONE = auto()


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples that were lost between two that a recorder got.

    Attributes
    ----------
    topic
        Topic that has the gap.
    sal_index
        Instance that wrote it.
    identity
        Writer whose numbers have the gap.
    first, last
        Missing sequence numbers, inclusive.
    """

    topic: TopicSchema
    sal_index: int
    identity: str
    first: int
    last: int


class Subscription(Protocol):
    """What a subscriber has not taken yet, oldest first: the past, then live samples."""

    @property
    def past_left(self) -> int:
        """How many samples of the past were not taken yet; 0 without history.

        These are at hand: taking them waits for no other.
        """

    def __aiter__(self) -> AsyncIterator[Sample]:
        """Iterate samples as they come."""

    async def __anext__(self) -> Sample:
        """Give the next sample; a cancelled wait loses nothing."""


class Recording(Protocol):
    """A place in a durable group."""

    def __aiter__(self) -> AsyncIterator[Sample | Gap]:
        """Iterate what follows the last commit, at least once."""

    async def commit(self) -> None:
        """Remember that all that was yielded is durable now."""


class SampleBus(Protocol):
    """Typed samples, keyed by (component, topic, salIndex).

    Order is per key and writer; none across keys or topics. A slow subscriber delays only itself;
    its queue is bounded and overflow is an error for that subscriber.
    """

    async def publish(self, sample: Sample) -> None:
        """Return once the transport has accepted the sample, whole or not at all.

        Raises
        ------
        BusUnavailableError
            It may have gone out. Retry with the same sequence number.
        """

    def subscribe(
        self,
        topics: Collection[TopicSchema],
        *,
        history: History,
        sal_index: int = 0,
        recall_s: float = 0.0,
    ) -> AbstractAsyncContextManager[Subscription]:
        """Receive samples of ``sal_index``, 0 for all.

        With `History.LATEST` entering completes once the past is in hand; then at most one sample
        per key, the newest still retained, then live ones, nothing lost or repeated at the seam.
        Absence means "unknown": a transport may forget a writer that is gone.

        With ``recall_s`` the past is more: every event and every sample of telemetry that the
        transport took within the last ``recall_s`` [s], by its own time, as far as it keeps them.
        Some keep none.
        """

    def record(
        self, topics: Collection[TopicSchema], *, group: str
    ) -> AbstractAsyncContextManager[Recording]:
        """Join a durable group that resumes at its last commit; what was lost is a `Gap`."""
