"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from platevault.compose.settings import Settings, load_settings

RootOption = Annotated[
    Path | None,
    typer.Option("--root", help="directory below which the site keeps its data [night]"),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="settings file of the site", dir_okay=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="as JSON, with everything known")]


def settings_from(root: Path | None, config: Path | None) -> Settings:
    """Read the settings that a command's ``--root`` and ``--config`` name."""
    return load_settings(config) if root is None else load_settings(config, root=root)
