"""A simulated DAQ in a process of its own, for benchmarks over TCP."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from platevault.compose.cameras import load_camera
from platevault.runtime.service import StopToken
from platevault.sim.daq import SimDaq
from platevault.sim.daq_server import DaqServer
from platevault.sim.recipe import ImageType, PixelRecipe

#: Name of the one image that the emulator holds.
IMAGE = "MC_S_20250415_000001"
PARTITION = "bench"
#: Boards stay in the emulator's memory, so that a read does not make pixels [byte].
_CACHE_BYTES = 2 << 30
_READOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Emulator:
    """Where an emulator answers.

    Attributes
    ----------
    port
        TCP port on this machine.
    pid
        Its process.
    """

    port: int
    pid: int


@contextmanager
def emulated(camera: str) -> Iterator[Emulator]:
    """Run an emulator of a shipped camera until the block ends."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(camera, there), name="bench-daq", daemon=True)
    process.start()
    try:
        port = here.recv()
        pid = process.pid
        assert pid is not None
        yield Emulator(port, pid)
    finally:
        here.send("stop")
        process.join(10)
        if process.is_alive():
            process.terminate()
            process.join()
        here.close()


def _serve(camera_name: str, pipe: Connection) -> None:
    daq = SimDaq(camera=load_camera(camera_name), cache_bytes=_CACHE_BYTES)
    daq.trigger(IMAGE, recipe=PixelRecipe(ImageType.BIAS))
    daq.step(_READOUT_S)
    server = DaqServer(devices={PARTITION: daq})
    stop = StopToken()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                server.run(stop, lambda: pipe.send(server.port)), name="bench-daq-server"
            )
            await asyncio.to_thread(pipe.recv)
            stop.request()

    asyncio.run(serve())
