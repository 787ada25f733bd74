"""A TCP proxy that cuts, stalls, slows and corrupts on demand, between a client and a server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

#: Bytes passed on at a time.
_CHUNK = 16 << 10


class TcpProxy:
    """Passes connections on to a server; an asynchronous context manager.

    Parameters
    ----------
    target_port
        Port of the server.
    target_host, host
        Interface of the server, and of the proxy.
    port
        Where it listens; 0 takes a free one, which `port` then names.
    """

    def __init__(
        self,
        *,
        target_port: int,
        target_host: str = "127.0.0.1",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._target = target_host, target_port
        self._host = host
        self.port = port
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._bytes_per_s = 0.0
        self._to_corrupt = 0
        self._mark = b""
        #: Connections that were passed on.
        self.accepted = 0
        #: Bytes that went to the client and to the server.
        self.passed_to_client = 0
        self.passed_to_server = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.mend()
        tasks = set(self._connections)
        self._drop()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def cut(self) -> None:
        """Drop every connection and let none through until `mend`."""
        self._refusing = True
        self._drop()

    def reset(self) -> None:
        """Drop every connection once; new ones go through."""
        self._drop()

    def stall(self) -> None:
        """Keep connections and pass nothing on until `mend`; nothing is lost."""
        self._flowing.clear()

    def slow(self, bytes_per_s: float) -> None:
        """Pass on at most so much in each direction of each connection."""
        self._bytes_per_s = bytes_per_s

    def corrupt(self, count: int = 1, *, mark: bytes) -> None:
        """Change the first byte of ``mark`` in each of the next ``count`` parts for the client.

        Parts without ``mark`` stay as they are.
        """
        self._to_corrupt = count
        self._mark = mark

    def mend(self) -> None:
        """End every fault."""
        self._refusing = False
        self._bytes_per_s = 0.0
        self._to_corrupt = 0
        self._flowing.set()

    @property
    def corrupting(self) -> bool:
        """Parts are still to be corrupted."""
        return self._to_corrupt > 0

    def _drop(self) -> None:
        for writers in self._connections.values():
            for writer in writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._refusing:
            writer.transport.abort()
            return
        self._connections[task] = (writer,)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            self._connections[task] = (writer, server_writer)
            self.accepted += 1
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, server_writer, to_client=False))
                group.create_task(self._pass(server_reader, writer, to_client=True))
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the proxy is closed
        finally:
            for open_writer in self._connections.pop(task):
                open_writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self._bytes_per_s:
                    await asyncio.sleep(len(chunk) / self._bytes_per_s)
                if to_client:
                    chunk = self._perhaps_corrupted(chunk)
                    self.passed_to_client += len(chunk)
                else:
                    self.passed_to_server += len(chunk)
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()

    def _perhaps_corrupted(self, chunk: bytes) -> bytes:
        place = chunk.find(self._mark) if self._to_corrupt else -1
        if place < 0:
            return chunk
        self._to_corrupt -= 1
        return chunk[:place] + bytes([chunk[place] ^ 0x01]) + chunk[place + 1 :]
