"""Ingest of an exposure, against a bare batched ``Butler.ingest`` of the same files."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median

from platevault.adapters.butler.measurement import measure_ingest
from platevault.compose.bench.report import Ratio, Report
from platevault.compose.cameras import load_camera, shipped_cameras

_INTRO = (
    "Ours looks at each file, reads its sidecar, and registers exposure and visit with the regions "
    "of all detectors; the bare call ingests the same files in one batch, their exposure being "
    "registered before. Both take turns, each into a repository of its own; medians."
)


def bench_ingest(directory: Path, *, exposures: int, progress: Callable[[str], None]) -> Report:
    """Measure the ingest of exposures of every shipped camera."""
    ratios, notes, figures = [], [], {}
    for name in shipped_cameras():
        camera = load_camera(name)
        progress(f"{camera.name}: {exposures} exposures")
        place = directory / name
        try:
            found = asyncio.run(measure_ingest(place, camera, exposures=exposures))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        ratios.append(Ratio(f"ours / bare, {camera.name}, {found.files} files", found.ratio))
        notes.append(
            f"{camera.name}, {found.files} files: ours {1e3 * median(found.ours_s):.0f} ms, "
            f"bare {1e3 * median(found.bare_s):.0f} ms an exposure."
        )
        figures[camera.name] = {
            "files": found.files,
            "ours_s": list(found.ours_s),
            "bare_s": list(found.bare_s),
        }
    return Report("Ingest of an exposure", _INTRO, ratios=ratios, notes=notes, facts=figures)
