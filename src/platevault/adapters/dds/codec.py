"""Samples as DDS structs, made from the schema of a topic."""

from __future__ import annotations

import keyword
from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct, types

from platevault.domain.errors import UsageError
from platevault.domain.samples import Sample, TopicSchema
from platevault.domain.timescales import utc_from_tai

#: SAL types as those of IDL (SAL over Kafka and DDS, section 13).
_TYPES: dict[str, Any] = {
    "boolean": bool,
    "byte": types.uint8,
    "short": types.int16,
    "int": types.int32,
    "long": types.int32,
    "long long": types.int64,
    "unsigned short": types.uint16,
    "unsigned int": types.uint32,
    "float": types.float32,
    "double": types.float64,
    "string": str,
}
_ARRAY: Any = types.array
#: Private fields in wire order (SAL over Kafka and DDS, section 5.2).
_PRIVATE: dict[str, Any] = {
    "private_sndStamp": types.float64,
    "private_rcvStamp": types.float64,
    "private_efdStamp": types.float64,
    "private_kafkaStamp": types.float64,
    "private_seqNum": types.int32,
    "private_revCode": str,
    "private_identity": str,
    "private_origin": types.int32,
}


class DdsEncodingError(UsageError):
    """A sample does not fit its own schema: a bug of whoever completed it."""


def topic_name(topic: TopicSchema) -> str:
    """Give the name of a topic in its domain."""
    return f"{topic.component}_{topic.sal_name}"


class TopicCodec:
    """Encodes and decodes the samples of one topic.

    Parameters
    ----------
    topic
        What it is for.
    """

    def __init__(self, topic: TopicSchema) -> None:
        self.topic = topic
        self._members = {field.name: _member(field.name) for field in topic.fields}
        self._arrays = [field.name for field in topic.fields if field.count > 1]
        members: dict[str, Any] = {"salIndex": types.int32} if topic.indexed else {}
        members |= _PRIVATE
        for field in topic.fields:
            one = _TYPES[field.sal_type]
            members[self._members[field.name]] = (
                one if field.count == 1 else _ARRAY[one, field.count]
            )
        name = topic_name(topic)
        annotations = {"salIndex": {"key": True}} if topic.indexed else {}
        self.type: type[IdlStruct] = make_idl_struct(
            name, f"SAL.{name}", members, field_annotations=annotations
        )

    def encode(self, sample: Sample) -> IdlStruct:
        """Give the struct of a sample.

        Raises
        ------
        DdsEncodingError
            Do not retry.
        """
        values: dict[str, Any] = {"salIndex": sample.sal_index} if self.topic.indexed else {}
        values |= {
            "private_sndStamp": sample.sent_tai,
            "private_rcvStamp": 0.0,
            "private_efdStamp": utc_from_tai(sample.sent_tai),
            "private_kafkaStamp": 0.0,
            "private_seqNum": sample.sequence,
            "private_revCode": sample.rev_code,
            "private_identity": sample.identity,
            "private_origin": sample.origin,
        }
        try:
            for name, member in self._members.items():
                values[member] = sample.fields[name]
            return self.type(**values)
        except (KeyError, TypeError) as error:
            raise self.misfit(error) from error

    def misfit(self, error: Exception) -> DdsEncodingError:
        """Say that a sample does not fit, which shows when it is serialized."""
        cause = error.__cause__ or error.__context__
        return DdsEncodingError(
            "The sample does not fit its schema",
            component=self.topic.component,
            topic=self.topic.sal_name,
            reason=f"{type(error).__name__}: {error}" + (f": {cause}" if cause else ""),
        )

    def decode(self, whole: Any, received_tai: float) -> Sample:
        """Give the sample of a struct."""
        values = {name: getattr(whole, member) for name, member in self._members.items()}
        for name in self._arrays:
            values[name] = list(values[name])
        return Sample(
            topic=self.topic,
            fields=values,
            sal_index=whole.salIndex if self.topic.indexed else 0,
            sent_tai=whole.private_sndStamp,
            sequence=whole.private_seqNum,
            identity=whole.private_identity,
            origin=whole.private_origin,
            received_tai=received_tai,
            rev_code=whole.private_revCode,
        )


def _member(name: str) -> str:
    """Give the name of a field within the struct; a few mean something to Python."""
    taken = keyword.iskeyword(name) or hasattr(IdlStruct, name) or name == "sample_info"
    return f"{name}_" if taken else name
