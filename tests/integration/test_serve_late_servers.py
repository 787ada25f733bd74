"""Services that start before their servers say what they wait for, and then work by themselves."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from platevault.compose.night.local_site import free_domain
from platevault.testing.command_line import ask_service, run_platevault, serving
from platevault.testing.servers import (
    KafkaServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    ServerMissingError,
    free_port,
)

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]
_START_S = 90.0
ALL = {"kafka", "rabbitmq", "redis", "postgres"}
#: What each kind of service uses.
USED = {
    "oods": ALL,
    "archiver": ALL,
    "archive-controller": ALL - {"kafka"},
    "forwarder": ALL - {"kafka"},
    "header-service": {"kafka", "redis"},
}


def started(
    kind: str, *arguments: str, config: Path, port: int
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return serving(
        kind, *arguments, "--config", str(config), "--name", kind, "--metrics-port", str(port),
        log=log_of(config, kind),
    )  # fmt: skip


def log_of(config: Path, kind: str) -> Path:
    return config.with_name(f"{kind}.jsonl")


def until(holds: Callable[[], bool], report: Callable[[], object]) -> None:
    deadline = time.monotonic() + _START_S
    while not holds():
        assert time.monotonic() < deadline, report()
        time.sleep(0.1)


def named(text: str) -> set[str]:
    """Give the servers that an answer complains of, each with a reason."""
    complaints = text.strip().partition("; ")[2].split("; ")
    return ALL & {name for name, _, reason in (one.partition(": ") for one in complaints) if reason}


def listed(config: Path) -> dict[str, Any]:
    done = run_platevault("service", "list", "--config", str(config), "--json")
    return {one["name"]: one for one in json.loads(done.stdout)}


@pytest.fixture
def servers(tmp_path: Path, service_missing: Callable[[str], NoReturn]) -> dict[str, Server]:
    """Give servers that have their ports and do not run."""
    made: dict[str, Server] = {
        "kafka": KafkaServer(tmp_path / "kafka"),
        "rabbitmq": RabbitServer(tmp_path / "rabbitmq"),
        "redis": RedisServer(tmp_path / "redis"),
        "postgres": PostgresServer(tmp_path / "postgres"),
    }
    for name, server in made.items():
        server.directory.mkdir()
        try:
            server.prepare()
        except ServerMissingError:
            service_missing(name)
    return made


@pytest.fixture
def config(tmp_path: Path, servers: dict[str, Server]) -> Path:
    registry_port = free_port()
    file = tmp_path / "site.yaml"
    file.touch(mode=0o600)
    content = {
        "root": str(tmp_path / "data"),
        "bus": "kafka",
        "queue": "rabbitmq",
        "leases": "redis",
        "ledger": "postgres",
        "oods": {"registry": "postgres"},
        "kafka": {
            "brokers": f"127.0.0.1:{servers['kafka'].port}",
            "registry_url": f"http://127.0.0.1:{registry_port}",
        },
        "rabbitmq": {
            "hosts": ["127.0.0.1"], "port": servers["rabbitmq"].port,
            "user": "guest", "password": "guest",
        },
        "redis": {"host": "127.0.0.1", "port": servers["redis"].port},
        "postgres": {"host": "127.0.0.1", "port": servers["postgres"].port},
        "daq": {"host": "127.0.0.1", "port": free_port()},
        "serve": {"presence_s": 2.0, "registry_port": registry_port},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    return file


def test_services_wait_for_servers_that_start_after_them(
    config: Path, servers: dict[str, Server]
) -> None:
    ports = {kind: free_port() for kind in (*USED, "schema-registry")}
    with ExitStack() as stack:
        children = {
            kind: stack.enter_context(
                started(kind, "--camera", "latiss", config=config, port=ports[kind])
            )
            for kind in USED
        }

        def answers() -> dict[str, tuple[int, str]]:
            return {kind: ask_service(ports[kind], "/readyz") for kind in USED}

        def wait_until_missing(away: set[str]) -> None:
            def agree() -> bool:
                return all(
                    (status, named(text)) == (503 if away & USED[kind] else 200, away & USED[kind])
                    for kind, (status, text) in answers().items()
                )

            until(agree, answers)

        away = set(ALL)
        wait_until_missing(away)
        assert {kind: ask_service(ports[kind], "/livez")[0] for kind in USED} == dict.fromkeys(
            USED, 200
        )
        for name in ("redis", "postgres", "rabbitmq"):
            servers[name].start()
            stack.callback(servers[name].stop)
            away.remove(name)
            wait_until_missing(away)
            found = listed(config)
            assert set(found) == set(USED)
            for kind, one in found.items():
                assert (one["state"] == "starting") == bool(away & USED[kind]), one
        servers["kafka"].start()
        stack.callback(servers["kafka"].stop)
        # A broker alone is not enough: without a schema registry no sample can be read.
        until(lambda: "registry" in answers()["oods"][1], answers)
        assert ask_service(ports["oods"], "/readyz")[0] == 503
        port = ports["schema-registry"]
        stack.enter_context(started("schema-registry", config=config, port=port))
        wait_until_missing(set())
        # One that goes away later is named too, and asked for by services that do not use it now.
        servers["postgres"].stop()
        until(
            lambda: all(
                (status, named(text)) == (200, {"postgres"} & USED[kind])
                for kind, (status, text) in answers().items()
            ),
            answers,
        )
        servers["postgres"].start()
        wait_until_missing(set())
        # These are the processes that were started first, and they end as asked.
        for kind, child in children.items():
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 0, log_of(config, kind).read_text()


@pytest.mark.parametrize("kind", ["oods", "header-service"])
def test_a_service_that_waits_for_its_servers_ends_when_it_is_asked_to(
    config: Path, kind: str
) -> None:
    port = free_port()
    with started(kind, "--camera", "latiss", config=config, port=port) as child:
        until(
            lambda: named(ask_service(port, "/readyz")[1]) == USED[kind],
            log_of(config, kind).read_text,
        )
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0, log_of(config, kind).read_text()
    assert "Traceback" not in log_of(config, kind).read_text()


def test_the_log_says_which_server_a_service_waits_for(config: Path) -> None:
    port = free_port()
    log = log_of(config, "oods")
    with started("oods", "--camera", "latiss", config=config, port=port):
        until(lambda: "Server does not answer yet" in log.read_text(), log.read_text)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (first, *_) = [line for line in lines if line["event"] == "Server does not answer yet"]
    assert first["server"] == "postgres"
    assert "refused" in first["problem"]


def test_a_network_interface_that_is_not_there_yet_is_named(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    content = {
        "root": str(tmp_path / "data"),
        "bus": "dds",
        "queue": "sqlite",
        "leases": "sqlite",
        "dds": {"interface": "absent7", "domain_id": free_domain()},
    }
    config.write_text(yaml.safe_dump(content))
    port = free_port()
    with started("header-service", "--camera", "latiss", config=config, port=port) as child:
        until(
            lambda: ask_service(port, "/readyz")[0] == 503,
            log_of(config, "header-service").read_text,
        )
        until(
            lambda: "dds: " in ask_service(port, "/readyz")[1], lambda: ask_service(port, "/readyz")
        )
        assert "absent7" in ask_service(port, "/readyz")[1]
        assert ask_service(port, "/livez")[0] == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
