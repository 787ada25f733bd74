"""A simulated DAQ in a process of its own, for benchmarks over TCP."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from platevault.compose.cameras import load_camera
from platevault.runtime.service import StopToken
from platevault.sim.daq import SimDaq
from platevault.sim.daq_server import DaqServer
from platevault.sim.recipe import ImageType, PixelRecipe

#: Name of the one image that an emulator holds if no other is asked for.
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
def emulated(
    camera: str, *, images: Sequence[str] = (IMAGE,), partition: str = PARTITION, port: int = 0
) -> Iterator[Emulator]:
    """Run an emulator of a camera until the block ends.

    Parameters
    ----------
    camera
        Name of a shipped camera, or its document.
    images
        What it holds, read out.
    partition
        Under which it answers.
    port
        Where it listens; 0 takes a free one.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_serve, args=(camera, images, partition, port, there), name="bench-daq", daemon=True
    )
    process.start()
    there.close()  # so that a process that ends is heard
    try:
        bound = here.recv()
        pid = process.pid
        assert pid is not None
        yield Emulator(bound, pid)
    finally:
        with suppress(BrokenPipeError):
            here.send("stop")
        process.join(10)
        if process.is_alive():
            process.terminate()
            process.join()
        here.close()


def _serve(
    camera_name: str, images: Sequence[str], partition: str, port: int, pipe: Connection
) -> None:
    daq = SimDaq(camera=load_camera(camera_name), cache_bytes=_CACHE_BYTES)
    for image in images:
        daq.trigger(image, recipe=PixelRecipe(ImageType.BIAS))
    daq.step(_READOUT_S)
    server = DaqServer(devices={partition: daq}, port=port)
    stop = StopToken()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                server.run(stop, lambda: pipe.send(server.port)), name="bench-daq-server"
            )
            await asyncio.to_thread(pipe.recv)
            stop.request()

    asyncio.run(serve())
