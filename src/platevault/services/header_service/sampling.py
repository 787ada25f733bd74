"""What topics said lately, by the time of the sample and not of its arrival.

References
----------
Header contract, section B1.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from platevault.domain.header_sources import TopicAddress, TopicPolicy
from platevault.domain.keywords import KeywordSet
from platevault.domain.samples import Sample, TopicSchema
from platevault.domain.timescales import tai_from_utc

#: Half of TAI-UTC [s]: a stamp that is further from its send time is of the other scale.
_SCALE_DOUBT_S = 18.5
#: Readings of one topic that are kept at most, whatever their age: 10 min at 100 Hz.
READING_LIMIT = 60_000


@dataclass(frozen=True, slots=True, order=True)
class Reading:
    """One sample, reduced to the fields that headers need.

    Attributes
    ----------
    tai
        Time of the sample [s, TAI].
    sent_tai, sequence
        When it was sent, and its number; they order samples of one time.
    topic
        Schema, for enumerations.
    fields
        Values by SAL name.
    """

    tai: float
    sent_tai: float
    sequence: int
    topic: TopicSchema = field(compare=False)
    fields: Mapping[str, Any] = field(compare=False)


class TopicBuffer:
    """Readings of one topic, oldest first; the newest before the horizon is always kept.

    Parameters
    ----------
    keep_s
        How far back readings are kept, from the newest [s].
    """

    def __init__(self, *, keep_s: float) -> None:
        self._keep_s = keep_s
        self._readings: list[Reading] = []

    def __len__(self) -> int:
        return len(self._readings)

    def add(self, reading: Reading) -> None:
        """Put a reading in its place; one that is there already changes nothing."""
        readings = self._readings
        if not readings or readings[-1] < reading:
            readings.append(reading)
        else:
            place = bisect_left(readings, reading)
            if place < len(readings) and readings[place] == reading:
                return
            insort(readings, reading)
        self._forget()

    def _forget(self) -> None:
        readings = self._readings
        horizon = readings[-1].tai - self._keep_s
        surplus = max(0, len(readings) - READING_LIMIT)
        old = 0
        while old + 1 < len(readings) and readings[old + 1].tai <= horizon:
            old += 1
        if max(old, surplus):
            del readings[: max(old, surplus)]

    def before(self, moment_tai: float) -> Reading | None:
        """Give the newest reading at or before a moment [s, TAI]."""
        place = bisect_right(self._readings, moment_tai, key=_time_of)
        return self._readings[place - 1] if place else None

    def after(self, moment_tai: float) -> Reading | None:
        """Give the oldest reading after a moment [s, TAI]."""
        place = bisect_right(self._readings, moment_tai, key=_time_of)
        return self._readings[place] if place < len(self._readings) else None

    def within(self, first_tai: float, last_tai: float) -> Sequence[Reading]:
        """Give the readings of a window [s, TAI], its ends included, oldest first."""
        begin = bisect_left(self._readings, first_tai, key=_time_of)
        end = bisect_right(self._readings, last_tai, key=_time_of)
        return self._readings[begin:end]


def _time_of(reading: Reading) -> float:
    return reading.tai


class Samples:
    """The buffers of every topic of a keyword set.

    Parameters
    ----------
    keywords
        Topics, the fields that are read, and how to read them.
    keep_s
        How far back readings are kept [s]: the longest exposure and a minute.
    """

    def __init__(self, *, keywords: KeywordSet, keep_s: float) -> None:
        self._keywords = keywords
        self._keep_s = keep_s
        self._buffers: dict[TopicAddress, TopicBuffer] = {}
        #: Set, and made anew, when a topic is heard for the first time.
        self.news = asyncio.Event()

    def take(self, sample: Sample) -> None:
        """Keep a sample; topics that no keyword needs are passed over."""
        address = TopicAddress(sample.topic.component, sample.sal_index, sample.topic.name)
        wanted = self._keywords.fields.get(address)
        if wanted is None:
            return
        buffer = self._buffer(address)
        is_first = not buffer
        buffer.add(reading_of(sample, self._keywords.policy(address), wanted=wanted))
        if is_first:
            self.news.set()
            self.news = asyncio.Event()

    def of(self, address: TopicAddress) -> TopicBuffer:
        """Give the buffer of a topic."""
        return self._buffer(address)

    def _buffer(self, address: TopicAddress) -> TopicBuffer:
        buffer = self._buffers.get(address)
        if buffer is None:
            buffer = self._buffers[address] = TopicBuffer(keep_s=self._keep_s)
        return buffer


def reading_of(
    sample: Sample, policy: TopicPolicy, *, wanted: frozenset[str] | None = None
) -> Reading:
    """Reduce a sample to a reading; ``wanted`` names the fields to keep, ``None`` keeps all."""
    fields = (
        sample.fields
        if wanted is None
        else {name: value for name, value in sample.fields.items() if name in wanted}
    )
    return Reading(
        tai=time_of(sample, policy),
        sent_tai=sample.sent_tai,
        sequence=sample.sequence,
        topic=sample.topic,
        fields=fields,
    )


def time_of(sample: Sample, policy: TopicPolicy) -> float:
    """Give the time of a sample [s, TAI]: its own stamp, or when it was sent if it has none."""
    for name in policy.time_fields:
        stamp = sample.fields.get(name)
        if not isinstance(stamp, int | float) or not math.isfinite(stamp) or stamp <= 0:
            continue
        match policy.time_scale:
            case "UTC":
                return tai_from_utc(stamp)
            case "auto":
                converted = tai_from_utc(stamp)
                is_utc = abs(converted - sample.sent_tai) < _SCALE_DOUBT_S
                is_tai = abs(stamp - sample.sent_tai) < _SCALE_DOUBT_S
                return converted if is_utc and not is_tai else float(stamp)
            case _:
                return float(stamp)
    return sample.sent_tai
