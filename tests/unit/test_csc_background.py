"""Work of a state begins and ends with it, and its failure is a fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.csc.background import NotRunningError
from platevault.csc.csc import Csc
from platevault.domain.errors import PermanentError
from platevault.domain.lifecycles import SummaryState
from platevault.runtime.service import StopToken
from platevault.sal.acks import CommandFailedError
from platevault.sal.remote import Remote
from platevault.sal.schema import Interfaces, load_interfaces
from platevault.testing.clocks import SteppedClock

S = SummaryState


@pytest.fixture(scope="module")
def interfaces() -> Interfaces:
    return load_interfaces()


class Scene:
    def __init__(self, interfaces: Interfaces) -> None:
        self.interfaces = interfaces
        self.clock = SteppedClock()
        self.bus = MemorySampleBus(clock=self.clock)
        self.stop = StopToken()
        self.csc = Csc(
            component="CCArchiver",
            bus=self.bus,
            interfaces=interfaces,
            clock=self.clock,
            version="1",
            drain_within_s=5.0,
        )
        self.log: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Remote]:
        async with (
            asyncio.TaskGroup() as group,
            Remote(
                component="CCArchiver",
                bus=self.bus,
                interfaces=self.interfaces,
                clock=self.clock,
            ) as remote,
        ):
            task = group.create_task(self.csc.run(self.stop, lambda: None))
            await self.clock.settle()
            try:
                yield remote
            finally:
                self.stop.request()
                await self.clock.advance(30.0)
                assert task.done()

    async def patient(self, stop: StopToken) -> None:
        self.log.append("begin")
        await stop.wait()
        self.log.append("end")

    def state(self) -> SummaryState:
        return self.csc.state

    def error(self, remote: Remote) -> tuple[int, str]:
        sample = remote.latest("errorCode")
        assert sample is not None
        return sample.fields["errorCode"], sample.fields["errorReport"]


@pytest.fixture
def scene(interfaces: Interfaces) -> Scene:
    return Scene(interfaces)


async def test_work_lasts_as_long_as_its_state(scene: Scene) -> None:
    scene.csc.while_enabled(scene.patient, name="work")
    async with scene.running() as remote:
        await remote.command("start")
        assert scene.log == []
        await remote.command("enable")
        await scene.clock.settle()
        assert scene.log == ["begin"]
        await remote.command("disable")
        assert scene.log == ["begin", "end"]
        await remote.command("enable")
        await scene.clock.settle()
        assert scene.log == ["begin", "end", "begin"]
    assert scene.log == ["begin", "end"] * 2


async def test_work_of_two_states_goes_on_between_them(scene: Scene) -> None:
    scene.csc.while_in({S.DISABLED, S.ENABLED}, scene.patient, name="pairing")
    async with scene.running() as remote:
        for command in ("start", "enable", "disable"):
            await remote.command(command)
        await scene.clock.settle()
        assert scene.log == ["begin"]
        await remote.command("standby")
        assert scene.log == ["begin", "end"]


async def test_work_may_belong_to_standby(scene: Scene) -> None:
    scene.csc.while_in({S.STANDBY}, scene.patient, name="waiting")
    async with scene.running() as remote:
        assert scene.log == ["begin"]
        await remote.command("start")
        assert scene.log == ["begin", "end"]


async def test_a_stop_starts_no_work_on_its_way_down(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        scene.log.append(f"begin in {scene.csc.state.name}")
        await stop.wait()

    for state in (S.STANDBY, S.DISABLED, S.ENABLED):
        scene.csc.while_in({state}, work, name=f"work in {state.name}")
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        await scene.clock.settle()
        scene.stop.request()
        await scene.clock.settle()
    assert scene.log == ["begin in STANDBY", "begin in DISABLED", "begin in ENABLED"]


async def test_the_unit_in_hand_is_finished_before_the_state_ends(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        await stop.wait()
        await scene.clock.sleep(3.0)
        scene.log.append(f"done in {scene.csc.state.name}")

    scene.csc.while_enabled(work, name="work")
    async with scene.running() as remote, asyncio.TaskGroup() as group:
        await remote.command("start")
        await remote.command("enable")
        disabling = group.create_task(remote.command("disable"))
        await scene.clock.advance(2.9)
        assert not disabling.done()
        await scene.clock.advance(0.2)
        assert disabling.done()
        assert scene.log == ["done in DISABLED"]


async def test_work_that_does_not_end_is_cancelled_in_time(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            scene.log.append("cancelled")

    scene.csc.while_enabled(work, name="work")
    async with scene.running() as remote, asyncio.TaskGroup() as group:
        await remote.command("start")
        await remote.command("enable")
        disabling = group.create_task(remote.command("disable"))
        await scene.clock.advance(4.9)
        assert not disabling.done()
        await scene.clock.advance(0.2)
        assert disabling.done()
        assert scene.log == ["cancelled"]
        assert scene.state() is S.DISABLED


async def test_failing_work_is_a_fault_with_its_code(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())

    async def broken() -> None:
        await scene.clock.sleep(2.0)
        raise PermanentError("Presence lost", forwarder="f99")

    scene.csc.while_enabled(work, name="presence watch", error_code=5755)
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        await scene.clock.advance(2.1)
        assert scene.state() is S.FAULT
        code, report = scene.error(remote)
        assert code == 5755
        assert report == "presence watch failed: Presence lost (forwarder='f99')"


async def test_work_that_ends_unasked_is_a_fault(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        await scene.clock.sleep(2.0)

    scene.csc.while_enabled(work, name="work", error_code=12)
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        await scene.clock.advance(2.1)
        assert scene.state() is S.FAULT
        assert scene.error(remote) == (12, "work ended without being asked")


async def test_a_fault_stops_the_other_work_and_recovery_starts_it_again(scene: Scene) -> None:
    scene.csc.while_enabled(scene.patient, name="bystander")
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        await scene.clock.settle()
        await scene.csc.fault(1, "on purpose")
        await scene.clock.settle()
        assert scene.log == ["begin", "end"]
        for command in ("standby", "start", "enable"):
            await remote.command(command)
        await scene.clock.settle()
        assert scene.log == ["begin", "end", "begin"]


async def test_work_may_report_a_fault_itself_and_finish(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        await scene.csc.fault(5701, "no forwarder")
        assert stop.requested
        scene.log.append("finished")

    scene.csc.while_enabled(work, name="work")
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        await scene.clock.settle()
        assert scene.log == ["finished"]
        assert scene.error(remote) == (5701, "no forwarder")
        await remote.command("standby")


async def test_work_cancelled_from_within_is_a_fault(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        raise asyncio.CancelledError

    scene.csc.while_enabled(work, name="work", error_code=12)
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        await scene.clock.settle()
        assert scene.error(remote) == (12, "work was cancelled from within")


async def test_a_component_that_does_not_run_cannot_go_to_fault(scene: Scene) -> None:
    with pytest.raises(NotRunningError):
        await scene.csc.fault(1, "too early")


async def test_work_that_fails_while_it_is_asked_to_stop_is_a_fault_too(scene: Scene) -> None:
    async def work(stop: StopToken) -> None:
        await stop.wait()
        raise PermanentError("disk full")

    scene.csc.while_enabled(work, name="work")
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        with pytest.raises(CommandFailedError, match="FAULT"):
            await remote.command("disable")
        assert scene.state() is S.FAULT


async def test_refused_disabling_gives_the_work_back(scene: Scene) -> None:
    async def refuse() -> None:
        raise PermanentError("not now")

    scene.csc.while_enabled(scene.patient, name="work")
    scene.csc.after_disable = refuse  # type: ignore[method-assign]
    async with scene.running() as remote:
        await remote.command("start")
        await remote.command("enable")
        with pytest.raises(CommandFailedError, match="not now"):
            await remote.command("disable")
        await scene.clock.settle()
        assert scene.state() is S.ENABLED
        assert scene.log == ["begin", "end", "begin"]
