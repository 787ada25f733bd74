"""``platevault night``: run or replay a night."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.live import Live

from platevault.cli.night_view import live_table, print_summary
from platevault.cli.options import ConfigOption, RootOption, settings_from
from platevault.cli.outcomes import ExitCode
from platevault.compose.cameras import load_camera
from platevault.compose.header_keywords import own_keyword_file
from platevault.compose.night.drills import read_plan
from platevault.compose.night.local_site import Deployment
from platevault.compose.night.progress import ExposureProgress
from platevault.compose.night.replay import survey_frames
from platevault.compose.night.report import NightReport
from platevault.compose.night.run import NightOptions, Watcher, run_night
from platevault.compose.settings import Settings
from platevault.domain.camera import Camera
from platevault.runtime.metrics import Metrics
from platevault.runtime.observe import configure_logging
from platevault.runtime.service import StopToken
from platevault.sim.camera import UnknownSensorError

app = typer.Typer(
    rich_markup_mode=None,
    help="Run a simulated night, or replay real frames.",
    no_args_is_help=True,
)

CamerasOption = Annotated[
    list[str],
    typer.Option(
        "--camera", help="latiss, comcam, lsstcam, or a camera document (YAML); may repeat"
    ),
]
CadenceOption = Annotated[
    float,
    typer.Option(
        "--cadence", min=0.0, help="wall time from start to start [s]; 0: as fast as it goes"
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="chooses fields, stars, noise, weather")]
FaultsOption = Annotated[
    Path | None, typer.Option("--faults", help="fault plan (YAML)", dir_okay=False)
]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json", help="write every figure as JSON", dir_okay=False)
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="no live view")]


@app.command("run")
def run(
    camera: CamerasOption,
    root: RootOption = None,
    config: ConfigOption = None,
    exposures: Annotated[int, typer.Option(min=1, help="exposures of each camera")] = 5,
    cadence: CadenceOption = 0.0,
    seed: SeedOption = 1,
    detectors: Annotated[
        str,
        typer.Option(
            help="sensors to read, such as R22_S01,R22_S11; a camera without any reads all"
        ),
    ] = "",
    faults: FaultsOption = None,
    json_file: JsonFileOption = None,
    quiet: QuietOption = False,
    deployment: Annotated[
        Deployment,
        typer.Option(
            help="embedded: all in this process; local-servers: every service its own process over "
            "Kafka, RabbitMQ, Redis and PostgreSQL, started for it; dds: every service its own "
            "process without any server"
        ),
    ] = Deployment.EMBEDDED,
    stay: Annotated[
        bool, typer.Option("--stay", help="stay up after the last exposure, until interrupted")
    ] = False,
) -> None:
    """Run a simulated night end to end, and check that nothing was lost.

    The exit status is 1 if an invariant does not hold.
    """
    cameras, keyword_files = _cameras(camera)
    options = NightOptions(
        cameras=cameras,
        exposures=exposures,
        cadence_s=cadence,
        seed=seed,
        sensors=_sensors(detectors, cameras),
        faults=read_plan(faults) if faults is not None else (),
        keyword_files=keyword_files,
        stay=stay,
        deployment=deployment,
    )
    _finish(_watched(settings_from(root, config), options, quiet=quiet), json_file)


@app.command("replay")
def replay(
    frames: Annotated[list[Path], typer.Argument(help="FITS frames", dir_okay=False)],
    camera: Annotated[
        str, typer.Option("--camera", help="shipped camera, or a camera document (YAML)")
    ],
    root: RootOption = None,
    config: ConfigOption = None,
    detector: Annotated[
        str, typer.Option(help="sensor that the frames belong to; empty: the first of the camera")
    ] = "",
    cadence: CadenceOption = 0.0,
    json_file: JsonFileOption = None,
    quiet: QuietOption = False,
) -> None:
    """Put real frames through the same path as a camera's exposures.

    A frame that cannot be read is named and left out; the exit status is then 1.
    """
    cameras, keyword_files = _cameras([camera])
    (known,) = cameras.values()
    visits, problems = survey_frames(frames, known, detector)
    for problem in problems:
        typer.echo(f"platevault: {problem}", err=True)
    for visit in visits:
        for note in visit.notes:
            typer.echo(f"{visit.path.name}: {note}", err=True)
    if not visits:
        raise typer.Exit(ExitCode.FAILED)
    options = NightOptions(
        cameras=cameras,
        keyword_files=keyword_files,
        exposures=len(visits),
        cadence_s=cadence,
        sensors=sorted({visit.sensor for visit in visits}),
        replayed={known.name: visits},
    )
    _finish(_watched(settings_from(root, config), options, quiet=quiet), json_file)
    if problems:
        raise typer.Exit(ExitCode.FAILED)


def _cameras(names: Sequence[str]) -> tuple[dict[str, Camera], dict[str, Path]]:
    cameras, keyword_files = {}, {}
    for name in names:
        camera = load_camera(name)
        cameras[camera.name] = camera
        own = own_keyword_file(name)
        if own is not None:
            keyword_files[camera.name] = own
    return cameras, keyword_files


def _sensors(text: str, cameras: dict[str, Camera]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not any(name in camera.detector_by_name for camera in cameras.values()):
            raise UnknownSensorError(
                "Sensor is not in the camera", sensor=name, cameras=sorted(cameras)
            )
    return names


def _watched(settings: Settings, options: NightOptions, *, quiet: bool) -> NightReport:
    console = Console(stderr=True)
    metrics = Metrics(CollectorRegistry())
    with _logs(settings, metrics):
        if quiet or not console.is_terminal:
            return asyncio.run(_run(settings, options, metrics, lambda _progress, _planned: None))
        with Live(console=console, refresh_per_second=8, transient=True) as live:

            def show(progress: Sequence[ExposureProgress], planned: int) -> None:
                live.update(live_table(progress, planned))

            return asyncio.run(_run(settings, options, metrics, show))


@contextmanager
def _logs(settings: Settings, metrics: Metrics) -> Iterator[None]:
    """Log to a file below the root, which the live view does not disturb, or as settings say."""
    if settings.log.format != "auto":
        configure_logging(
            json=settings.log.format == "json",
            level=settings.log.level,
            on_line=metrics.count_line,
        )
        yield
        return
    settings.log_file.parent.mkdir(parents=True, exist_ok=True)
    with settings.log_file.open("a", encoding="utf-8") as stream:
        configure_logging(
            json=True, level=settings.log.level, stream=stream, on_line=metrics.count_line
        )
        yield
        configure_logging(json=False, level=settings.log.level)


async def _run(
    settings: Settings, options: NightOptions, metrics: Metrics, watch: Watcher
) -> NightReport:
    stop = StopToken()
    with _interrupts(stop, staying=options.stay):
        return await run_night(settings, options, watch=watch, stop=stop, metrics=metrics)


@contextmanager
def _interrupts(stop: StopToken, *, staying: bool) -> Iterator[None]:
    """Let an interrupt end a stay; without one it ends the night as usual."""
    if not staying:
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.request)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _finish(report: NightReport, json_file: Path | None) -> None:
    print_summary(Console(), report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    if not report.good:
        raise typer.Exit(ExitCode.FAILED)
