"""Whole nights over real servers: each service its own process, and each killed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from platevault.compose.local_servers import (
    KafkaServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    ServerMissingError,
)
from platevault.testing.dds_domains import own_domain
from platevault.testing.nights import (
    broken_invariants,
    check_no_process_left,
    check_second_starts,
    run_night,
    write_kills,
)

pytestmark = [pytest.mark.drill, pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(600)]
SERVERS = {
    "kafka": KafkaServer, "rabbitmq": RabbitServer, "redis": RedisServer,
    "postgres": PostgresServer,
}  # fmt: skip
SERVICES = (
    "archive-controller", "forwarder-1", "forwarder-2", "header-service-LATISS", "oods-LATISS",
    "archiver-LATISS",
)  # fmt: skip
OVER_SERVERS = ("--deployment", "local-servers", "--camera", "latiss")


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
    write_kills(plan, kills)
    done, report = run_night(
        tmp_path, *OVER_SERVERS, "--exposures", "8", "--cadence", "8", "--faults", str(plan),
    )  # fmt: skip
    assert broken_invariants(report) == []
    assert done.returncode == 0, done.stderr
    assert len(report["images"]) == 8
    assert len([one for one in report["faults"] if "killed" in one]) == len(kills)
    check_second_starts(tmp_path, SERVICES)
    # Nothing of it lives on.
    check_no_process_left(tmp_path)


def test_samples_may_go_over_dds_between_processes(tmp_path: Path) -> None:
    own = {"PLATEVAULT_BUS": "dds", "PLATEVAULT_DDS__DOMAIN_ID": str(own_domain())}
    done, report = run_night(tmp_path, *OVER_SERVERS, "--exposures", "2", variables=own)
    assert broken_invariants(report) == []
    assert done.returncode == 0, done.stderr
    assert report["settings"]["bus"] == "dds"
    assert not (tmp_path / "night" / "servers" / "kafka").exists()
