"""The keyword schema: which header keywords there are, and where each value comes from.

The grammar of sources is that of `platevault.domain.header_sources`.

References
----------
LSE-400; header contract, section B6; raw-fits contract, sections 5, 6 and 16.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TypeVar

from platevault.domain.camera import Camera
from platevault.domain.header_sources import (
    DEFAULT_POLICY,
    FixedKind,
    FixedSource,
    InvalidKeywordsError,
    Limit,
    Source,
    TopicAddress,
    TopicMode,
    TopicPolicy,
    TopicSource,
    parse_call,
    parse_source,
)
from platevault.domain.headers import HeaderValue

#: Set whose rows apply to a camera whose own set has none.
GENERIC_SET = "GenericCamera"
#: Titles of the card groups of HDU 0, in order (raw-fits contract, sec. 16); structure has none.
GROUP_TITLES: Mapping[str, str] = {
    "structure": "",
    "date": "Date, night and basic image information",
    "telescope": "Telescope info, location, observer",
    "pointing": "Pointing info, etc.",
    "identity": "Image-identifying used to build OBS-ID",
    "keys": "Additional Keys Information from Camera",
    "sequence": "Image sequence numbers",
    "stand": "Test Stand information",
    "common": "Information from Camera (Common block)",
    "camera": "Information from Camera",
    "filter": "Filter/grating information",
    "exposure": "Exposure-related information",
    "weather": "Weather information",
    "header": "Header information",
    "simulation": "Hierarch information for CSC Simulation Mode",
    "stutter": "Stuttered Image Support",
    "shutter": "shutter profile",
    "checksums": "Checksums",
    "segment": "Segment",
}
_COLUMNS = [
    "keyword", "section", "group", "type", "unit", "capture", "source", "default", "required",
    "absent", "limits", "max_age_s", "sets", "comment",
]  # fmt: skip
_TOPIC_COLUMNS = ["topic", "mode", "time_field", "time_scale", "max_age_s", "ahead_s"]
_LIMITS = {
    "range": r"-?[\d.]*\.\.-?[\d.]*",
    "length": r"\d+",
    "values": r".+",
    "pattern": r"raft|slot",
    "time": r"",
    "day": r"",
}

_EnumT = TypeVar("_EnumT", bound=StrEnum)


class Section(StrEnum):
    """Where a keyword stands."""

    PRIMARY = "PRIMARY"
    SENSOR = "SENSOR"
    SEGMENT = "SEGMENT"


class Capture(StrEnum):
    """When a value is taken."""

    START = "S"
    """Start of acquisition."""
    READOUT = "R"
    """Start of readout."""
    END = "E"
    """End of image telemetry."""
    STATIC = "static"
    COMPUTED = "computed"
    WRITER = "writer"
    """Known to the image writer only."""
    FILE = "file"
    """Made with the file itself: structure, checksums."""
    DROPPED = "dropped"
    """In a camera's own file: take the keyword out."""


class Required(StrEnum):
    """Who needs a keyword."""

    YES = "yes"
    """Ingest fails without it."""
    VISIT = "visit"
    """No correct visit or exposure record without it."""
    NO = "no"


@dataclass(frozen=True, slots=True)
class Keyword:
    """One row of the schema.

    Attributes
    ----------
    keyword
        FITS keyword; hierarchical ones begin with ``HIERARCH``.
    section, group
        Where its card stands.
    type
        ``bool``, ``int``, ``float`` or ``str``.
    unit
        Unit text; empty if it has none.
    capture
        When it is taken.
    source, default
        Where from; and where from if that gives nothing, ``None`` if nowhere.
    required
        Who needs it.
    omitted
        Without a value there is no card; else the card is undefined.
    limits
        Checks of its value.
    max_age_s
        Age from which a value is stale [s]; ``None`` takes the topic's.
    sets
        Keyword sets it belongs to, ``*`` for all, ``Set@aux`` for one telescope only.
    comment
        Text of its card.
    """

    keyword: str
    section: Section
    group: str
    type: str
    unit: str
    capture: Capture
    source: Source
    default: Source | None
    required: Required
    omitted: bool
    limits: tuple[Limit, ...]
    max_age_s: float | None
    sets: tuple[str, ...]
    comment: str


@dataclass(frozen=True)
class KeywordSet:
    """The keywords of one camera, in card order.

    Attributes
    ----------
    name
        Its name, such as ``ComCam``.
    keywords
        Rows, sources resolved to the camera's components.
    policies
        How to read its topics; the first that matches counts.
    camera_component, sal_index
        The camera's component.
    """

    name: str
    keywords: tuple[Keyword, ...]
    policies: tuple[TopicPolicy, ...]
    camera_component: str
    sal_index: int

    def policy(self, address: TopicAddress) -> TopicPolicy:
        """Give the policy of a topic."""
        for policy in self.policies:
            if policy.matches(address.component, address.topic):
                return policy
        return DEFAULT_POLICY

    @cached_property
    def captured(self) -> tuple[Keyword, ...]:
        """Rows that a header service fills."""
        return tuple(
            row
            for row in self.keywords
            if row.capture not in {Capture.WRITER, Capture.FILE, Capture.DROPPED}
        )

    @cached_property
    def fields(self) -> Mapping[TopicAddress, frozenset[str]]:
        """Topics that its values come from, with the fields that are read."""
        found: dict[TopicAddress, set[str]] = {}
        for row in self.captured:
            for source in (row.source, row.default):
                if not isinstance(source, TopicSource):
                    continue
                fields = found.setdefault(
                    source.address, set(self.policy(source.address).time_fields)
                )
                fields.add(source.field)
                fields.update(
                    step.arguments[0].split()[0]
                    for step in source.steps
                    if step.name == "valid_until"
                )
                if source.key:
                    fields.add(source.field.replace("Values", "Keys"))
                if source.per_sensor:
                    fields.update(("ccdLocation", "location"))
        return {address: frozenset(fields) for address, fields in found.items()}

    @cached_property
    def by_keyword(self) -> Mapping[tuple[Section, str], Keyword]:
        """Rows by section and keyword."""
        return {(row.section, row.keyword): row for row in self.keywords}


def _member(kind: type[_EnumT], text: str) -> _EnumT:
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidKeywordsError(
            "Not a known word", value=text, expected=[str(member) for member in kind]
        ) from error


def _row(cells: Mapping[str, str]) -> Keyword:
    if cells["type"] not in {"bool", "int", "float", "str"}:
        raise InvalidKeywordsError("Not a type", value=cells["type"], expected="bool int float str")
    if cells["group"] not in GROUP_TITLES:
        raise InvalidKeywordsError(
            "Not a card group", value=cells["group"], expected=sorted(GROUP_TITLES)
        )
    if cells["absent"] not in {"undefined", "omit"}:
        raise InvalidKeywordsError("Not a way to be absent", value=cells["absent"])
    limits = [part for part in cells["limits"].split("; ") if part]
    return Keyword(
        keyword=cells["keyword"],
        section=_member(Section, cells["section"]),
        group=cells["group"],
        type=cells["type"],
        unit=cells["unit"],
        capture=_member(Capture, cells["capture"]),
        source=parse_source(cells["source"]),
        default=parse_source(cells["default"]) if cells["default"] else None,
        required=_member(Required, cells["required"]),
        omitted=cells["absent"] == "omit",
        limits=tuple(Limit(*parse_call(part, _LIMITS)) for part in limits),
        max_age_s=float(cells["max_age_s"]) if cells["max_age_s"] else None,
        sets=tuple(cells["sets"].split()),
        comment=cells["comment"],
    )


def _rows(text: str, columns: Sequence[str], file: str) -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    if list(header) != list(columns):
        raise InvalidKeywordsError("Wrong columns", file=file, value=header, expected=columns)
    for cells in reader:
        if not cells or cells[0].startswith("#"):
            continue
        if len(cells) != len(columns):
            raise InvalidKeywordsError(
                "Wrong number of cells", file=file, line=reader.line_num, value=len(cells)
            )
        yield reader.line_num, dict(zip(columns, cells, strict=True))


def parse_keywords(text: str, *, file: str = "keywords.csv") -> tuple[Keyword, ...]:
    """Read a keyword file (CSV).

    Raises
    ------
    InvalidKeywordsError
        A line is wrong; file, line, value and what was expected are in the context. Mend it.
    """
    rows = []
    for line, cells in _rows(text, _COLUMNS, file):
        try:
            rows.append(_row(cells))
        except (InvalidKeywordsError, ValueError) as error:
            context = error.context if isinstance(error, InvalidKeywordsError) else {}
            raise InvalidKeywordsError(
                getattr(error, "message", str(error)),
                **{**context, "file": file, "line": line, "field": cells["keyword"]},
            ) from error
    return tuple(rows)


def parse_topics(text: str, *, file: str = "topics.csv") -> tuple[TopicPolicy, ...]:
    """Read a file of topic policies (CSV); errors as `parse_keywords`."""
    policies = []
    for line, cells in _rows(text, _TOPIC_COLUMNS, file):
        try:
            policies.append(
                TopicPolicy(
                    pattern=cells["topic"],
                    mode=_member(TopicMode, cells["mode"]),
                    time_fields=tuple(cells["time_field"].split()),
                    time_scale=cells["time_scale"],
                    max_age_s=float(cells["max_age_s"]) if cells["max_age_s"] else None,
                    ahead_s=float(cells["ahead_s"] or 0),
                )
            )
        except (InvalidKeywordsError, ValueError) as error:
            raise InvalidKeywordsError(
                "Topic policy is wrong", file=file, line=line, problem=str(error)
            ) from error
    return tuple(policies)


def keyword_set(
    camera: Camera,
    *,
    keywords: Sequence[Keyword],
    policies: Sequence[TopicPolicy],
    own: Sequence[Keyword] = (),
    sal_indices: Mapping[str, int] | None = None,
) -> KeywordSet:
    """Choose and resolve the keywords of a camera.

    Parameters
    ----------
    camera
        The camera. If no row names its set, the rows of `GENERIC_SET` apply.
    keywords, policies
        The schema of the product.
    own
        Rows of the camera's own file: each replaces the row of its keyword, or takes it out.
    sal_indices
        Index by component, where a site differs from the schema (``ESS``, ``DIMM``).
    """
    known = {name.partition("@")[0] for row in keywords for name in row.sets}
    name = camera.keyword_set if camera.keyword_set in known else GENERIC_SET
    wanted = {"*", name, f"{name}@{camera.components.telescope}"}
    chosen: dict[tuple[Section, str], Keyword] = {}
    for row in keywords:
        if wanted.intersection(row.sets):
            chosen.setdefault((row.section, row.keyword), row)
    for row in own:
        chosen[row.section, row.keyword] = row
    constants = camera.constants
    groups = list(GROUP_TITLES)
    rows = [
        _resolved(row, camera, sal_indices or {})
        for row in chosen.values()
        if row.capture is not Capture.DROPPED and row.section is not Section.SEGMENT
    ]
    rows = [_constant(row, constants) for row in rows]
    present = {row.keyword for row in rows}
    rows += [
        _constant(_blank_row(key, value), constants)
        for key, value in constants.items()
        if key not in present
    ]
    rows.sort(key=lambda row: groups.index(row.group))
    return KeywordSet(
        name=name,
        keywords=tuple(rows),
        policies=tuple(
            replace(policy, pattern=policy.pattern.replace("{camera}", camera.components.camera))
            for policy in policies
        ),
        camera_component=camera.components.camera,
        sal_index=camera.components.sal_index,
    )


def _resolved(row: Keyword, camera: Camera, sal_indices: Mapping[str, int]) -> Keyword:
    def resolve(source: Source | None) -> Source | None:
        if not isinstance(source, TopicSource):
            return source
        if source.component == "{camera}":
            parts = camera.components
            return replace(source, component=parts.camera, sal_index=parts.sal_index)
        return replace(source, sal_index=sal_indices.get(source.component, source.sal_index))

    source = resolve(row.source)
    assert source is not None
    return replace(row, source=source, default=resolve(row.default))


def _constant(row: Keyword, constants: Mapping[str, HeaderValue]) -> Keyword:
    if row.keyword not in constants or row.section is not Section.PRIMARY:
        return row
    source = FixedSource(FixedKind.CAMERA, f"constants.{row.keyword}")
    return replace(row, capture=Capture.STATIC, source=source, default=None)


def _blank_row(keyword: str, value: HeaderValue) -> Keyword:
    kind = type(value).__name__ if isinstance(value, bool | int | float) else "str"
    source = FixedSource(FixedKind.CAMERA, f"constants.{keyword}")
    return Keyword(
        keyword=keyword,
        section=Section.PRIMARY,
        group="camera",
        type=kind,
        unit="",
        capture=Capture.STATIC,
        source=source,
        default=None,
        required=Required.NO,
        omitted=False,
        limits=(),
        max_age_s=None,
        sets=("*",),
        comment="constant of the camera",
    )
