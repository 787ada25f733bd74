"""SAL topics and samples as values.

References
----------
Private fields and types: SAL over Kafka as ts_salobj 8 speaks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

#: How a field's values are on the wire.
SalType = Literal[
    "boolean",
    "byte",
    "short",
    "int",
    "long",
    "long long",
    "unsigned short",
    "unsigned int",
    "float",
    "double",
    "string",
]
#: Every `SalType`.
SAL_TYPES: tuple[str, ...] = get_args(SalType)


class TopicKind(StrEnum):
    """Family of a SAL topic."""

    COMMAND = "command"
    EVENT = "event"
    TELEMETRY = "telemetry"
    ACKCMD = "ackcmd"


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """One field of a topic.

    Attributes
    ----------
    name
        SAL name, camelCase.
    sal_type
        One of `SAL_TYPES`.
    count
        Array length; 1 is a scalar.
    units
        Unit text.
    description
        Meaning, in few words.
    max_length
        Longest text [characters]; 0 is no limit.
    enum
        Allowed values by name; empty if any.
    """

    name: str
    sal_type: str
    count: int = 1
    units: str = "unitless"
    description: str = ""
    max_length: int = 0
    enum: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicSchema:
    """One topic of one component, without the private fields.

    Attributes
    ----------
    component
        SAL component, such as ``CCCamera``.
    sal_name
        ``command_X``, ``logevent_X``, ``X`` or ``ackcmd``.
    kind
        Family of the topic.
    indexed
        The component has instances told apart by salIndex.
    fields
        Fields in wire order.
    description
        Meaning, in few words.
    """

    component: str
    sal_name: str
    kind: TopicKind
    indexed: bool
    fields: tuple[FieldSchema, ...]
    description: str = ""

    @property
    def name(self) -> str:
        """Short name without the prefix of the family."""
        return self.sal_name.removeprefix("command_").removeprefix("logevent_")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a topic with its private fields.

    Attributes
    ----------
    topic
        Schema of the topic.
    fields
        Every field of the topic by SAL name.
    sal_index
        Index of the component instance; 0 if not indexed.
    sent_tai
        ``private_sndStamp`` [s, TAI].
    sequence
        ``private_seqNum``, above 0.
    identity
        ``private_identity``: ``Name[:index]`` of a CSC, ``user@host`` of a person.
    origin
        ``private_origin``, process id of the writer.
    received_tai
        ``private_rcvStamp`` [s, TAI]; 0 until the reader's adapter sets it.
    rev_code
        ``private_revCode`` of the writer's schema.
    """

    topic: TopicSchema
    fields: Mapping[str, Any]
    sal_index: int = 0
    sent_tai: float = 0.0
    sequence: int = 0
    identity: str = ""
    origin: int = 0
    received_tai: float = 0.0
    rev_code: str = ""
