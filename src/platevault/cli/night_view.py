"""How a night looks on a terminal: live progress, then the summary."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from platevault.compose.night.progress import ExposureProgress
from platevault.compose.night.report import CameraFigures, Latency, NightReport

#: Exposures shown at once; older ones that are finished leave the view.
_SHOWN = 14


def live_table(progress: Sequence[ExposureProgress], planned: int) -> RenderableType:
    """Show the newest exposures, a line each."""
    table = Table(box=None, padding=(0, 1))
    for column in ("exposure", "header", "written", "", "butler", "backbone"):
        table.add_column(column)
    shown = progress[-_SHOWN:]
    for one in shown:
        table.add_row(
            Text(one.image, style="red" if one.troubled else ""),
            Text("yes", style="green") if one.header else Text("..", style="dim"),
            f"{one.written}/{one.sensors}",
            ProgressBar(total=3 * one.sensors, completed=_steps(one), width=24),
            f"{one.catalogued}/{one.sensors}",
            f"{one.replicated}/{one.sensors}",
        )
    finished = sum(one.finished for one in progress)
    return Group(Text(f"{finished} of {planned} exposures complete", style="bold"), table)


def _steps(one: ExposureProgress) -> int:
    return one.written + one.catalogued + one.replicated


def print_summary(console: Console, report: NightReport) -> None:
    """Print the figures of the night, whether its invariants held, and what to type next."""
    table = Table(title="The night", title_justify="left")
    table.add_column("")
    for figures in report.cameras:
        table.add_column(figures.camera, justify="right")
    for label, cells in _figure_rows(report.cameras):
        table.add_row(label, *cells)
    console.print(table)
    for fault in report.faults:
        console.print(Text(f"injected: {fault}", style="yellow"))
    for invariant in report.invariants:
        mark = Text("held  ", style="green") if invariant.held else Text("BROKEN", style="bold red")
        console.print(mark, Text(f"{invariant.name}: {invariant.detail}"))
    console.print(
        f"{report.observing_s:.1f} s observing, {report.verifying_s:.1f} s verifying, "
        f"memory peak {report.peak_memory_bytes / 1e6:.0f} MB"
    )
    console.print(f"log: {report.root}/log/night.jsonl", highlight=False, soft_wrap=True)
    if report.settings.get("ledger") == "postgres":
        console.print(f"settings: {report.root}/run/site.yaml", highlight=False, soft_wrap=True)
    elif report.images:
        _print_next(console, report)


def _figure_rows(cameras: Sequence[CameraFigures]) -> list[tuple[str, list[str]]]:
    return [
        ("exposures", [str(one.exposures) for one in cameras]),
        ("sensor images", [str(one.sensors) for one in cameras]),
        ("files", [str(one.files) for one in cameras]),
        ("pixels read", [f"{one.pixel_bytes / 1e9:.2f} GB" for one in cameras]),
        ("files written", [f"{one.file_bytes / 1e9:.2f} GB" for one in cameras]),
        ("header completeness", [f"{one.header_completeness:.1%}" for one in cameras]),
        ("degraded exposures", [str(one.degraded) for one in cameras]),
        ("endReadout to durable, p50/p95", [_pair(one.durable) for one in cameras]),
        ("endReadout to ingested, p50/p95", [_pair(one.ingested) for one in cameras]),
        ("endOfImageTelemetry to header, p50/p95", [_pair(one.header) for one in cameras]),
    ]


def _pair(latency: Latency | None) -> str:
    return "-" if latency is None else f"{latency.p50_s:.2f} / {latency.p95_s:.2f} s"


def _print_next(console: Console, report: NightReport) -> None:
    root, image = report.root, report.images[-1]
    console.print()
    console.print(Text("Next:", style="bold"))
    console.print(f"  platevault image list --root {root}", highlight=False, soft_wrap=True)
    console.print(
        f"  platevault image where {image} --root {root}", highlight=False, soft_wrap=True
    )
    camera = report.settings.get("last_camera", "")
    exposure = report.settings.get("last_exposure_id", "")
    console.print("  python:", highlight=False)
    for line in (
        "from lsst.daf.butler import Butler",
        f'butler = Butler.from_config("{root}/butler")',
        f'raw = butler.get("raw", instrument="{camera}", detector=0, exposure={exposure},',
        f'                 collections="{camera}/raw/all")',
        'print(raw.assemble().shape, raw.metadata["OBSID"])',
    ):
        console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
