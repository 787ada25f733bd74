"""The metrics of a process over HTTP, for Prometheus, and whether it lives and is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from platevault.domain.errors import UsageError
from platevault.runtime.limits import ungrouped
from platevault.runtime.service import StopToken

#: Says whether something holds, and a text for people.
Check = Callable[[], tuple[bool, str]]
#: A scraper that has not sent its request or taken its answer by then is dropped [s].
_CONNECTION_LIMIT_S = 10.0
_LARGEST_REQUEST_BYTES = 16_384
#: Scrapers at once; further ones are turned away.
_CONNECTIONS = 16

_log = structlog.get_logger(__name__)


class MetricsPortError(UsageError):
    """The port of the metrics cannot be opened: choose another or end who has it."""


class MetricsServer:
    """Serves a registry at ``/metrics``; a `platevault.runtime.service.Service`.

    Parameters
    ----------
    registry
        What is served. CPU time, memory and open files of the process are added to it.
    port
        TCP port; 0 takes a free one, see `port`.
    host
        Address to listen on.
    checks
        By path, such as ``/readyz``: answered with 200 if it holds and 503 if not.
    """

    name = "metrics"

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        port: int,
        host: str = "127.0.0.1",
        checks: Mapping[str, Check] | None = None,
    ) -> None:
        self._registry = registry
        self._checks = dict(checks or {})
        self._host = host
        #: Port that is served, from readiness on.
        self.port = port

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Serve until ``stop``.

        Raises
        ------
        MetricsPortError
            The port is taken or forbidden. Do not retry.
        """
        process = ProcessCollector(registry=self._registry)
        try:
            with ungrouped():
                async with asyncio.TaskGroup() as group:
                    await self._serve(group, stop, ready)
        finally:
            self._registry.unregister(process)

    async def _serve(
        self, group: asyncio.TaskGroup, stop: StopToken, ready: Callable[[], None]
    ) -> None:
        open_now: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(open_now) >= _CONNECTIONS or stop.requested:
                writer.close()
                return
            task = group.create_task(self._answer(reader, writer), name="metrics-connection")
            open_now.add(task)
            task.add_done_callback(open_now.discard)

        try:
            server = await asyncio.start_server(
                accept, self._host, self.port, limit=_LARGEST_REQUEST_BYTES
            )
        except OSError as error:
            raise MetricsPortError(
                "Metrics cannot be served", host=self._host, port=self.port, problem=str(error)
            ) from error
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            _log.info("Metrics served", host=self._host, port=self.port)
            ready()
            await stop.wait()
        for task in open_now:
            task.cancel()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_CONNECTION_LIMIT_S):
                writer.write(self._response(await reader.readuntil(b"\r\n\r\n")))
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that goes away or sends nonsense is no business of ours
        finally:
            writer.close()

    def _response(self, request: bytes) -> bytes:
        first, *lines = request.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in {"GET", "HEAD"}:
            return _message("405 Method Not Allowed", b"only GET\n")
        if path in self._checks:
            holds, text = self._checks[path]()
            status = "200 OK" if holds else "503 Service Unavailable"
            return _message(status, f"{text}\n".encode(), with_body=method == "GET")
        if path != "/metrics":
            return _message("404 Not Found", b"see /metrics\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        encode, content_type = choose_encoder(headers.get("accept", ""))
        body: bytes = encode(self._registry)
        return _message("200 OK", body, content_type, with_body=method == "GET")


def _message(
    status: str, body: bytes, content_type: str = "text/plain", *, with_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
