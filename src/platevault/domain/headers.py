"""Header values, cards and the header object of one exposure.

References
----------
FITS 4.0 sec. 4 (cards); large file annex layout of the Header Service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

#: A value of a header card; ``None`` is an undefined value (FITS 4.0 sec. 4.1.2.3).
HeaderValue = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Card:
    """One header card.

    Attributes
    ----------
    keyword
        FITS keyword; hierarchical ones as ``HIERARCH SIMULATE ATMCS``. Empty for a blank or title
        card, whose text is in ``comment``.
    value
        Its value; ``None`` is undefined.
    comment
        Its comment.
    """

    keyword: str
    value: HeaderValue = None
    comment: str = ""


class Collected(StrEnum):
    """How a keyword's value was come by."""

    OK = "ok"
    MISSING = "missing"
    STALE = "stale"
    REJECTED = "rejected"
    DEFAULTED = "defaulted"


class HeaderStatus(StrEnum):
    """How much of a header is there."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    MINIMAL = "minimal"


@dataclass(frozen=True, slots=True)
class KeywordRecord:
    """Where the value of a keyword came from.

    Attributes
    ----------
    section
        ``PRIMARY`` or ``<RnnSnn>_PRIMARY``.
    keyword
        FITS keyword.
    collected
        Outcome.
    source
        Topic and field, or rule.
    sample_tai
        Time of the sample used [s, TAI]; ``None`` if there is none.
    age_s
        Age of the sample at the capture moment [s]; ``None`` if there is none.
    problem
        Why it is not `Collected.OK`.
    """

    section: str
    keyword: str
    collected: Collected
    source: str = ""
    sample_tai: float | None = None
    age_s: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HeaderDocument:
    """The one metadata object of an exposure, for every writer of its files.

    Attributes
    ----------
    image
        Image name.
    camera
        Camera name, such as ``LSSTComCam``.
    version
        1, 2, ... of the same exposure.
    status
        How much is there.
    sections
        Cards by section, in order: ``PRIMARY``, ``<RnnSnn>_PRIMARY`` for each sensor, optionally
        ``<RnnSnn>_Segment10`` ...
    completeness
        Part of required and visit keywords that is `Collected.OK`, 0 to 1.
    records
        Where each value came from.
    changed
        Keywords that differ from the version before.
    """

    image: str
    camera: str
    version: int
    status: HeaderStatus
    sections: Mapping[str, Sequence[Card]]
    completeness: float = 0.0
    records: Sequence[KeywordRecord] = ()
    changed: Sequence[str] = ()
    missing: Sequence[str] = field(default_factory=tuple)
