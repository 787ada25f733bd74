"""A night of processes without any server: each service is killed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from platevault.testing.nights import (
    broken_invariants,
    check_no_process_left,
    check_second_starts,
    run_night,
    write_kills,
)

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(600)]
#: Two cameras share the Forwarders, the queue, the ledger and the Butler registry.
CAMERAS = ("LATISS", "LSSTComCam")
SERVICES = (
    "archive-controller", "forwarder-1", "forwarder-2", "forwarder-3", "forwarder-4",
    *(f"{kind}-{camera}" for camera in CAMERAS for kind in ("header-service", "oods", "archiver")),
)  # fmt: skip


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
    write_kills(plan, kills)
    done, report = run_night(
        tmp_path, "--deployment", "dds", "--camera", "latiss", "--camera", "comcam",
        "--detectors", "R00_S00,R22_S11", "--exposures", "6", "--cadence", "8",
        "--faults", str(plan),
    )  # fmt: skip
    assert broken_invariants(report) == []
    assert done.returncode == 0, done.stderr
    assert len(report["images"]) == 12
    assert len([one for one in report["faults"] if "killed" in one]) == len(kills)
    chosen = {name: report["settings"][name] for name in ("bus", "queue", "leases", "ledger")}
    assert chosen == {"bus": "dds", "queue": "sqlite", "leases": "sqlite", "ledger": "sqlite"}
    assert not (tmp_path / "night" / "servers").exists()
    check_second_starts(tmp_path, SERVICES)
    # Nothing of it lives on, and every consumer has taken its bell down.
    check_no_process_left(tmp_path)
    assert [path for path in (tmp_path / "night").rglob("*") if path.is_fifo()] == []
