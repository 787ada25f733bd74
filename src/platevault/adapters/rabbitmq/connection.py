"""A connection to RabbitMQ that is made when it is needed, and again after it was lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException

from platevault.adapters.rabbitmq.background import Background
from platevault.adapters.rabbitmq.settings import RabbitSettings
from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.work_queue import QueueFullError, QueueUnavailableError
from platevault.runtime.retry import Backoff

#: Limit of saying good-bye to a broker [s]; after it the socket is closed without.
_FAREWELL_S = 2.0
#: What the library raises when the broker is away, says no, or speaks nonsense.
_FAILURES = (AMQPError, PAMQPException, OSError, ChannelInvalidStateError, RuntimeError)

_log = structlog.get_logger(__name__)


class RabbitRefusedError(UsageError):
    """RabbitMQ refuses the account, the virtual host or an operation: correct the settings."""


class QueueMismatchError(UsageError):
    """A queue exists with other properties: drain and delete it, or restore the settings."""


@dataclass(frozen=True, slots=True)
class RabbitState:
    """How it stands with one connection.

    Attributes
    ----------
    connected
        It is open.
    since_tai
        Since when it is so [s, TAI]; 0 before the first attempt.
    problem
        Why it is not open.
    failures
        Attempts that failed since it was open last.
    """

    connected: bool
    since_tai: float
    problem: str = ""
    failures: int = 0


class Session:
    """One open connection, for as long as it lasts.

    Attributes
    ----------
    declared
        Queues that are known to exist.
    lost
        The connection is gone.
    problem
        Why.
    on_loss
        Called once when it is gone.
    """

    def __init__(
        self, connection: AbstractConnection, *, answer_timeout_s: float, background: Background
    ) -> None:
        self.declared: set[str] = set()
        self.lost = False
        self.problem = ""
        self.on_loss: set[Callable[[], None]] = set()
        self._connection = connection
        self._answer_timeout_s = answer_timeout_s
        self._background = background
        self._publisher: AbstractChannel | None = None

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """Open a channel; whoever opens it closes it."""
        transport = self._connection.transport
        if transport is None:
            raise QueueUnavailableError("RabbitMQ is gone", problem=self.problem)
        async with self.answers("open a channel"):
            return await transport.connection.channel(
                publisher_confirms=confirms, timeout=self._answer_timeout_s
            )

    @asynccontextmanager
    async def brief_channel(self) -> AsyncIterator[AbstractChannel]:
        """Open a channel for questions that the broker may answer by closing it."""
        channel = await self.channel()
        try:
            yield channel
        finally:
            await self._background.finish(close_channel(channel), name="rabbitmq-close-channel")

    async def publish(
        self,
        body: bytes,
        properties: Basic.Properties,
        *,
        key: str,
        exchange: str = "",
        mandatory: bool = True,
    ) -> None:
        """Return when the broker has the message on disk.

        ``mandatory`` makes it an error that no queue takes it.

        Raises
        ------
        QueueFullError
            The queue takes no more; the message is not on it.
        QueueUnavailableError
            Whether it arrived is unknown.
        """
        async with self.answers("publish"):
            if self._publisher is None:
                raise QueueUnavailableError("RabbitMQ is gone", problem=self.problem)
            try:
                async with asyncio.timeout(self._answer_timeout_s):
                    await self._publisher.basic_publish(
                        body,
                        exchange=exchange,
                        routing_key=key,
                        properties=properties,
                        mandatory=mandatory,
                    )
            except PublishError as error:
                self.declared.discard(key)  # deleted behind our back; made again at the next call
                raise QueueUnavailableError("No queue takes the message", queue=key) from error
            except DeliveryError as error:
                raise QueueFullError("The queue is full", queue=key) from error

    @asynccontextmanager
    async def answers(self, what: str) -> AsyncIterator[None]:
        """Turn what the library raises into our errors; no answer in time ends the session."""
        try:
            yield
        except ChannelAccessRefused as error:
            raise RabbitRefusedError("RabbitMQ refuses", call=what, problem=str(error)) from error
        except ChannelPreconditionFailed as error:
            raise QueueMismatchError(
                "The queue has other properties", call=what, problem=str(error)
            ) from error
        except TimeoutError as error:
            self.give_up(f"no answer within {self._answer_timeout_s} s")
            raise QueueUnavailableError("RabbitMQ does not answer", call=what) from error
        except _FAILURES as error:
            self.give_up(f"{type(error).__name__}: {error}")
            raise QueueUnavailableError(
                "RabbitMQ does not answer", call=what, problem=self.problem
            ) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The library cancels its own futures when a connection ends.
            self.give_up("connection lost")
            raise QueueUnavailableError("RabbitMQ is gone", call=what) from error

    def give_up(self, problem: str) -> None:
        """End the session: a broker that does not answer is as good as gone."""
        if not self.lost:
            self._lose(problem)
            self._background.spawn(self.close(), name="rabbitmq-close")

    def _lose(self, problem: str) -> None:
        self.lost, self.problem = True, problem
        for call in tuple(self.on_loss):
            call()

    async def begin(self) -> None:
        """Open the channel for publishing, and watch the connection."""
        self._publisher = await self.channel(confirms=True)
        transport = self._connection.transport
        assert transport is not None
        for watched in (transport.connection, self._publisher):
            watched.closing.add_done_callback(self._closed)

    def _closed(self, future: asyncio.Future[object]) -> None:
        error = None if future.cancelled() else future.exception()
        self.give_up(f"{type(error).__name__}: {error}" if error else "connection closed")

    async def close(self) -> None:
        """Say good-bye, briefly."""
        if not self.lost:
            self._lose("closed")
        transport = self._connection.transport
        with suppress(TimeoutError, *_FAILURES):
            async with asyncio.timeout(_FAREWELL_S):
                await self._connection.close()
        if transport is not None and not transport.connection.is_closed:
            with suppress(TimeoutError, *_FAILURES):
                async with asyncio.timeout(_FAREWELL_S):
                    await transport.connection.close()


async def close_channel(channel: AbstractChannel) -> None:
    """Close a channel, if the broker still listens."""
    if not channel.is_closed:
        with suppress(TimeoutError, *_FAILURES):
            async with asyncio.timeout(_FAREWELL_S):
                await channel.close()


class RabbitConnection:
    """Gives the present `Session`, connecting if there is none.

    Attempts are spaced: between them every call fails at once. Nothing waits and nothing is
    retried here; that is the services' part.

    Parameters
    ----------
    name
        By which the broker lists it.
    settings, clock, background
        Shared by the adapter.
    backoff
        Pauses between attempts.
    """

    def __init__(
        self,
        *,
        name: str,
        settings: RabbitSettings,
        clock: Clock,
        background: Background,
        backoff: Backoff,
    ) -> None:
        self._name = name
        self._settings = settings
        self._clock = clock
        self._background = background
        self._pauses = backoff.pauses()
        self._connecting = asyncio.Lock()
        self._context: ssl.SSLContext | None = None
        self._session: Session | None = None
        self._not_before_tai = 0.0
        self._state = RabbitState(connected=False, since_tai=0.0, problem="not opened")
        self._open = False

    @property
    def state(self) -> RabbitState:
        """How it stands."""
        if self._session is not None and self._session.lost:
            self._note_loss(self._session)
        return self._state

    async def open(self) -> Self:
        """Try to connect; a broker that is away is no error.

        Raises
        ------
        RabbitRefusedError, UsageError
            The account is refused, or certificates cannot be read. Correct the settings.
        """
        self._context = await asyncio.to_thread(self._settings.tls_context)
        self._open = True
        try:
            await self.session()
        except QueueUnavailableError as error:
            if isinstance(error.__cause__, (AuthenticationError, ProbableAuthenticationError)):
                raise RabbitRefusedError(
                    "RabbitMQ refuses the account", user=self._settings.user
                ) from error
            # The library takes the broker's refusal for a wrong answer.
            if isinstance(error.__cause__, InvalidFrameError) and "OpenOk" in str(error.__cause__):
                raise RabbitRefusedError(
                    "RabbitMQ refuses the virtual host", virtual_host=self._settings.virtual_host
                ) from error
        return self

    async def close(self) -> None:
        """Close the connection for good."""
        self._open = False
        async with self._connecting:
            session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def session(self) -> Session:
        """Give the present session.

        Raises
        ------
        QueueUnavailableError
            There is none, and it cannot or must not yet be had.
        """
        session = self._session
        if session is not None and not session.lost:
            return session
        return await self._background.finish(self._connect(), name="rabbitmq-connect")

    async def _connect(self) -> Session:
        async with self._connecting:
            if self._session is not None:
                if not self._session.lost:
                    return self._session
                self._note_loss(self._session)
            if not self._open:
                raise QueueUnavailableError("Connection to RabbitMQ is closed", name=self._name)
            if self._clock.now_tai() < self._not_before_tai:
                raise QueueUnavailableError(
                    "RabbitMQ does not answer", name=self._name, problem=self._state.problem
                )
            try:
                self._session = await self._dial()
            except QueueUnavailableError as error:
                self._not_before_tai = self._clock.now_tai() + self._pauses.next_s()
                self._note(connected=False, problem=str(error))
                raise
            self._pauses.reset()
            self._note(connected=True)
            return self._session

    async def _dial(self) -> Session:
        failure: QueueUnavailableError | None = None
        for host in self._settings.hosts:
            url = self._settings.url(host, name=self._name)
            try:
                connection = await aio_pika.connect(
                    url,
                    ssl_context=self._context,
                    timeout=self._settings.connect_timeout_s,
                )
            except (TimeoutError, *_FAILURES) as error:
                failure = QueueUnavailableError(
                    "RabbitMQ does not answer",
                    host=host,
                    port=url.port,
                    problem=f"{type(error).__name__}: {error}",
                )
                failure.__cause__ = error
                continue
            session = Session(
                connection,
                answer_timeout_s=self._settings.answer_timeout_s,
                background=self._background,
            )
            try:
                await session.begin()
            except QueueUnavailableError as error:
                await session.close()
                failure = error
                continue
            except BaseException:
                await session.close()
                raise
            return session
        assert failure is not None  # settings have one host at least
        raise failure

    def _note_loss(self, session: Session) -> None:
        self._session = None
        self._note(connected=False, problem=session.problem)

    def _note(self, *, connected: bool, problem: str = "") -> None:
        if connected != self._state.connected:
            if connected:
                _log.info("RabbitMQ is connected", connection=self._name)
            else:
                _log.warning("RabbitMQ is lost", connection=self._name, problem=problem)
        elif not connected and not self._state.since_tai:
            _log.warning("RabbitMQ does not answer yet", connection=self._name, problem=problem)
        changed = connected != self._state.connected or not self._state.since_tai
        self._state = RabbitState(
            connected,
            self._clock.now_tai() if changed else self._state.since_tai,
            problem,
            self._pauses.failures,
        )
