"""The schema registry as its client sees it."""

from __future__ import annotations

import base64
import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from platevault.adapters.kafka.errors import BusAccessError
from platevault.adapters.kafka.settings import KafkaSettingsError
from platevault.domain.errors import PermanentError
from platevault.ports.sample_bus import BusUnavailableError
from platevault.runtime.executor import BlockingCalls

_JSON = "application/vnd.schemaregistry.v1+json"
_OK = 200
_SERVER_ERRORS = 500
#: Statuses that may pass: too slow, too early, too many.
_PASSING = frozenset({408, 425, 429})
#: Error codes of "no such subject" and "no such schema" (SAL over Kafka, section 7).
_UNKNOWN = frozenset({40401, 40403})


class RegistryUnavailableError(BusUnavailableError):
    """The registry did not answer: topics already in use go on; retry for others."""


class SchemaRefusedError(PermanentError):
    """The registry does not take the schema: the site has another definition of the topic."""


class UnknownSchemaError(PermanentError):
    """The registry has no such schema: what was written with it cannot be read."""


class SchemaRegistryClient:
    """Registers schemas and gives them by id; an asynchronous context manager.

    Parameters
    ----------
    url
        ``http`` or ``https`` URL.
    answer_within_s
        Longest wait for an answer [s].
    ca_file
        Certificates that vouch for the registry, PEM; those of the system unless given.
    username, password
        Account, if it asks for one.
    """

    def __init__(
        self,
        *,
        url: str,
        answer_within_s: float,
        ca_file: Path | None = None,
        username: str = "",
        password: str = "",
    ) -> None:
        self._url = url
        self._answer_within_s = answer_within_s
        self._ca_file = ca_file
        self._account = f"{username}:{password}" if username else ""
        self._calls = BlockingCalls(name="schema-registry", threads=4)

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._calls.__aexit__(kind, error, trace)

    async def register(self, subject: str, schema: str) -> int:
        """Give the id of a schema under a subject, registering it if it is new; idempotent.

        Raises
        ------
        RegistryUnavailableError
            Retry.
        SchemaRefusedError, BusAccessError
            Do not retry.
        """
        body = {"schema": schema, "schemaType": "AVRO", "references": []}
        answer = await self._calls.run(
            self._ask, "POST", f"/subjects/{quote(subject, safe='')}/versions?normalize=False", body
        )
        return int(answer["id"])

    async def schema(self, schema_id: int, subject: str) -> str:
        """Give the text of a schema.

        Raises
        ------
        RegistryUnavailableError
            Retry.
        UnknownSchemaError, BusAccessError
            Do not retry.
        """
        answer = await self._calls.run(
            self._ask, "GET", f"/schemas/ids/{schema_id}?subject={quote(subject, safe='')}"
        )
        return str(answer["schema"])

    async def probe(self) -> None:
        """Return if the registry answers; `RegistryUnavailableError` if not."""
        await self._calls.run(self._ask, "GET", "/schemas/types")

    def _ask(self, method: str, target: str, body: dict[str, Any] | None = None) -> Any:
        facts = {"url": self._url, "request": f"{method} {target.partition('?')[0]}"}
        headers = {"Accept": _JSON, "Content-Type": _JSON, "Connection": "close"}
        if self._account:
            headers["Authorization"] = (
                f"Basic {base64.b64encode(self._account.encode()).decode('ascii')}"
            )
        connection, prefix = self._connection()
        try:
            connection.request(
                method, prefix + target, None if body is None else json.dumps(body), headers
            )
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, HTTPException) as error:
            raise RegistryUnavailableError(
                "The schema registry does not answer",
                **facts,
                reason=str(error) or type(error).__name__,
            ) from error
        finally:
            connection.close()
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise RegistryUnavailableError(
                "The schema registry does not answer in JSON", **facts, status=status
            ) from error
        if status == _OK:
            return answer
        raise _refusal(status, answer, facts)

    def _connection(self) -> tuple[HTTPConnection, str]:
        url = urlsplit(self._url)
        prefix = url.path.rstrip("/")
        if url.scheme == "http" and url.hostname:
            return HTTPConnection(url.hostname, url.port, timeout=self._answer_within_s), prefix
        if url.scheme == "https" and url.hostname:
            context = ssl.create_default_context(
                cafile=None if self._ca_file is None else str(self._ca_file)
            )
            return (
                HTTPSConnection(
                    url.hostname, url.port, timeout=self._answer_within_s, context=context
                ),
                prefix,
            )
        raise KafkaSettingsError(
            "Not an address of a registry",
            field="registry_url",
            value=self._url,
            expected="http://host:port",
        )


def _refusal(status: int, answer: Any, facts: dict[str, str]) -> Exception:
    code, message = status, ""
    if isinstance(answer, dict):
        code, message = int(answer.get("error_code", status)), str(answer.get("message", ""))
    if status >= _SERVER_ERRORS or status in _PASSING:
        return RegistryUnavailableError(
            "The schema registry is in trouble", **facts, status=status, reason=message
        )
    if code in _UNKNOWN:
        return UnknownSchemaError("The registry has no such schema", **facts, reason=message)
    if status in {401, 403}:
        return BusAccessError("The registry does not let us in", **facts, reason=message)
    return SchemaRefusedError(
        "The registry does not take the schema", **facts, status=status, reason=message
    )
