"""A second process commands the components of the first."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from platevault.adapters.bus_link import BusLinkServer, LinkAddress, LinkedSampleBus
from platevault.adapters.bus_link.wire import LinkMissingError, encode_line
from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.adapters.system_clock import SystemClock
from platevault.csc.csc import Csc
from platevault.domain.lifecycles import SummaryState
from platevault.ports.sample_bus import BusUnavailableError, History
from platevault.runtime.service import Deadline, StopToken
from platevault.sal.acks import CommandFailedError
from platevault.sal.remote import Remote
from platevault.sal.schema import load_interfaces

INTERFACES = load_interfaces()


@asynccontextmanager
async def lent(file: Path) -> AsyncIterator[MemorySampleBus]:
    clock = SystemClock()
    bus = MemorySampleBus(clock=clock)
    csc = Csc(component="CCHeaderService", bus=bus, interfaces=INTERFACES, clock=clock, version="1")
    server = BusLinkServer(bus=bus, resolve=INTERFACES.topic, file=file)
    stop = StopToken()
    async with asyncio.TaskGroup() as group:
        for service in (csc, server):
            ready = asyncio.Event()
            group.create_task(service.run(stop, ready.set), name=service.name)
            await ready.wait()
        yield bus
        stop.request()


async def test_a_borrower_commands_and_watches(tmp_path: Path) -> None:
    file = tmp_path / "run" / "bus.json"
    clock = SystemClock()
    async with lent(file), LinkedSampleBus(file) as bus:
        remote = Remote(component="CCHeaderService", bus=bus, interfaces=INTERFACES, clock=clock)
        async with remote:
            state = remote.latest("summaryState")
            assert state is not None
            assert state.fields["summaryState"] == SummaryState.STANDBY
            await remote.command("start", timeout_s=10)
            await remote.command("enable", timeout_s=10)
            sample = await remote.wait_for(
                "summaryState",
                lambda sample: sample.fields["summaryState"] == SummaryState.ENABLED,
                Deadline(clock, clock.now_tai() + 10),
            )
            assert sample.fields["summaryState"] == SummaryState.ENABLED
            with pytest.raises(CommandFailedError, match="not allowed"):
                await remote.command("enable", timeout_s=10)


async def test_the_address_is_secret_and_goes_with_the_process(tmp_path: Path) -> None:
    file = tmp_path / "bus.json"
    async with lent(file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()
    with pytest.raises(LinkMissingError):
        async with LinkedSampleBus(file):
            pass


async def test_who_does_not_know_the_secret_is_turned_away(tmp_path: Path) -> None:
    file = tmp_path / "bus.json"
    async with lent(file):
        address = LinkAddress.read(file)
        LinkAddress(address.port, "guess").write(file)
        with pytest.raises(LinkMissingError):
            async with LinkedSampleBus(file):
                pass


async def test_a_malformed_line_ends_its_connection_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "bus.json"
    async with lent(file) as own:
        address = LinkAddress.read(file)
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        writer.write(encode_line({"token": address.token}) + b"nonsense\n")
        assert await reader.readline()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        topic = INTERFACES.topic("CCHeaderService", "logevent_summaryState")
        async with LinkedSampleBus(file) as bus:
            async with bus.subscribe([topic], history=History.LATEST) as samples:
                assert (await anext(samples)).fields["summaryState"] == SummaryState.STANDBY
            async with own.subscribe([topic], history=History.LATEST) as samples:
                assert (await anext(samples)).identity == "CCHeaderService"


async def test_a_borrower_learns_that_the_lender_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "bus.json"
    topic = INTERFACES.topic("CCHeaderService", "logevent_errorCode")
    async with AsyncExitStack() as borrowed:
        async with lent(file):
            bus = await borrowed.enter_async_context(LinkedSampleBus(file))
            samples = await borrowed.enter_async_context(
                bus.subscribe([topic], history=History.LATEST)
            )
        with pytest.raises(BusUnavailableError):
            async with asyncio.timeout(10):
                while True:
                    await anext(samples)


async def test_a_borrower_is_told_where_the_past_ends(tmp_path: Path) -> None:
    file = tmp_path / "bus.json"
    topic = INTERFACES.component("CCHeaderService").event("summaryState")
    async with lent(file), LinkedSampleBus(file) as bus:
        async with bus.subscribe([topic], history=History.LATEST, recall_s=60.0) as samples:
            left = samples.past_left
            state = (await anext(samples)).fields["summaryState"]
            then = samples.past_left
        async with bus.subscribe([topic], history=History.NONE) as samples:
            live = samples.past_left
    assert (left, state, then, live) == (1, SummaryState.STANDBY, 0, 0)
