"""Conversions of a raw value, in the order in which its source names them.

References
----------
Header contract, sections A3 and B6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from platevault.domain.header_sources import Step, TopicSource
from platevault.domain.headers import Collected
from platevault.domain.timescales import isot, tai_from_utc
from platevault.services.header_service.sampling import Reading

#: Length of a block of samples [s] (ATPtg.mountPositions: 100 samples over 1 s).
BLOCK_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a source gives at a moment.

    Attributes
    ----------
    value
        The value, not yet typed; ``None`` if there is none.
    collected, problem
        Outcome, and why it is not `Collected.OK`.
    sample_tai, age_s
        Time of the sample, and its age at the capture [s].
    """

    value: Any
    collected: Collected = Collected.OK
    problem: str = ""
    sample_tai: float | None = None
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Located:
    """The reading that stands for a moment, before an element of it is taken.

    Attributes
    ----------
    reading
        The reading; ``None`` if there is none that may be used.
    field
        Name of the field in it.
    following, part
        The next reading, and how far the moment is on the way to it, 0 to 1.
    failure
        Why there is no reading.
    moment_tai
        The capture [s, TAI].
    stands_in
        Why the reading is only the second best; empty if it is the right one.
    """

    reading: Reading | None
    field: str
    moment_tai: float
    following: Reading | None = None
    part: float = 0.0
    failure: Found | None = None
    stands_in: str = ""

    def found(self, value: Any, collected: Collected = Collected.OK, problem: str = "") -> Found:
        """Give an outcome that carries the time of the reading."""
        if self.reading is None:
            return Found(value, collected, problem)
        tai = self.reading.tai
        return Found(value, collected, problem, tai, round(self.moment_tai - tai, 6))


class NoValueError(Exception):
    """The reading has no usable value; the text says why."""


class DoesNotApplyError(Exception):
    """The value says itself that the keyword does not apply."""


class ExpiredError(Exception):
    """The reading says itself that its time is over."""


def block_element(raw: Any, located: Located, period: float | None) -> Any:
    """Give the element of a block at the moment, between its neighbours."""
    assert located.reading is not None
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise NoValueError(f"{located.field} is no block")
    place = (located.moment_tai - located.reading.tai) / BLOCK_S * len(raw)
    first = min(max(math.floor(place + 1e-6), 0), len(raw) - 1)
    if first + 1 >= len(raw) or place < 0:
        return raw[first]
    return between(raw[first], raw[first + 1], max(place - first, 0.0), period)


def between(first: Any, second: Any, part: float, period: float | None) -> Any:
    """Interpolate; around the circle if ``period`` is given and the values are far apart."""
    numbers = isinstance(first, int | float) and isinstance(second, int | float)
    if not numbers or isinstance(first, bool) or not math.isfinite(second) or part <= 0.0:
        return first
    change = second - first
    if period is None or abs(change) <= period / 2:
        return first + part * change
    turn = (change + period / 2) % period - period / 2
    # From the nearer end, so that the result stays on the circle's branch of that end.
    return first + part * turn if part < 0.5 else second - (1.0 - part) * turn  # noqa: PLR2004


def period_of(steps: Sequence[Step]) -> float | None:
    """Give the period of an angle; ``None`` if the source is none."""
    for step in steps:
        if step.name == "wrap":
            low, dots, high = step.arguments[0].partition("..")
            return float(high) - float(low) if dots else float(low)
    return None


def enum_name(reading: Reading, name: str, raw: Any) -> str:
    """Give the name of a number of an enumeration; empty if it has none."""
    for schema in reading.topic.fields:
        if schema.name == name:
            return next((text for text, number in schema.enum.items() if number == raw), "")
    return ""


def converted(raw: Any, source: TopicSource, located: Located) -> Any:
    """Apply the conversions of a source.

    Raises
    ------
    NoValueError, DoesNotApplyError, ExpiredError
        There is no value; the text says why.
    TypeError, ValueError
        The raw value has no such form.
    """
    assert located.reading is not None
    value = raw
    for step in source.steps:
        match step.name:
            case "scale":
                value = float(value) * float(step.arguments[0])
            case "add":
                value = value + type(value)(float(step.arguments[0]))
            case "enum":
                name = enum_name(located.reading, located.field, value)
                if not name:
                    raise ValueError(f"{value!r} is no member of {step.arguments[0]}")
                value = name
            case "isot":
                if not isinstance(value, int | float) or not value > 0:
                    raise NoValueError(f"{source} was not set")
                value = isot(float(value))
            case "hex":
                value = f"{int(value):x}"
            case "wrap":
                value = _normal(float(value), step.arguments[0])
            case "nonempty" | "unless" | "only":
                _require(value, step)
            case "valid_until":
                _check_validity(step.arguments[0], located)
            case _:
                pass  # monitor and state chose the reading
    return value


def _normal(value: float, argument: str) -> float:
    low, dots, high = argument.partition("..")
    if not dots or not math.isfinite(value):
        return value
    span = float(high) - float(low)
    return (value - float(low)) % span + float(low)


def _require(value: Any, step: Step) -> None:
    if step.name == "nonempty":
        if not str(value).strip():
            raise NoValueError("the text is empty")
    elif step.name == "unless":
        refused = float(step.arguments[0])
        if float(value) == refused:
            raise NoValueError(f"{value} stands for unknown")
    elif str(value) not in step.arguments:
        raise DoesNotApplyError(f"{value} needs none")


def _check_validity(argument: str, located: Located) -> None:
    assert located.reading is not None
    name, scale = argument.split()
    limit = located.reading.fields.get(name)
    if not isinstance(limit, int | float) or not limit > 0:
        return
    until = tai_from_utc(limit) if scale == "UTC" else float(limit)
    if located.moment_tai > until:
        raise ExpiredError(f"expired {located.moment_tai - until:.3f} s before")
