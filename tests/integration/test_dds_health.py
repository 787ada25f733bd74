"""A bus without a server knows what is wrong with its network and with itself."""

from __future__ import annotations

import sqlite3
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from cyclonedds.core import DDSException

from platevault.adapters.dds import DdsSampleBus, DdsSettings
from platevault.adapters.dds import sample_bus as dds_bus
from platevault.adapters.dds.network import (
    IFF_RUNNING,
    IFF_UP,
    interface_problem,
    problem_of_flags,
)
from platevault.adapters.dds.spool import Spool
from platevault.adapters.system_clock import SystemClock
from platevault.compose.server_context import Part, Servers
from platevault.compose.serving.life import Life, ProcessState
from platevault.compose.settings import Settings
from platevault.ports.sample_bus import BusUnavailableError, History
from platevault.testing.dds_domains import own_domain
from platevault.testing.sample_bus_contract import contract_sample, contract_topic

EVENT = contract_topic()
SETTINGS = DdsSettings(domain_id=own_domain(), accept_within_s=0.05, discover_s=0.0)


def test_the_loopback_interface_carries() -> None:
    assert interface_problem("lo") == ""


@pytest.mark.parametrize("name", ["absent7", "", "n" * 16])
def test_an_interface_that_is_not_there_is_named(name: str) -> None:
    assert interface_problem(name) == f"network interface {name} is not there"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (IFF_UP | IFF_RUNNING, ""),
        (IFF_UP, "network interface eth7 has no link"),
        (0, "network interface eth7 is switched off"),
    ],
)
def test_an_interface_without_a_link_is_a_problem(flags: int, said: str) -> None:
    assert problem_of_flags("eth7", flags) == said


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"interface": "eth7"}, "eth7"),
        ({"interface": "127.0.0.1"}, ""),
        ({"interface": "::1"}, ""),
        ({"config": "<CycloneDDS/>"}, ""),
    ],
)
def test_only_an_interface_that_is_named_is_looked_at(changes: dict[str, str], name: str) -> None:
    assert replace(SETTINGS, **changes).interface_name == name  # type: ignore[arg-type]


async def test_an_open_bus_has_no_problem_and_a_closed_one_has() -> None:
    bus = DdsSampleBus(settings=SETTINGS, clock=SystemClock())
    assert bus.problem == "the domain is not joined"
    async with bus:
        assert bus.problem == ""
    assert bus.problem == "the domain is not joined"


async def test_an_interface_that_goes_away_is_a_problem_of_the_bus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with DdsSampleBus(settings=SETTINGS, clock=SystemClock()) as bus:
        monkeypatch.setattr(dds_bus, "interface_problem", lambda name: f"{name} is gone")
        assert bus.problem == "lo is gone"


async def test_a_bus_without_its_interface_is_not_opened_and_names_it() -> None:
    bus = DdsSampleBus(settings=replace(SETTINGS, interface="absent7"), clock=SystemClock())
    with pytest.raises(BusUnavailableError, match="absent7 is not there"):
        async with bus:
            pass


async def test_a_sample_that_is_not_taken_is_a_problem_until_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise DDSException(DDSException.DDS_RETCODE_TIMEOUT)

    async with DdsSampleBus(settings=SETTINGS, clock=SystemClock()) as bus:
        with monkeypatch.context() as patch:
            patch.setattr("cyclonedds.pub.DataWriter.write", refuse)
            with pytest.raises(BusUnavailableError):
                await bus.publish(contract_sample(1, topic=EVENT))
            assert "is not taken" in bus.problem
        await bus.publish(contract_sample(2, topic=EVENT))
        assert bus.problem == ""


async def test_reception_that_failed_is_a_problem_until_somebody_receives_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("nonsense on the wire")

    async with DdsSampleBus(settings=SETTINGS, clock=SystemClock()) as bus:
        with monkeypatch.context() as patch:
            patch.setattr("platevault.adapters.dds.codec.TopicCodec.decode", fail)
            async with bus.subscribe([EVENT], history=History.NONE) as samples:
                await bus.publish(contract_sample(1, topic=EVENT))
                with pytest.raises(BusUnavailableError):
                    await anext(samples)
            assert "nonsense on the wire" in bus.problem
        async with bus.subscribe([EVENT], history=History.NONE) as samples:
            assert bus.problem == ""
            await bus.publish(contract_sample(2, topic=EVENT))
            assert (await anext(samples)).sequence == 2


async def test_a_spool_that_is_full_is_a_problem_until_it_takes_samples_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise sqlite3.OperationalError("database or disk is full")

    settings = replace(SETTINGS, spool_directory=tmp_path)
    async with (
        DdsSampleBus(settings=settings, clock=SystemClock()) as bus,
        bus.record([EVENT], group="efd") as recording,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "add", fail)
            await bus.publish(contract_sample(1, topic=EVENT))
            while "samples are not spooled: database or disk is full" not in bus.problem:
                await SystemClock().sleep(0.01)
        await bus.publish(contract_sample(2, topic=EVENT))
        await anext(aiter(recording))
        assert bus.problem == ""


async def test_readiness_tells_of_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate(
        {"bus": "dds", "dds": {"domain_id": own_domain(), "interface": "lo"}}
    )
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        servers = Servers(
            settings=settings, clock=clock, stack=stack, parts={Part.BUS}, instance=""
        )
        life = Life(problems=servers.problems, clock=clock)
        await servers.bus()
        life.enter(ProcessState.READY)
        assert life.is_ready() == (True, "ready")
        monkeypatch.setattr(dds_bus, "interface_problem", lambda name: f"{name} is gone")
        assert life.is_ready() == (True, "ready; dds: lo is gone")
