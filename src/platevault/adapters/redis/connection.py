"""The connections to Redis that leases and presence share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog
from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
)

from platevault.adapters.redis.settings import RedisSettings
from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.leases import LeasesUnavailableError

#: Answers that no waiting changes. While a service runs they count as an outage all the same: an
#: account may be on its way to a replica.
_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)

_log = structlog.get_logger(__name__)


class RedisRefusedError(UsageError):
    """Redis refuses the account, or a command of it: correct the settings or the account."""


@dataclass(frozen=True, slots=True)
class RedisState:
    """How it stands with Redis.

    Attributes
    ----------
    answers
        The last call was answered.
    since_tai
        Since when it is so [s, TAI]; 0 before the first call.
    problem
        What was wrong last, if it does not answer.
    """

    answers: bool
    since_tai: float
    problem: str = ""


class RedisConnection:
    """Runs scripts on Redis; a context manager.

    Opening it succeeds while Redis is down, so that a service starts and shows what it waits for;
    every call connects again if need be. Nothing is retried here: that is the service's part.

    Parameters
    ----------
    settings
        Where and who.
    clock
        Time of the state.
    """

    def __init__(self, *, settings: RedisSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._state = RedisState(answers=False, since_tai=0.0, problem="not opened")
        self._client: Redis | None = None

    @property
    def state(self) -> RedisState:
        """How it stands."""
        return self._state

    async def __aenter__(self) -> Self:
        self._client = Redis(connection_pool=await asyncio.to_thread(self._pool))
        try:
            await self.run("return redis.call('PING')", (), ())
        except LeasesUnavailableError as error:
            if isinstance(error.__cause__, _REFUSALS):
                await self._close()
                raise RedisRefusedError(
                    "Redis refuses the account",
                    user=self.settings.user,
                    problem=str(error.__cause__),
                ) from error
            # It is said by `_note`; services wait for it.
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose(close_connection_pool=True)

    def key(self, *parts: str) -> str:
        """Give a key of the namespace; all are in one slot of a cluster, as scripts need."""
        return ":".join((f"{{{self.settings.namespace}}}", *parts))

    async def run(self, script: str, keys: Sequence[str], args: Sequence[str | float]) -> Any:
        """Run a Lua script: whole or not at all, alone on the server.

        Raises
        ------
        LeasesUnavailableError
            Redis does not answer, or not as it should; whether the script ran is unknown.
        """
        if self._client is None:
            raise LeasesUnavailableError("Connection to Redis is closed", host=self.settings.host)
        try:
            # EVALSHA, and EVAL where a restarted server has forgotten the script.
            answer = await self._client.register_script(script)(keys=list(keys), args=list(args))
        except (RedisError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
            self._note(problem=problem)
            raise LeasesUnavailableError(
                "Redis does not answer",
                host=self.settings.host,
                port=self.settings.port,
                problem=problem,
            ) from error
        self._note(problem="")
        return answer

    def _note(self, *, problem: str) -> None:
        before, answers = self._state, not problem
        changed = answers != before.answers or not before.since_tai
        since_tai = self._clock.now_tai() if changed else before.since_tai
        self._state = RedisState(answers, since_tai, problem)
        if changed and answers:
            _log.info("Redis answers", host=self.settings.host)
        elif changed:
            _log.warning("Redis does not answer", host=self.settings.host, problem=problem)

    def _pool(self) -> BlockingConnectionPool:
        settings = self.settings
        options: dict[str, Any] = {}
        if settings.tls:
            # The library verifies certificate and name unless told otherwise; say so anyway.
            options = {
                "ssl_cert_reqs": ssl.CERT_REQUIRED,
                "ssl_check_hostname": True,
                "ssl_ca_certs": str(settings.ca_file) if settings.ca_file else None,
                "ssl_certfile": str(settings.cert_file) if settings.cert_file else None,
                "ssl_keyfile": str(settings.key_file) if settings.key_file else None,
            }
        return BlockingConnectionPool(
            connection_class=SSLConnection if settings.tls else Connection,
            max_connections=settings.connections,
            timeout=settings.timeout_s,
            host=settings.host,
            port=settings.port,
            db=settings.database,
            username=settings.user or None,
            password=settings.password or None,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            protocol=2,
            **options,
        )
