"""``platevault service``: the processes of a site."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from platevault.cli.options import ConfigOption, JsonOption, RootOption, settings_from
from platevault.cli.outcomes import ExitCode
from platevault.compose.serving.roster import ServiceHealth, list_services
from platevault.runtime.observe import configure_logging

app = typer.Typer(rich_markup_mode=None, help="Show the processes of a site.", no_args_is_help=True)


@app.command("list")
def list_command(
    config: ConfigOption = None, root: RootOption = None, as_json: JsonOption = False
) -> None:
    """List every process that lives, with its state; the exit status is 1 if one is in trouble.

    A process that is killed disappears after ten seconds of silence (``serve.presence_s``).
    """
    configure_logging(json=False, level="WARNING")
    settings = settings_from(root, config)
    found = asyncio.run(list_services(settings))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    elif found:
        _show(found, Console())
    else:
        silent_s = settings.serve.presence_s
        typer.echo(f"platevault: No process gave a sign of life within {silent_s:g} s", err=True)
    if not all(one.good for one in found):
        raise typer.Exit(ExitCode.FAILED)


def _show(found: Sequence[ServiceHealth], console: Console) -> None:
    table = Table()
    for column in ("name", "service", "cameras", "state", "for", "host", "version"):
        table.add_column(column, no_wrap=column in {"name", "service", "state"})
    for one in found:
        table.add_row(
            one.name, one.service, one.cameras, one.state.value, f"{one.for_s:.0f} s",
            f"{one.host}:{one.pid}", one.version,
        )  # fmt: skip
    console.print(table)
    for one in found:
        if one.trouble:
            # Text, unwrapped: brackets are no markup, and a line can be searched for.
            console.print(Text(f"{one.name}: {one.trouble}", style="yellow"), soft_wrap=True)
