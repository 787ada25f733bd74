"""A simulated DAQ behind its protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from platevault.runtime.service import StopToken
from platevault.sim.daq_server import DaqServer

#: Longest start [s, machine].
_START_S = 10.0


@asynccontextmanager
async def serving(server: DaqServer) -> AsyncIterator[DaqServer]:
    """Let a server answer until the body ends; what it fails with is raised then."""
    stop, ready = StopToken(), asyncio.Event()
    running = asyncio.get_running_loop().create_task(server.run(stop, ready.set), name="server")
    try:
        async with asyncio.timeout(_START_S):
            await ready.wait()
        yield server
    finally:
        stop.request()
        await running
