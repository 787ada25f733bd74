"""The registry remembers schemas, and refuses those that readers could not follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from platevault.adapters.schema_registry.store import (
    RegistryRefusalError,
    SchemaStore,
    SchemaStoreError,
)


def schema(*fields: dict[str, Any], name: str = "sample", **more: Any) -> str:
    return json.dumps({"type": "record", "name": name, "fields": list(fields), **more})


def field(name: str, avro: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": avro, **more}


ONE = schema(field("a", "int", default=0))
TWO = schema(field("a", "int", default=0), field("b", "string", default=""))


def code_of(error: pytest.ExceptionInfo[RegistryRefusalError]) -> int:
    return error.value.code


def test_equal_schemas_have_one_id_under_every_subject() -> None:
    store = SchemaStore()
    first = store.register("a-value", ONE)
    assert store.register("a-value", json.dumps(json.loads(ONE), indent=4)) == first
    other = store.register("b-value", ONE)
    assert (other.schema_id, other.version) == (first.schema_id, 1)
    second = store.register("a-value", TWO)
    assert (second.schema_id, second.version) == (2, 2)
    assert store.versions("a-value") == [1, 2]
    assert store.version("a-value", "latest") == second
    assert store.find("a-value", ONE) == first
    assert [entry.subject for entry in store.places(1)] == ["a-value", "b-value"]


def test_the_order_of_keys_and_fields_and_all_texts_make_a_schema() -> None:
    store = SchemaStore()
    for text in (
        schema(field("a", "int", default=0, description="one")),
        schema(field("a", "int", default=0, description=" one")),
        schema(field("a", "int", description="one", default=0)),
    ):
        store.register("a-value", text)
    assert store.versions("a-value") == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "{", "5", '{"type": "thing"}', '{"type": "record"}'])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(RegistryRefusalError) as error:
        SchemaStore().register("a-value", text)
    assert code_of(error) == 42201


@pytest.mark.parametrize(
    ("written", "reading", "follows"),
    [
        (field("a", "int"), field("a", "long"), True),
        (field("a", "int"), field("a", "double"), True),
        (field("a", "long"), field("a", "int"), False),
        (field("a", "double"), field("a", "float"), False),
        (field("a", "string"), field("a", "int"), False),
        (field("a", "boolean"), field("a", "boolean", doc="b"), True),
        (field("a", "int"), field("b", "int", default=0), True),
        (field("a", "int"), field("b", "int"), False),
        (field("a", "int"), field("a", ["null", "int"]), True),
        (field("a", ["null", "int"]), field("a", "int"), False),
        (field("a", ["int", "long"]), field("a", "double"), True),
        (
            field("a", {"type": "array", "items": "int"}),
            field("a", {"type": "array", "items": "double"}),
            True,
        ),
        (
            field("a", {"type": "array", "items": "double"}),
            field("a", {"type": "array", "items": "int"}),
            False,
        ),
        (field("a", {"type": "array", "items": "int"}), field("a", "int"), False),
    ],
)
def test_readers_must_be_able_to_follow(
    written: dict[str, Any], reading: dict[str, Any], follows: bool
) -> None:
    store = SchemaStore()
    store.register("a-value", schema(written))
    if follows:
        assert store.register("a-value", schema(reading)).version == 2
        return
    with pytest.raises(RegistryRefusalError) as error:
        store.register("a-value", schema(reading))
    assert code_of(error) == 409
    assert store.versions("a-value") == [1]
    unchecked = SchemaStore(check_compatibility=False)
    unchecked.register("a-value", schema(written))
    assert unchecked.register("a-value", schema(reading)).version == 2


def test_a_subject_is_hidden_before_it_is_forgotten() -> None:
    store = SchemaStore()
    store.register("a-value", ONE)
    with pytest.raises(RegistryRefusalError) as error:
        store.delete("a-value", permanent=True)
    assert code_of(error) == 40405
    assert store.delete("a-value", permanent=False) == [1]
    assert store.subjects() == []
    assert json.loads(store.schema(1)) == json.loads(ONE)
    with pytest.raises(RegistryRefusalError) as error:
        store.delete("a-value", permanent=False)
    assert code_of(error) == 40404
    assert store.register("a-value", TWO).version == 2
    assert store.delete("a-value", permanent=False) == [2]
    assert store.delete("a-value", permanent=True) == [1, 2]
    with pytest.raises(RegistryRefusalError) as error:
        store.delete("a-value", permanent=True)
    assert code_of(error) == 40401


def test_what_is_not_there_has_its_code() -> None:
    store = SchemaStore()
    store.register("a-value", ONE)
    for ask, code in (
        (lambda: store.schema(9), 40403),
        (lambda: store.find("a-value", TWO), 40403),
        (lambda: store.find("b-value", ONE), 40401),
        (lambda: store.versions("b-value"), 40401),
        (lambda: store.version("a-value", "7"), 40402),
        (lambda: store.version("a-value", "x"), 42202),
    ):
        with pytest.raises(RegistryRefusalError) as error:
            ask()
        assert code_of(error) == code


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "registry" / "schemas.jsonl"
    store = SchemaStore(file)
    store.load()
    store.register("a-value", ONE)
    store.register("a-value", TWO)
    store.register("gone-value", ONE)
    store.delete("gone-value", permanent=False)
    again = SchemaStore(file)
    again.load()
    assert list(again) == list(store)
    assert again.subjects() == ["a-value"]
    assert again.register("new-value", schema(field("c", "int"))).schema_id == 3


def test_a_line_without_an_end_was_never_answered(tmp_path: Path) -> None:
    file = tmp_path / "schemas.jsonl"
    store = SchemaStore(file)
    store.register("a-value", ONE)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op": "register", "sub')
    again = SchemaStore(file)
    again.load()
    assert list(again) == list(store)
    assert file.read_bytes() == whole
    again.register("a-value", TWO)
    third = SchemaStore(file)
    third.load()
    assert third.versions("a-value") == [1, 2]


@pytest.mark.parametrize("line", ["text", "{}", '{"op": "fly", "subject": "a"}'])
def test_a_line_that_means_nothing_stops_the_start(tmp_path: Path, line: str) -> None:
    file = tmp_path / "schemas.jsonl"
    file.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(SchemaStoreError):
        SchemaStore(file).load()
