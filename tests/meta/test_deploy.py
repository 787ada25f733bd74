"""Deployment files say what the program understands, and hold no secret."""

from __future__ import annotations

import configparser
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from platevault.cli.main import app
from platevault.compose.cameras import load_camera
from platevault.compose.serving.kinds import ServiceKind
from platevault.compose.serving.process import ServeOptions, check_options
from platevault.compose.settings import Settings, load_settings
from platevault.testing.stack_servers import load_accounts

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose"
BASE = DEPLOY / "kustomize" / "base"
SITES = Path(__file__).parents[2] / "config" / "sites"
STACK: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
OURS = {name: one for name, one in STACK["services"].items() if one.get("image") == "platevault"}
SERVICES = {name: one for name, one in OURS.items() if name != "accounts"}
#: Parts of a process that may each take the drain limit: service, state watch, signs of life.
PARTS = 3


def check_command(arguments: list[str], settings: Settings) -> None:
    """Read a command line as the program does, and check it against the settings."""
    command: Any = typer.main.get_command(app)
    serve = command.commands["serve"]
    parsed = serve.make_context("serve", list(arguments)).params
    cameras = [load_camera(name) for name in parsed["camera"] or []]
    options = ServeOptions(
        kind=ServiceKind(parsed["service"]), cameras={one.name: one for one in cameras}
    )
    check_options(settings, options)


def grace_s(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("file", sorted(SITES.glob("*.yaml")), ids=lambda file: file.stem)
def test_each_example_of_a_site_is_valid_and_holds_no_password(file: Path) -> None:
    load_settings(file)
    text = "\n".join(line.partition("#")[0] for line in file.read_text().splitlines())
    assert "password:" not in text


# --- compose.yaml -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_each_command_of_the_stack_is_understood(name: str) -> None:
    arguments = SERVICES[name]["command"]
    check_command(arguments, load_settings(COMPOSE / "site.yaml"))


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_of_the_stack_has_accounts_of_its_own_from_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = SERVICES[name]
    environment: Mapping[str, str] = service.get("environment", {})
    for variable, value in environment.items():
        if variable.endswith("PASSWORD_FILE"):
            server = variable.split("_")[1].lower()
            secret = value.removeprefix("/run/secrets/")
            account = "USERNAME" if server == "kafka" else "USER"
            assert secret == f"{server}_{environment[f'PLATEVAULT_{server.upper()}__{account}']}"
            assert secret in service["secrets"]
            file = tmp_path / secret
            file.touch(mode=0o600)
            file.write_text("opensesame")
            monkeypatch.setenv(variable, str(file))
        elif variable.startswith("PLATEVAULT_"):
            monkeypatch.setenv(variable, value)
        assert not variable.endswith("PASSWORD")
    settings = load_settings(COMPOSE / "site.yaml")
    for variable in environment:
        if variable.endswith("PASSWORD_FILE"):
            assert getattr(settings, variable.split("_")[1].lower()).secret == "opensesame"


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_of_the_stack_has_time_to_drain_and_a_probe(name: str) -> None:
    service = SERVICES[name]
    drain_s = load_settings(COMPOSE / "site.yaml").serve.drain_within_s
    assert grace_s(service["stop_grace_period"]) > PARTS * drain_s
    assert "/readyz" in service["healthcheck"]["test"][-1]
    assert service["user"].startswith("${PLATEVAULT_USER:?")
    assert service["cap_drop"] == ["ALL"]


def test_every_secret_of_the_stack_is_made_random_and_private(tmp_path: Path) -> None:
    script = shutil.copy(COMPOSE / "make-secrets.sh", tmp_path)
    subprocess.run(["bash", script], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(STACK["secrets"])
    used = {name for one in STACK["services"].values() for name in one.get("secrets", [])}
    assert used == set(made)
    assert all(STACK["secrets"][name] == {"file": f"./secrets/{name}"} for name in made)
    assert all(len(text) >= 32 for text in made.values())
    assert len(set(made.values())) == len(made)
    for path in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    subprocess.run(["bash", script], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


def test_the_stack_publishes_no_port_and_has_no_password() -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    assert not [name for name, one in STACK["services"].items() if "ports" in one]
    assert re.findall(r"(?im)^\s*\w*password\w*\s*:\s*(?!/run/secrets/)\S+", text) == []
    assert "guest" not in text


def test_services_wait_for_their_accounts() -> None:
    for name, service in SERVICES.items():
        if name != "schema-registry":
            assert service["depends_on"]["accounts"]["condition"] == (
                "service_completed_successfully"
            )


def test_the_page_says_of_each_account_where_it_is_and_which_queues_are_its_own() -> None:
    accounts = load_accounts(COMPOSE)
    page = (DEPLOY.parent / "docs" / "how-to" / "deploy.md").read_text()
    table = page.partition("### Who may do what")[2].partition("\n\n* ")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    told: dict[str, set[str]] = {
        "kafka": set(),
        "rabbitmq": set(),
        "redis": set(),
        "postgres": set(),
    }
    for name, *cells in rows:
        for server, cell in zip(told, cells, strict=True):
            if cell:
                told[server].add(name.strip("`"))
        queues = re.findall(r"`([^`]+)`", cells[1])
        assert len(queues) == len(accounts.RABBITMQ_QUEUES.get(name.strip("`"), ()))
        for queue in queues:
            own = accounts.rabbitmq_rights(name.strip("`"))
            assert re.search(own["read"], queue.replace("*", "LATISS"))
            assert re.search(own["configure"], queue.replace("*", "LATISS"))
    made: dict[str, set[str]] = {server: set() for server in told}
    for secret in STACK["secrets"]:
        server, _, account = secret.partition("_")
        if server in made:
            made[server].add(account)
    assert told == made


# --- systemd ----------------------------------------------------------------------------------


def test_the_unit_has_time_to_drain_and_does_not_restart_wrong_settings() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "platevault@.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == "2"
    assert float(service["TimeoutStopSec"]) > PARTS * Settings().serve.drain_within_s
    assert float(service["WatchdogSec"]) > 4 * Settings().serve.presence_s
    words = service["ExecStart"].replace("$SERVICE", "archiver").replace("%i", "archiver-LATISS")
    arguments = words.replace("$ARGUMENTS", "--camera latiss").split()[2:]
    check_command(arguments, load_settings(SITES / "summit.yaml"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/platevault/bin/platevault", sys.executable)
        (tmp_path / unit.name).write_text(text)
    for unit in sorted(tmp_path.iterdir()):
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
        )
        told = [line for line in done.stderr.splitlines() if "platevault" in line]
        assert told == []
        assert done.returncode == 0, done.stderr


# --- Kubernetes -------------------------------------------------------------------------------


def workloads() -> Iterator[dict[str, Any]]:
    for name in yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]:
        for document in yaml.safe_load_all((BASE / name).read_text()):
            if document["kind"] in {"Deployment", "StatefulSet"}:
                yield document


@pytest.mark.parametrize("workload", list(workloads()), ids=lambda one: one["metadata"]["name"])
def test_each_workload_has_probes_limits_and_time_to_drain(workload: dict[str, Any]) -> None:
    settings = load_settings(BASE / "site.yaml")
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_command(container["args"], settings)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports["metrics"] == settings.metrics.port
    paths = {
        probe: container[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz",
    }  # fmt: skip
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert pod["terminationGracePeriodSeconds"] > PARTS * settings.serve.drain_within_s
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert workload["spec"]["selector"]["matchLabels"].items() <= (
        workload["spec"]["template"]["metadata"]["labels"].items()
    )
    mounts = {one["name"] for one in container["volumeMounts"]}
    assert mounts == {one["name"] for one in pod["volumes"]}


def test_only_forwarders_scale() -> None:
    by_name = {one["metadata"]["name"]: one for one in workloads()}
    scaled = [name for name, one in by_name.items() if one["spec"]["replicas"] > 1]
    assert scaled == ["forwarder"]
    assert by_name["forwarder"]["kind"] == "StatefulSet"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is missing")
def test_the_base_is_built_without_a_secret() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    kinds = [one["kind"] for one in built]
    assert "Secret" not in kinds
    assert kinds.count("Deployment") == 5
    assert {one["metadata"]["namespace"] for one in built} == {"platevault"}
