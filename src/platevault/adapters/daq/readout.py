"""The `Readout` port over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from platevault.adapters.daq.connection import DaqConnection
from platevault.adapters.daq.shared_memory import MemoryUnreachableError, copy_from_memory
from platevault.domain.daq_protocol import (
    BoardEntry,
    BoardTaken,
    DescribeBoard,
    ImageEntry,
    ImageList,
    Listen,
    Listening,
    ListImages,
    MemoryPlace,
    Message,
    Problem,
    ProblemCode,
    ReadBoard,
)
from platevault.domain.errors import UsageError
from platevault.domain.wire import BoardPixels, MalformedPixelsError, board_bytes
from platevault.ports.readout import (
    BoardDescription,
    ImageAnnouncement,
    ImageIncompleteError,
    ImageMissingError,
    ReadoutUnavailableError,
)

_log = structlog.get_logger(__name__)
ReplyT = TypeVar("ReplyT", ImageList, BoardEntry, Listening, ImageEntry)


class ReadoutRefusedError(UsageError):
    """The DAQ refuses the request as it is: mend the partition or the setting it names."""


class DaqReadout:
    """Reads a DAQ store over TCP, a `platevault.ports.readout.Readout`.

    Connections are opened when they are needed and kept for the next call; one that broke is
    replaced at the next call. Close it at the end, or use it as a context manager.

    Parameters
    ----------
    host, port
        Where the store answers.
    partition
        Name of the partition there.
    connections
        Calls that are under way at a time; others wait. Listeners are not counted.
    connect_within_s, reply_within_s
        Limits of a connect and of a reply [s]; a reply may wait for pixels to be made.
    idle_within_s
        Limit of a pause within a payload [s].
    shared_memory
        Take words out of the memory of a store on this host, if it offers that, instead of
        receiving them.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        partition: str,
        connections: int = 8,
        connect_within_s: float = 5.0,
        reply_within_s: float = 30.0,
        idle_within_s: float = 10.0,
        shared_memory: bool = True,
    ) -> None:
        self._host = host
        self._port = port
        self._partition = partition
        self._connect_within_s = connect_within_s
        self._reply_within_s = reply_within_s
        self._idle_within_s = idle_within_s
        self._shared_memory = shared_memory
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[DaqConnection] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that are not in use; those in use close with their call."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def images(self, *, folder: str = "raw") -> list[ImageAnnouncement]:
        """List what the store holds, oldest first."""
        async with self._connection() as connection:
            question = ListImages(partition=self._partition, folder=folder)
            reply, _ = await self._ask(connection, question, ImageList)
            return [_announcement(entry) for entry in reply.images]

    @contextlib.asynccontextmanager
    async def announcements(self) -> AsyncIterator[AsyncIterator[ImageAnnouncement]]:
        """Hear of each image when it is triggered and again when it is complete (a hint).

        The iteration ends with `ReadoutUnavailableError` when the connection breaks.
        """
        connection = await self._open()
        try:
            await self._ask(connection, Listen(partition=self._partition), Listening)
            yield _heard(connection)
        finally:
            connection.close()

    async def describe(self, image: str, location: str) -> BoardDescription:
        """Tell geometry and origin of one board of an image; errors as the port says."""
        async with self._connection() as connection:
            question = DescribeBoard(partition=self._partition, image=image, location=location)
            reply, _ = await self._ask(connection, question, BoardEntry)
            return _description(reply)

    async def read_board(
        self, image: str, location: str, *, into: NDArray[np.uint8] | None = None
    ) -> BoardPixels:
        """Read the words of one board; errors as the port says.

        Raises
        ------
        UsageError
            ``into`` is not contiguous, writeable bytes, or is smaller than the board.
        """
        if into is not None and (
            into.dtype != np.uint8
            or into.ndim != 1
            or not into.flags.c_contiguous
            or not into.flags.writeable
        ):
            raise UsageError("Buffer is not contiguous bytes", dtype=str(into.dtype))
        async with self._connection() as connection:
            try:
                data, description, arrived = await self._read(
                    connection, image, location, into, shared=self._shared_memory
                )
            except MemoryUnreachableError as error:
                _log.warning("Boards are received, not shared", problem=str(error))
                self._shared_memory = False
                data, description, arrived = await self._read(
                    connection, image, location, into, shared=False
                )
        if arrived != description.size_bytes:
            raise MalformedPixelsError(
                "Board has fewer words than its registers say",
                image=image,
                location=location,
                size_bytes=arrived,
                expected=description.size_bytes,
            )
        return BoardPixels(
            data=data,
            layout=description.layout,
            packing=description.packing,
            registers=description.registers,
            channels=description.channels,
        )

    async def _read(
        self,
        connection: DaqConnection,
        image: str,
        location: str,
        into: NDArray[np.uint8] | None,
        *,
        shared: bool,
    ) -> tuple[NDArray[np.uint8], BoardDescription, int]:
        """Give the buffer, what the DAQ says of the board, and how many bytes arrived."""
        question = ReadBoard(
            partition=self._partition,
            image=image,
            location=location,
            shared=shared and connection.same_host,
        )
        reply, payload_bytes = await self._ask(connection, question, BoardEntry)
        description = _description(reply)
        size = description.size_bytes
        arrived = payload_bytes if reply.memory is None else reply.memory.size_bytes
        if arrived > size:
            raise ReadoutUnavailableError(
                "More words come than the registers say", size_bytes=arrived, expected=size
            )
        if into is not None and len(into) < size:
            raise UsageError("Buffer is smaller than the board", size=len(into), expected=size)
        data = _page_aligned(size) if into is None else into[:size]
        if reply.memory is None:
            await connection.receive_into(data[:arrived].data, within_s=self._idle_within_s)
            return data, description, arrived
        try:
            await _in_thread(copy_from_memory, reply.memory, data[:arrived].data)
        except MemoryUnreachableError:
            await connection.tell(BoardTaken(), within_s=self._reply_within_s)
            raise
        await connection.tell(BoardTaken(), within_s=self._reply_within_s)
        return data, description, arrived

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[DaqConnection]:
        """Lend a connection; it is kept only if the call ended as calls should."""
        async with self._slots:
            connection = await self._open()
            keep = False
            try:
                yield connection
                keep = True
            except (ImageMissingError, ImageIncompleteError, ReadoutRefusedError):
                keep = True
                raise
            finally:
                if keep and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()

    async def _open(self) -> DaqConnection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale:
                return connection
            connection.close()
        return await DaqConnection.open(self._host, self._port, within_s=self._connect_within_s)

    async def _ask(
        self, connection: DaqConnection, question: Message, expected: type[ReplyT]
    ) -> tuple[ReplyT, int]:
        reply, payload_bytes = await connection.ask(question, within_s=self._reply_within_s)
        return _expected(reply, expected), payload_bytes


async def _heard(connection: DaqConnection) -> AsyncIterator[ImageAnnouncement]:
    while True:
        yield _announcement(_expected(await connection.hear(), ImageEntry))


def _expected(reply: Message, expected: type[ReplyT]) -> ReplyT:
    if isinstance(reply, expected):
        return reply
    if not isinstance(reply, Problem):
        raise ReadoutUnavailableError(
            "The DAQ answers something else", value=reply.type, expected=expected.__name__
        )
    match reply.code:
        case ProblemCode.IMAGE_MISSING:
            raise ImageMissingError(reply.message, **reply.context)
        case ProblemCode.IMAGE_INCOMPLETE:
            raise ImageIncompleteError(reply.message, **reply.context)
        case ProblemCode.REFUSED:
            raise ReadoutRefusedError(reply.message, **reply.context)


def _announcement(entry: ImageEntry) -> ImageAnnouncement:
    return ImageAnnouncement(
        image=entry.image,
        folder=entry.folder,
        tag=entry.tag,
        annotation=entry.annotation,
        triggered_tai=entry.triggered_tai,
        complete=entry.complete,
        boards=entry.boards,
    )


def _description(entry: BoardEntry) -> BoardDescription:
    expected = board_bytes(entry.registers, entry.channels, entry.packing)
    if entry.size_bytes != expected:
        raise ReadoutUnavailableError(
            "Size of a board does not follow from its registers",
            location=entry.location,
            size_bytes=entry.size_bytes,
            expected=expected,
        )
    return BoardDescription(
        location=entry.location,
        registers=entry.registers,
        layout=entry.layout,
        packing=entry.packing,
        channels=entry.channels,
        size_bytes=entry.size_bytes,
        serial=entry.serial,
        firmware=entry.firmware,
        platform=entry.platform,
        partition=entry.partition,
        daq_version=entry.daq_version,
        facts=entry.facts,
    )


async def _in_thread(
    copy: Callable[[MemoryPlace, memoryview], None], place: MemoryPlace, into: memoryview
) -> None:
    copying = asyncio.get_running_loop().run_in_executor(None, copy, place, into)
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        # The buffer is the caller's again only when nobody writes into it any more.
        await asyncio.wait({copying})
        raise


def _page_aligned(size: int) -> NDArray[np.uint8]:
    """Make a buffer at the start of a page: readers of interleaved words are faster with it."""
    pages = mmap.mmap(-1, max(size, 1))
    with contextlib.suppress(AttributeError, OSError):  # not every system has large pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8, count=size)
