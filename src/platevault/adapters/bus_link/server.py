"""Lends the bus of this process to others on the host."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from platevault.adapters.bus_link.wire import (
    LINE_LIMIT,
    LinkAddress,
    MalformedLineError,
    decode_line,
    encode_line,
    plain_sample,
    sample_of,
)
from platevault.domain.errors import PlatevaultError
from platevault.domain.samples import TopicSchema
from platevault.ports.sample_bus import History, SampleBus
from platevault.runtime.service import StopToken

_log = structlog.get_logger(__name__)


class BusLinkServer:
    """A service through which ``platevault csc`` reaches the components of this process.

    Parameters
    ----------
    bus
        The bus that is lent.
    resolve
        Gives the schema of a topic from component and sal_name.
    file
        Where the address is left; removed at the end.
    """

    def __init__(
        self, *, bus: SampleBus, resolve: Callable[[str, str], TopicSchema], file: Path
    ) -> None:
        self._bus = bus
        self._resolve = resolve
        self._file = file
        self._token = ""
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def name(self) -> str:
        """Unique within the process."""
        return "bus-link"

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Serve borrowers until the stop."""
        self._token = secrets.token_hex(32)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LINE_LIMIT)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.to_thread(LinkAddress(port, self._token).write, self._file)
            ready()
            await stop.wait()
            await asyncio.to_thread(self._file.unlink, missing_ok=True)
            for connection in self._connections:
                connection.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                borrower = _Borrower(self._bus, self._resolve, writer, group)
                await borrower.greet(await reader.readline(), self._token)
                while line := await reader.readline():
                    await borrower.handle(decode_line(line))
                borrower.leave()
        except* (PlatevaultError, ConnectionError, ValueError) as errors:
            # ValueError: a line beyond the limit.
            _log.warning("Borrower of the bus dropped", reason=str(errors.exceptions[0]))
        finally:
            self._connections.discard(writer)
            writer.close()


class _Borrower:
    def __init__(
        self,
        bus: SampleBus,
        resolve: Callable[[str, str], TopicSchema],
        writer: asyncio.StreamWriter,
        group: asyncio.TaskGroup,
    ) -> None:
        self._bus = bus
        self._resolve = resolve
        self._writer = writer
        self._group = group
        self._subscriptions: dict[int, asyncio.Task[None]] = {}

    async def greet(self, line: bytes, token: str) -> None:
        offered = str(decode_line(line).get("token", "")) if line else ""
        if not hmac.compare_digest(offered.encode(), token.encode()):
            raise MalformedLineError("Borrower does not know the secret")
        await self._send({"op": "welcome"})

    async def handle(self, content: Mapping[str, Any]) -> None:
        try:
            match content["op"]:
                case "publish":
                    sample = content["sample"]
                    topic = self._resolve(str(sample["component"]), str(sample["sal_name"]))
                    await self._bus.publish(sample_of(sample, topic))
                    await self._send({"op": "published", "id": int(content["id"])})
                case "subscribe":
                    number = int(content["id"])
                    self._subscriptions[number] = self._group.create_task(
                        self._follow(number, content), name=f"bus-link-{number}"
                    )
                case "unsubscribe":
                    task = self._subscriptions.pop(int(content["id"]), None)
                    if task is not None:
                        task.cancel()
                case other:
                    raise MalformedLineError("Unknown request", value=other)
        except (KeyError, TypeError) as error:
            raise MalformedLineError("Request cannot be read", problem=str(error)) from error

    def leave(self) -> None:
        for task in self._subscriptions.values():
            task.cancel()

    async def _follow(self, number: int, content: Mapping[str, Any]) -> None:
        topics = [self._resolve(str(part[0]), str(part[1])) for part in content["topics"]]
        async with self._bus.subscribe(
            topics,
            history=History[content["history"]],
            sal_index=int(content["sal_index"]),
            recall_s=float(content["recall_s"]),
        ) as samples:
            await self._send({"op": "subscribed", "id": number, "past": samples.past_left})
            async for sample in samples:
                await self._send({"op": "sample", "id": number, "sample": plain_sample(sample)})

    async def _send(self, content: Mapping[str, Any]) -> None:
        self._writer.write(encode_line(content))
        await self._writer.drain()
