"""Make the Avro schema of a topic, and its revision code, as SAL over Kafka demands them.

References
----------
SAL over Kafka, section 5: key order, private fields with their texts, defaults, types, revCode.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from platevault.domain.samples import FieldSchema, TopicSchema

#: Avro type of each SAL type (SAL over Kafka, section 5.1).
AVRO_TYPES = {
    "boolean": "boolean",
    "byte": "int",
    "short": "int",
    "int": "int",
    "long": "int",
    "unsigned short": "int",
    "long long": "long",
    "unsigned int": "long",
    "float": "float",
    "double": "double",
    "string": "string",
}
_DEFAULTS: dict[str, Any] = {
    "boolean": False,
    "int": 0,
    "long": 0,
    "float": 0.0,
    "double": 0.0,
    "string": "",
}
#: First private field, of indexed components only. The texts of all private fields are part of the
#: schema text and match it character by character (SAL over Kafka, section 5.2).
SAL_INDEX_FIELD = FieldSchema(
    "salIndex", "long", description="SAL index (only present for indexed SAL components)"
)
#: The other private fields, in wire order.
PRIVATE_FIELDS = (
    FieldSchema(
        "private_sndStamp", "double", units="second", description="Time of instance publication"
    ),
    FieldSchema(
        "private_rcvStamp", "double", units="second", description="Time of instance reception"
    ),
    FieldSchema(
        "private_efdStamp",
        "double",
        units="second",
        description="UTC time for EFD timestamp. An integer (the number of leap seconds) "
        "different from private_sndStamp.",
    ),
    FieldSchema(
        "private_kafkaStamp",
        "double",
        units="second",
        description="TAI time at which the Kafka message was created.",
    ),
    FieldSchema("private_seqNum", "long", description="Sequence number"),
    FieldSchema("private_revCode", "string", description="Revision hashcode"),
    FieldSchema(
        "private_identity",
        "string",
        description="Identity of publisher: SAL component name for a CSC or user@host for a user",
    ),
    FieldSchema("private_origin", "long", description="Process ID of publisher"),
)


def avro_schema(topic: TopicSchema) -> dict[str, Any]:
    """Give the Avro record of a topic, keys in the order that its text has.

    References
    ----------
    SAL over Kafka, sections 5.1 to 5.3; checked against the worked example of section 6.
    """
    index = (SAL_INDEX_FIELD,) if topic.indexed else ()
    return {
        "type": "record",
        "name": topic.sal_name,
        "namespace": f"lsst.sal.{topic.component}",
        "fields": [_avro_field(field) for field in (*index, *PRIVATE_FIELDS, *topic.fields)],
        "description": topic.description,
    }


def rev_code(topic: TopicSchema) -> str:
    """Give the revision code: 8 hex digits that follow from the schema text.

    References
    ----------
    SAL over Kafka, section 5.4: MD5 of the JSON text with an indent of 4.
    """
    text = json.dumps(avro_schema(topic), indent=4)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8]


def default_of(field: FieldSchema) -> Any:
    """Give the value of a field that a writer does not set."""
    scalar = _DEFAULTS[AVRO_TYPES[field.sal_type]]
    return [scalar] * field.count if is_array(field) else scalar


def is_array(field: FieldSchema) -> bool:
    """Tell whether values of the field are lists; text never is, whatever its count."""
    return field.count > 1 and field.sal_type != "string"


def _avro_field(field: FieldSchema) -> dict[str, Any]:
    avro = AVRO_TYPES[field.sal_type]
    return {
        "name": field.name,
        "type": {"type": "array", "items": avro} if is_array(field) else avro,
        "default": default_of(field),
        "description": field.description,
        "units": field.units,
    }
