"""A simulated DAQ for other processes: its store over TCP, and a control channel beside it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack

import structlog

from platevault.domain.daq_protocol import (
    BoardEntry,
    BoardTaken,
    DescribeBoard,
    ImageEntry,
    ImageList,
    Listen,
    Listening,
    ListImages,
    MalformedFrameError,
    MemoryPlace,
    Message,
    Problem,
    ProblemCode,
    ReadBoard,
    decode_message,
    encode_message,
)
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.domain.wire import largest_board_bytes
from platevault.ports.clock import Clock
from platevault.ports.readout import (
    BoardDescription,
    ImageAnnouncement,
    ImageIncompleteError,
    ImageMissingError,
    ReadoutUnavailableError,
)
from platevault.runtime.service import StopToken
from platevault.sim.daq import SimDaq
from platevault.sim.daq_boards import BoardSource
from platevault.sim.daq_control import (
    DeviceState,
    OrderRefused,
    decode_order,
    encode_answer,
    obey,
)
from platevault.sim.daq_readout import SimReadout
from platevault.sim.frame_socket import FrameSocket

_log = structlog.get_logger(__name__)
_BACKLOG = 64
_CONTROL_CONNECTIONS = 8
#: What each error of the port is on the wire; other errors of ours are refusals.
_CODES = {
    ImageMissingError: ProblemCode.IMAGE_MISSING,
    ImageIncompleteError: ProblemCode.IMAGE_INCOMPLETE,
}


#: Settings that name the ports, of the store and of the control channel.
_PORT_FIELDS = ("daq.port", "daq.control_port")


class UnexpectedMessageError(UsageError):
    """A client sent what is no question: mend the client."""


class UnknownPartitionError(UsageError):
    """The server has no such partition: mend the name."""


class DaqPortError(UsageError):
    """The emulator cannot listen: name another port, or end the process that has this one."""


class DaqServer:
    """Serves simulated DAQs over TCP until it is asked to stop.

    Parameters
    ----------
    devices
        By partition.
    host, port, control_port
        Where to listen; port 0 takes a free one.
    clock
        Moves the devices' time; ``None`` leaves that to the control channel.
    tick_s
        How often it does so [s].
    connections
        Connections at a time; others wait to be accepted.
    boards_in_hand
        Boards that are made or sent at a time; they bound its memory.
    send_within_s
        A reader that takes nothing for so long is cut off [s].
    name
        Of the service.
    """

    def __init__(
        self,
        *,
        devices: Mapping[str, SimDaq],
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int = 0,
        clock: Clock | None = None,
        tick_s: float = 0.1,
        connections: int = 64,
        boards_in_hand: int = 4,
        send_within_s: float = 30.0,
        name: str = "daq-server",
    ) -> None:
        self.name = name
        self._devices = devices
        self._readouts = {partition: SimReadout(daq) for partition, daq in devices.items()}
        self._host = host
        self._ports = (port, control_port)
        self._clock = clock
        self._tick_s = tick_s
        self._connections = connections
        self._boards_in_hand = boards_in_hand
        self._boards = asyncio.Semaphore(boards_in_hand)
        self._send_within_s = send_within_s
        self._bound: tuple[int, int] = (0, 0)

    @property
    def port(self) -> int:
        """Where the store answers; known when the service is ready."""
        return self._bound[0]

    @property
    def control_port(self) -> int:
        """Where the control channel answers; known when the service is ready."""
        return self._bound[1]

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Listen, call ``ready``, serve until ``stop``; then connections are cut."""
        for daq in self._devices.values():
            # Fresh memory would cost the first images more than their pixels.
            await asyncio.to_thread(
                daq.cache.prepare, largest_board_bytes(daq.camera), self._boards_in_hand
            )
        with ExitStack() as sockets:
            store, control = (
                sockets.enter_context(_listening(self._host, port, field))
                for port, field in zip(self._ports, _PORT_FIELDS, strict=True)
            )
            self._bound = (store.getsockname()[1], control.getsockname()[1])
            async with asyncio.TaskGroup() as group:
                tasks = {
                    group.create_task(
                        self._accept(store, self._serve, self._connections), name="daq-store"
                    ),
                    group.create_task(
                        self._accept(control, self._command, _CONTROL_CONNECTIONS),
                        name="daq-control",
                    ),
                }
                if self._clock is not None:
                    tasks.add(group.create_task(self._tick(self._clock), name="daq-tick"))
                ready()
                await stop.wait()
                for task in tasks:
                    task.cancel()

    async def _tick(self, clock: Clock) -> None:
        before = clock.now_tai()
        while True:
            await clock.sleep(self._tick_s)
            now = clock.now_tai()
            for daq in self._devices.values():
                daq.step(max(0.0, now - before))
            before = now

    async def _accept(
        self,
        listening: socket.socket,
        serve: Callable[[FrameSocket], Awaitable[None]],
        connections: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(connections)
        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except ConnectionAbortedError:
                    slots.release()
                    continue
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                group.create_task(
                    self._attend(FrameSocket(accepted), serve, slots), name="daq-connection"
                )

    async def _attend(
        self,
        frames: FrameSocket,
        serve: Callable[[FrameSocket], Awaitable[None]],
        slots: asyncio.Semaphore,
    ) -> None:
        """Serve one connection; whatever is wrong with it ends it alone."""
        try:
            await serve(frames)
        except* (OSError, MalformedFrameError, ReadoutUnavailableError) as errors:
            _log.info("DAQ connection cut", reason=str(errors.exceptions[0]))
        finally:
            frames.close()
            slots.release()

    async def _serve(self, frames: FrameSocket) -> None:
        while (frame := await frames.next_frame()) is not None:
            try:
                await self._answer(frames, frame.request, decode_message(frame.control))
            except ReadoutUnavailableError:
                raise
            except PlatevaultError as error:
                problem = Problem(
                    code=_CODES.get(type(error), ProblemCode.REFUSED),
                    message=error.message,
                    context={name: str(value) for name, value in error.context.items()},
                )
                await self._send(frames, frame.request, problem)

    async def _answer(self, frames: FrameSocket, request: int, question: Message) -> None:
        match question:
            case ListImages():
                images = await self._readout(question.partition).images(folder=question.folder)
                entries = tuple(_image_entry(item) for item in images)
                await self._send(frames, request, ImageList(images=entries))
            case DescribeBoard():
                description = await self._readout(question.partition).describe(
                    question.image, question.location
                )
                await self._send(frames, request, _board_entry(description))
            case ReadBoard():
                await self._send_board(frames, request, question)
            case Listen():
                await self._send_announcements(frames, request, question)
            case _:
                raise UnexpectedMessageError("Not a question", value=question.type)

    async def _send_board(self, frames: FrameSocket, request: int, question: ReadBoard) -> None:
        readout = self._readout(question.partition)
        admitted: BoardSource | PlatevaultError
        async with asyncio.TaskGroup() as group:
            # A reader that gave up must not wait here until the fault is cleared.
            watching = group.create_task(_until_closed(frames), name="daq-reader-gone")
            try:
                admitted = await readout.admit(question.image, question.location)
            except PlatevaultError as error:
                admitted = error
            watching.cancel()
        if isinstance(admitted, PlatevaultError):
            raise admitted
        told = _board_entry(admitted.description)
        async with self._boards:
            delivery = await readout.deliver(admitted)
            place = None
            if question.shared and not delivery.broken:
                place = self._devices[question.partition].cache.place_of(delivery.data)
            if place is not None:
                memory = MemoryPlace(
                    path=place.path,
                    offset_bytes=place.offset_bytes,
                    size_bytes=len(delivery.data),
                )
                await self._send(frames, request, told.model_copy(update={"memory": memory}))
                await self._until_taken(frames)
                return
            entry = encode_message(told)
            await frames.send(
                request,
                entry,
                delivery.data,
                announced_bytes=admitted.description.size_bytes if delivery.broken else None,
                within_s=self._send_within_s,
            )
        if delivery.broken:
            raise ReadoutUnavailableError("The connection breaks as it was told to")

    async def _until_taken(self, frames: FrameSocket) -> None:
        async with asyncio.timeout(self._send_within_s):
            frame = await frames.next_frame()
        if frame is None:
            raise ConnectionResetError("The other end closed with a board in hand")
        if not isinstance(decode_message(frame.control), BoardTaken):
            raise MalformedFrameError("The board of the last question is not taken yet")

    async def _send_announcements(
        self, frames: FrameSocket, request: int, question: Listen
    ) -> None:
        async with self._readout(question.partition).announcements() as heard:
            await self._send(frames, request, Listening())
            async with asyncio.TaskGroup() as group:
                group.create_task(_until_closed(frames), name="daq-listener-gone")
                async for item in heard:
                    await self._send(frames, request, _image_entry(item))

    async def _send(self, frames: FrameSocket, request: int, message: Message) -> None:
        await frames.send(request, encode_message(message), within_s=self._send_within_s)

    async def _command(self, frames: FrameSocket) -> None:
        while (frame := await frames.next_frame()) is not None:
            answer: DeviceState | OrderRefused
            try:
                order = decode_order(frame.control)
                answer = obey(self._device(order.partition), order)
            except PlatevaultError as error:
                answer = OrderRefused(
                    message=error.message,
                    context={name: str(value) for name, value in error.context.items()},
                )
            await frames.send(frame.request, encode_answer(answer), within_s=self._send_within_s)

    def _readout(self, partition: str) -> SimReadout:
        self._device(partition)
        return self._readouts[partition]

    def _device(self, partition: str) -> SimDaq:
        try:
            return self._devices[partition]
        except KeyError:
            raise UnknownPartitionError(
                "No such partition", partition=partition, expected=sorted(self._devices)
            ) from None


def _listening(host: str, port: int, field: str) -> socket.socket:
    try:
        listening = socket.create_server((host, port), backlog=_BACKLOG)
    except OSError as error:
        raise DaqPortError(
            "The DAQ emulator cannot listen",
            field=field,
            host=host,
            value=port,
            problem=str(error),
            expected="a free port of this host",
        ) from error
    listening.setblocking(False)
    return listening


async def _until_closed(frames: FrameSocket) -> None:
    if await frames.next_frame() is not None:
        raise MalformedFrameError("One question at a time")
    raise ConnectionResetError("The other end closed")


def _image_entry(item: ImageAnnouncement) -> ImageEntry:
    return ImageEntry(
        image=item.image,
        folder=item.folder,
        tag=item.tag,
        annotation=item.annotation,
        triggered_tai=item.triggered_tai,
        complete=item.complete,
        boards=item.boards,
    )


def _board_entry(item: BoardDescription) -> BoardEntry:
    return BoardEntry(
        location=item.location,
        registers=item.registers,
        layout=item.layout,
        packing=item.packing,
        channels=item.channels,
        size_bytes=item.size_bytes,
        serial=item.serial,
        firmware=item.firmware,
        platform=item.platform,
        partition=item.partition,
        daq_version=item.daq_version,
        facts=dict(item.facts),
    )
