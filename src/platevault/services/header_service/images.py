"""One exposure on its way to a header, and when its header is due.

References
----------
Header contract, sections A2, B2 and B4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from platevault.domain.header_sources import TopicMode, TopicSource
from platevault.domain.headers import HeaderDocument
from platevault.domain.keywords import Capture, KeywordSet
from platevault.services.header_service.building import Place
from platevault.services.header_service.conversions import Found
from platevault.services.header_service.exposures import (
    END,
    END_READOUT,
    READOUT,
    START,
    Correction,
    ExposureEvents,
)
from platevault.services.header_service.sampling import Reading


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a header waits for what; all by the clock of the service.

    Attributes
    ----------
    margin_s
        Beyond the time to failure that the exposure itself gives [s].
    settle_s
        After the closing event, for events and samples that were sent before it [s].
    end_wait_s
        After the end of readout, for the closing event, which comes 0.3 s later (header contract,
        A2) [s]. Less than image writers wait for a header.
    recover_s
        After the start of the component, for the past that the bus keeps, and for telemetry that
        was never heard and exposures lack that began earlier [s]. Together with ``end_wait_s`` less
        than image writers wait for a header.
    """

    margin_s: float = 30.0
    settle_s: float = 0.5
    end_wait_s: float = 5.0
    recover_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Closing:
    """Which events complete an exposure of a camera.

    Attributes
    ----------
    topic
        The event that closes it.
    wanted
        All events that its keywords read.
    """

    topic: str
    wanted: frozenset[str]

    @classmethod
    def of(cls, keywords: KeywordSet, *, known: Collection[str]) -> Closing:
        """Derive it from the keywords; ``known`` names the topics that the camera has."""
        wanted = {START, READOUT}
        for row in keywords.captured:
            source = row.source
            if (
                isinstance(source, TopicSource)
                and row.capture is Capture.END
                and source.component == keywords.camera_component
                and keywords.policy(source.address).mode is TopicMode.IMAGE
            ):
                wanted.add(source.topic)
        wanted.intersection_update(known)
        return cls(END if END in wanted else READOUT, frozenset(wanted))


@dataclass(eq=False)
class OpenImage:
    """An exposure that is followed.

    Attributes
    ----------
    events
        What the camera said of it.
    arrived_tai
        When the service heard of it first [s, TAI].
    resumed
        It was open before a restart.
    missed
        It may have begun before the component listened: what was said then may be unknown.
    changed
        Set by each new event or correction.
    arrivals
        When each event came [s, TAI].
    kept
        Values from before a restart, or of the versions that are out.
    document
        Newest version that is out.
    corrections_taken
        How many corrections the version in hand has.
    task
        Who makes its header.
    """

    events: ExposureEvents
    arrived_tai: float
    resumed: bool = False
    missed: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    arrivals: dict[str, float] = field(default_factory=dict)
    kept: dict[Place, Found] = field(default_factory=dict)
    document: HeaderDocument | None = None
    corrections_taken: int = 0
    task: asyncio.Task[None] | None = None
    _waiting: list[tuple[int, asyncio.Future[int]]] = field(default_factory=list)

    def take(self, topic: str, reading: Reading, now_tai: float) -> bool:
        """Keep an event; ``False`` if it says nothing new."""
        if not self.events.take(topic, reading):
            return False
        self.arrivals[topic] = now_tai
        self.changed.set()
        return True

    def is_out(self) -> bool:
        """Tell whether a version is out."""
        return self.document is not None

    def correct(self, correction: Correction) -> asyncio.Future[int]:
        """Add a correction; gives the version that has it, once that is out."""
        self.events.corrections.append(correction)
        self.changed.set()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((len(self.events.corrections), future))
        return future

    def out(self, document: HeaderDocument) -> None:
        """Take note that a version is out."""
        self.document = document
        for needed, future in self._waiting:
            if needed <= self.corrections_taken and not future.done():
                future.set_result(document.version)
        self._waiting = [pair for pair in self._waiting if not pair[1].done()]

    def fail(self, error: Exception) -> None:
        """Take note that no further version will come."""
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    def wait_s(self, closing: Closing, timing: Timing, now_tai: float) -> float:
        """Tell how long to wait for more events [s]; 0 when the header is to be built."""
        present = self.events.events.keys()
        if closing.topic == END and closing.wanted <= present:
            return 0.0
        due_tai = self.arrived_tai + timing.margin_s
        start = self.events.events.get(START)
        if start is not None:
            due_tai = self.arrivals[START] + _patience_s(start) + timing.margin_s
        if END_READOUT in present and closing.topic == END:
            due_tai = min(due_tai, self.arrivals[END_READOUT] + timing.end_wait_s)
        if closing.topic in present:
            due_tai = min(due_tai, self.arrivals[closing.topic] + timing.settle_s)
        return max(0.0, due_tai - now_tai)

    @property
    def last_arrival_tai(self) -> float:
        """When its newest event came [s, TAI]."""
        return max(self.arrivals.values(), default=self.arrived_tai)


def _patience_s(start: Reading) -> float:
    """Give the time to failure that an exposure states; else its exposure time [s]."""
    for name in ("timeout", "exposureTime"):
        value = start.fields.get(name)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return 0.0
