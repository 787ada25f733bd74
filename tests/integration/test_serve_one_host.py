"""Services of one host share files and no server."""

from __future__ import annotations

import json
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from platevault.compose.local_servers import free_port
from platevault.compose.night.local_site import free_domain
from platevault.testing.command_line import ask_service, run_platevault, serving

_START_S = 90.0


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "site.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "root": str(tmp_path / "data"),
                "queue": "sqlite",
                "leases": "sqlite",
                "daq": {"host": "127.0.0.1", "port": free_port()},
                "serve": {"presence_s": 2.0},
            }
        )
    )
    return file


def arguments(site: Path, kind: str, name: str, port: int) -> list[str]:
    return [
        kind, "--config", str(site), "--camera", "latiss", "--name", name,
        "--metrics-port", str(port),
    ]  # fmt: skip


def services(site: Path) -> list[dict[str, Any]]:
    done = run_platevault("service", "list", "--config", str(site), "--json")
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_services_that_start_together_find_each_other_in_files(tmp_path: Path, site: Path) -> None:
    kinds = {
        "controller": "archive-controller", "one": "forwarder", "two": "forwarder",
        "three": "forwarder",
    }  # fmt: skip
    ports = {name: free_port() for name in kinds}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(
                serving(*arguments(site, kind, name, ports[name]), log=tmp_path / f"{name}.log")
            )
            for name, kind in kinds.items()
        }
        deadline = time.monotonic() + _START_S
        for name, port in ports.items():
            while ask_service(port, "/readyz") != (200, "ready\n"):
                assert time.monotonic() < deadline, (tmp_path / f"{name}.log").read_text()
                time.sleep(0.05)
        listed = {one["name"]: one for one in services(site)}
        assert {name: one["pid"] for name, one in listed.items()} == {
            name: child.pid for name, child in running.items()
        }
        assert {one["trouble"] for one in listed.values()} == {""}
        # One that leaves in good order is gone at once; one that is killed after its silence.
        running["one"].send_signal(signal.SIGTERM)
        assert running["one"].wait(30) == 0
        assert "one" not in {one["name"] for one in services(site)}
        running["two"].kill()
        while "two" in {one["name"] for one in services(site)}:
            assert time.monotonic() < deadline
        assert sorted(one["name"] for one in services(site)) == ["controller", "three"]
    files = sorted(path.name for path in (tmp_path / "data" / "host").iterdir())
    assert {"leases.sqlite", "queue.sqlite", "queue.sqlite.bells"} <= {*files}


def test_a_service_whose_files_cannot_be_opened_says_so_and_ends(
    tmp_path: Path, site: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "host").write_text("in the way")
    log = tmp_path / "log"
    chosen = arguments(site, "archive-controller", "controller", free_port())
    with serving(*chosen, log=log) as child:
        assert child.wait(_START_S) == 1
    assert str(tmp_path / "data" / "host" / "leases.sqlite") in log.read_text()


def test_a_domain_that_others_are_in_is_not_taken() -> None:
    first = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 7400 + 250 * first + 10))
        assert free_domain() != first
