"""A service as a process: it is ready, is seen, drains on SIGTERM, and says what is wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from platevault.adapters.memory.presence import MemoryPresence
from platevault.adapters.system_clock import SystemClock
from platevault.compose.local_servers import RabbitServer, RedisServer, free_port
from platevault.compose.serving.life import (
    PROCESS_ROLE,
    Identity,
    Life,
    Principal,
    ProcessState,
    Readiness,
    ServersAnswer,
    SignsOfLife,
)
from platevault.compose.serving.roster import ServiceHealth, health_of
from platevault.runtime.process import run_services
from platevault.runtime.service import StopToken
from platevault.testing.command_line import ask_service, run_platevault, serving

_START_S = 60.0
ME = Identity(
    name="archiver-1", service="archiver", cameras=("LATISS",), host="here", pid=7, version="1"
)


def wait_for(port: int, path: str, status: int, log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        found, text = ask_service(port, path)
        if found == status:
            return text
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture
def site(tmp_path: Path, redis_server: RedisServer, rabbit_server: RabbitServer) -> Path:
    file = tmp_path / "site.yaml"
    file.touch(mode=0o600)
    file.write_text(
        yaml.safe_dump(
            {
                "root": str(tmp_path / "data"),
                "queue": "rabbitmq",
                "leases": "redis",
                "redis": {"port": redis_server.port, "namespace": f"serve{free_port()}"},
                "rabbitmq": {
                    "hosts": [rabbit_server.host], "port": rabbit_server.port,
                    "user": "guest", "password": "guest",
                },
                "daq": {"host": "127.0.0.1", "port": free_port()},
                "serve": {"presence_s": 2.0},
            }
        )
    )  # fmt: skip
    return file


def services(site: Path) -> list[dict[str, Any]]:
    done = run_platevault("service", "list", "--config", str(site), "--json")
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == (0 if all(one["state"] == "ready" for one in listed) else 1)
    return listed


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_process_is_ready_and_seen_until_it_is_asked_to_stop(tmp_path: Path, site: Path) -> None:
    ports = {"archive-controller": free_port(), "forwarder": free_port()}
    logs = {kind: tmp_path / f"{kind}.log" for kind in ports}

    def arguments(kind: str) -> list[str]:
        return [
            kind, "--config", str(site), "--camera", "latiss", "--name", f"{kind}-1",
            "--metrics-port", str(ports[kind]),
        ]  # fmt: skip

    with (
        serving(*arguments("archive-controller"), log=logs["archive-controller"]) as controller,
        serving(*arguments("forwarder"), log=logs["forwarder"]) as forwarder,
    ):
        for kind, port in ports.items():
            assert wait_for(port, "/readyz", 200, logs[kind]) == "ready\n"
            assert ask_service(port, "/livez") == (200, "ready\n")
            assert "platevault_process_log_lines" in ask_service(port, "/metrics")[1]
        found = {one["name"]: one for one in services(site)}
        assert set(found) == {"archive-controller-1", "forwarder-1"}
        assert found["forwarder-1"]["service"] == "forwarder"
        assert found["forwarder-1"]["cameras"] == "LATISS"
        assert found["forwarder-1"]["pid"] == forwarder.pid
        # One that leaves in good order is gone at once; one that is killed after its silence.
        controller.send_signal(signal.SIGTERM)
        assert controller.wait(30) == 0
        assert [one["name"] for one in services(site)] == ["forwarder-1"]
        forwarder.kill()
        forwarder.wait()
        deadline = time.monotonic() + 30
        while services(site):
            assert time.monotonic() < deadline
    lines = [json.loads(line) for line in logs["archive-controller"].read_text().splitlines()]
    assert [line["service"] for line in lines if line["event"] == "Service ready"][-1] == (
        "readiness"
    )


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_process_waits_for_a_server_that_is_away_and_says_so(tmp_path: Path, site: Path) -> None:
    content = yaml.safe_load(site.read_text())
    content["redis"]["port"] = free_port()
    site.write_text(yaml.safe_dump(content))
    port, log = free_port(), tmp_path / "log"
    with serving(
        "archive-controller", "--config", str(site), "--metrics-port", str(port), log=log
    ) as child:
        wait_for(port, "/readyz", 503, log)
        deadline = time.monotonic() + _START_S
        while "redis: " not in ask_service(port, "/readyz")[1]:
            assert time.monotonic() < deadline
        assert ask_service(port, "/readyz")[0] == 503
        with RedisServer(tmp_path / "redis") as server:
            server.stop()
            server.port = content["redis"]["port"]
            server.start()
            deadline = time.monotonic() + _START_S
            while ask_service(port, "/readyz") != (200, "ready\n"):
                assert time.monotonic() < deadline
            assert [one["service"] for one in services(site)] == ["archive-controller"]
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["archiver"], "camera"),
        (["archiver", "--camera", "latiss", "--camera", "comcam"], "camera"),
        (["forwarder", "--camera", "latiss"], "leases"),
        (["oods", "--camera", "latiss", "--state", "asleep"], "serve.initial_state"),
        (["archive-controller", "--name", "a b"], "leases"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(arguments: list[str], named: str) -> None:
    done = run_platevault("serve", *arguments)
    assert done.returncode == 2
    assert f"field='{named}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_processes_of_one_memory_have_no_roster() -> None:
    done = run_platevault("service", "list")
    assert done.returncode == 2
    assert "field='leases'" in done.stderr


class Calm:
    """A service that does nothing until the stop, or until it is ended by its users."""

    name = "calm"

    def __init__(self) -> None:
        self.exit = asyncio.Event()

    async def run(self, stop: StopToken, ready: Any) -> None:
        ready()
        leave = asyncio.ensure_future(self.exit.wait())  # noqa: TID251 - a test's own
        stopping = asyncio.ensure_future(stop.wait())  # noqa: TID251
        await asyncio.wait({leave, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if leave.done():
            stop.request()
        leave.cancel()
        stopping.cancel()


async def seen(presence: MemoryPresence, state: ProcessState) -> ServiceHealth:
    clock = SystemClock()
    async with asyncio.timeout(5):
        while True:
            found = health_of(await presence.alive(PROCESS_ROLE), now_tai=clock.now_tai())
            if found and found[0].state is state:
                return found[0]
            await clock.sleep(0.01)


async def test_supervisor_and_roster_hear_of_each_state(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    clock, stop, calm = SystemClock(), StopToken(), Calm()
    presence = MemoryPresence(clock=clock)
    troubles = {"kafka": "away"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(address))
        supervisor.setblocking(False)
        life = Life(
            problems={"kafka": lambda: troubles["kafka"]},
            clock=clock,
            notify_address=str(address),
        )
        assert life.is_ready() == (False, "starting; kafka: away")
        signs = SignsOfLife(life=life, identity=ME, presence=presence, clock=clock, ttl_s=0.2)
        asked: list[str] = []

        async def inquire() -> None:
            asked.append(life.trouble)

        answer = ServersAnswer(life=life, inquire=inquire, look=inquire, clock=clock)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(
                run_services(
                    [signs, answer, Principal(calm, stop), Readiness(life)],
                    clock=clock,
                    stop=stop,
                )
            )
            found = await seen(presence, ProcessState.STARTING)
            assert (found.name, found.trouble) == ("archiver-1", "kafka: away")
            assert life.is_ready() == (False, "starting; kafka: away")
            troubles["kafka"] = ""
            assert (await seen(presence, ProcessState.READY)).good
            # One that goes away later is named, but the process works on what it can.
            troubles["kafka"] = "away"
            assert life.is_ready() == (True, "ready; kafka: away")
            troubles["kafka"] = ""
            assert life.is_ready() == (True, "ready")
            assert not running.done()
            # Its users end the service, and the process with it.
            calm.exit.set()
        told = []
        while True:
            try:
                told.append(supervisor.recv(100).decode())
            except BlockingIOError:
                break
    assert await presence.alive(PROCESS_ROLE) == []
    assert "kafka: away" in asked
    assert life.is_ready() == (False, "stopping")
    assert [text for text in told if text != "WATCHDOG=1"] == ["READY=1", "STOPPING=1"]
    assert "WATCHDOG=1" in told
