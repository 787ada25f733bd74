"""``platevault version``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from platevault.compose.codecs import active_codec

#: Libraries whose version decides about files, catalogue and bus.
_NOTABLE = ("numpy", "astropy", "fitsio", "lsst-daf-butler", "pydantic")


def show_version(
    *, verbose: Annotated[bool, typer.Option("--verbose", "-v", help="with libraries")] = False
) -> None:
    """Show the version."""
    codec = active_codec()
    typer.echo(f"platevault {version('platevault')}")
    typer.echo(f"pixel codec: {codec.name} {codec.level} ({codec.detail})")
    if not verbose:
        return
    typer.echo(f"python {platform.python_version()}")
    for name in _NOTABLE:
        try:
            typer.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} not installed")
