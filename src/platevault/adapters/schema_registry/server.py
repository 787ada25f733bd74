"""The registry over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import structlog

from platevault.adapters.schema_registry.store import (
    INVALID_SCHEMA,
    Registered,
    RegistryRefusalError,
    SchemaStore,
)
from platevault.domain.errors import PermanentError, UsageError
from platevault.runtime.executor import BlockingCalls
from platevault.runtime.service import StopToken

#: Longest head and body of a request [byte]; the schema of the largest topic has about 200 kB.
_HEAD_LIMIT = 32 << 10
_BODY_LIMIT = 8 << 20
#: Time that a request may take to arrive once it has begun [s].
_ARRIVAL_S = 30.0
_NOT_FOUND = 404
_NO_METHOD = 405
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    422: "Unprocessable Content",
    500: "Internal Server Error",
}

_log = structlog.get_logger(__name__)


class MalformedRequestError(PermanentError):
    """The bytes are no request of this dialect: the connection is closed."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    keep: bool


class RegistryPortError(UsageError):
    """The registry cannot listen: name another port, or end the process that has this one."""


class SchemaRegistryServer:
    """Serves a `SchemaStore` as a Confluent schema registry does, as a `Service`.

    It has neither accounts nor TLS, as SAL clients use none with a registry: give it an address
    that only the observatory's hosts can reach.

    Parameters
    ----------
    store
        What it remembers.
    host, port
        Where it listens; port 0 takes a free one.
    """

    def __init__(self, *, store: SchemaStore, host: str = "127.0.0.1", port: int = 0) -> None:
        self._store = store
        self._host = host
        self.port = port
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._calls = BlockingCalls(name="schema-store", threads=1)

    @property
    def name(self) -> str:
        """Unique within the process."""
        return "schema-registry"

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"http://{self._host}:{self.port}"

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Serve until the stop."""
        async with self.serving():
            ready()
            await stop.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve while the body runs.

        Raises
        ------
        SchemaStoreError
            The file of schemas cannot be read. Do not retry.
        RegistryPortError
            The address is another's, or not of this host.
        """
        async with self._calls:
            await self._calls.run(self._store.load)
            try:
                server = await asyncio.start_server(
                    self._serve, self._host, self.port, limit=_HEAD_LIMIT
                )
            except OSError as error:
                raise RegistryPortError(
                    "The schema registry cannot listen",
                    field="serve.registry_port",
                    host=self._host,
                    value=self.port,
                    problem=str(error),
                    expected="a free port of this host",
                ) from error
            try:
                self.port = server.sockets[0].getsockname()[1]
                yield
            finally:
                server.close()
                for writer in self._connections.values():
                    writer.close()
                if self._connections:
                    await asyncio.wait(set(self._connections))
                await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections[task] = writer
        try:
            while await self._answer_one(reader, writer):
                pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client went away
        except MalformedRequestError as error:
            _log.warning("Request refused", reason=str(error))
            with suppress(OSError):
                await _write(writer, 400, _refusal(400, str(error)), keep=False)
        finally:
            del self._connections[task]
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.read(1)
        if not first:
            return False
        async with asyncio.timeout(_ARRIVAL_S):
            request = await _read(reader, first)
        try:
            status, answer = 200, await self._route(request)
        except RegistryRefusalError as error:
            status, answer = int(str(error.code)[:3]), _refusal(error.code, error.message)
        except OSError as error:
            _log.error("Schema not stored", reason=str(error))
            status, answer = 500, _refusal(50001, "Error in the backend data store")
        await _write(writer, status, answer, keep=request.keep)
        return request.keep

    async def _route(self, request: _Request) -> Any:
        match request.method, request.path:
            case "GET" | "POST" | "DELETE", ("subjects", *rest):
                return await self._subjects(request, *rest)
            case "GET", ("schemas", *rest):
                return self._schemas(*rest)
            case "GET", ("config",):
                return {"compatibilityLevel": self._store.compatibility}
            case "GET", ():
                return {}
            case _, ("subjects" | "schemas" | "config", *_):
                raise RegistryRefusalError(_NO_METHOD, "HTTP 405 Method Not Allowed")
            case _:
                raise _no_such_place()

    async def _subjects(self, request: _Request, *path: str) -> Any:
        match request.method, path:
            case "POST", (subject, "versions"):
                entry = await self._calls.run(self._store.register, subject, _schema_of(request))
                return _described(entry)
            case "POST", (subject,):
                return _described(self._store.find(subject, _schema_of(request)))
            case "DELETE", (subject,):
                permanent = request.query.get("permanent", "").lower() == "true"
                return await self._calls.run(self._store.delete, subject, permanent=permanent)
            case "GET", ():
                return self._store.subjects()
            case "GET", (subject, "versions"):
                return self._store.versions(subject)
            case "GET", (subject, "versions", version):
                return _described(self._store.version(subject, version))
            case _:
                raise _no_such_place()

    def _schemas(self, *path: str) -> Any:
        match path:
            case ("types",):
                return ["AVRO"]
            case ("ids", number) if number.isdecimal():
                return {"schema": self._store.schema(int(number))}
            case ("ids", number, "versions") if number.isdecimal():
                return [
                    {"subject": entry.subject, "version": entry.version}
                    for entry in self._store.places(int(number))
                ]
            case _:
                raise _no_such_place()


def _no_such_place() -> RegistryRefusalError:
    return RegistryRefusalError(_NOT_FOUND, "HTTP 404 Not Found")


def _schema_of(request: _Request) -> str:
    schema = request.body.get("schema")
    if not isinstance(schema, str):
        raise RegistryRefusalError(INVALID_SCHEMA, "Invalid schema: no text")
    if request.body.get("schemaType", "AVRO") != "AVRO" or request.body.get("references"):
        raise RegistryRefusalError(INVALID_SCHEMA, "Invalid schema: Avro without references only")
    return schema


def _described(entry: Registered) -> dict[str, Any]:
    return {
        "subject": entry.subject,
        "version": entry.version,
        "id": entry.schema_id,
        "schema": entry.schema,
    }


def _refusal(code: int, message: str) -> dict[str, Any]:
    return {"error_code": code, "message": message}


async def _read(reader: asyncio.StreamReader, first: bytes) -> _Request:
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise MalformedRequestError("The head of the request is too long") from error
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):  # noqa: PLR2004 (method, target, version)
        raise MalformedRequestError("Not a request", value=lines[0][:80])
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise MalformedRequestError("The body must say its length")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > _BODY_LIMIT:
        raise MalformedRequestError("The body is too long", value=length, expected=_BODY_LIMIT)
    body: Any = {}
    content = await reader.readexactly(int(length))
    if content:
        try:
            body = json.loads(content)
        except ValueError as error:
            raise MalformedRequestError("The body is no JSON") from error
    url = urlsplit(parts[1])
    return _Request(
        method=parts[0],
        path=tuple(unquote(part) for part in url.path.split("/") if part),
        query={name: values[-1] for name, values in parse_qs(url.query).items()},
        body=body if isinstance(body, Mapping) else {},
        keep=parts[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close",
    )


async def _write(writer: asyncio.StreamWriter, status: int, answer: Any, *, keep: bool) -> None:
    body = json.dumps(answer).encode()
    writer.write(
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n"
        "Content-Type: application/vnd.schemaregistry.v1+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
