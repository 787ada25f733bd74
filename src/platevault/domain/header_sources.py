"""Sources of header values: their grammar, and how their topics are read.

Parts are joined by blank, bar, blank::

    Component[:index].topic.field[selector] | step(argument) | ...

``{camera}`` stands for the camera's own component. Selectors: ``[n]`` element n, ``[at S]`` and
``[at R]`` the element at the capture time, ``[@ccd]`` the element of the sensor, ``[key=k]`` the
value of key k of the parallel list of keys. Steps: ``scale(f)``, ``add(n)``, ``enum(name)``,
``isot(TAI)``, ``hex``, ``wrap(360)`` or ``wrap(0..360)`` (an angle that is interpolated around the
circle), ``nonempty`` (empty text is no value), ``unless(v)`` (v is no value), ``only(A, B)``
(another value does not apply), ``monitor(max)`` (or min, mean, latest: over the time the shutter
was open), ``state`` (last value of a state topic), ``valid_until(field UTC)``.

Fixed sources: ``static: text``, ``config: setting``, ``camera: attribute``, ``detector:
attribute``, ``image: part of the name``, ``rule: name`` (computed, or known to the writer).

References
----------
Header contract, section B6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override

from platevault.domain.errors import UsageError

_TOPIC_SOURCE = re.compile(
    r"^(?P<component>\{camera\}|[A-Za-z]\w*)(?::(?P<index>\d+))?"
    r"\.(?P<topic>\w+)\.(?P<field>\w+)(?:\[(?P<selector>[^\]]+)\])?$"
)
_CALL = re.compile(r"^(\w+)(?:\((.*)\))?$")
_STEPS = {
    "scale": r"[-+.\deE]+",
    "add": r"[-+.\deE]+",
    "enum": r"\w+",
    "isot": r"TAI",
    "hex": r"",
    "wrap": r"\d+|-?\d+\.\.\d+",
    "nonempty": r"",
    "unless": r".+",
    "only": r".+",
    "monitor": r"max|min|mean|latest",
    "state": r"",
    "valid_until": r"\w+ (UTC|TAI)",
}


class InvalidKeywordsError(UsageError):
    """A keyword file contradicts its grammar: mend the named line; nothing was loaded."""


class FixedKind(StrEnum):
    """Sources that are no topic."""

    STATIC = "static"
    CONFIG = "config"
    CAMERA = "camera"
    DETECTOR = "detector"
    IMAGE = "image"
    RULE = "rule"


@dataclass(frozen=True, slots=True)
class Step:
    """One conversion, with its arguments as text."""

    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicSource:
    """A field of a topic; see the grammar of the module.

    Attributes
    ----------
    component, sal_index, topic, field
        Which field; ``sal_index`` is 0 if the component is not indexed.
    element
        Which element of an array; ``None`` takes the whole value.
    at_capture
        Take the element of the block at the capture time.
    per_sensor
        Take the element of the sensor.
    key
        Take the value of this key of the parallel list of keys; empty takes the whole value.
    steps
        Conversions, in order.
    """

    component: str
    sal_index: int
    topic: str
    field: str
    element: int | None = None
    at_capture: bool = False
    per_sensor: bool = False
    key: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def address(self) -> TopicAddress:
        """Its topic."""
        return TopicAddress(self.component, self.sal_index, self.topic)

    @property
    def monitor(self) -> str:
        """Statistic over the time the shutter was open; empty if it is a value at a moment."""
        return next((step.arguments[0] for step in self.steps if step.name == "monitor"), "")

    @override
    def __str__(self) -> str:
        index = f":{self.sal_index}" if self.sal_index else ""
        selector = (
            f"[key={self.key}]"
            if self.key
            else "[@ccd]"
            if self.per_sensor
            else f"[{self.element}]"
            if self.element is not None
            else ""
        )
        return f"{self.component}{index}.{self.topic}.{self.field}{selector}"


@dataclass(frozen=True, slots=True)
class FixedSource:
    """A source that is no topic."""

    kind: FixedKind
    text: str

    @override
    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


Source = TopicSource | FixedSource


@dataclass(frozen=True, slots=True, order=True)
class TopicAddress:
    """One topic of one component instance."""

    component: str
    sal_index: int
    topic: str


class TopicMode(StrEnum):
    """How the samples of a topic stand for a moment."""

    IMAGE = "image"
    """The sample that names the image."""
    STATE = "state"
    """The last one before the moment, however old."""
    SAMPLE = "sample"
    """The last one before the moment, unless it is stale."""
    INTERPOLATE = "interpolate"
    """Between the two around the moment."""
    BLOCK = "block"
    """Arrays over one second from the sample's time."""


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """How to read a topic.

    Attributes
    ----------
    pattern
        ``Component.topic``; ``*`` stands for any.
    mode
        How its samples stand for a moment.
    time_fields
        Fields with the time of the sample, the first that is set; none takes the send time.
    time_scale
        ``TAI``, ``UTC``, or ``auto``: the one that is nearer to the send time.
    max_age_s
        Age from which a value is stale [s]; ``None`` is never.
    ahead_s
        A first sample that comes up to this much after the moment still counts [s].
    """

    pattern: str
    mode: TopicMode
    time_fields: tuple[str, ...] = ()
    time_scale: str = "TAI"
    max_age_s: float | None = None
    ahead_s: float = 0.0

    def matches(self, component: str, topic: str) -> bool:
        """Tell whether it speaks of a topic."""
        wanted_component, _, wanted_topic = self.pattern.partition(".")
        return wanted_component in {"*", component} and wanted_topic in {"*", topic}


#: What a topic without a policy gets: telemetry limit of the header contract, section B1.6.
DEFAULT_POLICY = TopicPolicy("*.*", TopicMode.SAMPLE, ("timestamp",), "TAI", 5.0)


@dataclass(frozen=True, slots=True)
class Limit:
    """One check of a value, with its arguments as text."""

    name: str
    arguments: tuple[str, ...] = ()


def parse_source(text: str) -> Source:
    """Read the text of a source.

    Raises
    ------
    InvalidKeywordsError
        It does not follow the grammar. Mend the text.
    """
    kind, colon, rest = text.partition(": ")
    if colon and kind in set(FixedKind):
        return FixedSource(FixedKind(kind), rest.strip())
    head, *calls = text.split(" | ")
    match = _TOPIC_SOURCE.match(head.strip())
    if match is None:
        raise InvalidKeywordsError(
            "Not a source", value=text, expected="Component.topic.field or static: text"
        )
    selector = match["selector"] or ""
    return TopicSource(
        component=match["component"],
        sal_index=int(match["index"] or 0),
        topic=match["topic"],
        field=match["field"],
        element=int(selector) if selector.isdigit() else None,
        at_capture=selector in {"at S", "at R"},
        per_sensor=selector == "@ccd",
        key=_key(selector, text),
        steps=tuple(Step(*parse_call(call, _STEPS)) for call in calls),
    )


def _key(selector: str, text: str) -> str:
    if not selector or selector.isdigit() or selector in {"at S", "at R", "@ccd"}:
        return ""
    name, equals, key = selector.partition("=")
    if name != "key" or not equals or not key:
        raise InvalidKeywordsError(
            "Not a selector", value=text, expected="[n], [at S], [at R], [@ccd] or [key=k]"
        )
    return key


def parse_call(text: str, known: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Read ``name(argument, argument)``.

    Parameters
    ----------
    text
        The text.
    known
        Names, each with the pattern of what stands between its brackets.

    Raises
    ------
    InvalidKeywordsError
        The name is not known or its arguments are wrong. Mend the text.
    """
    match = _CALL.match(text.strip())
    if match is None or match[1] not in known:
        raise InvalidKeywordsError("Not a step or limit", value=text, expected=sorted(known))
    inside = match[2] or ""
    if re.fullmatch(known[match[1]], inside) is None:
        raise InvalidKeywordsError("Wrong arguments", value=text, expected=known[match[1]])
    return match[1], tuple(part.strip() for part in inside.split(",")) if inside else ()
