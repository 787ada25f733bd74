from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import numpy as np
import pytest

from platevault.adapters.daq import DaqReadout
from platevault.adapters.daq.readout import ReadoutRefusedError
from platevault.domain.daq_protocol import (
    Frame,
    FrameReader,
    Listening,
    Problem,
    ProblemCode,
    decode_message,
    encode_head,
    encode_message,
)
from platevault.domain.errors import UsageError
from platevault.domain.wire import ReadoutRegisters
from platevault.ports.readout import ImageIncompleteError, ReadoutUnavailableError
from platevault.sim.daq import SimDaq
from platevault.sim.daq_control import ControlBrokenError, ControlRefusedError, DaqControl
from platevault.sim.daq_faults import DaqFault, FaultKind
from platevault.sim.daq_server import DaqServer
from platevault.sim.pixels import ImageType, PixelRecipe
from platevault.sim.sky import Pointing
from platevault.testing.cameras import tiny_camera
from platevault.testing.clocks import SteppedClock
from platevault.testing.daq_servers import serving

HOST = "127.0.0.1"
RECIPE = PixelRecipe(ImageType.OBJECT, 5.0, Pointing(10.0, -20.0), "r_tiny")


@pytest.fixture
def daq() -> SimDaq:
    return SimDaq(camera=tiny_camera(), seed=7)


@pytest.fixture
async def server(daq: SimDaq) -> AsyncIterator[DaqServer]:
    async with serving(DaqServer(devices={"tiny": daq})) as server:
        yield server


def a_readout(port: int, **settings: float) -> DaqReadout:
    return DaqReadout(
        host=HOST,
        port=port,
        partition="tiny",
        shared_memory=False,
        **settings,  # type: ignore[arg-type]
    )


async def exchange(port: int, data: bytes, *, frames: int = 1) -> list[Frame]:
    """Send raw bytes; give the frames that come back before the server closes."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    understood = FrameReader()
    found: list[Frame] = []
    try:
        async with asyncio.timeout(10.0):
            while len(found) < frames and (piece := await reader.read(1 << 16)):
                understood.receive_data(piece)
                while isinstance(event := understood.next_event(), Frame):
                    found.append(event)
    finally:
        writer.close()
        await writer.wait_closed()
    return found


# -- the control channel -----------------------------------------------------------------------


async def test_another_process_takes_an_image_and_moves_time(
    server: DaqServer, daq: SimDaq
) -> None:
    async with (
        DaqControl(host=HOST, port=server.control_port, partition="tiny") as control,
        a_readout(server.port) as readout,
    ):
        await control.trigger("a", recipe=RECIPE, annotation="x", facts={"N": 1.5})
        assert (await control.step(1.0)).now_tai == 1.0
        with pytest.raises(ImageIncompleteError):
            await readout.describe("a", "22/0")
        assert (await control.step(1.0)).images == 1
        told = await readout.describe("a", "22/0")
        assert told.facts == {"N": 1.5}
        pixels = await readout.read_board("a", "22/0")
    assert np.array_equal(pixels.data, daq.source("a", "22/0").words())


async def test_another_process_sets_and_clears_faults(server: DaqServer, daq: SimDaq) -> None:
    fault = DaqFault(FaultKind.BOARD_TRUNCATED, "a", "22/0", 0.5, times=1)
    async with DaqControl(host=HOST, port=server.control_port, partition="tiny") as control:
        assert (await control.inject(fault)).faults == (fault,)
        assert daq.faults.present() == (fault,)
        assert (await control.inject(DaqFault(FaultKind.PAUSED))).faults[1].kind == "paused"
        assert (await control.clear(FaultKind.PAUSED)).faults == (fault,)
        assert (await control.clear()).faults == ()


async def test_an_order_that_cannot_be_obeyed_is_refused_and_the_channel_goes_on(
    server: DaqServer,
) -> None:
    async with DaqControl(host=HOST, port=server.control_port, partition="tiny") as control:
        await control.trigger("a", recipe=RECIPE)
        with pytest.raises(ControlRefusedError, match="name"):
            await control.trigger("a", recipe=RECIPE)
        with pytest.raises(ControlRefusedError):
            await control.step(-1.0)
        with pytest.raises(ControlRefusedError):
            await control.inject(DaqFault(FaultKind.SLOW, amount=-1.0))
        assert (await control.step(0.0)).images == 1
    async with DaqControl(host=HOST, port=server.control_port, partition="none") as control:
        with pytest.raises(ControlRefusedError, match="partition"):
            await control.step(1.0)
    with pytest.raises(ControlBrokenError):
        await control.step(1.0)


async def test_readers_cannot_give_orders(server: DaqServer, daq: SimDaq) -> None:
    order = b'{"type":"step","partition":"tiny","duration_s":5.0}'
    [frame] = await exchange(server.port, encode_head(1, order))
    answer = decode_message(frame.control)
    assert isinstance(answer, Problem)
    assert answer.code is ProblemCode.REFUSED
    assert daq.now_tai == 0.0


async def test_nobody_answers_on_a_closed_control_channel(server: DaqServer) -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    with pytest.raises(ControlBrokenError):
        async with DaqControl(host=HOST, port=port, partition="tiny"):
            pass


async def test_a_clock_moves_the_devices(daq: SimDaq) -> None:
    clock = SteppedClock()
    async with (
        serving(DaqServer(devices={"tiny": daq}, clock=clock)) as server,
        a_readout(server.port) as readout,
        readout.announcements() as heard,
    ):
        daq.trigger("a", recipe=RECIPE)
        assert not (await anext(heard)).complete
        await clock.advance(2.5)
        async with asyncio.timeout(10.0):
            assert (await anext(heard)).complete


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PVDQ\x02" + bytes(19),
        encode_head(1, b"{}")[:9],
        encode_head(1, encode_message(Listening()), payload_bytes=3) + b"abc",
    ],
    ids=["http", "version", "cut", "payload"],
)
async def test_who_breaks_the_protocol_is_cut_off_and_nobody_else(
    server: DaqServer, daq: SimDaq, data: bytes
) -> None:
    daq.trigger("a", recipe=RECIPE)
    async with a_readout(server.port) as readout:
        assert len(await readout.images()) == 1
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10.0):
            # A connection that is cut with bytes unread is reset.
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
        assert len(await readout.images()) == 1


@pytest.mark.parametrize("control", [b"nonsense", b'{"type":"boom"}', encode_message(Listening())])
async def test_a_question_that_means_nothing_is_refused_and_the_next_is_answered(
    server: DaqServer, control: bytes
) -> None:
    good = b'{"type":"list_images","partition":"tiny","folder":"raw"}'
    frames = await exchange(server.port, encode_head(5, control) + encode_head(6, good), frames=2)
    refused, answered = (decode_message(frame.control) for frame in frames)
    assert isinstance(refused, Problem)
    assert refused.code is ProblemCode.REFUSED
    assert answered.type == "image_list"
    assert [frame.request for frame in frames] == [5, 6]


async def test_an_unknown_partition_is_refused_by_name(server: DaqServer) -> None:
    async with DaqReadout(host=HOST, port=server.port, partition="comcam") as readout:
        with pytest.raises(ReadoutRefusedError, match="comcam") as caught:
            await readout.images()
        assert isinstance(caught.value, UsageError)
        with pytest.raises(ReadoutRefusedError):
            async with readout.announcements():
                pass


# -- the client against servers that misbehave ---------------------------------------------------


@contextlib.asynccontextmanager
async def misbehaving(answer: bytes, *, close: bool = True) -> AsyncIterator[int]:
    """A server that answers every question with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()
        if not close:
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, HOST, 0) as listening:
        yield listening.sockets[0].getsockname()[1]


def board_entry(size_bytes: int) -> bytes:
    return (
        b'{"type":"board","location":"22/0","registers":{"under_cols":0,"read_cols":2,'
        b'"over_cols":0,"read_rows":1,"over_rows":0},"layout":"sample_major","packing":"int32",'
        b'"channels":[1],"size_bytes":%d,"serial":"","firmware":"","platform":"","partition":"",'
        b'"daq_version":"","facts":{}}' % size_bytes
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        encode_head(1, encode_message(Listening())),
        encode_head(2, board_entry(8), payload_bytes=8) + bytes(8),
        encode_head(1, board_entry(8), payload_bytes=8) + bytes(3),
        encode_head(1, board_entry(8), payload_bytes=12) + bytes(12),
        encode_head(1, board_entry(12), payload_bytes=12) + bytes(12),
        encode_head(1, b'{"type":"board"}', payload_bytes=8) + bytes(8),
        encode_head(1, b"{}")[:10],
    ],
    ids=["close", "http", "other", "request", "cut", "large", "size", "shape", "head"],
)
async def test_a_wrong_answer_makes_the_store_unavailable(answer: bytes) -> None:
    async with misbehaving(answer) as port, a_readout(port) as readout:
        with pytest.raises(ReadoutUnavailableError):
            await readout.read_board("a", "22/0")


async def test_the_right_answer_among_them_is_taken() -> None:
    answer = encode_head(1, board_entry(8), payload_bytes=8) + b"12345678"
    async with misbehaving(answer) as port, a_readout(port) as readout:
        assert (await readout.read_board("a", "22/0")).data.tobytes() == b"12345678"


@pytest.mark.parametrize(
    "answer",
    [b"", encode_head(1, board_entry(8), payload_bytes=8) + bytes(3)],
    ids=["reply", "payload"],
)
async def test_a_silent_store_is_given_up(answer: bytes) -> None:
    async with (
        misbehaving(answer, close=False) as port,
        a_readout(port, reply_within_s=0.05, idle_within_s=0.05) as readout,
    ):
        with pytest.raises(ReadoutUnavailableError, match="in time"):
            await readout.read_board("a", "22/0")


async def test_a_store_that_is_not_there_is_unavailable_and_found_when_it_comes(
    daq: SimDaq,
) -> None:
    with socket.create_server((HOST, 0)) as place:
        port = place.getsockname()[1]
    async with a_readout(port) as readout:
        with pytest.raises(ReadoutUnavailableError):
            await readout.images()
        async with serving(DaqServer(devices={"tiny": daq}, port=port)):
            assert await readout.images() == []


async def test_a_restarted_server_is_found_without_a_lost_call(daq: SimDaq) -> None:
    daq.trigger("a", recipe=RECIPE)
    daq.step(2.0)
    async with serving(DaqServer(devices={"tiny": daq})) as server:
        port = server.port
        readout = a_readout(port)
        async with asyncio.TaskGroup() as group:
            for place in ("22/0", "00/1") * 4:
                group.create_task(readout.read_board("a", place))
    async with serving(DaqServer(devices={"tiny": daq}, port=port)), readout:
        assert len(await readout.images()) == 1
        assert (await readout.read_board("a", "22/0")).expected_bytes


async def test_calls_wait_for_a_connection_when_all_are_in_use(
    server: DaqServer, daq: SimDaq
) -> None:
    daq.trigger("a", recipe=RECIPE)
    daq.step(2.0)
    daq.inject(DaqFault(FaultKind.STALLED, "a", "22/0"))
    async with a_readout(server.port, connections=1) as readout, asyncio.TaskGroup() as group:
        reading = group.create_task(readout.read_board("a", "22/0"))
        listing = group.create_task(readout.images())
        async with asyncio.timeout(10.0):
            while daq.watchers == 0:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0)
        assert not listing.done()
        daq.clear()
        await asyncio.wait({reading, listing})
        assert len(readout._idle) == 1
    assert len(reading.result().data) == reading.result().expected_bytes
    assert len(listing.result()) == 1


async def test_a_break_within_the_pixels_is_noticed_when_it_happens(
    server: DaqServer, daq: SimDaq
) -> None:
    daq.trigger("a", recipe=RECIPE)
    daq.step(2.0)
    daq.inject(DaqFault(FaultKind.DISCONNECTED, "a", "22/0"))
    async with a_readout(server.port) as readout:
        with pytest.raises(ReadoutUnavailableError, match="within a payload"):
            await readout.read_board("a", "22/0")


async def test_a_place_at_the_server_is_free_again_when_its_client_goes(daq: SimDaq) -> None:
    async with serving(DaqServer(devices={"tiny": daq}, connections=1)) as server:
        for _ in range(3):
            async with a_readout(server.port, reply_within_s=5.0) as readout:
                assert await readout.images() == []


async def test_a_reader_that_takes_nothing_is_cut_off(daq: SimDaq) -> None:
    daq.trigger("a", recipe=RECIPE, registers=ReadoutRegisters(0, 2000, 0, 1000, 0))
    daq.step(2.0)
    server = DaqServer(devices={"tiny": daq}, boards_in_hand=1, send_within_s=0.2)
    async with serving(server), a_readout(server.port) as readout:
        question = b'{"type":"read_board","partition":"tiny","image":"a","location":"22/0"}'
        _, writer = await asyncio.open_connection(HOST, server.port, limit=1 << 12)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(encode_head(1, question))
        # It holds the only place until it is cut off.
        pixels = await readout.read_board("a", "00/1")
        assert len(pixels.data) == 2000 * 1000 * 8 * 4
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
