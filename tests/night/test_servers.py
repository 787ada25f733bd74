"""Whole nights over real servers: each service its own process, and each killed once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from platevault.compose.local_servers import (
    KafkaServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    ServerMissingError,
)
from platevault.testing.dds_domains import own_domain

pytestmark = [pytest.mark.drill, pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(600)]
SERVERS = {
    "kafka": KafkaServer, "rabbitmq": RabbitServer, "redis": RedisServer,
    "postgres": PostgresServer,
}  # fmt: skip
SERVICES = (
    "archive-controller", "forwarder-1", "forwarder-2", "header-service-LATISS", "oods-LATISS",
    "archiver-LATISS",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _servers(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> None:
    for name, server in SERVERS.items():
        directory = tmp_path_factory.mktemp(name)
        try:
            server(directory).prepare()
        except ServerMissingError:
            service_missing(name)


def night(
    tmp_path: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Run a night over servers; gives exit status and report."""
    report = tmp_path / "report.json"
    environment = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - the child's
        if not name.startswith(("PLATEVAULT_", "LSST_"))
    }
    done = subprocess.run(
        [
            sys.executable, "-m", "platevault", "night", "run", "--deployment", "local-servers",
            "--root", str(tmp_path / "night"), "--camera", "latiss", "--quiet",
            "--json", str(report), *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, **(variables or {})},
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    content: dict[str, Any] = json.loads(report.read_text())
    return done.returncode, content


def broken(report: dict[str, Any]) -> list[str]:
    return [f"{one['name']}: {one['detail']}" for one in report["invariants"] if not one["held"]]


def test_each_service_and_each_server_is_killed_once_and_nothing_is_lost(tmp_path: Path) -> None:
    kills = (
        (1, "forwarder-1", "endReadout"),
        (1, "archiver-LATISS", "startReadout"),
        (2, "redis", "endReadout"),
        (3, "header-service-LATISS", "startIntegration"),
        (3, "oods-LATISS", "startReadout"),
        (4, "rabbitmq", "endReadout"),
        (5, "kafka", "startReadout"),
        (6, "archive-controller", "endReadout"),
        (6, "forwarder-2", "endReadout"),
        (7, "postgres", "endReadout"),
    )
    assert {target for _, target, _ in kills} == {*SERVICES, *SERVERS}
    plan = tmp_path / "kills.yaml"
    plan.write_text(
        "".join(
            f"- {{exposure: {number}, fault: kill, target: {target}, event: {event}}}\n"
            for number, target, event in kills
        )
    )
    status, report = night(tmp_path, "--exposures", "8", "--cadence", "8", "--faults", str(plan))
    assert broken(report) == []
    assert status == 0
    assert len(report["images"]) == 8
    assert len([one for one in report["faults"] if "killed" in one]) == len(kills)
    # A kill that killed nothing would prove nothing: each process has logged a second start.
    logs = tmp_path / "night" / "log"
    for name in SERVICES:
        starts = (
            (logs / f"{name}.jsonl").read_text().count('"service": "readiness", "event": "Serv')
        )
        assert starts >= 3, name  # ready, ready again, stopped
    # Nothing of it lives on.
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, tmp_path)]


def test_samples_may_go_over_dds_between_processes(tmp_path: Path) -> None:
    own = {"PLATEVAULT_BUS": "dds", "PLATEVAULT_DDS__DOMAIN_ID": str(own_domain())}
    status, report = night(tmp_path, "--exposures", "2", variables=own)
    assert broken(report) == []
    assert status == 0
    assert report["settings"]["bus"] == "dds"
    assert not (tmp_path / "night" / "servers" / "kafka").exists()


def _mentions(path: Path, directory: Path) -> bool:
    try:
        return str(directory).encode() in path.read_bytes()
    except OSError:
        return False
