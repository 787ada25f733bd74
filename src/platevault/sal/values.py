"""Check and complete the values of a topic's fields."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from platevault.domain.errors import UsageError
from platevault.domain.samples import FieldSchema, TopicSchema
from platevault.sal.avro import default_of, is_array

#: Smallest and largest value of the integer types; SAL ``long`` has 32 bits, ``byte`` no sign (SAL
#: over Kafka, sections 5.1 and 13).
INTEGER_RANGES = {
    "byte": (0, 2**8 - 1),
    "short": (-(2**15), 2**15 - 1),
    "int": (-(2**31), 2**31 - 1),
    "long": (-(2**31), 2**31 - 1),
    "long long": (-(2**63), 2**63 - 1),
    "unsigned short": (0, 2**16 - 1),
    "unsigned int": (0, 2**32 - 1),
}
_FLOAT_MAX = float(np.finfo(np.float32).max)


class FieldValueError(UsageError):
    """A value does not fit its field: mend what sets it; nothing was published."""


class UnknownFieldError(UsageError):
    """The topic has no such field: mend the name; nothing was published."""


def complete_fields(
    topic: TopicSchema, given: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Check every value and fill in the defaults.

    Parameters
    ----------
    topic
        What is to be published.
    given
        Values by SAL name.

    Returns
    -------
    tuple
        Every field of the topic as plain Python values in wire order; and the names of the text
        fields that had to be changed to fit.

    Raises
    ------
    UnknownFieldError, FieldValueError
        Do not retry.
    """
    unknown = given.keys() - {field.name for field in topic.fields}
    if unknown:
        raise UnknownFieldError(
            "The topic has no such field",
            component=topic.component,
            topic=topic.sal_name,
            field=sorted(unknown),
            expected=[field.name for field in topic.fields],
        )
    changed = []
    values = {}
    for field in topic.fields:
        if field.name not in given:
            values[field.name] = default_of(field)
            continue
        value = _checked(topic, field, given[field.name])
        values[field.name] = value
        if field.sal_type == "string" and value != given[field.name]:
            changed.append(field.name)
    return values, tuple(changed)


def check_sample_fields(topic: TopicSchema, fields: Mapping[str, Any]) -> None:
    """Check the fields of a sample from another writer: all there, and none that does not fit.

    Raises
    ------
    UnknownFieldError, FieldValueError
        The sample is malformed: refuse it.
    """
    complete_fields(topic, fields)
    for field in topic.fields:
        if field.name not in fields:
            raise FieldValueError("The field is missing", topic=topic.sal_name, field=field.name)


def same_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Tell whether two sets of fields are equal, where NaN equals NaN."""
    return first.keys() == second.keys() and all(
        _same(value, second[name]) for name, value in first.items()
    )


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return bool(first == second)


def _checked(topic: TopicSchema, field: FieldSchema, value: Any) -> Any:
    if not is_array(field):
        return _scalar(topic, field, value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise _misfit(topic, field, value, f"a list of at most {field.count} values")
    if len(value) > field.count:
        raise _misfit(topic, field, f"{len(value)} values", f"at most {field.count} values")
    values: list[Any] = default_of(field)
    values[: len(value)] = [_scalar(topic, field, item) for item in value]
    return values


def _scalar(topic: TopicSchema, field: FieldSchema, value: Any) -> Any:
    match field.sal_type:
        case "string":
            if not isinstance(value, str):
                raise _misfit(topic, field, value, "text")
            return _fitted_text(value, field.max_length)
        case "boolean":
            if not isinstance(value, (bool, np.bool_)):
                raise _misfit(topic, field, value, "true or false")
            return bool(value)
        case "float" | "double":
            return _real(topic, field, value)
        case _:
            return _integer(topic, field, value)


def _integer(topic: TopicSchema, field: FieldSchema, value: Any) -> int:
    low, high = INTEGER_RANGES[field.sal_type]
    if isinstance(value, (bool, np.bool_)):
        raise _misfit(topic, field, value, f"an integer from {low} to {high}")
    try:
        number = operator.index(value)
    except TypeError:
        raise _misfit(topic, field, value, f"an integer from {low} to {high}") from None
    if not low <= number <= high:
        raise _misfit(topic, field, number, f"an integer from {low} to {high}")
    if field.enum and number not in field.enum.values():
        raise _misfit(topic, field, number, dict(field.enum))
    return number


def _real(topic: TopicSchema, field: FieldSchema, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise _misfit(topic, field, value, "a number")
    number = float(value)
    if field.sal_type == "double":
        return number
    if math.isfinite(number) and abs(number) > _FLOAT_MAX:
        raise _misfit(topic, field, number, f"a number of at most {_FLOAT_MAX:.8g}")
    # Every transport rounds to 32 bits; round here, so that all give the same.
    return float(np.float32(number))


def _fitted_text(value: str, max_length: int) -> str:
    """Replace what UTF-8 or a C string cannot hold, and cut at a whole character.

    The limit counts bytes, as the bounded strings of DDS do.
    """
    encoded = value.replace("\0", "?").encode("utf-8", "replace")
    if max_length and len(encoded) > max_length:
        encoded = encoded[:max_length]
    return encoded.decode("utf-8", "ignore")


def _misfit(topic: TopicSchema, field: FieldSchema, value: Any, expected: Any) -> FieldValueError:
    return FieldValueError(
        "The value does not fit its field",
        component=topic.component,
        topic=topic.sal_name,
        field=field.name,
        value=value,
        expected=expected,
    )
