"""Questions to the Archive Controller, and its answers matched to them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from platevault.domain.capture import PRIORITY_ANSWER
from platevault.domain.errors import TransientError
from platevault.domain.messages import (
    HealthCheck,
    HealthCheckAck,
    NewArchiveItem,
    NewArchiveItemAck,
)
from platevault.domain.places import ARCHIVE_CONTROLLER_QUEUE
from platevault.ports.clock import Clock
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.limits import TimeLimitError, within


class ControllerSilentError(TransientError):
    """The Archive Controller did not answer in time."""


class ControllerLink:
    """Asks the Archive Controller; each wait begins before its question goes out.

    Parameters
    ----------
    sender
        Name of the Archiver.
    reply_queue
        Where answers come in; whoever consumes it calls `heard`.
    queue, clock
        Ports.
    """

    def __init__(self, *, sender: str, reply_queue: str, queue: WorkQueue, clock: Clock) -> None:
        self._sender = sender
        self._reply_queue = reply_queue
        self._queue = queue
        self._clock = clock
        self._numbers = itertools.count(1)
        self._waiting: dict[str, list[asyncio.Future[str]]] = {}
        #: The last question was not answered; further ones are not waited for until one is.
        self.is_silent = False

    def heard(self, answer: HealthCheckAck | NewArchiveItemAck) -> bool:
        """Take an answer; ``False`` if nobody waits for it."""
        if isinstance(answer, HealthCheckAck):
            key, text = answer.ack_id, answer.sender
        else:
            key, text = answer.image, answer.target_dir
        waiting = self._waiting.get(key, [])
        for future in waiting:
            if not future.done():
                future.set_result(text)
        return bool(waiting)

    async def check(self, *, limit_s: float) -> None:
        """Ask for a sign of life.

        Raises
        ------
        ControllerSilentError
            No answer to this very question came in time.
        QueueUnavailableError
            The question may not have gone out.
        """
        # The time keeps answers to a former process of the same name apart.
        ack_id = f"{self._sender}-{self._clock.now_tai():.6f}-{next(self._numbers)}"
        question = HealthCheck(sender=self._sender, reply_queue=self._reply_queue, ack_id=ack_id)
        with self._expecting(ack_id) as answer:
            await self._queue.send(ARCHIVE_CONTROLLER_QUEUE, question, priority=PRIORITY_ANSWER)
            await self._within(answer, limit_s)

    async def place(self, camera: str, image: str, *, limit_s: float) -> str:
        """Ask where an exposure goes; its directory is made and stored when the answer comes.

        Raises
        ------
        ControllerSilentError, QueueUnavailableError
            As for `check`. The rule of the directory is known: store it yourself.
        """
        question = NewArchiveItem(camera=camera, image=image, reply_queue=self._reply_queue)
        with self._expecting(image) as answer:
            await self._queue.send(ARCHIVE_CONTROLLER_QUEUE, question, priority=PRIORITY_ANSWER)
            if self.is_silent:
                raise ControllerSilentError("The Archive Controller is silent", image=image)
            return await self._within(answer, limit_s)

    async def _within(self, answer: asyncio.Future[str], limit_s: float) -> str:
        async def arrival() -> str:
            return await answer

        try:
            text = await within(self._clock, limit_s, arrival(), what="Archive Controller")
        except TimeLimitError as error:
            self.is_silent = True
            raise ControllerSilentError(
                "The Archive Controller did not answer", limit_s=limit_s
            ) from error
        self.is_silent = False
        return text

    @contextmanager
    def _expecting(self, key: str) -> Iterator[asyncio.Future[str]]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, [])
        waiting.append(future)
        try:
            yield future
        finally:
            waiting.remove(future)
            if not waiting:
                del self._waiting[key]
