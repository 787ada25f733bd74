"""Samples as Kafka messages: names, keys, framing, Avro.

References
----------
SAL over Kafka, sections 2 to 6.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from platevault.domain.errors import PermanentError, UsageError
from platevault.domain.samples import Sample, TopicKind, TopicSchema
from platevault.domain.timescales import utc_from_tai

#: Gives the Avro record of a topic, keys in the order that its text has.
AvroSchemaOf = Callable[[TopicSchema], Mapping[str, Any]]

#: First byte of every value, before the id of its schema (SAL over Kafka, section 4).
_MAGIC = 0
_FRAME = struct.Struct(">bI")
#: Smallest and largest value of the Avro integers (Avro 1.12 specification).
_INTEGERS = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}

Convert = Callable[[Any], Any]


class UndecodableSampleError(PermanentError):
    """A message is no sample of its topic: skip it."""


class SampleEncodingError(UsageError):
    """A sample does not fit its own schema: a bug of whoever completed it."""


def topic_name(subname: str, topic: TopicSchema) -> str:
    """Give the name of a topic on the brokers."""
    return f"lsst.{subname}.{topic.component}.{topic.sal_name}"


def subject_of(name: str) -> str:
    """Give the registry's name of what the values of a topic are."""
    return f"{name}-value"


def message_key(topic: TopicSchema, sal_index: int) -> bytes:
    """Give the key by which a compacted topic keeps the newest sample of each index.

    References
    ----------
    SAL over Kafka, section 3; the spaces are as the readers write them.
    """
    if topic.kind is TopicKind.TELEMETRY:
        return b""
    name, sal_name = json.dumps(topic.component), json.dumps(topic.sal_name)
    index = f' "index": {sal_index},' if topic.indexed else ""
    return f'{{ "name": {name},{index} "topic": {sal_name} }}'.encode()


def schema_id_of(value: bytes) -> int:
    """Give the id of the schema that a value was written with.

    Raises
    ------
    UndecodableSampleError
        Skip it.
    """
    if len(value) < _FRAME.size or value[0] != _MAGIC:
        raise UndecodableSampleError("The value is not framed", value=value[:8].hex())
    return int(_FRAME.unpack_from(value)[1])


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """What a sample was written with.

    Attributes
    ----------
    schema_id
        Id within the registry.
    plain
        As in the registry.
    parsed
        As the Avro library wants it.
    """

    schema_id: int
    plain: dict[str, Any]
    parsed: dict[str, Any]


def parse_writer_schema(schema_id: int, text: str) -> WriterSchema:
    """Read the text of a schema from the registry; `UndecodableSampleError` if it is no record."""
    try:
        schema = json.loads(text)
        parsed = fastavro.parse_schema(schema)
    except (ValueError, SchemaParseException, UnknownType, KeyError, TypeError) as error:
        raise UndecodableSampleError("The writer's schema is none", reason=str(error)) from error
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise UndecodableSampleError("The writer's schema is no record")
    return WriterSchema(schema_id, schema, parsed)


class TopicCodec:
    """Encodes the samples of one topic, and decodes those of any version of it.

    Parameters
    ----------
    topic
        What it is for.
    schema
        Its Avro record.

    Notes
    -----
    A sample is decoded with its writer's schema and then brought to ours: what we do not know is
    left out, what the writer does not know has its default, numbers become wider. A null, which
    only topics defined directly in Avro have, becomes NaN in a real field, else the default.
    """

    def __init__(self, topic: TopicSchema, schema: Mapping[str, Any]) -> None:
        self.topic = topic
        #: Text for the registry (SAL over Kafka, section 7).
        self.text = json.dumps(schema)
        self._plain = json.loads(self.text)
        self._schema = fastavro.parse_schema(self._plain)
        self._equal: dict[int, bool] = {}
        self._fields: dict[str, tuple[Convert, Any]] = {
            field["name"]: (_converter(field["type"], field["default"]), field["default"])
            for field in schema["fields"]
        }
        self._own = [field.name for field in topic.fields]

    def encode(self, sample: Sample, schema_id: int) -> bytes:
        """Give the value of a message.

        Raises
        ------
        SampleEncodingError
            Do not retry.
        """
        record = {
            "private_sndStamp": sample.sent_tai,
            "private_rcvStamp": 0.0,
            "private_efdStamp": utc_from_tai(sample.sent_tai),
            "private_kafkaStamp": sample.sent_tai,
            "private_seqNum": sample.sequence,
            "private_revCode": sample.rev_code,
            "private_identity": sample.identity,
            "private_origin": sample.origin,
            **sample.fields,
        }
        if self.topic.indexed:
            record["salIndex"] = sample.sal_index
        stream = io.BytesIO()
        stream.write(_FRAME.pack(_MAGIC, schema_id))
        try:
            fastavro.schemaless_writer(stream, self._schema, record)
        except (ValueError, TypeError, OverflowError, KeyError, AttributeError) as error:
            raise SampleEncodingError(
                "The sample does not fit its schema",
                component=self.topic.component,
                topic=self.topic.sal_name,
                reason=str(error),
            ) from error
        return stream.getvalue()

    def decode(self, value: bytes, writer: WriterSchema, received_tai: float) -> Sample:
        """Give the sample of a message.

        Raises
        ------
        UndecodableSampleError
            Skip it.
        """
        stream = io.BytesIO(value)
        stream.seek(_FRAME.size)
        try:
            record = fastavro.schemaless_reader(stream, writer.parsed, None)
        except (ValueError, TypeError, EOFError, IndexError, KeyError, struct.error) as error:
            raise self._undecodable(str(error) or type(error).__name__) from error
        if not isinstance(record, dict):
            raise self._undecodable("no record")
        values = record if self._is_ours(writer) else self._brought_to_ours(record)
        return Sample(
            topic=self.topic,
            fields={name: values[name] for name in self._own},
            sal_index=values.get("salIndex", 0),
            sent_tai=values["private_sndStamp"],
            sequence=values["private_seqNum"],
            identity=values["private_identity"],
            origin=values["private_origin"],
            received_tai=received_tai,
            rev_code=values["private_revCode"],
        )

    def _is_ours(self, writer: WriterSchema) -> bool:
        equal = self._equal.get(writer.schema_id)
        if equal is None:
            equal = self._equal[writer.schema_id] = writer.plain == self._plain
        return equal

    def _brought_to_ours(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._value(name, convert, default, record)
            for name, (convert, default) in self._fields.items()
        }

    def _value(self, name: str, convert: Convert, default: Any, record: Mapping[str, Any]) -> Any:
        if name not in record:
            return list(default) if isinstance(default, list) else default
        try:
            return convert(record[name])
        except (ValueError, TypeError) as error:
            raise self._undecodable(f"{name}: {error}") from error

    def _undecodable(self, reason: str) -> UndecodableSampleError:
        return UndecodableSampleError(
            "The sample does not fit its topic",
            component=self.topic.component,
            topic=self.topic.sal_name,
            reason=reason,
        )


def _converter(avro: Any, default: Any) -> Convert:
    if isinstance(avro, Mapping):
        item = _converter(avro["items"], _zero_of(avro["items"]))

        def convert(value: Any) -> Any:
            if value is None:
                return list(default)
            if not isinstance(value, list):
                raise TypeError(f"{type(value).__name__} is no list")
            return [item(part) for part in value]

        return convert
    match avro:
        case "boolean":
            return lambda value: _boolean(value, default)
        case "string":
            return lambda value: _text(value, default)
        case "int" | "long":
            low, high = _INTEGERS[avro]
            return lambda value: _integer(value, default, low, high)
        case _:
            return _real


def _zero_of(avro: str) -> Any:
    return {"boolean": False, "string": ""}.get(avro, 0)


def _boolean(value: Any, default: Any) -> Any:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} is no boolean")
    return value


def _text(value: Any, default: str) -> str:
    if value is None:
        return default
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is no text")
    return value


def _integer(value: Any, default: int, low: int, high: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} is no integer")
    if not low <= value <= high:
        raise ValueError(f"{value} is not from {low} to {high}")
    return value


def _real(value: Any) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} is no number")
    return float(value)
