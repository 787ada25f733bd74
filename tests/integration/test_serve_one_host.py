"""Services of one host share files and no server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from platevault.compose.local_servers import free_port
from platevault.compose.night.local_site import free_domain

_START_S = 90.0


def environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - the child's
        if not name.startswith(("PLATEVAULT_", "LSST_"))
    }


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


@contextmanager
def serving(
    site: Path, kind: str, name: str, port: int, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [
                sys.executable, "-m", "platevault", "serve", kind, "--config", str(site),
                "--camera", "latiss", "--name", name, "--metrics-port", str(port),
            ],
            stderr=stream, env=environment(),
        )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def ready(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def services(site: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "platevault", "service", "list", "--config", str(site), "--json"],
        capture_output=True, text=True, check=False, env=environment(), timeout=_START_S,
    )  # fmt: skip
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
                serving(site, kind, name, ports[name], tmp_path / f"{name}.log")
            )
            for name, kind in kinds.items()
        }
        deadline = time.monotonic() + _START_S
        for name, port in ports.items():
            while ready(port) != "ready\n":
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
    with serving(site, "archive-controller", "controller", free_port(), log) as child:
        assert child.wait(_START_S) == 1
    assert str(tmp_path / "data" / "host" / "leases.sqlite") in log.read_text()


def test_a_domain_that_others_are_in_is_not_taken() -> None:
    first = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 7400 + 250 * first + 10))
        assert free_domain() != first
