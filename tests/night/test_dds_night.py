"""A night of processes without any server: each service is killed once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(600)]
#: Two cameras share the Forwarders, the queue, the ledger and the Butler registry.
CAMERAS = ("LATISS", "LSSTComCam")
SERVICES = (
    "archive-controller", "forwarder-1", "forwarder-2", "forwarder-3", "forwarder-4",
    *(f"{kind}-{camera}" for camera in CAMERAS for kind in ("header-service", "oods", "archiver")),
)  # fmt: skip


def night(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a night without servers; gives exit status and report."""
    report = tmp_path / "report.json"
    environment = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - the child's
        if not name.startswith(("PLATEVAULT_", "LSST_"))
    }
    done = subprocess.run(
        [
            sys.executable, "-m", "platevault", "night", "run", "--deployment", "dds",
            "--root", str(tmp_path / "night"), "--camera", "latiss", "--camera", "comcam",
            "--detectors", "R00_S00,R22_S11", "--quiet", "--json", str(report), *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    content: dict[str, Any] = json.loads(report.read_text())
    return done.returncode, content


def broken(report: dict[str, Any]) -> list[str]:
    return [f"{one['name']}: {one['detail']}" for one in report["invariants"] if not one["held"]]


def test_each_service_is_killed_once_and_nothing_is_lost(tmp_path: Path) -> None:
    kills = (
        (1, "forwarder-1", "endReadout"),
        (2, "archiver-LATISS", "startReadout"),
        (3, "oods-LATISS", "endReadout"),
        (4, "header-service-LSSTComCam", "endReadout"),
        (5, "archive-controller", "endReadout"),
        (6, "oods-LSSTComCam", "startReadout"),
        (7, "header-service-LATISS", "endReadout"),
        (8, "archiver-LSSTComCam", "endReadout"),
        (9, "forwarder-2", "endReadout"),
        (10, "forwarder-3", "endReadout"),
        (11, "forwarder-4", "endReadout"),
    )
    assert {target for _, target, _ in kills} == {*SERVICES}
    plan = tmp_path / "kills.yaml"
    plan.write_text(
        "".join(
            f"- {{exposure: {number}, fault: kill, target: {target}, event: {event}}}\n"
            for number, target, event in kills
        )
    )
    status, report = night(tmp_path, "--exposures", "6", "--cadence", "8", "--faults", str(plan))
    assert broken(report) == []
    assert status == 0
    assert len(report["images"]) == 12
    assert len([one for one in report["faults"] if "killed" in one]) == len(kills)
    chosen = {name: report["settings"][name] for name in ("bus", "queue", "leases", "ledger")}
    assert chosen == {"bus": "dds", "queue": "sqlite", "leases": "sqlite", "ledger": "sqlite"}
    assert not (tmp_path / "night" / "servers").exists()
    # A kill that killed nothing would prove nothing: each process has logged a second start.
    logs = tmp_path / "night" / "log"
    for name in SERVICES:
        starts = (
            (logs / f"{name}.jsonl").read_text().count('"service": "readiness", "event": "Serv')
        )
        assert starts >= 3, name  # ready, ready again, stopped
    # Nothing of it lives on, and every consumer has taken its bell down.
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, tmp_path)]
    assert [path for path in (tmp_path / "night").rglob("*") if path.is_fifo()] == []


def _mentions(path: Path, directory: Path) -> bool:
    try:
        return str(directory).encode() in path.read_bytes()
    except OSError:
        return False
