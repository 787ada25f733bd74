"""What a command costs over DDS, the component being another process."""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.connection import Connection

from platevault.adapters.dds import (
    DdsSampleBus,
    DdsSettings,
    RoundTrips,
    measure_command_round_trip,
)
from platevault.adapters.system_clock import SystemClock
from platevault.sal.controller import Command, Controller
from platevault.sal.remote import Remote
from platevault.sal.schema import load_interfaces

_COMPONENT = "CCHeaderService"
_COMMAND = "start"
#: A domain that no site uses, so that a measurement meets nobody.
_DOMAIN_ID = 217
_PATIENCE_S = 20.0


async def measure_dds_commands(*, repeats: int) -> RoundTrips:
    """Time commands to their final reply over DDS on this host.

    Parameters
    ----------
    repeats
        Commands that are measured.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), name="bench-dds", daemon=True)
    process.start()
    there.close()
    try:
        await asyncio.to_thread(here.recv)
        return await _measure(repeats)
    finally:
        here.close()  # which ends the component
        await asyncio.to_thread(process.join, _PATIENCE_S)
        if process.is_alive():
            process.terminate()
            process.join()


async def _measure(repeats: int) -> RoundTrips:
    clock = SystemClock()
    async with (
        DdsSampleBus(settings=DdsSettings(domain_id=_DOMAIN_ID), clock=clock) as bus,
        Remote(
            component=_COMPONENT, bus=bus, interfaces=load_interfaces(), clock=clock, watch=()
        ) as remote,
    ):

        async def command() -> None:
            await remote.command(
                _COMMAND, timeout_s=_PATIENCE_S, configurationOverride="night.yaml"
            )

        return await measure_command_round_trip(command, count=repeats)


def _serve(pipe: Connection) -> None:
    asyncio.run(_component(pipe))


async def _component(pipe: Connection) -> None:
    clock = SystemClock()

    async def done(_: Command) -> None:
        return None

    async with DdsSampleBus(settings=DdsSettings(domain_id=_DOMAIN_ID), clock=clock) as bus:
        controller = Controller(
            component=_COMPONENT, bus=bus, interfaces=load_interfaces(), clock=clock
        )
        controller.on_command(_COMMAND, done)
        async with asyncio.TaskGroup() as group, controller.serving(group):
            pipe.send("ready")
            await asyncio.to_thread(_wait_for_end, pipe)


def _wait_for_end(pipe: Connection) -> None:
    try:
        pipe.recv()
    except EOFError:
        return
