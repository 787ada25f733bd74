"""What is wrong with settings, in words that say what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

#: How our variables begin, and how their parts are set apart.
PREFIX, DELIMITER = "PLATEVAULT_", "__"
#: How pydantic begins the message of an error that a validator of ours raised.
_OWN_WORDS = "Value error, expected "
#: Kubernetes gives a variable with such a value for each port of each service of a name space.
_ADDRESSES = ("tcp://", "udp://", "sctp://")


def expectation(error: ErrorDetails, settings: type[BaseModel]) -> str:
    """Say what was expected where ``error`` is.

    Parameters
    ----------
    error
        As pydantic found it.
    settings
        The whole tree, to name what is like an unknown setting.
    """
    *above, last = error["loc"]
    if error["type"] == "extra_forbidden":
        part = _part(settings, [str(one) for one in above])
        known = [] if part is None else list(part.model_fields)
        return f"{_guess(str(last), known)} (there is no such setting)"
    if error["type"] in {"model_type", "model_attributes_type"}:
        return "a mapping of settings"
    return error["msg"].removeprefix(_OWN_WORDS)


def unknown_variable(
    environment: Mapping[str, str], settings: type[BaseModel]
) -> tuple[str, str] | None:
    """Find a variable that begins like ours and names no setting, and say what was expected.

    Variables of one part are left to the rest of the environment unless they are a setting's but
    for one underscore: others may have variables that begin with our name.
    """
    for name in sorted(environment):
        if not name.startswith(PREFIX):
            continue
        first, delimiter, _ = name.removeprefix(PREFIX).lower().partition(DELIMITER)
        if delimiter and first not in settings.model_fields:
            return name, f"{PREFIX}{_guess(first, settings.model_fields).upper()}{DELIMITER}..."
        right = None if delimiter else _with_delimiter(first, settings)
        if right is not None and not environment[name].startswith(_ADDRESSES):
            return name, right
    return None


def yaml_problem(error: Exception) -> str:
    """Say in one line what is wrong with a YAML text, and where."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _with_delimiter(name: str, settings: type[BaseModel]) -> str | None:
    if name in settings.model_fields:
        return None
    for part in settings.model_fields:
        found = _part(settings, [part])
        field = name.removeprefix(f"{part}_")
        if found is not None and field != name and field in found.model_fields:
            return f"{PREFIX}{part.upper()}{DELIMITER}{field.upper()}"
    return None


def _part(settings: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    found = settings
    for name in path:
        field = found.model_fields.get(name)
        below = None if field is None else field.annotation
        if not (isinstance(below, type) and issubclass(below, BaseModel)):
            return None
        found = below
    return found


def _guess(given: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return near[0] if near else f"one of {', '.join(sorted(names))}"
