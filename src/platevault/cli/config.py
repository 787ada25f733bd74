"""``platevault config``: show, check and describe settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from platevault.cli.options import ConfigOption, RootOption, settings_from
from platevault.compose.settings import load_settings, settings_schema

app = typer.Typer(rich_markup_mode=None, help="Show and check settings.", no_args_is_help=True)


@app.command("show")
def show(root: RootOption = None, config: ConfigOption = None) -> None:
    """Show the settings in force: file, environment and command line together."""
    settings = settings_from(root, config)
    typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)


@app.command("check")
def check(file: Annotated[Path, typer.Argument(help="settings file of a site")]) -> None:
    """Check a settings file; a wrong field is named, and the exit status is 2."""
    load_settings(file)
    typer.echo(f"{file}: valid")


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of the settings file."""
    typer.echo(json.dumps(settings_schema(), indent=2))
