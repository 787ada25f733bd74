"""A component goes through its states as commanded, and says so in order."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.csc.csc import Csc
from platevault.csc.duplicates import DuplicateCscError
from platevault.domain.errors import PermanentError
from platevault.domain.lifecycles import SummaryState
from platevault.domain.samples import Sample
from platevault.ports.sample_bus import BusUnavailableError, History
from platevault.runtime.service import StopToken
from platevault.sal.acks import AckCode, CommandFailedError, CommandRefusedError
from platevault.sal.controller import Command
from platevault.sal.remote import Remote
from platevault.sal.schema import Interfaces, load_interfaces
from platevault.testing.clocks import SteppedClock

S = SummaryState
COMMANDS = ("start", "enable", "disable", "standby", "exitControl")
#: State, command -> state; written out by hand, from LSE-209.
TABLE = {
    (S.STANDBY, "start"): S.DISABLED,
    (S.STANDBY, "exitControl"): S.OFFLINE,
    (S.DISABLED, "enable"): S.ENABLED,
    (S.DISABLED, "standby"): S.STANDBY,
    (S.ENABLED, "disable"): S.DISABLED,
    (S.FAULT, "standby"): S.STANDBY,
}
WAY_TO = {
    S.STANDBY: (),
    S.DISABLED: ("start",),
    S.ENABLED: ("start", "enable"),
    S.FAULT: ("start", "fault"),
}
INTERFACES = load_interfaces()


@pytest.fixture
def interfaces() -> Interfaces:
    return INTERFACES


class Probe(Csc):
    """Notes its hooks, and fails or faults where it is told to."""

    def __init__(self, **more: Any) -> None:
        more.setdefault("component", "ATArchiver")
        super().__init__(interfaces=INTERFACES, version="1.2.3", **more)
        self.hooks: list[tuple[str, SummaryState]] = []
        self.failing: dict[str, Exception] = {}
        self.faulting: set[str] = set()

    async def _note(self, hook: str) -> None:
        self.hooks.append((hook, self.state))
        if hook in self.faulting:
            await self.fault(5701, f"fault in {hook}")
        if hook in self.failing:
            raise self.failing[hook]

    @override
    async def on_start(self, settings: Any) -> None:
        await self._note("on_start")

    @override
    async def on_enable(self) -> None:
        await self._note("on_enable")

    @override
    async def on_disable(self) -> None:
        await self._note("on_disable")

    @override
    async def on_standby(self) -> None:
        await self._note("on_standby")

    @override
    async def on_exit(self) -> None:
        await self._note("on_exit")

    @override
    async def after_start(self) -> None:
        await self._note("after_start")

    @override
    async def after_enable(self) -> None:
        await self._note("after_enable")

    @override
    async def after_disable(self) -> None:
        await self._note("after_disable")

    @override
    async def after_standby(self) -> None:
        await self._note("after_standby")

    @override
    async def after_exit(self) -> None:
        await self._note("after_exit")

    @override
    async def on_state(self, state: SummaryState) -> None:
        await self._note(f"on_state {state.name}")


def state_of(csc: Csc) -> SummaryState:
    """Read the state where mypy does not remember it."""
    return csc.state


class World:
    """A bus with one component, a remote to it, and every event in order."""

    def __init__(
        self, *, component: str = "ATArchiver", bus: MemorySampleBus | None = None
    ) -> None:
        self.clock = SteppedClock()
        self.bus = bus or MemorySampleBus(clock=self.clock)
        self.component = component
        self.stop = StopToken()
        self.events: list[Sample] = []
        self.readiness = 0

    def probe(self, **more: Any) -> Probe:
        return Probe(bus=self.bus, clock=self.clock, component=self.component, **more)

    def _ready(self) -> None:
        self.readiness += 1

    @asynccontextmanager
    async def running(self, csc: Csc) -> AsyncIterator[Remote]:
        interface = INTERFACES.component(self.component)
        async with (
            asyncio.TaskGroup() as group,
            self.bus.subscribe(interface.events, history=History.NONE) as samples,
            Remote(
                component=self.component,
                bus=self.bus,
                interfaces=INTERFACES,
                clock=self.clock,
                identity="ann@host",
            ) as remote,
        ):
            listening = group.create_task(self._listen(samples))
            task = group.create_task(csc.run(self.stop, self._ready))
            await self.clock.settle()
            try:
                yield remote
            finally:
                self.stop.request()
                await self.clock.advance(20.0)
                assert task.done()
                listening.cancel()

    async def _listen(self, samples: AsyncIterator[Sample]) -> None:
        async for sample in samples:
            self.events.append(sample)

    async def go(self, csc: Csc, remote: Remote, way: tuple[str, ...]) -> None:
        for step in way:
            if step == "fault":
                await csc.fault(1, "on purpose")
            else:
                await remote.command(step)
        await self.clock.settle()

    def said(self, *but: str) -> list[str]:
        """Names of events in order, without ``but``."""
        return [sample.topic.name for sample in self.events if sample.topic.name not in {*but}]

    def values(self, event: str, field: str) -> list[Any]:
        return [sample.fields[field] for sample in self.events if sample.topic.name == event]


# The table


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", list(WAY_TO))
async def test_each_command_in_each_state(state: SummaryState, command: str) -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        await world.go(csc, remote, WAY_TO[state])
        assert state_of(csc) is state
        target = TABLE.get((state, command))
        if target is None:
            with pytest.raises(CommandFailedError) as caught:
                await remote.command(command)
            assert caught.value.ack.result == (
                f"Failed: {command} not allowed in state <State.{state.name}: {int(state)}>"
            )
            assert state_of(csc) is state
        else:
            assert (await remote.command(command)).code is AckCode.COMPLETE
            assert state_of(csc) is target
            assert world.values("summaryState", "summaryState")[-1] == target


#: Pieces of a course; whole ways among them, or most courses would never leave STANDBY.
PIECES = st.sampled_from(
    [
        *((command,) for command in COMMANDS[:4]),
        ("start", "enable"),
        ("start", "enable", "disable"),
        ("disable", "standby"),
        ("standby", "start"),
        ("fault", "standby"),
        ("fault",),
        ("refuse on_enable",),
        ("refuse after_enable",),
        ("fault on_enable",),
    ]
)
ACTIONS = st.lists(PIECES, min_size=1, max_size=15).map(
    lambda pieces: ["start", *itertools.chain.from_iterable(pieces)]
)


@given(ACTIONS)
def test_any_course_of_actions_ends_where_the_table_says(actions: list[str]) -> None:
    async def play() -> None:
        world = World()
        csc = world.probe()
        expected = S.STANDBY
        async with world.running(csc) as remote:
            for action in actions:
                csc.failing.clear()
                csc.faulting.clear()
                command, _, hook = action.partition(" ")
                ok = True
                if command == "fault" and not hook:
                    await csc.fault(7, "on purpose")
                    expected = S.FAULT
                    continue
                if hook:
                    ok = False
                    if command == "refuse":
                        csc.failing[hook] = PermanentError("refused")
                    else:
                        csc.faulting.add(hook)
                    if expected is S.DISABLED and command == "fault":
                        expected = S.FAULT
                    command = "enable"
                elif (expected, command) in TABLE:
                    expected = TABLE[expected, command]
                else:
                    ok = False
                try:
                    await remote.command(command)
                except CommandFailedError:
                    assert not ok
                else:
                    assert ok
                assert state_of(csc) is expected
            await world.clock.settle()
            states = world.values("summaryState", "summaryState")
            assert states[-1] == expected
            # Nothing is published twice, and every step is one of the table or a fault.
            for before, after in itertools.pairwise(states):
                assert after == S.FAULT or after in {
                    TABLE[key] for key in TABLE if key[0] == before
                }

    asyncio.run(play())


# Order


async def test_start_up_says_what_it_must_in_order() -> None:
    world = World(component="ATArchiver")
    csc = world.probe(simulation_mode=2, subsystem_versions={"daq": "5.4", "os": "12"})
    async with world.running(csc):
        assert [name for name in world.said() if name != "heartbeat"] == [
            "logLevel",
            "simulationMode",
            "softwareVersions",
            "summaryState",
            "errorCode",
        ]
        assert world.readiness == 1
        assert world.values("simulationMode", "mode") == [2]
        assert world.values("softwareVersions", "cscVersion") == ["1.2.3"]
        assert world.values("softwareVersions", "subsystemVersions") == ["daq=5.4,os=12"]
        assert world.values("softwareVersions", "xmlVersion") == [INTERFACES.version]
        assert world.values("summaryState", "summaryState") == [S.STANDBY]
        assert world.values("errorCode", "errorCode") == [0]


async def test_heartbeats_come_every_second() -> None:
    world = World()
    async with world.running(world.probe()):
        before = len(world.values("heartbeat", "heartbeat"))
        await world.clock.advance(10.0)
        assert before == 1
        assert len(world.values("heartbeat", "heartbeat")) == 11


async def test_hooks_run_in_order_around_the_change() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        await world.go(csc, remote, COMMANDS)
    assert csc.hooks == [
        ("on_start", S.STANDBY),
        ("after_start", S.DISABLED),
        ("on_state DISABLED", S.DISABLED),
        ("on_enable", S.DISABLED),
        ("after_enable", S.ENABLED),
        ("on_state ENABLED", S.ENABLED),
        ("on_disable", S.ENABLED),
        ("after_disable", S.DISABLED),
        ("on_state DISABLED", S.DISABLED),
        ("on_standby", S.DISABLED),
        ("after_standby", S.STANDBY),
        ("on_state STANDBY", S.STANDBY),
        ("on_exit", S.STANDBY),
        ("after_exit", S.OFFLINE),
        ("on_state OFFLINE", S.OFFLINE),
    ]


async def test_the_state_is_out_before_the_reply() -> None:
    world = World()
    async with world.running(world.probe()) as remote:
        await remote.command("start")
        newest = remote.latest("summaryState")
        assert newest is not None
        assert newest.fields["summaryState"] == S.DISABLED


@pytest.mark.parametrize("hook", ["on_enable", "after_enable"])
@pytest.mark.parametrize("error", [PermanentError("no disk"), KeyError("bug")])
async def test_a_failing_hook_leaves_the_state_as_it_was(hook: str, error: Exception) -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        await world.go(csc, remote, ("start",))
        csc.failing[hook] = error
        with pytest.raises(CommandFailedError, match="no disk" if "disk" in str(error) else "bug"):
            await remote.command("enable")
        assert state_of(csc) is S.DISABLED
        assert world.values("summaryState", "summaryState") == [S.STANDBY, S.DISABLED]
        csc.failing.clear()
        await remote.command("enable")
        assert state_of(csc) is S.ENABLED


async def test_commands_of_one_transition_wait_for_another() -> None:
    world = World()
    gate = asyncio.Event()

    class Slow(Probe):
        @override
        async def on_start(self, settings: Any) -> None:
            await gate.wait()

    csc = Slow(bus=world.bus, clock=world.clock)
    async with world.running(csc) as remote, asyncio.TaskGroup() as group:
        starting = group.create_task(remote.command("start"))
        await world.clock.settle()
        enabling = group.create_task(remote.command("enable"))
        await world.clock.settle()
        assert not starting.done()
        assert not enabling.done()
        gate.set()
        await enabling
        assert state_of(csc) is S.ENABLED


# Fault


async def test_a_fault_says_what_it_must_in_order() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        await world.go(csc, remote, ("start", "enable"))
        world.events.clear()
        csc.hooks.clear()
        await csc.fault(5701, "no forwarder", "the trace")
        await world.clock.settle()
        assert world.said("heartbeat") == ["errorCode", "logMessage", "summaryState"]
        assert world.events[0].fields == {
            "errorCode": 5701,
            "errorReport": "no forwarder",
            "traceback": "the trace",
        }
        message = next(item for item in world.events if item.topic.name == "logMessage")
        assert message.fields["level"] == logging.CRITICAL
        assert "no forwarder" in message.fields["message"]
        assert message.fields["traceback"] == "the trace"
        assert csc.hooks == [("on_state FAULT", S.FAULT)]


async def test_a_second_fault_is_only_logged() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc):
        async with asyncio.TaskGroup() as group:
            for code in (1, 2, 3):
                group.create_task(csc.fault(code, f"number {code}"))
        await csc.fault(4, "number 4")
        await world.clock.settle()
        assert world.values("errorCode", "errorCode") == [0, 1]
        assert world.values("summaryState", "summaryState") == [S.STANDBY, S.FAULT]
        messages = world.values("logMessage", "message")
        assert [number for number in "1234" if any(f"number {number}" in m for m in messages)] == [
            *"1234"
        ]


async def test_an_equal_fault_after_recovery_is_told_again() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        await csc.fault(9, "same")
        await remote.command("standby")
        await csc.fault(9, "same")
        await world.clock.settle()
        assert world.values("errorCode", "errorCode") == [0, 9, 0, 9]


async def test_a_fault_without_a_code_has_one() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc):
        await csc.fault(0, "nameless")
        await world.clock.settle()
        assert world.values("errorCode", "errorCode")[-1] != 0


@pytest.mark.parametrize("hook", ["on_start", "after_start"])
@pytest.mark.parametrize("raising", [False, True])
async def test_a_fault_within_a_hook_ends_in_fault(hook: str, raising: bool) -> None:
    world = World()
    csc = world.probe()
    csc.faulting.add(hook)
    if raising:
        csc.failing[hook] = CommandRefusedError("no forwarder")
    async with world.running(csc) as remote:
        with pytest.raises(CommandFailedError):
            await remote.command("start")
        await world.clock.settle()
        assert state_of(csc) is S.FAULT
        assert world.values("summaryState", "summaryState") == [S.STANDBY, S.FAULT]
        assert world.values("errorCode", "errorCode") == [0, 5701]


async def test_a_failing_state_handler_is_a_fault() -> None:
    world = World()
    csc = world.probe()
    csc.failing["on_state ENABLED"] = KeyError("handler")
    async with world.running(csc) as remote:
        await remote.command("start")
        with pytest.raises(CommandFailedError):
            await remote.command("enable")
        assert state_of(csc) is S.FAULT
        report = world.values("errorCode", "errorReport")[-1]
        assert "handler" in report


async def test_a_failing_fault_handler_is_logged_and_does_not_loop() -> None:
    world = World()
    csc = world.probe()
    csc.failing["on_state FAULT"] = KeyError("handler")
    async with world.running(csc) as remote:
        await csc.fault(3, "first")
        assert state_of(csc) is S.FAULT
        await remote.command("standby")
        assert state_of(csc) is S.STANDBY
        assert any("handler" in message for message in world.values("logMessage", "message"))


# The end


async def test_exit_control_ends_the_run_after_its_reply() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        assert (await remote.command("exitControl")).code is AckCode.COMPLETE
        asked = []
        for step_s in (0.0, 0.9, 0.2):
            await world.clock.advance(step_s)
            asked.append(world.stop.requested)
        assert asked == [False, False, True]
        assert world.values("summaryState", "summaryState") == [S.STANDBY, S.OFFLINE]


async def test_a_stop_walks_down_through_the_hooks() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        await world.go(csc, remote, ("start", "enable"))
        csc.hooks.clear()
        csc.failing["on_standby"] = PermanentError("stuck")
        world.stop.request()
        await world.clock.settle()
        assert [
            hook for hook, _ in csc.hooks if hook.startswith("on_") and "state" not in hook
        ] == [
            "on_disable",
            "on_standby",
            "on_exit",
        ]
        assert world.values("summaryState", "summaryState")[-3:] == [
            S.DISABLED,
            S.STANDBY,
            S.OFFLINE,
        ]
        assert any("stuck" in message for message in world.values("logMessage", "message"))


async def test_a_cancelled_run_leaves_nothing() -> None:
    world = World()
    csc = world.probe()
    csc.while_enabled(lambda stop: stop.wait(), name="work")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(csc.run(world.stop, lambda: None))
        await world.clock.settle()
        async with Remote(
            component="ATArchiver", bus=world.bus, interfaces=INTERFACES, clock=world.clock
        ) as remote:
            await world.go(csc, remote, ("start", "enable"))
        task.cancel()
    assert task.cancelled()
    assert world.clock.sleepers == 0
    assert not any(world.bus._subscribers.values())


# Initial state, duplicates, enterControl


async def test_a_component_may_begin_enabled() -> None:
    world = World()
    csc = world.probe(initial_state=S.ENABLED)
    async with world.running(csc):
        assert state_of(csc) is S.ENABLED
        assert world.values("summaryState", "summaryState") == [S.STANDBY, S.DISABLED, S.ENABLED]


async def test_a_failing_unasked_start_is_a_fault_and_the_component_stays() -> None:
    world = World()
    csc = world.probe(initial_state=S.ENABLED)
    csc.failing["on_enable"] = PermanentError("no disk")
    async with world.running(csc) as remote:
        assert world.readiness == 1
        assert state_of(csc) is S.FAULT
        assert "no disk" in world.values("errorCode", "errorReport")[-1]
        csc.failing.clear()
        await world.go(csc, remote, ("standby", "start", "enable"))
        assert state_of(csc) is S.ENABLED


async def test_enter_control_leads_from_offline() -> None:
    world = World(component="ATCamera")
    csc = world.probe(initial_state=S.OFFLINE)
    async with world.running(csc) as remote:
        assert state_of(csc) is S.OFFLINE
        await remote.command("enterControl")
        assert state_of(csc) is S.STANDBY


async def test_a_second_instance_refuses_to_run() -> None:
    world = World()
    async with world.running(world.probe()):
        second = world.probe(check_duplicates=True)

        async def run() -> None:
            with pytest.raises(DuplicateCscError):
                await second.run(StopToken(), lambda: None)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(run())
            await world.clock.advance(1.5)
            assert task.done()


async def test_a_single_instance_waits_before_its_first_heartbeat() -> None:
    world = World()
    async with world.running(world.probe(check_duplicates=True)):
        await world.clock.advance(2.9)
        assert world.said() == ["logLevel"]
        await world.clock.advance(0.2)
        assert "heartbeat" in world.said()
        assert world.readiness == 1


# Log


async def test_messages_reach_the_bus_from_the_level_in_use() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc) as remote:
        await csc.log(logging.DEBUG, "quiet")
        await csc.log(logging.WARNING, "Exposure late", image="AT_O_20250415_000060")
        await remote.command("setLogLevel", level=logging.ERROR)
        await csc.log(logging.WARNING, "quiet too")
        await csc.log(15, "odd level")
        await remote.command("setLogLevel", level=logging.DEBUG, subsystem="daq")
        await csc.log(logging.DEBUG, "seen", subsystem="daq")
        await world.clock.settle()
        assert world.values("logMessage", "message") == [
            "Exposure late (image='AT_O_20250415_000060')",
            "seen",
        ]
        assert world.values("logMessage", "name") == ["ATArchiver", "ATArchiver.daq"]
        assert world.values("logLevel", "level") == [logging.INFO, logging.ERROR, logging.DEBUG]
        with pytest.raises(CommandFailedError, match="log level"):
            await remote.command("setLogLevel", level=-1)


async def test_an_unchanged_event_is_published_only_by_force() -> None:
    world = World()
    csc = world.probe()
    async with world.running(csc):
        fields: dict[str, Any] = {"camera": "LATISS", "obsid": "AT_O_20250415_000060"}
        assert await csc.publish("imageInOODS", **fields)
        assert not await csc.publish("imageInOODS", **fields)
        assert await csc.publish("imageInOODS", force=True, **fields)
        await world.clock.settle()
        assert len(world.values("imageInOODS", "obsid")) == 2


async def test_a_command_of_the_subclass_may_need_enabled() -> None:
    world = World()
    csc = world.probe()

    async def reset(command: Command) -> None:
        csc.require_enabled(command.name)

    csc.on_command("resetFromFault", reset)
    async with world.running(csc) as remote:
        with pytest.raises(CommandFailedError, match="not allowed in state STANDBY"):
            await remote.command("resetFromFault")
        await world.go(csc, remote, ("start", "enable"))
        await remote.command("resetFromFault")


class Cut(MemorySampleBus):
    """A bus that may go away."""

    away = False

    @override
    async def publish(self, sample: Sample) -> None:
        if self.away:
            raise BusUnavailableError("away")
        await super().publish(sample)


async def test_a_fault_that_cannot_be_told_ends_the_run() -> None:
    world = World()
    bus = Cut(clock=world.clock)
    world.bus = bus
    csc = world.probe()

    async def work(stop: StopToken) -> None:
        bus.away = True
        raise PermanentError("disk full")

    async def run() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await csc.run(world.stop, lambda: None)
        assert caught.group_contains(BusUnavailableError)

    csc.while_in({S.STANDBY}, work, name="work")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await world.clock.advance(15.0)
        assert task.done()
    assert world.clock.sleepers == 0


async def test_a_fault_is_told_also_when_its_finder_is_cancelled_meanwhile() -> None:
    world = World()
    bus = Cut(clock=world.clock)
    world.bus = bus
    csc = world.probe(drain_within_s=2.0)

    async def work(stop: StopToken) -> None:
        await world.clock.sleep(1.0)
        bus.away = True
        await csc.fault(5701, "no forwarder")

    csc.while_in({S.STANDBY}, work, name="work")
    async with world.running(csc):
        await world.clock.advance(6.0)
        bus.away = False
        await world.clock.advance(3.0)
        assert world.values("errorCode", "errorCode") == [0, 5701]
        assert world.values("summaryState", "summaryState") == [S.STANDBY, S.FAULT]


async def test_a_bus_that_is_away_costs_heartbeats_and_not_the_component() -> None:
    world = World()
    bus = Cut(clock=world.clock)
    world.bus = bus
    csc = world.probe()
    async with world.running(csc) as remote:
        bus.away = True
        await world.clock.advance(60.0)
        bus.away = False
        await world.clock.advance(5.0)
        await remote.command("start")
        assert state_of(csc) is S.DISABLED
