"""Boards that a store on this host hands over in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from platevault.adapters.daq import DaqReadout
from platevault.adapters.daq.connection import DaqConnection
from platevault.adapters.daq.shared_memory import MemoryUnreachableError, copy_from_memory
from platevault.domain.daq_protocol import (
    BoardEntry,
    BoardTaken,
    ImageList,
    ListImages,
    MemoryPlace,
    ReadBoard,
)
from platevault.ports.readout import ReadoutUnavailableError
from platevault.sim.daq import SimDaq
from platevault.sim.daq_server import DaqServer
from platevault.sim.pixels import ImageType, PixelRecipe
from platevault.sim.shared_memory import SharedBlocks, SharedPlace
from platevault.testing.cameras import tiny_camera
from platevault.testing.daq_servers import serving

HOST = "127.0.0.1"
BOARD = "22/0"
QUESTION = ReadBoard(partition="tiny", image="one", location=BOARD, shared=True)


@pytest.fixture
def daq() -> SimDaq:
    daq = SimDaq(camera=tiny_camera(), seed=7)
    for name in ("one", "two"):
        daq.trigger(name, recipe=PixelRecipe(ImageType.BIAS))
    daq.step(5.0)
    return daq


@pytest.fixture
async def port(daq: SimDaq) -> AsyncIterator[int]:
    server = DaqServer(devices={"tiny": daq}, boards_in_hand=1, send_within_s=0.2)
    async with asyncio.timeout(30.0), serving(server):
        yield server.port


def words(daq: SimDaq, image: str) -> NDArray[np.uint8]:
    return daq.source(image, BOARD).words()


async def placed(connection: DaqConnection, question: ReadBoard = QUESTION) -> MemoryPlace:
    reply, payload_bytes = await connection.ask(question, within_s=5.0)
    assert isinstance(reply, BoardEntry)
    assert payload_bytes == 0
    assert reply.memory is not None
    return reply.memory


async def test_words_stay_in_memory_until_they_are_taken(daq: SimDaq, port: int) -> None:
    connection = await DaqConnection.open(HOST, port, within_s=5.0)
    try:
        place = await placed(connection)
        got = np.zeros(place.size_bytes, np.uint8)
        copy_from_memory(place, got.data)
        assert np.array_equal(got, words(daq, "one"))
        await connection.tell(BoardTaken(), within_s=5.0)
        reply, _ = await connection.ask(ListImages(partition="tiny", folder="raw"), within_s=5.0)
        assert isinstance(reply, ImageList)
    finally:
        connection.close()


async def test_who_does_not_take_a_board_is_cut_off_and_others_are_served(
    daq: SimDaq, port: int
) -> None:
    silent = await DaqConnection.open(HOST, port, within_s=5.0)
    hasty = await DaqConnection.open(HOST, port, within_s=5.0)
    try:
        await placed(silent)
        async with DaqReadout(host=HOST, port=port, partition="tiny") as readout:
            pixels = await readout.read_board("two", BOARD)
        assert np.array_equal(pixels.data, words(daq, "two"))
        with pytest.raises(ReadoutUnavailableError):
            await silent.hear()
        await placed(hasty)
        with pytest.raises(ReadoutUnavailableError):
            await hasty.ask(QUESTION, within_s=5.0)
    finally:
        silent.close()
        hasty.close()


async def test_words_of_memory_that_cannot_be_read_are_received(
    daq: SimDaq, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def elsewhere(blocks: SharedBlocks, data: NDArray[np.uint8]) -> SharedPlace:
        asked.append(len(data))
        return SharedPlace("/proc/1/fd/1048575", 0)

    monkeypatch.setattr(SharedBlocks, "place_of", elsewhere)
    async with DaqReadout(host=HOST, port=port, partition="tiny") as readout:
        for name in ("one", "two"):
            pixels = await readout.read_board(name, BOARD)
            assert np.array_equal(pixels.data, words(daq, name))
    assert len(asked) == 1


def test_nothing_but_nameless_memory_of_ours_is_read(tmp_path: Path) -> None:
    other = tmp_path / "secret"
    other.write_bytes(b"x" * 64)
    blocks = SharedBlocks(1 << 20)
    data = blocks.take(64)
    place = blocks.place_of(data)
    assert place is not None
    into = bytearray(64)
    with other.open("rb") as opened:
        for path in (
            str(other),
            f"/proc/{os.getpid()}/fd/{opened.fileno()}",
            f"/proc/{os.getpid()}/fd/1048575",
            f"{place.path}/../../fd/0",
        ):
            with pytest.raises(MemoryUnreachableError):
                copy_from_memory(
                    MemoryPlace(path=path, offset_bytes=0, size_bytes=64), memoryview(into)
                )
    assert not any(into)


def test_memory_that_ends_too_early_is_refused() -> None:
    blocks = SharedBlocks(1 << 20)
    data = blocks.take(64)
    place = blocks.place_of(data[32:])
    assert place is not None
    assert place.offset_bytes == 32
    with pytest.raises(MemoryUnreachableError, match="too early"):
        copy_from_memory(
            MemoryPlace(path=place.path, offset_bytes=32, size_bytes=64), memoryview(bytearray(64))
        )


def test_other_arrays_have_no_place() -> None:
    blocks = SharedBlocks(1 << 20)
    held = blocks.take(64)
    assert blocks.place_of(np.zeros(64, np.uint8)) is None
    assert blocks.place_of(held.copy()) is None
    assert blocks.place_of(held[8:16]) is not None


def test_prepared_blocks_are_kept_and_lent() -> None:
    blocks = SharedBlocks(0)
    blocks.prepare(64, 2)
    before = open_files()
    held = [blocks.take(64), blocks.take(64)]
    assert open_files() == before
    held.append(blocks.take(64))
    assert open_files() == before + 2


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_files_of_blocks_are_closed_when_they_are_given_up() -> None:
    before = open_files()
    blocks = SharedBlocks(64)
    held = [blocks.take(64) for _ in range(4)]
    assert open_files() > before
    held.clear()
    assert blocks.take(64).size == 64
    del blocks
    assert open_files() == before
