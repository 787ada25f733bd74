"""Whole nights through the command line, and what is left of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from platevault.testing.command_line import run_platevault

#: Exposure, process or server that is killed, and the event at which it is.
Kill = tuple[int, str, str]
#: Longest night [s, machine].
_NIGHT_S = 600.0


def run_night(
    directory: Path,
    *arguments: str,
    verb: str = "run",
    variables: Mapping[str, str] | None = None,
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run a night below ``directory/night``; gives the command that ended, and its report."""
    file = directory / "report.json"
    file.unlink(missing_ok=True)
    done = run_platevault(
        "night", verb, "--root", str(directory / "night"), "--json", str(file), "--quiet",
        *arguments, variables=variables, within_s=_NIGHT_S,
    )  # fmt: skip
    assert file.exists(), done.stdout + done.stderr
    report: dict[str, Any] = json.loads(file.read_text())
    return done, report


def broken_invariants(report: Mapping[str, Any]) -> list[str]:
    """List what did not hold, and why."""
    return [f"{one['name']}: {one['detail']}" for one in report["invariants"] if not one["held"]]


def write_kills(file: Path, kills: Iterable[Kill]) -> None:
    """Write a plan of faults that kills."""
    file.write_text(
        "".join(
            f"- {{exposure: {number}, fault: kill, target: {target}, event: {event}}}\n"
            for number, target, event in kills
        )
    )


def check_second_starts(directory: Path, services: Iterable[str]) -> None:
    """Fail unless each process has logged a second start; else a kill has killed nothing."""
    for name in services:
        log = (directory / "night" / "log" / f"{name}.jsonl").read_text()
        starts = log.count('"service": "readiness", "event": "Serv')
        assert starts >= 3, name  # ready, ready again, stopped


def check_no_process_left(directory: Path) -> None:
    """Fail if a process lives that was started with a path below ``directory``."""
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, directory)]
    assert left == []


def _mentions(path: Path, directory: Path) -> bool:
    try:
        return str(directory).encode() in path.read_bytes()
    except OSError:
        return False
