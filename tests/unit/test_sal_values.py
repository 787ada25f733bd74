"""Values are checked before they go out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platevault.domain.samples import FieldSchema, TopicKind, TopicSchema
from platevault.sal.values import (
    INTEGER_RANGES,
    FieldValueError,
    UnknownFieldError,
    check_sample_fields,
    complete_fields,
    same_values,
)


def topic_of(*fields: FieldSchema) -> TopicSchema:
    return TopicSchema("PVDemo", "logevent_x", TopicKind.EVENT, False, fields)


def one(field: FieldSchema, value: Any) -> Any:
    return complete_fields(topic_of(field), {field.name: value})[0][field.name]


@pytest.mark.parametrize("sal_type", sorted(INTEGER_RANGES))
def test_integers_fit_exactly_their_range(sal_type: str) -> None:
    field = FieldSchema("n", sal_type)
    low, high = INTEGER_RANGES[sal_type]
    assert one(field, low) == low
    assert one(field, high) == high
    for value in (low - 1, high + 1):
        with pytest.raises(FieldValueError, match="integer from"):
            one(field, value)


@pytest.mark.parametrize(
    ("sal_type", "low", "high"),
    [("byte", 0, 255), ("short", -32768, 32767), ("long", -(2**31), 2**31 - 1)],
)
def test_ranges_are_those_of_the_wire(sal_type: str, low: int, high: int) -> None:
    assert INTEGER_RANGES[sal_type] == (low, high)


@pytest.mark.parametrize("value", [1.0, "1", True, None, np.bool_(True), [1]])
def test_what_is_no_integer_is_refused(value: object) -> None:
    with pytest.raises(FieldValueError, match="field='n'"):
        one(FieldSchema("n", "long"), value)


@pytest.mark.parametrize("value", ["1.0", True, None, 1j, [1.0]])
@pytest.mark.parametrize("sal_type", ["float", "double"])
def test_what_is_no_number_is_refused(sal_type: str, value: object) -> None:
    with pytest.raises(FieldValueError, match="a number"):
        one(FieldSchema("x", sal_type), value)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_what_is_no_truth_is_refused(value: object) -> None:
    with pytest.raises(FieldValueError, match="true or false"):
        one(FieldSchema("b", "boolean"), value)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(FieldValueError, match="text"):
        one(FieldSchema("t", "string"), b"bytes")


def test_numpy_scalars_become_plain_values() -> None:
    assert type(one(FieldSchema("n", "long"), np.int64(5))) is int
    assert type(one(FieldSchema("x", "double"), np.float32(0.5))) is float
    assert type(one(FieldSchema("b", "boolean"), np.bool_(True))) is bool


def test_a_float_is_rounded_as_the_wire_rounds_it() -> None:
    assert one(FieldSchema("x", "float"), 0.1) == float(np.float32(0.1)) != 0.1
    assert one(FieldSchema("x", "double"), 0.1) == 0.1


@pytest.mark.parametrize("value", [1e39, -1e39, 3.5e38])
def test_a_float_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(FieldValueError, match="at most"):
        one(FieldSchema("x", "float"), value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_passes(value: float) -> None:
    assert same_values({"x": one(FieldSchema("x", "float"), value)}, {"x": value})


def test_short_arrays_are_padded_and_long_ones_refused() -> None:
    field = FieldSchema("a", "float", count=3)
    assert one(field, [1, 2.5]) == [1.0, 2.5, 0.0]
    assert one(field, np.array([1.0, 2.0, 3.0])) == [1.0, 2.0, 3.0]
    with pytest.raises(FieldValueError, match="at most 3"):
        one(field, [1, 2, 3, 4])
    with pytest.raises(FieldValueError, match="a list"):
        one(field, 1.0)
    with pytest.raises(FieldValueError, match="a number"):
        one(field, [1.0, "2"])


def test_a_value_outside_the_enumeration_is_refused() -> None:
    field = FieldSchema("s", "long", enum={"GOOD": 1, "BAD": 2})
    assert one(field, 2) == 2
    with pytest.raises(FieldValueError, match="GOOD"):
        one(field, 3)


def test_unknown_fields_are_refused_with_what_there_is() -> None:
    with pytest.raises(UnknownFieldError, match="expected=\\['t'\\]"):
        complete_fields(topic_of(FieldSchema("t", "string")), {"u": ""})


def test_missing_fields_have_defaults() -> None:
    topic = topic_of(
        FieldSchema("b", "boolean"),
        FieldSchema("n", "long long"),
        FieldSchema("x", "double", count=2),
        FieldSchema("t", "string", count=5),
    )
    assert complete_fields(topic, {})[0] == {"b": False, "n": 0, "x": [0.0, 0.0], "t": ""}


def test_a_foreign_sample_must_be_whole_and_right() -> None:
    topic = topic_of(FieldSchema("n", "short"), FieldSchema("t", "string"))
    check_sample_fields(topic, {"n": 1, "t": ""})
    with pytest.raises(FieldValueError, match="missing"):
        check_sample_fields(topic, {"n": 1})
    with pytest.raises(FieldValueError, match="integer"):
        check_sample_fields(topic, {"n": 2**20, "t": ""})


@given(st.text(), st.integers(1, 12))
def test_text_is_cut_at_a_whole_character_within_its_bytes(text: str, limit: int) -> None:
    topic = topic_of(FieldSchema("t", "string", max_length=limit))
    values, changed = complete_fields(topic, {"t": text})
    kept = values["t"]
    assert len(kept.encode()) <= limit
    # A character is at most four bytes, so no more than three bytes are wasted.
    clean = text.replace("\0", "?").encode("utf-8", "replace").decode()
    assert clean.startswith(kept)
    if kept != clean:
        assert len(kept.encode()) > limit - len(clean[len(kept)].encode())
    assert changed == (("t",) if kept != text else ())


def test_text_that_fits_is_left_alone() -> None:
    assert one(FieldSchema("t", "string", max_length=4), "éé") == "éé"
    assert one(FieldSchema("t", "string"), "x" * 5000) == "x" * 5000


def test_what_utf8_cannot_say_is_replaced() -> None:
    assert one(FieldSchema("t", "string"), "a\udcffb\0c") == "a?b?c"


def test_nan_equals_nan_and_nothing_else() -> None:
    assert same_values({"a": [1.0, math.nan]}, {"a": [1.0, math.nan]})
    assert not same_values({"a": [1.0, math.nan]}, {"a": [1.0, 2.0]})
    assert not same_values({"a": math.nan}, {"a": 0.0})
    assert not same_values({"a": [1.0]}, {"a": [1.0, 2.0]})
