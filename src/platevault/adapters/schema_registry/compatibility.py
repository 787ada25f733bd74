"""Whether readers with a newer schema can read what was written under an older one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Types that a reader may have for each type of the writer (Avro 1.12 specification, "Schema
#: Resolution").
_PROMOTIONS = {
    "int": {"int", "long", "float", "double"},
    "long": {"long", "float", "double"},
    "float": {"float", "double"},
    "string": {"string", "bytes"},
    "bytes": {"bytes", "string"},
}


def backward_problems(written: Any, reading: Any) -> list[str]:
    """Name what keeps a reader of schema ``reading`` from data of schema ``written``.

    References
    ----------
    Avro 1.12 specification, "Schema Resolution"; named types other than the records themselves are
    compared by name alone, as SAL topics have none.
    """
    return _problems(written, reading, "")


def _problems(written: Any, reading: Any, place: str) -> list[str]:
    if isinstance(written, list):
        return [problem for branch in written for problem in _problems(branch, reading, place)]
    if isinstance(reading, list):
        if any(not _problems(written, branch, place) for branch in reading):
            return []
        return [f"{place or 'schema'}: no branch for {_type_of(written)}"]
    kind, wanted = _type_of(written), _type_of(reading)
    if kind == wanted == "record":
        return _record_problems(written, reading, place)
    if kind == wanted == "array":
        return _problems(written["items"], reading["items"], f"{place}[]")
    if kind == wanted == "map":
        return _problems(written["values"], reading["values"], f"{place}{{}}")
    if wanted in _PROMOTIONS.get(kind, {kind}):
        return []
    return [f"{place or 'schema'}: {kind} cannot be read as {wanted}"]


def _record_problems(
    written: Mapping[str, Any], reading: Mapping[str, Any], place: str
) -> list[str]:
    if written["name"].rpartition(".")[2] != reading["name"].rpartition(".")[2]:
        return [f"{place or 'schema'}: name {reading['name']} is not {written['name']}"]
    fields = _by_name(written["fields"])
    problems: list[str] = []
    for field in reading["fields"]:
        name = f"{place}.{field['name']}" if place else str(field["name"])
        before = fields.get(field["name"])
        if before is not None:
            problems += _problems(before["type"], field["type"], name)
        elif "default" not in field:
            problems.append(f"{name}: new without a default")
    return problems


def _by_name(fields: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(field["name"]): field for field in fields}


def _type_of(schema: Any) -> str:
    return str(schema["type"]) if isinstance(schema, Mapping) else str(schema)
