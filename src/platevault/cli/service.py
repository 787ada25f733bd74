"""``platevault service``: the processes of a site."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from platevault.cli.options import ConfigOption, JsonOption, RootOption, settings_from
from platevault.cli.outcomes import ExitCode
from platevault.compose.serving.roster import list_services
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
    found = asyncio.run(list_services(settings_from(root, config)))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        table = Table("name", "service", "cameras", "state", "for", "host", "version", "trouble")
        for one in found:
            table.add_row(
                one.name, one.service, one.cameras, one.state.value, f"{one.for_s:.0f} s",
                f"{one.host}:{one.pid}", one.version, one.trouble,
            )  # fmt: skip
        Console().print(table)
    if not all(one.good for one in found):
        raise typer.Exit(ExitCode.FAILED)
