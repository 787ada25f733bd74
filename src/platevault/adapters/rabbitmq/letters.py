"""The dead letters: one queue for those of every work queue."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelLockedResource
from pamqp.commands import Basic

from platevault.adapters.rabbitmq.connection import RabbitConnection, Session, close_channel
from platevault.adapters.rabbitmq.topology import DEAD_LOCK, DEAD_QUEUE, Topology, headers_of
from platevault.domain.timescales import tai_from_utc
from platevault.ports.work_queue import (
    DeadLetter,
    DeadLetterMissingError,
    QueueUnavailableError,
)

_LETTER = "platevault-letter"
_QUEUE = "platevault-queue"
_REASON = "platevault-reason"
_SET_ASIDE = "platevault-set-aside"
#: Longest reason that is kept: headers share a frame of the protocol with all else.
_LONGEST_REASON = 4000
#: Pause before looking again whether another one has done with the letters [s].
_LOCKED_S = 0.05


def letter_headers(queue: str, reason: str, now_tai: float) -> dict[str, Any]:
    """Give the headers of a message that is set aside."""
    return {
        _LETTER: uuid.uuid4().hex[:16],
        _QUEUE: queue,
        _REASON: reason[:_LONGEST_REASON],
        _SET_ASIDE: round(now_tai * 1000),
    }


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter in hand.

    Attributes
    ----------
    letter
        What is told of it.
    message
        The message on the broker.
    """

    letter: DeadLetter
    message: DeliveredMessage


class Letters:
    """Looks through the dead letters and takes some out.

    A queue can only be looked through by taking all of it and giving it back, so one at a time may
    do it: an exclusive queue is the lock. It goes with the connection of its owner.

    Parameters
    ----------
    connection, topology
        Of the adapter.
    wait_s
        Longest wait for another who looks [s].
    """

    def __init__(self, *, connection: RabbitConnection, topology: Topology, wait_s: float) -> None:
        self._connection = connection
        self._topology = topology
        self._wait_s = wait_s
        self._turn = asyncio.Lock()

    async def listed(self, queue: str) -> list[DeadLetter]:
        """List the letters of a queue; of all if it is empty."""
        async with self._looking() as (_, _, stored):
            return [one.letter for one in stored if queue in {"", one.letter.queue}]

    @asynccontextmanager
    async def taken(self, letter_id: str) -> AsyncIterator[StoredLetter]:
        """Give one letter; it is gone when the block ends well, and stays if it raises.

        Raises
        ------
        DeadLetterMissingError
            There is none of this name.
        """
        async with self._looking() as (session, channel, stored):
            found = [one for one in stored if one.letter.letter_id == letter_id]
            if not found:
                raise DeadLetterMissingError("There is no such dead letter", letter=letter_id)
            yield found[0]
            tag = found[0].message.delivery_tag
            assert tag is not None
            async with session.answers("ack"):
                await channel.basic_ack(tag)

    @asynccontextmanager
    async def _looking(
        self,
    ) -> AsyncIterator[tuple[Session, AbstractChannel, list[StoredLetter]]]:
        async with self._turn:
            session = await self._connection.session()
            await self._topology.declare_letters(session)
            await self._lock(session)
            try:
                async with session.brief_channel() as channel:
                    # What is not acknowledged returns to its place when the channel closes.
                    yield session, channel, await self._read(session, channel)
            finally:
                await self._unlock(session)

    async def _lock(self, session: Session) -> None:
        try:
            async with asyncio.timeout(self._wait_s):  # others hold it meanwhile
                while not await self._locked(session):  # noqa: ASYNC110
                    await asyncio.sleep(_LOCKED_S)
        except TimeoutError as error:
            raise QueueUnavailableError("Others are at the dead letters") from error

    async def _locked(self, session: Session) -> bool:
        channel = await session.channel()
        try:
            async with session.answers("lock"):
                try:
                    await channel.queue_declare(DEAD_LOCK, exclusive=True, auto_delete=False)
                except ChannelLockedResource:
                    return False
                return True
        finally:
            await close_channel(channel)

    async def _unlock(self, session: Session) -> None:
        if not session.lost:
            async with session.brief_channel() as channel, session.answers("unlock"):
                await channel.queue_delete(DEAD_LOCK)

    async def _read(self, session: Session, channel: AbstractChannel) -> list[StoredLetter]:
        stored: list[StoredLetter] = []
        async with session.answers("look"):
            while True:
                message = await channel.basic_get(DEAD_QUEUE)
                if isinstance(message.delivery, Basic.GetEmpty):
                    return stored
                stored.append(StoredLetter(_letter(message), message))


def _letter(message: DeliveredMessage) -> DeadLetter:
    headers = headers_of(message)
    if isinstance(headers.get(_LETTER), str):
        letter_id, queue = headers[_LETTER], str(headers.get(_QUEUE, ""))
        reason = str(headers.get(_REASON, ""))
        set_aside_tai = float(headers.get(_SET_ASIDE, 0)) / 1000
    else:
        # The broker itself set it aside.
        deaths = headers.get("x-death") or [{}]
        queue, cause = str(deaths[0].get("queue", "")), str(deaths[0].get("reason", "unknown"))
        when = deaths[0].get("time")
        seconds = when.timestamp() if isinstance(when, datetime) else 0.0
        name = f"{queue} {seconds} {message.header.properties.message_id}".encode() + message.body
        letter_id = hashlib.sha256(name).hexdigest()[:16]
        reason = f"The broker set it aside: {cause}"
        set_aside_tai = tai_from_utc(seconds) if seconds else 0.0
    return DeadLetter(
        letter_id=letter_id,
        queue=queue,
        body=message.body.decode("utf-8", errors="replace"),
        reason=reason,
        set_aside_tai=set_aside_tai,
    )
