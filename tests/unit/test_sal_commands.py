"""Commands are answered once and in full; remotes wait as long as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.domain.errors import PermanentError
from platevault.domain.samples import Sample
from platevault.ports.sample_bus import History, SubscriberOverflowError
from platevault.runtime.service import Deadline
from platevault.sal.acks import (
    Ack,
    AckCode,
    CommandFailedError,
    CommandRefusedError,
    CommandTimeoutError,
)
from platevault.sal.controller import BACKLOG, Command, Controller, IndexMismatchError
from platevault.sal.remote import EventTimeoutError, Remote
from platevault.sal.schema import Interfaces, UnknownTopicError, load_interfaces
from platevault.sal.values import FieldValueError, UnknownFieldError
from platevault.testing.clocks import START_TAI, SteppedClock


@pytest.fixture(scope="module")
def interfaces() -> Interfaces:
    return load_interfaces()


@dataclass
class Stage:
    """One bus with a controller of OCPS:2, and remotes to it."""

    interfaces: Interfaces
    clock: SteppedClock
    bus: MemorySampleBus
    controller: Controller

    def remote(self, **more: Any) -> Remote:
        more.setdefault("sal_index", 2)
        more.setdefault("identity", "ann@host")
        return Remote(
            component="OCPS",
            bus=self.bus,
            interfaces=self.interfaces,
            clock=self.clock,
            **more,
        )

    async def send(self, sample: Sample) -> Sample:
        """Publish a command as it is and give the next reply."""
        async with self.replies() as replies:
            await self.bus.publish(sample)
            return await anext(replies)

    @asynccontextmanager
    async def replies(self) -> AsyncIterator[AsyncIterator[Sample]]:
        ackcmd = self.interfaces.component("OCPS").ackcmd
        async with self.bus.subscribe([ackcmd], history=History.NONE) as replies:
            yield replies

    def command(self, name: str, *, sequence: int = 7, **fields: Any) -> Sample:
        topic = self.interfaces.component("OCPS").command(name)
        return Sample(topic, fields, 2, START_TAI, sequence, "ann@host", 99)


@pytest.fixture
async def stage(interfaces: Interfaces) -> AsyncIterator[Stage]:
    clock = SteppedClock()
    bus = MemorySampleBus(clock=clock, queue_limit=500)
    controller = Controller(
        component="OCPS", sal_index=2, bus=bus, interfaces=interfaces, clock=clock
    )
    async with asyncio.TaskGroup() as group, controller.serving(group):
        yield Stage(interfaces, clock, bus, controller)


def answering(
    ack: Ack | None = None, error: Exception | None = None
) -> Callable[[Command], Awaitable[Ack | None]]:
    async def do(command: Command) -> Ack | None:
        if error is not None:
            raise error
        return ack

    return do


# Replies


async def test_success_is_complete(stage: Stage) -> None:
    stage.controller.on_command("enable", answering())
    async with stage.remote() as remote:
        assert await remote.command("enable") == Ack(AckCode.COMPLETE, result="Done")


async def test_the_command_arrives_with_its_fields(stage: Stage) -> None:
    seen: list[Command] = []

    async def do(command: Command) -> None:
        seen.append(command)

    stage.controller.on_command("execute", do)
    async with stage.remote() as remote:
        await remote.command("execute", pipeline="isr.yaml", data_query="exposure=1")
    assert seen[0].fields["pipeline"] == "isr.yaml"
    assert seen[0].name == "execute"
    assert seen[0].sample.identity == "ann@host"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Ack(AckCode.NO_PERMISSION, 4, "not you"), (-300, 4, "not you")),
        (Ack(AckCode.STALLED, 1, "stalled"), (302, 1, "stalled")),
        (PermanentError("No disk", free=0), (-302, 1, "Failed: No disk (free=0)")),
        (CommandRefusedError("Not now"), (-302, 1, "Failed: Not now")),
        (
            CommandRefusedError("Not you", code=AckCode.NO_PERMISSION, error=9),
            (-300, 9, "Not you"),
        ),
        (CommandRefusedError("Gone", code=AckCode.ABORTED), (-303, 1, "Gone")),
        (TimeoutError(), (-304, 1, "Timeout")),
        (KeyError("bug"), (-302, 1, "Failed: KeyError: 'bug'")),
    ],
)
async def test_what_went_wrong_is_in_the_reply(
    stage: Stage, given: Ack | Exception, expected: tuple[int, int, str]
) -> None:
    stage.controller.on_command(
        "enable",
        answering(given) if isinstance(given, Ack) else answering(error=given),
    )
    async with stage.remote() as remote:
        with pytest.raises(CommandFailedError) as caught:
            await remote.command("enable")
        ack = caught.value.ack
        assert (ack.code, ack.error, ack.result) == expected
        # The next command is done all the same.
        stage.controller.on_command("enable", answering())
        assert (await remote.command("enable")).code is AckCode.COMPLETE


async def test_a_reply_carries_what_its_sender_needs(stage: Stage) -> None:
    stage.controller.on_command("enable", answering())
    reply = await stage.send(stage.command("enable", sequence=77))
    assert reply.sequence == 77
    assert reply.sal_index == 2
    assert reply.identity == "OCPS:2"
    assert reply.fields == {
        "ack": 303,
        "error": 0,
        "result": "Done",
        "identity": "ann@host",
        "origin": 99,
        "cmdtype": sorted(stage.controller.interface.topics).index("command_enable"),
        "timeout": 0.0,
    }


async def test_a_command_nobody_does_fails(stage: Stage) -> None:
    async with stage.remote() as remote:
        with pytest.raises(CommandFailedError, match="disable is not supported"):
            await remote.command("disable")


@pytest.mark.parametrize(
    "fields",
    [{}, {"level": "high", "subsystem": ""}, {"level": 2**40, "subsystem": ""}, {"level": 1}],
)
async def test_a_malformed_command_fails(stage: Stage, fields: dict[str, Any]) -> None:
    ran: list[Command] = []

    async def do(command: Command) -> None:
        ran.append(command)

    stage.controller.on_command("setLogLevel", do)
    reply = await stage.send(stage.command("setLogLevel", **fields))
    assert reply.fields["ack"] == AckCode.FAILED
    assert "level" in reply.fields["result"] or "subsystem" in reply.fields["result"]
    assert not ran


async def test_a_command_without_a_number_fails(stage: Stage) -> None:
    stage.controller.on_command("enable", answering())
    reply = await stage.send(stage.command("enable", sequence=0))
    assert reply.fields["ack"] == AckCode.FAILED


async def test_a_command_for_another_index_is_not_ours(stage: Stage) -> None:
    stage.controller.on_command("enable", answering())
    async with stage.replies() as replies:
        await stage.bus.publish(replace(stage.command("enable", sequence=1), sal_index=1))
        await stage.bus.publish(replace(stage.command("enable", sequence=2), sal_index=0))
        await stage.bus.publish(stage.command("enable", sequence=3))
        assert (await anext(replies)).sequence == 3


async def test_commands_from_before_are_not_done(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    bus = MemorySampleBus(clock=clock)
    controller = Controller(
        component="OCPS", sal_index=2, bus=bus, interfaces=interfaces, clock=clock
    )
    controller.on_command("enable", answering())
    stage = Stage(interfaces, clock, bus, controller)
    await bus.publish(stage.command("enable", sequence=1))
    async with asyncio.TaskGroup() as group, controller.serving(group):
        assert (await stage.send(stage.command("enable", sequence=2))).sequence == 2


# Redelivery and order


async def test_a_command_that_comes_again_is_answered_again_and_not_run(stage: Stage) -> None:
    runs: list[int] = []

    async def do(command: Command) -> Ack:
        runs.append(command.sample.sequence)
        return Ack(AckCode.COMPLETE, result=f"run {len(runs)}")

    stage.controller.on_command("enable", do)
    command = stage.command("enable", sequence=5)
    first, again = await stage.send(command), await stage.send(command)
    assert first.fields == again.fields
    assert first.sequence == again.sequence == 5
    assert runs == [5]
    await stage.send(replace(command, origin=100))
    assert runs == [5, 5]


async def test_a_command_that_comes_again_while_it_runs_is_answered_once(stage: Stage) -> None:
    runs: list[int] = []
    gate = asyncio.Event()

    async def do(command: Command) -> None:
        runs.append(command.sample.sequence)
        await gate.wait()

    stage.controller.on_command("enable", do)
    async with stage.replies() as replies:
        await stage.bus.publish(stage.command("enable", sequence=5))
        await stage.clock.settle()
        await stage.bus.publish(stage.command("enable", sequence=5))
        await stage.clock.settle()
        gate.set()
        assert (await anext(replies)).sequence == 5
        await stage.bus.publish(stage.command("disable", sequence=6))
        assert (await anext(replies)).sequence == 6
    assert runs == [5]


async def test_equal_commands_wait_and_different_ones_do_not(stage: Stage) -> None:
    log: list[str] = []
    gate = asyncio.Event()

    async def slow(command: Command) -> None:
        log.append(f"begin {command.sample.sequence}")
        await gate.wait()
        log.append(f"end {command.sample.sequence}")

    async def quick(command: Command) -> None:
        log.append("quick")

    stage.controller.on_command("enable", slow)
    stage.controller.on_command("disable", quick)
    async with stage.replies() as replies:
        for sequence in (1, 2):
            await stage.bus.publish(stage.command("enable", sequence=sequence))
        await stage.bus.publish(stage.command("disable", sequence=3))
        assert (await anext(replies)).sequence == 3
        assert log == ["begin 1", "quick"]
        gate.set()
        assert [(await anext(replies)).sequence for _ in range(2)] == [1, 2]
    assert log[2:] == ["end 1", "begin 2", "end 2"]


async def test_too_many_waiting_commands_are_refused(stage: Stage) -> None:
    gate = asyncio.Event()

    async def do(command: Command) -> None:
        await gate.wait()

    stage.controller.on_command("enable", do)
    async with stage.replies() as replies:
        await stage.bus.publish(stage.command("enable", sequence=1))
        await stage.clock.settle()
        for sequence in range(2, BACKLOG + 3):
            await stage.bus.publish(stage.command("enable", sequence=sequence))
        refused = await anext(replies)
        assert refused.sequence == BACKLOG + 2
        assert "waiting" in refused.fields["result"]
        gate.set()
        assert [(await anext(replies)).sequence for _ in range(BACKLOG + 1)] == list(
            range(1, BACKLOG + 2)
        )


async def test_closing_aborts_what_runs_and_what_waits(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    bus = MemorySampleBus(clock=clock)
    controller = Controller(
        component="OCPS", sal_index=2, bus=bus, interfaces=interfaces, clock=clock
    )
    stage = Stage(interfaces, clock, bus, controller)
    running = asyncio.Event()

    async def do(command: Command) -> None:
        running.set()
        await asyncio.Event().wait()

    controller.on_command("enable", do)
    async with stage.replies() as replies:
        async with asyncio.TaskGroup() as group, controller.serving(group):
            await bus.publish(stage.command("enable", sequence=1))
            await running.wait()
            await bus.publish(stage.command("enable", sequence=2))
            await clock.settle()
        got = [await anext(replies), await anext(replies)]
    assert [(ack.sequence, ack.fields["ack"]) for ack in got] == [
        (1, AckCode.ABORTED),
        (2, AckCode.ABORTED),
    ]


# Waiting


async def test_silence_is_a_timeout(stage: Stage) -> None:
    gate = asyncio.Event()

    async def do(command: Command) -> None:
        await gate.wait()

    stage.controller.on_command("enable", do)

    async def send(remote: Remote) -> None:
        with pytest.raises(CommandTimeoutError) as caught:
            await remote.command("enable", timeout_s=5.0)
        assert caught.value.ack.code is AckCode.NO_ACK

    async with stage.remote() as remote, asyncio.TaskGroup() as group:
        task = group.create_task(send(remote))
        await stage.clock.advance(4.9)
        assert not task.done()
        await stage.clock.advance(0.2)
        assert task.done()
        gate.set()
        await stage.clock.settle()
        # The late reply disturbs nobody.
        assert (await remote.command("enable")).code is AckCode.COMPLETE


async def test_progress_is_told_and_extends_the_limit(stage: Stage) -> None:
    gate = asyncio.Event()

    async def do(command: Command) -> None:
        await command.in_progress(10.0, "reading out")
        await stage.clock.sleep(4.0)
        await command.in_progress(3.0, "writing")
        await gate.wait()

    stage.controller.on_command("enable", do)
    told: list[Ack] = []

    async def send(remote: Remote) -> Ack:
        return await remote.command("enable", timeout_s=5.0, on_progress=told.append)

    async with stage.remote() as remote, asyncio.TaskGroup() as group:
        task = group.create_task(send(remote))
        await stage.clock.advance(17.5)
        assert not task.done()
        gate.set()
        await stage.clock.settle()
        assert task.result().code is AckCode.COMPLETE
    assert [(ack.code, ack.result, ack.timeout_s) for ack in told] == [
        (AckCode.IN_PROGRESS, "reading out", 10.0),
        (AckCode.IN_PROGRESS, "writing", 3.0),
    ]


async def test_progress_does_not_extend_for_ever(stage: Stage) -> None:
    async def do(command: Command) -> None:
        await command.in_progress(10.0, "reading out")
        await asyncio.Event().wait()

    stage.controller.on_command("enable", do)

    async def send(remote: Remote) -> None:
        with pytest.raises(CommandTimeoutError, match="reading out"):
            await remote.command("enable", timeout_s=5.0)

    async with stage.remote() as remote, asyncio.TaskGroup() as group:
        task = group.create_task(send(remote))
        await stage.clock.advance(14.9)
        assert not task.done()
        await stage.clock.advance(0.2)


async def test_a_plain_ack_is_not_the_end(stage: Stage) -> None:
    async def do(command: Command) -> None:
        await asyncio.Event().wait()

    stage.controller.on_command("enable", do)
    topic = stage.interfaces.component("OCPS").command("enable")
    async with (
        stage.remote(origin=5) as remote,
        stage.bus.subscribe([topic], history=History.NONE) as commands,
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(remote.command("enable"))
        command = await anext(commands)
        reply = Sample(
            stage.interfaces.component("OCPS").ackcmd,
            {
                "ack": 300,
                "error": 0,
                "result": "",
                "identity": "ann@host",
                "origin": 5,
                "cmdtype": 0,
                "timeout": 0.0,
            },
            2,
            START_TAI,
            command.sequence,
        )
        await stage.bus.publish(reply)
        for wrong in ({"identity": "bob@host"}, {"origin": 6}, {"ack": 12345}):
            await stage.bus.publish(replace(reply, fields={**reply.fields, "ack": 303, **wrong}))
        await stage.bus.publish(replace(reply, sequence=command.sequence + 1))
        await stage.clock.settle()
        assert not task.done()
        await stage.bus.publish(replace(reply, fields={**reply.fields, "ack": 303}))
        assert (await task).code is AckCode.COMPLETE


async def test_numbers_of_different_commands_do_not_meet(stage: Stage) -> None:
    seen: dict[str, list[int]] = {"enable": [], "disable": []}

    async def do(command: Command) -> None:
        seen[command.name].append(command.sample.sequence)

    for name in seen:
        stage.controller.on_command(name, do)
    async with stage.remote() as remote:
        for name in ("enable", "disable", "enable"):
            await remote.command(name)
    size = (2**31 - 1) // len(stage.controller.interface.commands)
    places = {name: (numbers[0] - 1) // size for name, numbers in seen.items()}
    names = sorted(topic.name for topic in stage.controller.interface.commands)
    assert places == {name: names.index(name) for name in seen}
    assert seen["enable"][1] == seen["enable"][0] + 1


async def test_a_bad_command_is_not_sent(stage: Stage) -> None:
    async with stage.remote() as remote:
        with pytest.raises(UnknownTopicError):
            await remote.command("explode")
        with pytest.raises(UnknownFieldError):
            await remote.command("start", override="x.yaml")
        with pytest.raises(FieldValueError):
            await remote.command("setLogLevel", level="high")


# Events


async def test_a_remote_has_the_newest_events_at_once(stage: Stage) -> None:
    await stage.controller.event("summaryState").write(summaryState=5)
    await stage.controller.event("summaryState").write(summaryState=1)
    async with stage.remote() as remote:
        sample = remote.latest("summaryState")
        assert sample is not None
        assert sample.fields["summaryState"] == 1
        assert remote.latest("errorCode") is None
        await stage.controller.event("errorCode").write(errorCode=3)
        await stage.clock.settle()
        latest = remote.latest("errorCode")
        assert latest is not None
        assert latest.fields["errorCode"] == 3


async def test_a_remote_to_all_indices_tells_them_apart(stage: Stage) -> None:
    for index in (1, 2):
        controller = Controller(
            component="OCPS",
            sal_index=index,
            bus=stage.bus,
            interfaces=stage.interfaces,
            clock=stage.clock,
        )
        await controller.event("errorCode").write(errorCode=index)
        await stage.clock.advance(1.0)
    async with stage.remote(sal_index=0) as remote:
        for index in (1, 2):
            sample = remote.latest("errorCode", sal_index=index)
            assert sample is not None
            assert sample.fields["errorCode"] == index
        newest = remote.latest("errorCode")
        assert newest is not None
        assert newest.sal_index == 2


async def test_only_watched_topics_have_a_newest(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    bus = MemorySampleBus(clock=clock)
    controller = Controller(
        component="ESS", sal_index=301, bus=bus, interfaces=interfaces, clock=clock
    )
    async with Remote(
        component="ESS",
        sal_index=301,
        bus=bus,
        interfaces=interfaces,
        clock=clock,
        watch=["temperature", "summaryState"],
    ) as remote:
        await controller.telemetry("temperature").write(sensorName="tower")
        await clock.settle()
        sample = remote.latest("temperature")
        assert sample is not None
        assert sample.fields["sensorName"] == "tower"
        with pytest.raises(UnknownTopicError, match="not watched"):
            remote.latest("heartbeat")


async def test_waiting_for_an_event_looks_at_the_past_first(stage: Stage) -> None:
    await stage.controller.event("summaryState").write(summaryState=2)
    async with stage.remote() as remote:
        deadline = Deadline(stage.clock, START_TAI + 5.0)
        sample = await remote.wait_for(
            "summaryState", lambda sample: sample.fields["summaryState"] == 2, deadline
        )
        assert sample.fields["summaryState"] == 2


async def test_waiting_for_an_event_ends_when_it_comes(stage: Stage) -> None:
    await stage.controller.event("summaryState").write(summaryState=5)
    async with stage.remote() as remote, asyncio.TaskGroup() as group:
        task = group.create_task(
            remote.wait_for(
                "summaryState",
                lambda sample: sample.fields["summaryState"] == 2,
                Deadline(stage.clock, START_TAI + 5.0),
            )
        )
        await stage.clock.advance(1.0)
        for state in (1, 2):
            await stage.controller.event("summaryState").write(summaryState=state)
        assert (await task).fields["summaryState"] == 2


async def test_waiting_for_an_event_ends_at_the_deadline(stage: Stage) -> None:
    await stage.controller.event("summaryState").write(summaryState=5)

    async def wait(remote: Remote) -> None:
        with pytest.raises(EventTimeoutError, match="'summaryState': 5"):
            await remote.wait_for(
                "summaryState", lambda _: False, Deadline(stage.clock, START_TAI + 5.0)
            )

    async with stage.remote() as remote, asyncio.TaskGroup() as group:
        task = group.create_task(wait(remote))
        await stage.clock.advance(4.9)
        assert not task.done()
        await stage.clock.advance(0.2)


async def test_a_remote_that_lost_samples_says_so(stage: Stage) -> None:
    async with stage.remote() as remote:
        topic = stage.interfaces.component("OCPS").ackcmd
        flood = Sample(topic, {"ack": 303, "identity": "bob"}, 2, START_TAI, 1)
        unread = stage.bus._subscribers["OCPS", "ackcmd"][0].unread
        for _ in range(501):
            unread.put(flood)
        await stage.clock.settle()
        with pytest.raises(SubscriberOverflowError):
            await remote.command("enable")
        with pytest.raises(SubscriberOverflowError):
            remote.latest("summaryState")


async def test_an_index_is_refused_where_there_is_none(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    controller = Controller(
        component="ATArchiver",
        sal_index=3,
        bus=MemorySampleBus(clock=clock),
        interfaces=interfaces,
        clock=clock,
    )
    with pytest.raises(IndexMismatchError):
        await controller.continue_stamps()


async def test_a_new_process_stamps_after_the_former_one(interfaces: Interfaces) -> None:
    clock = SteppedClock()
    bus = MemorySampleBus(clock=clock)

    def controller(index: int) -> Controller:
        return Controller(
            component="OCPS", sal_index=index, bus=bus, interfaces=interfaces, clock=clock
        )

    old = await controller(2).event("heartbeat").write()
    clock.step(-1000.0)
    new = controller(2)
    await new.continue_stamps()
    assert (await new.event("heartbeat").write()).sent_tai > old.sent_tai
    for index in (0, 1):
        other = controller(index)
        await other.continue_stamps()
        assert (await other.event("heartbeat").write()).sent_tai < old.sent_tai
