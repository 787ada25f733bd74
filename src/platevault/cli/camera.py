"""``platevault camera``: the cameras, as data."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from platevault.compose.cameras import (
    camera_schema,
    format_camera,
    load_camera,
    shipped_cameras,
)
from platevault.domain.camera import Camera

app = typer.Typer(
    rich_markup_mode=None, help="Show cameras and check their documents.", no_args_is_help=True
)


@app.command("list")
def list_cameras() -> None:
    """List the cameras that come with the product."""
    for name in shipped_cameras():
        typer.echo(name)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="shipped name, or a camera document (YAML)")],
    as_yaml: Annotated[bool, typer.Option("--yaml", help="the whole document")] = False,
    detectors: Annotated[bool, typer.Option("--detectors", help="every detector")] = False,
) -> None:
    """Show a camera; a document that contradicts itself is refused with the field named."""
    camera = load_camera(name)
    if as_yaml:
        typer.echo(format_camera(camera), nl=False)
        return
    purposes = Counter(detector.purpose.value.lower() for detector in camera.detectors)
    table = Table(show_header=False)
    for label, value in (
        ("name", camera.name),
        ("image names", f"{camera.code}_O_<day_obs>_<sequence>"),
        ("detectors", ", ".join(f"{count} {name}" for name, count in purposes.items())),
        ("boards", str(len(camera.boards))),
        ("amplifiers", str(sum(len(one.type.amplifiers) for one in camera.detectors))),
        ("filters", str(len(camera.filters))),
        ("components", ", ".join(_components(camera))),
        ("telescope", camera.telescope_name),
    ):  # fmt: skip
        table.add_row(label, value)
    console = Console()
    console.print(table)
    if detectors:
        listing = Table("id", "sensor", "type", "purpose", "serial", "board")
        for one in camera.detectors:
            listing.add_row(
                str(one.id), one.name, one.type.name, one.purpose.value, one.serial,
                camera.board_of(one.name).location,
            )  # fmt: skip
        console.print(listing)


def _components(camera: Camera) -> tuple[str, ...]:
    components = camera.components
    return components.camera, components.archiver, components.header_service, components.oods


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of a camera document."""
    typer.echo(json.dumps(camera_schema(), indent=2))
