"""Work queues in a file that the processes of one host share."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from typing_extensions import override

from platevault.adapters.one_host import messages
from platevault.adapters.one_host.bells import Bells
from platevault.adapters.one_host.consumer import Consumer, Desk
from platevault.adapters.one_host.errors import QUEUE_ERRORS
from platevault.adapters.one_host.messages import Rules
from platevault.adapters.one_host.store import open_store
from platevault.adapters.sqlite.connection import ConnectionThread
from platevault.domain.errors import UsageError
from platevault.domain.messages import Message, encode_message
from platevault.ports.clock import Clock
from platevault.ports.work_queue import DeadLetter, Delivery, WorkQueue

_HIGHEST_PRIORITY = 9
_MAX_WAITING = 256

_log = structlog.get_logger(__name__)


class SqliteWorkQueue(WorkQueue):
    """The `platevault.ports.work_queue.WorkQueue` port in one file.

    An asynchronous context manager. A message that was sent survives the host; what was done with
    it survives the process, so after a power failure it may come again. A consumer whose process
    ends in whatever way gives back what it had: at once if its process can, else within
    ``look_s`` of a consumer of the queue that waits.

    Parameters
    ----------
    path
        The file; its directory is made. Not on a network file system. Bells of consumers are in
        ``<path>.bells`` beside it.
    clock
        Time of delays: the host's, and so the same for all.
    max_depth
        So many messages a queue may hold, unfinished ones included; the next sender hears
        `platevault.ports.work_queue.QueueFullError`.
    delivery_limit
        After so many deliveries a message is set aside.
    busy_timeout_s
        How long a call waits for another process [s].
    look_s
        So often a consumer that waits looks unasked, in case nobody rang, and for consumers that
        died [s].
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        max_depth: int = 100_000,
        delivery_limit: int = 10,
        busy_timeout_s: float = 5.0,
        look_s: float = 1.0,
    ) -> None:
        self._bells = Bells(path.with_name(f"{path.name}.bells"))
        self._thread = ConnectionThread(
            name="work-queue",
            path=path,
            connect=partial(
                open_store,
                path,
                application=messages.APPLICATION,
                schema=messages.SCHEMA,
                busy_timeout_s=busy_timeout_s,
            ),
            begin="BEGIN IMMEDIATE",
            max_waiting=_MAX_WAITING,
            errors=QUEUE_ERRORS,
            after=self._bells.ring_due,
            busy_timeout_s=busy_timeout_s,
        )
        self._desk = Desk(
            thread=self._thread,
            rules=Rules(
                max_depth=max_depth,
                delivery_limit=delivery_limit,
                is_alive=self._bells.is_held,
                tell=self._bells.remember,
            ),
            clock=clock,
            look_s=look_s,
        )

    @property
    def problem(self) -> str:
        """What is wrong with the file; empty if nothing is."""
        return self._thread.problem

    async def __aenter__(self) -> Self:
        opened = False
        try:
            await self._thread.start()
            opened = True
        finally:
            if not opened:
                await self._thread.close()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._thread.close()

    @override
    async def send(self, queue: str, message: Message, *, priority: int = 0) -> None:
        if not 0 <= priority <= _HIGHEST_PRIORITY:
            raise UsageError("Priority is out of range", value=priority, expected="0 to 9")
        await self._thread.call(
            partial(
                messages.put,
                rules=self._desk.rules,
                queue=queue,
                body=encode_message(message),
                priority=priority,
            )
        )

    @override
    @asynccontextmanager
    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        if prefetch < 1:
            raise UsageError("A consumer must take one message at least", value=prefetch)
        name = f"{os.getpid()}-{uuid.uuid4().hex}"
        consumer = Consumer(
            desk=self._desk,
            queue=queue,
            prefetch=prefetch,
            name=name,
            bell=self._bells.bell(queue, name),
        )
        try:
            await consumer.open()
            yield consumer
        finally:
            await consumer.close()

    @override
    async def depth(self, queue: str) -> int:
        return await self._thread.call(partial(messages.count, queue=queue), durable=False)

    @override
    async def dead_letters(self, queue: str = "") -> list[DeadLetter]:
        return await self._thread.call(partial(messages.letters, queue=queue), durable=False)

    @override
    async def redrive(self, letter_id: str) -> None:
        queue, reason = await self._thread.call(
            partial(messages.redrive, rules=self._desk.rules, letter_id=letter_id)
        )
        _log.info("Dead letter was driven again", queue=queue, letter=letter_id, reason=reason)

    @override
    async def dismiss(self, letter_id: str, *, reason: str) -> None:
        queue = await self._thread.call(partial(messages.dismiss, letter_id=letter_id))
        _log.info("Dead letter was dismissed", queue=queue, letter=letter_id, reason=reason)
