"""``platevault bench``: measure the pixel path and the buses against their peers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

bench_app = typer.Typer(
    rich_markup_mode=None,
    help="Measure the pixel path against fitsio, astropy, fpack and memcpy; keep the machine idle.",
    no_args_is_help=True,
)

_Scratch = Annotated[Path, typer.Option(help="RAM disk to write to; a directory is made in it.")]
_Repeats = Annotated[int, typer.Option(min=1, help="Measured rounds, after one that is not.")]
_Pages = Annotated[
    Path | None, typer.Option(help="Directory for a Markdown page and JSON of each benchmark.")
]
_Sensors = Annotated[int, typer.Option(min=2, help="Sensors in a sample of the fast cases.")]
_TEMPORARY = Path(tempfile.gettempdir())
_RAM_DISK = Path("/dev/shm")  # noqa: S108 - a RAM disk is what is measured


@bench_app.command("pixels")
def bench_pixels_command(
    scratch: _Scratch = _RAM_DISK,
    repeats: _Repeats = 5,
    sensors: _Sensors = 18,
    markdown: _Pages = None,
) -> None:
    """Measure the file of one sensor, on realistic and on difficult pixels."""
    from platevault.compose.bench import pixels, report

    console = Console()
    found = pixels.bench_pixels(
        _directory(scratch), repeats=repeats, count=sensors, progress=_teller(console)
    )
    report.show(found, console)
    if markdown is not None:
        report.write(found, "pixels", markdown, report.machine_facts(scratch))


@bench_app.command("headers")
def bench_headers_command(
    scratch: _Scratch = _RAM_DISK, repeats: _Repeats = 7, markdown: _Pages = None
) -> None:
    """Measure the headers of all files of an LSSTCam exposure."""
    from platevault.compose.bench import headers, report

    console = Console()
    found = headers.bench_headers(repeats=repeats, progress=_teller(console))
    report.show(found, console)
    if markdown is not None:
        report.write(found, "headers", markdown, report.machine_facts(scratch))


@bench_app.command("exposure")
def bench_exposure_command(
    scratch: _Scratch = _RAM_DISK, repeats: _Repeats = 3, markdown: _Pages = None
) -> None:
    """Measure a whole LSSTCam exposure, boards over TCP, and the latency of LATISS."""
    from platevault.compose.bench import exposure, report

    console = Console()
    found = exposure.bench_exposure(_directory(scratch), repeats=repeats, progress=_teller(console))
    report.show(found, console)
    if markdown is not None:
        report.write(found, "exposure", markdown, report.machine_facts(scratch))


@bench_app.command("ingest")
def bench_ingest_command(
    scratch: _Scratch = _RAM_DISK,
    exposures: Annotated[int, typer.Option(min=3, help="Exposures of each camera.")] = 7,
    markdown: _Pages = None,
) -> None:
    """Measure the ingest of an exposure against a bare batched call."""
    from platevault.compose.bench import ingest, report

    console = Console()
    found = ingest.bench_ingest(_directory(scratch), exposures=exposures, progress=_teller(console))
    report.show(found, console)
    if markdown is not None:
        report.write(found, "ingest", markdown, report.machine_facts(scratch))


@bench_app.command("buses")
def bench_buses_command(
    scratch: _Scratch = _RAM_DISK,
    exposures: Annotated[int, typer.Option(min=1, help="Exposures of 205 small frames.")] = 20,
    markdown: _Pages = None,
) -> None:
    """Measure commands over Kafka and DDS, and messages over RabbitMQ, with servers of its own."""
    from platevault.compose.bench import buses, report
    from platevault.runtime.observe import configure_logging

    configure_logging(json=False, level="WARNING")
    console = Console()
    found = buses.bench_buses(_directory(scratch), exposures=exposures, progress=_teller(console))
    report.show(found, console)
    if markdown is not None:
        report.write(found, "buses", markdown, report.machine_facts(scratch))


@bench_app.command("night")
def bench_night_command(
    scratch: Annotated[
        Path, typer.Option(help="Disk to write to; a directory is made in it.")
    ] = _TEMPORARY,
    exposures: Annotated[int, typer.Option(min=3, help="Exposures of each camera.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Nights in each deployment.")] = 2,
    deployment: Annotated[
        list[str] | None,
        typer.Option(help="Compared with embedded; may repeat. All of them if none is named."),
    ] = None,
    markdown: _Pages = None,
) -> None:
    """Measure nights as separate processes against a night in one process."""
    from platevault.compose.bench import night, report

    console = Console()
    directory = _directory(scratch)
    try:
        found = night.bench_night(
            directory,
            deployments=["embedded", *(deployment or ["local-servers", "dds"])],
            exposures=exposures,
            rounds=rounds,
            progress=_teller(console),
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.show(found, console)
    if markdown is not None:
        report.write(found, "night", markdown, report.machine_facts(scratch))


@bench_app.command("all")
def bench_all_command(scratch: _Scratch = _RAM_DISK, markdown: _Pages = None) -> None:
    """Measure everything, one after the other."""
    bench_headers_command(scratch=scratch, repeats=7, markdown=markdown)
    bench_pixels_command(scratch=scratch, repeats=5, sensors=18, markdown=markdown)
    bench_exposure_command(scratch=scratch, repeats=3, markdown=markdown)
    bench_ingest_command(scratch=scratch, exposures=7, markdown=markdown)
    bench_buses_command(scratch=scratch, exposures=20, markdown=markdown)
    bench_night_command(markdown=markdown)


def _directory(scratch: Path) -> Path:
    return scratch / f"platevault-bench-{os.getpid()}"


def _teller(console: Console) -> Callable[[str], None]:
    def tell(text: str) -> None:
        console.print(f"[dim]{text}[/dim]")

    return tell
