"""``platevault serve``: be one service."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry

from platevault.cli.options import ConfigOption, RootOption
from platevault.compose.cameras import load_camera
from platevault.compose.header_keywords import own_keyword_file
from platevault.compose.serving.kinds import ServiceKind
from platevault.compose.serving.process import ServeOptions, serve
from platevault.compose.settings import load_settings
from platevault.domain.errors import PlatevaultError
from platevault.runtime.metrics import Metrics
from platevault.runtime.observe import configure_logging
from platevault.runtime.process import exit_code


def serve_command(
    service: Annotated[ServiceKind, typer.Argument(help="which service to be")],
    camera: Annotated[
        list[str] | None,
        typer.Option(
            "--camera", help="latiss, comcam, lsstcam, or a camera document (YAML); may repeat"
        ),
    ] = None,
    config: ConfigOption = None,
    root: RootOption = None,
    name: Annotated[
        str, typer.Option(help="unique among the site's processes; default: kind, camera or host")
    ] = "",
    state: Annotated[
        str, typer.Option(help="state to go to at the start: offline, standby, disabled, enabled")
    ] = "",
    detectors: Annotated[
        str, typer.Option(help="sensors of an archiver or observatory, such as R22_S01,R22_S11")
    ] = "",
    seed: Annotated[int, typer.Option(help="of what is simulated")] = 1,
    metrics_port: Annotated[
        int | None, typer.Option(help="TCP port of /metrics, /livez and /readyz")
    ] = None,
) -> None:
    """Be one service of a site, until SIGTERM: then what is in hand is finished, and no more taken.

    Logs are JSON on standard error. The exit status is 0 if asked to stop, 1 after a failure, 2 for
    wrong settings, 3 if something in hand had to be left to others.
    """
    overrides: dict[str, object] = {}
    if root is not None:
        overrides["root"] = root
    if state:
        overrides["serve"] = {"initial_state": state}
    if metrics_port is not None:
        overrides["metrics"] = {"port": metrics_port}
    settings = load_settings(config, **overrides)
    metrics = Metrics(CollectorRegistry())
    configure_logging(
        json=settings.log.format != "console",
        level=settings.log.level,
        on_line=metrics.count_line,
    )
    cameras, keyword_files = {}, {}
    for given in camera or []:
        loaded = load_camera(given)
        cameras[loaded.name] = loaded
        own = own_keyword_file(Path(given))
        if own is not None:
            keyword_files[loaded.name] = own
    options = ServeOptions(
        kind=service,
        cameras=cameras,
        name=name,
        sensors=[one.strip() for one in detectors.split(",") if one.strip()],
        seed=seed,
        keyword_files=keyword_files,
    )
    # Until the services run, a request to stop ends the process at once and in good order.
    signal.signal(signal.SIGTERM, _leave)
    try:
        asyncio.run(serve(settings, options, metrics))
    except PlatevaultError as error:
        typer.echo(f"platevault: {error}", err=True)
        raise typer.Exit(exit_code(error)) from error


def _leave(_number: int, _frame: object) -> None:
    raise typer.Exit(0)
