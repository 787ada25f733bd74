"""Finds the value of a source at a moment: which reading, which element, which conversions.

References
----------
Header contract, sections A3, B1 and B6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from platevault.domain.header_sources import TopicAddress, TopicMode, TopicPolicy, TopicSource
from platevault.domain.headers import Collected
from platevault.domain.keyed_lists import split_list, split_pairs
from platevault.domain.keywords import Capture, KeywordSet
from platevault.services.header_service.conversions import (
    BLOCK_S,
    DoesNotApplyError,
    ExpiredError,
    Found,
    Located,
    NoValueError,
    between,
    block_element,
    converted,
    enum_name,
    period_of,
)
from platevault.services.header_service.exposures import (
    SHUTTER_CLOSED,
    SHUTTER_OPENS,
    ExposureEvents,
)
from platevault.services.header_service.sampling import Reading, Samples

#: The shutter may be told to open this long before the start of acquisition [s]; rough.
_SHUTTER_EARLY_S = 1.0
#: ... and be told closed this long after the start of readout [s]; rough.
_SHUTTER_LATE_S = 1.0
_UNKNOWN = "UNKNOWN"


class Evaluation:
    """Values of one exposure.

    Parameters
    ----------
    keywords
        Policies of the topics.
    samples
        Readings of all topics.
    events
        Events of the exposure.
    missed
        Nobody may have listened at its moments: where telemetry has no sample of a moment, the
        first one after it stands in, within the age limit, and is called defaulted.
    """

    def __init__(
        self,
        *,
        keywords: KeywordSet,
        samples: Samples,
        events: ExposureEvents,
        missed: bool = False,
    ) -> None:
        self._missed = missed
        self._keywords = keywords
        self._samples = samples
        self._events = events
        self._lists: dict[tuple[int, str], list[str]] = {}

    def locate(
        self, source: TopicSource, capture: Capture, max_age_s: float | None = None
    ) -> Located:
        """Find the reading that stands for a capture.

        Parameters
        ----------
        source
            Where to look.
        capture
            Which moment.
        max_age_s
            Age from which it is stale [s]; ``None`` takes the topic's own.
        """
        policy = self._keywords.policy(source.address)
        moment = self._events.moment(capture)
        if policy.mode is TopicMode.IMAGE:
            carrier = self._events.carrier(source.topic, source.field)
            if carrier is None:
                return _nothing(source, moment or 0.0, f"no {source.topic} of this image")
            return Located(carrier[0], carrier[1], carrier[0].tai if moment is None else moment)
        if moment is None:
            return _nothing(source, 0.0, f"the image has no moment {capture}")
        age_limit = policy.max_age_s if max_age_s is None else max_age_s
        if source.at_capture or policy.mode is TopicMode.BLOCK:
            return self._locate_block(source, policy, moment, age_limit)
        return self._locate_sample(source, policy, moment, age_limit)

    def _locate_sample(
        self, source: TopicSource, policy: TopicPolicy, moment: float, age_limit: float | None
    ) -> Located:
        buffer = self._samples.of(source.address)
        before, after = buffer.before(moment), buffer.after(moment)
        if policy.mode is TopicMode.STATE or any(step.name == "state" for step in source.steps):
            age_limit = None
        fresh = before is not None and (age_limit is None or moment - before.tai <= age_limit)
        if before is not None and fresh:
            if policy.mode is TopicMode.INTERPOLATE and after is not None and age_limit is not None:
                gap = after.tai - before.tai
                if 0.0 < gap <= 2 * age_limit:
                    part = (moment - before.tai) / gap
                    return Located(before, source.field, moment, after, part)
            return Located(before, source.field, moment)
        if after is not None and after.tai - moment <= policy.ahead_s:
            return Located(after, source.field, moment)
        if self._missed and after is not None and age_limit is not None:
            return _second_best(after, source, moment, age_limit)
        if before is None:
            return _nothing(source, moment, f"{source.component} never sent {source.topic}")
        return _stale(before, source, moment, age_limit)

    def _locate_block(
        self, source: TopicSource, policy: TopicPolicy, moment: float, age_limit: float | None
    ) -> Located:
        buffer = self._samples.of(source.address)
        before = buffer.before(moment)
        if before is None:
            after = buffer.after(moment)
            if after is not None and after.tai - moment <= policy.ahead_s:
                return Located(after, source.field, moment)
            if self._missed and after is not None and age_limit is not None:
                return _second_best(after, source, moment, age_limit)
            return _nothing(source, moment, f"{source.component} never sent {source.topic}")
        if age_limit is not None and moment - (before.tai + BLOCK_S) > age_limit:
            return _stale(before, source, moment, age_limit)
        return Located(before, source.field, moment)

    def value(self, source: TopicSource, located: Located, sensor: str = "") -> Found:
        """Take the value out of a located reading; ``sensor`` is a compact name, ``R22S01``."""
        if located.failure is not None:
            return located.failure
        assert located.reading is not None
        try:
            raw = self._selected(source, located, sensor)
            return located.found(
                converted(raw, source, located),
                Collected.DEFAULTED if located.stands_in else Collected.OK,
                located.stands_in,
            )
        except DoesNotApplyError as reason:
            return located.found(None, Collected.OK, str(reason))
        except ExpiredError as reason:
            return located.found(None, Collected.STALE, str(reason))
        except NoValueError as reason:
            return located.found(None, Collected.MISSING, str(reason))
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            problem = f"{source} cannot be used: {error}"
            return located.found(None, Collected.REJECTED, problem)

    def sensors(self, located: Located) -> Sequence[str]:
        """List the sensors that a reading speaks of, compact names."""
        if located.reading is None:
            return ()
        return self._list(located.reading, _locations(located.reading))

    def _selected(self, source: TopicSource, located: Located, sensor: str) -> Any:
        reading = located.reading
        assert reading is not None
        raw = reading.fields.get(located.field)
        if raw is None:
            raise NoValueError(f"{source.topic} has no {located.field}")
        if source.key:
            keys = reading.fields.get(located.field.replace("Values", "Keys"), "")
            pairs = split_pairs(keys, raw)
            if source.key not in pairs:
                raise NoValueError(f"the take command had no {source.key}")
            return pairs[source.key]
        if source.per_sensor:
            return self._of_sensor(reading, located.field, raw, sensor)
        if source.at_capture:
            return block_element(raw, located, period_of(source.steps))
        value = _element(raw, source)
        if located.following is not None:
            following = _element(located.following.fields.get(located.field), source)
            return between(value, following, located.part, period_of(source.steps))
        return value

    def _of_sensor(self, reading: Reading, name: str, raw: Any, sensor: str) -> Any:
        places = self._list(reading, _locations(reading))
        values = self._list(reading, name) if isinstance(raw, str) else raw
        place = next((places.index(one) for one in _spellings(sensor) if one in places), None)
        if place is None:
            raise NoValueError(f"{reading.topic.name} does not name {sensor}")
        if not isinstance(values, Sequence):
            values = [values]
        if place >= len(values):
            raise NoValueError(f"{reading.topic.name}.{name} has no element {place}")
        return values[place]

    def _list(self, reading: Reading, name: str) -> list[str]:
        key = (id(reading), name)
        if key not in self._lists:
            parts = split_list(str(reading.fields.get(name) or ""))
            if name in {"ccdLocation", "location"}:
                parts = [part.replace("/", "").replace("_", "") for part in parts]
            self._lists[key] = parts
        return self._lists[key]

    # --- windows ----------------------------------------------------------------------------------

    def window(self) -> tuple[float, float] | None:
        """Give the time the shutter was open [s, TAI]: of a dark, the integration."""
        start = self._events.moment(Capture.START)
        if start is None:
            return None
        readout = self._events.moment(Capture.READOUT)
        last = readout if readout is not None else start
        opened = self._shutter(SHUTTER_OPENS, start - _SHUTTER_EARLY_S, last)
        closed = self._shutter(SHUTTER_CLOSED, start, last + _SHUTTER_LATE_S)
        return (
            opened[0] if opened else start,
            closed[-1] if opened and closed else last,
        )

    def _shutter(self, topic: str, first: float, last: float) -> list[float]:
        address = TopicAddress(self._keywords.camera_component, self._keywords.sal_index, topic)
        return [reading.tai for reading in self._samples.of(address).within(first, last)]

    def monitored(self, source: TopicSource) -> Found:
        """Give the statistic of a source over the time the shutter was open."""
        window = self.window()
        if window is None:
            return Found(None, Collected.MISSING, "the image has no start")
        buffer = self._samples.of(source.address)
        before = buffer.before(window[0])
        readings = [*([before] if before is not None else []), *buffer.within(*window)]
        if not readings:
            return Found(None, Collected.MISSING, f"{source.component} never sent {source.topic}")
        raws = [reading.fields.get(source.field) for reading in readings]
        known = [
            (raw, reading)
            for raw, reading in zip(raws, readings, strict=True)
            if isinstance(raw, int | float) and math.isfinite(raw)
        ]
        told = [
            pair for pair in known if enum_name(pair[1], source.field, pair[0]) != _UNKNOWN
        ] or known
        if not told:
            return Found(None, Collected.REJECTED, f"{source} has no number")
        raw, reading = _STATISTICS[source.monitor](told)
        located = Located(reading, source.field, window[0])
        try:
            return located.found(converted(raw, source, located))
        except (NoValueError, TypeError, ValueError) as error:
            return located.found(None, Collected.REJECTED, str(error))


_Told = Sequence[tuple[float, Reading]]


def _mean(told: _Told) -> tuple[float, Reading]:
    return math.fsum(raw for raw, _ in told) / len(told), told[-1][1]


_STATISTICS: Mapping[str, Callable[[_Told], tuple[float, Reading]]] = {
    "max": lambda told: max(told, key=lambda pair: pair[0]),
    "min": lambda told: min(told, key=lambda pair: pair[0]),
    "mean": _mean,
    "latest": lambda told: told[-1],
}


def _nothing(source: TopicSource, moment: float, why: str) -> Located:
    return Located(None, source.field, moment, failure=Found(None, Collected.MISSING, why))


def _stale(
    reading: Reading, source: TopicSource, moment: float, age_limit: float | None
) -> Located:
    age = round(moment - reading.tai, 6)
    which = "old" if age >= 0 else "after the moment"
    problem = f"{abs(age):.3f} s {which}, limit {age_limit} s"
    return Located(
        reading,
        source.field,
        moment,
        failure=Found(None, Collected.STALE, problem, reading.tai, age),
    )


def _second_best(reading: Reading, source: TopicSource, moment: float, age_limit: float) -> Located:
    late_s = reading.tai - moment
    if late_s > age_limit:
        return _stale(reading, source, moment, age_limit)
    return Located(
        reading, source.field, moment, stands_in=f"sampled {late_s:.3f} s after the moment"
    )


def _locations(reading: Reading) -> str:
    return "ccdLocation" if "ccdLocation" in reading.fields else "location"


def _spellings(sensor: str) -> tuple[str, ...]:
    """Names under which a topic may know a sensor: the halves of a wavefront CCD share it."""
    if sensor[3:5] == "SW":
        return sensor, f"{sensor[:5]}0", sensor[:5]
    return (sensor,)


def _element(raw: Any, source: TopicSource) -> Any:
    if source.element is None:
        if isinstance(raw, Sequence) and not isinstance(raw, str) and len(raw) == 1:
            return raw[0]
        return raw
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        if source.element == 0:
            return raw
        raise NoValueError(f"{source} is no array")
    return raw[source.element]
