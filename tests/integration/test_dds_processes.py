"""Components and remotes of several processes meet over DDS, without a server."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from platevault.adapters.dds import DdsSampleBus, DdsSettings, measure_command_round_trip
from platevault.adapters.dds.subscription import Subscription
from platevault.adapters.system_clock import SystemClock
from platevault.csc.csc import Csc
from platevault.domain.lifecycles import SummaryState
from platevault.domain.samples import Sample
from platevault.ports.sample_bus import BusUnavailableError, Gap, History
from platevault.runtime.service import Deadline, StopToken
from platevault.sal.acks import AckCode, CommandFailedError
from platevault.sal.remote import Remote
from platevault.sal.schema import load_interfaces
from platevault.testing.dds_domains import own_domain
from platevault.testing.sample_bus_contract import (
    contract_sample,
    contract_topic,
    numbers_of,
    take_recorded,
)

_FLOOR_S = 0.001
#: Measurements of which one must keep to the floor: other users of the cores only slow one down.
_ROUNDS = 20
#: Long enough for a busy host to find a process that already runs [s].
_SURELY_FOUND_S = 2.0
PATIENCE_S = 60.0
_COMMANDS = [contract_topic(f"command_number{number}") for number in range(40)]


def _settings(domain_id: int, **more: Any) -> DdsSettings:
    return DdsSettings(domain_id=domain_id, **more)


@asynccontextmanager
async def _process(
    *arguments: str, gently: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run this file as a program; it says a line when it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(own_domain()),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await _said(process, "ready")
        yield process
    finally:
        if process.returncode is None and not gently:
            process.kill()
        async with asyncio.timeout(PATIENCE_S):
            await process.communicate(b"")


async def _said(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = await process.stdout.readline()
    assert line.decode().strip() == word


async def _tell(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n".encode())
    await process.stdin.drain()
    await _said(process, word)


# What the other processes do


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def _component(bus: DdsSampleBus) -> None:
    csc = Csc(
        component="ATArchiver",
        bus=bus,
        interfaces=load_interfaces(),
        clock=SystemClock(),
        version="1.2.3",
    )
    stop = StopToken()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.request)
    await csc.run(stop, lambda: _say("ready"))


async def _writer(bus: DdsSampleBus) -> None:
    """Publish the samples whose numbers are told."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    _say("ready")
    while line := (await lines.readline()).decode().strip():
        first, _, last = line.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for sal_index in (1, 2, 3):
                await bus.publish(contract_sample(number, sal_index=sal_index))
        _say(line)


async def _reader(bus: DdsSampleBus) -> None:
    """Say what arrives on some topics: command topics, and the events of index 1."""
    topics = [*_COMMANDS, contract_topic()]
    async with bus.subscribe(topics, history=History.NONE, sal_index=1) as samples:
        _say("ready")
        async for sample in samples:
            _say(f"{sample.topic.sal_name} {sample.sequence}")


async def _main(domain_id: str, role: str) -> None:
    async with DdsSampleBus(settings=_settings(int(domain_id)), clock=SystemClock()) as bus:
        await {"component": _component, "reader": _reader, "writer": _writer}[role](bus)


# Tests


@asynccontextmanager
async def _bus(**more: Any) -> AsyncIterator[DdsSampleBus]:
    async with DdsSampleBus(settings=_settings(own_domain(), **more), clock=SystemClock()) as bus:
        yield bus


def _remote(bus: DdsSampleBus) -> Remote:
    return Remote(
        component="ATArchiver", bus=bus, interfaces=load_interfaces(), clock=SystemClock()
    )


async def test_a_component_of_another_process_goes_through_its_states() -> None:
    async with (
        _process("component") as process,
        _bus(discover_s=_SURELY_FOUND_S) as bus,
        _remote(bus) as remote,
    ):
        first = remote.latest("summaryState")
        assert first is not None, "the past was not in hand on entering"
        assert first.fields["summaryState"] == SummaryState.STANDBY
        for command in ("start", "enable", "disable", "standby"):
            assert (await remote.command(command, timeout_s=PATIENCE_S)).code is AckCode.COMPLETE
        with pytest.raises(CommandFailedError):
            await remote.command("enable", timeout_s=PATIENCE_S)
        assert (await remote.command("exitControl", timeout_s=PATIENCE_S)).code is AckCode.COMPLETE
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0


async def test_a_component_that_comes_later_is_heard() -> None:
    async with _bus() as bus, _remote(bus) as remote:
        assert remote.latest("summaryState") is None
        async with _process("component") as process:
            await remote.wait_for(
                "summaryState",
                lambda sample: sample.fields["summaryState"] == SummaryState.STANDBY,
                Deadline(SystemClock(), SystemClock().now_tai() + PATIENCE_S),
            )
            assert (await remote.command("start", timeout_s=PATIENCE_S)).code is AckCode.COMPLETE
            process.terminate()
            async with asyncio.timeout(PATIENCE_S):
                assert await process.wait() == 0
            state = remote.latest("summaryState")
            assert state is not None
            assert state.fields["summaryState"] == SummaryState.OFFLINE


async def test_a_late_joiner_gets_the_newest_of_each_index_and_then_all() -> None:
    async with _process("writer") as process:
        await _tell(process, "1-50")
        async with (
            _bus(discover_s=_SURELY_FOUND_S) as bus,
            bus.subscribe([contract_topic()], history=History.LATEST) as samples,
        ):
            assert isinstance(samples, Subscription)
            assert len(samples._waiting) == 3, "the past was not in hand on entering"
            past = [await _next(samples) for _ in range(3)]
            assert {(one.sal_index, one.sequence) for one in past} == {(1, 50), (2, 50), (3, 50)}
            await _tell(process, "51-550")
            live = [await _next(samples) for _ in range(1500)]
        for sal_index in (1, 2, 3):
            numbers = [one.sequence for one in live if one.sal_index == sal_index]
            assert numbers == list(range(51, 551))


async def test_the_end_of_a_writer_is_no_sample_and_its_past_goes_with_it() -> None:
    async with (
        _bus() as bus,
        bus.subscribe([contract_topic()], history=History.LATEST) as samples,
    ):
        async with _process("writer", gently=True) as process:
            await _tell(process, "7")
            assert [(await _next(samples)).sequence for _ in range(3)] == [7, 7, 7]
        async with (
            _process("writer") as process,
            bus.subscribe([contract_topic()], history=History.LATEST) as late,
        ):
            await _tell(process, "8")
            assert [(await _next(samples)).sequence for _ in range(3)] == [8, 8, 8]
            assert [(await _next(late)).sequence for _ in range(3)] == [8, 8, 8]


async def test_the_first_sample_of_a_writer_reaches_who_waits_for_it() -> None:
    async with _process("reader") as process, _bus() as bus:
        for topic in _COMMANDS:
            await bus.publish(contract_sample(1, topic=topic))
        for topic in _COMMANDS:
            await _said(process, f"{topic.sal_name} 1")


async def test_a_reader_that_hangs_for_a_moment_loses_nothing() -> None:
    topic = contract_topic()
    last = 100
    async with (
        _process("reader") as process,
        _bus() as bus,
        bus.subscribe([topic], history=History.NONE) as samples,
    ):
        await bus.publish(contract_sample(1))
        await _said(process, f"{topic.sal_name} 1")
        process.send_signal(signal.SIGSTOP)
        for number in range(2, last + 1):  # more than the network keeps
            await bus.publish(contract_sample(number, text="x" * 60_000))
        process.send_signal(signal.SIGCONT)
        for number in range(2, last + 1):
            await _said(process, f"{topic.sal_name} {number}")
        assert [(await _next(samples)).sequence for _ in range(last)] == [*range(1, last + 1)]


async def test_a_reader_that_hangs_for_long_holds_up_nobody_for_long() -> None:
    topic = contract_topic()
    async with (
        _process("reader") as process,
        _bus(accept_within_s=10.0, lease_s=1.0) as bus,
        bus.subscribe([topic], history=History.NONE) as samples,
    ):
        await bus.publish(contract_sample(1))
        await _said(process, f"{topic.sal_name} 1")
        process.send_signal(signal.SIGSTOP)
        got = [(await _next(samples)).sequence]
        async with asyncio.timeout(PATIENCE_S):
            for number in range(2, 400):
                await bus.publish(contract_sample(number, text="x" * 60_000))
                got.append((await _next(samples)).sequence)
        assert got == [*range(1, 400)]


async def test_a_writer_that_cannot_get_rid_of_its_samples_says_so() -> None:
    async with _process("reader") as process, _bus(accept_within_s=0.1) as bus:
        await bus.publish(contract_sample(1))
        await _said(process, f"{contract_topic().sal_name} 1")
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(BusUnavailableError):
            for number in range(2, 400):
                await bus.publish(contract_sample(number, text="x" * 60_000))


async def test_a_recording_goes_on_after_its_process_ended(tmp_path: Path) -> None:
    topic = contract_topic()
    async with _process("writer") as process:
        async with (
            _bus(spool_directory=tmp_path) as bus,
            bus.record([topic], group="efd") as recording,
        ):
            await _tell(process, "1-2")
            assert sorted(numbers_of(await take_recorded(recording, 6))) == [1, 1, 1, 2, 2, 2]
            await recording.commit()
            await _tell(process, "3")
            await take_recorded(recording, 3)  # without a commit
        await _tell(process, "4-6")  # while nobody listens
        async with (
            _bus(spool_directory=tmp_path) as bus,
            bus.record([topic], group="efd") as recording,
        ):
            got = await take_recorded(recording, 9)
        assert sorted(numbers_of(got)) == [3, 3, 3, 6, 6, 6]
        gaps = [item for item in got if isinstance(item, Gap)]
        assert sorted(gaps, key=lambda gap: gap.sal_index) == [
            Gap(topic, index, f"PVDemo:{index}", 4, 5) for index in (1, 2, 3)
        ]


@pytest.mark.slow
async def test_a_command_takes_less_than_a_millisecond() -> None:
    async with _process("component"), _bus() as bus, _remote(bus) as remote:
        await remote.command("start", timeout_s=PATIENCE_S)

        async def command() -> None:
            await remote.command("setLogLevel", timeout_s=PATIENCE_S, level=20)

        p50_s: list[float] = []
        while not p50_s or (min(p50_s) >= _FLOOR_S and len(p50_s) < _ROUNDS):
            trips = await measure_command_round_trip(command, count=300)
            p50_s.append(trips.p50_s)
        assert min(p50_s) < _FLOOR_S, p50_s


async def _next(samples: AsyncIterator[Sample]) -> Sample:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(samples)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
