"""A night whose services are processes, against the same night in one process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from platevault.compose.bench.report import Ratio, Report
from platevault.domain.errors import PermanentError

_CAMERAS = ("comcam", "latiss")
#: Wall time from one exposure to the next [s].
_CADENCE_S = 2.0
#: Latencies of separate processes over those of one process must not exceed this.
_LIMIT = 1.5
_INTRO = (
    "The same simulated nights, one after the other on an otherwise idle machine: embedded, with "
    "everything in one process, and as separate service processes. Latencies go from endReadout "
    "to the last file in the Butler and are means over the rounds. Telescope, camera and DAQ run "
    "on the same cores and make the pixels while they are read, in every deployment."
)


class NightFailedError(PermanentError):
    """A night of the benchmark did not end well: run the command that is named by hand."""


def bench_night(
    directory: Path,
    *,
    deployments: Sequence[str],
    exposures: int,
    rounds: int,
    progress: Callable[[str], None],
) -> Report:
    """Run nights in each deployment by turns and compare their latencies.

    Parameters
    ----------
    directory
        Roots of nights are made in it.
    deployments
        Of which the first is the yardstick.
    exposures
        Of each camera, in each night.
    rounds
        Nights in each deployment.
    progress
        Told what is going on.

    Raises
    ------
    NightFailedError
        An invariant did not hold, or a night could not start.
    """
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in deployments}
    for number in range(1, rounds + 1):
        for name in deployments:
            progress(f"round {number} of {rounds}: {name}")
            root = directory / f"{name}-{number}"
            found[name].append(_night(root, name, exposures))
            shutil.rmtree(root)
    report = Report("Nights in one process and in many", _INTRO, facts={"nights": found})
    yardstick = deployments[0]
    for name in deployments[1:]:
        for camera, ours in _latencies(found[name]).items():
            base = _latencies(found[yardstick])[camera]
            for figure in ("p50_s", "p95_s"):
                report.ratios.append(
                    Ratio(
                        f"{_LIMIT} x {yardstick} / {name}, {camera}, {figure[:3]}",
                        _LIMIT * base[figure] / ours[figure],
                        1.0,
                    )
                )
    for name, nights in found.items():
        for camera, ours in _latencies(nights).items():
            report.notes.append(
                f"{name}, {camera}: endReadout to ingested p50 {ours['p50_s']:.2f} s, "
                f"p95 {ours['p95_s']:.2f} s; {len(nights)} nights of {exposures} exposures."
            )
    return report


def _night(root: Path, deployment: str, exposures: int) -> Mapping[str, Any]:
    figures = root.with_suffix(".json")
    root.mkdir(parents=True)
    command = [sys.executable, "-m", "platevault", "night", "run", "--quiet"]
    for camera in _CAMERAS:
        command += ["--camera", camera]
    command += [
        *("--deployment", deployment, "--root", str(root), "--json", str(figures)),
        *("--exposures", str(exposures), "--cadence", str(_CADENCE_S)),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise NightFailedError(
            "A night of the benchmark failed",
            command=" ".join(command),
            problem=(ended.stderr or ended.stdout)[-2000:],
        )
    night: Mapping[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    return night


def _latencies(nights: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Give p50 and p95 by camera, each the mean over nights."""
    return {
        camera["camera"]: {
            figure: sum(night["cameras"][place]["ingested"][figure] for night in nights)
            / len(nights)
            for figure in ("p50_s", "p95_s")
        }
        for place, camera in enumerate(nights[0]["cameras"])
    }
