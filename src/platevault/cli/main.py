"""The ``platevault`` command: nouns, then verbs."""

from __future__ import annotations

import sys

import typer

from platevault.cli import camera, config, csc, image, night, queue, service
from platevault.cli.bench import bench_app
from platevault.cli.outcomes import exit_code_of
from platevault.cli.serve import serve_command
from platevault.cli.version import show_version
from platevault.domain.errors import PlatevaultError

app = typer.Typer(
    rich_markup_mode=None,
    name="platevault",
    help="Capture and archive observatory images: from the camera's readout to butler.get.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    epilog=(
        "Exit status: 0 done; 1 something failed or an invariant does not hold; 2 wrong usage or "
        "settings; 3 did not stop in time; 4 contents disagree with their digest, call a person."
    ),
)
app.add_typer(night.app, name="night")
app.add_typer(image.app, name="image")
app.add_typer(csc.app, name="csc")
app.add_typer(camera.app, name="camera")
app.add_typer(config.app, name="config")
app.add_typer(bench_app, name="bench")
app.add_typer(service.app, name="service")
app.add_typer(queue.app, name="queue")
app.command("serve")(serve_command)
app.command("version")(show_version)


def main() -> None:
    """Run the command and turn our errors into one clear line and an exit status."""
    try:
        app()
    except PlatevaultError as error:
        typer.echo(f"platevault: {error}", err=True)
        sys.exit(exit_code_of(error))
