"""Makes the reference pages that mirror code: settings, commands, cameras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main

from platevault.cli.main import app
from platevault.compose.settings import settings_schema


def write_reference_pages(directory: Path) -> None:
    """Write ``settings.md`` and ``commands.md`` into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "settings.md").write_text(_settings_page(), encoding="utf-8")
    (directory / "commands.md").write_text(_commands_page(), encoding="utf-8")


def _settings_page() -> str:
    schema = settings_schema()
    lines = [
        "# Settings",
        "",
        "File < environment (`PLATEVAULT_<PART>__<FIELD>`) < command line.",
        "Unknown keys are refused.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
        *_rows(schema, schema.get("$defs", {}), ""),
        "",
    ]
    return "\n".join(lines)


def _rows(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        reference = field.get("$ref", "").rsplit("/", 1)[-1]
        if reference:
            yield from _rows(definitions[reference], definitions, f"{prefix}{name}.")
        else:
            default = field.get("default", "")
            yield f"| `{prefix}{name}` | `{default!r}` | {field.get('description', '')} |"


def _commands_page() -> str:
    command = typer.main.get_command(app)
    lines = ["# Commands", ""]
    for path, entry in _commands(command, "platevault"):
        context = typer.Context(entry, info_name=path)
        lines += [f"## `{path}`", "", "```text", entry.get_help(context).strip(), "```", ""]
    return "\n".join(lines)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield path, command
        return
    for name in sorted(subcommands):
        yield from _commands(subcommands[name], f"{path} {name}")
