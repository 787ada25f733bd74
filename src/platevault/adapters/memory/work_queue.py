"""Work queues within one process."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

import structlog
from typing_extensions import override

from platevault.domain.errors import UsageError
from platevault.domain.messages import (
    MalformedMessageError,
    Message,
    decode_message,
    encode_message,
)
from platevault.ports.clock import Clock
from platevault.ports.work_queue import (
    DeadLetter,
    DeadLetterMissingError,
    Delivery,
    DeliveryLostError,
    DeliverySettledError,
    QueueFullError,
    WorkQueue,
)
from platevault.runtime.waiting import wait_first

_HIGHEST_PRIORITY = 9

_log = structlog.get_logger(__name__)


class WhenFull(Enum):
    """What a full queue does to who sends."""

    WAIT = auto()
    """Let the sender wait for a place."""
    FAIL = auto()
    """Raise `QueueFullError`."""


@dataclass(slots=True)
class _Stored:
    body: bytes
    priority: int
    order: int = 0
    deliveries: int = 0


class _Letters:
    """What was set aside from every queue."""

    def __init__(self, clock: Clock) -> None:
        self.kept: dict[str, tuple[DeadLetter, _Stored]] = {}
        self._clock = clock
        self._numbers = itertools.count(1)

    def add(self, queue: str, stored: _Stored, reason: str) -> None:
        letter = DeadLetter(
            letter_id=f"{queue}-{next(self._numbers)}",
            queue=queue,
            body=stored.body.decode("utf-8", errors="replace"),
            reason=reason,
            set_aside_tai=self._clock.now_tai(),
        )
        self.kept[letter.letter_id] = (letter, stored)

    def take(self, letter_id: str) -> tuple[DeadLetter, _Stored]:
        if letter_id not in self.kept:
            raise DeadLetterMissingError("There is no such dead letter", letter=letter_id)
        return self.kept.pop(letter_id)


class _Queue:
    """One queue: what waits, what waits for its time, what is in hands."""

    def __init__(self, *, name: str, clock: Clock, letters: _Letters, delivery_limit: int) -> None:
        self.name = name
        self.clock = clock
        self._letters = letters
        self._delivery_limit = delivery_limit
        self._unfinished = 0
        self._order = itertools.count()
        self._ready: list[tuple[int, int, _Stored]] = []
        self._delayed: list[tuple[float, int, _Stored]] = []
        self._changed = asyncio.Event()

    @property
    def depth(self) -> int:
        return len(self._ready) + len(self._delayed) + self._unfinished

    async def changed(self, *, at_most_s: float | None = None) -> None:
        """Return at the next change, or after a time."""
        if at_most_s is None:
            await self._changed.wait()
        else:
            await wait_first(self._changed.wait(), self.clock.sleep(at_most_s))

    @property
    def next_due_s(self) -> float | None:
        """Time until the next delayed message may be taken [s]."""
        return self._delayed[0][0] - self.clock.now_tai() if self._delayed else None

    def append(self, stored: _Stored, *, delay_s: float = 0.0) -> None:
        """Put a message behind all others of its priority."""
        stored.order = next(self._order)
        if delay_s > 0:
            due_tai = self.clock.now_tai() + delay_s
            heapq.heappush(self._delayed, (due_tai, stored.order, stored))
        else:
            self._push(stored)
        self._tell()

    def take(self) -> tuple[_Stored, Message] | None:
        """Take the next valid message in hand; set aside what is none."""
        while (stored := self._pop()) is not None:
            try:
                message = decode_message(stored.body)
            except MalformedMessageError as error:
                self._letters.add(self.name, stored, str(error))
                self._tell()
                continue
            stored.deliveries += 1
            self._unfinished += 1
            return stored, message
        return None

    def drop(self) -> None:
        """Let go of a message in hand that needs nothing more."""
        self._unfinished -= 1
        self._tell()

    def set_aside(self, stored: _Stored, reason: str) -> None:
        """Move a message in hand to the dead letters."""
        self._letters.add(self.name, stored, reason)
        self.drop()

    def give_back(self, stored: _Stored) -> None:
        """Put a message in hand back in its place."""
        if not self._worn_out(stored, "its consumer closed"):
            self._push(stored)
            self.drop()

    def retry(self, stored: _Stored, *, delay_s: float, reason: str) -> None:
        """Put a message in hand behind all others."""
        if not self._worn_out(stored, reason):
            self.append(stored, delay_s=delay_s)
            self.drop()

    def _worn_out(self, stored: _Stored, reason: str) -> bool:
        if stored.deliveries < self._delivery_limit:
            return False
        self.set_aside(stored, f"Delivered {stored.deliveries} times; {reason}")
        return True

    def _push(self, stored: _Stored) -> None:
        heapq.heappush(self._ready, (-stored.priority, stored.order, stored))

    def _pop(self) -> _Stored | None:
        while self._delayed and self._delayed[0][0] <= self.clock.now_tai():
            self._push(heapq.heappop(self._delayed)[2])
        return heapq.heappop(self._ready)[2] if self._ready else None

    def _tell(self) -> None:
        """Wake all who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()


class MemoryWorkQueue(WorkQueue):
    """The `platevault.ports.work_queue.WorkQueue` port within one process.

    Bodies are encoded and decoded as a broker would. What it holds is gone with the process; the
    ledger tells every service what was left undone.

    Parameters
    ----------
    clock
        Time of delays.
    max_depth
        So many messages a queue may hold, unfinished ones included.
    when_full
        What happens to a sender then.
    delivery_limit
        After so many deliveries a message is set aside. 10 is a choice: enough for a few crashed
        consumers, few enough to stop a message that crashes them.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        max_depth: int = 100_000,
        when_full: WhenFull = WhenFull.WAIT,
        delivery_limit: int = 10,
    ) -> None:
        self._clock = clock
        self._max_depth = max_depth
        self._when_full = when_full
        self._delivery_limit = delivery_limit
        self._queues: dict[str, _Queue] = {}
        self._letters = _Letters(clock)

    @override
    async def send(self, queue: str, message: Message, *, priority: int = 0) -> None:
        if not 0 <= priority <= _HIGHEST_PRIORITY:
            raise UsageError("Priority is out of range", value=priority, expected="0 to 9")
        await self._put(queue, encode_message(message), priority)

    async def inject_raw(self, queue: str, body: bytes) -> None:
        """Put any bytes on a queue, as a foreign sender could."""
        await self._put(queue, body, 0)

    @override
    @asynccontextmanager
    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        if prefetch < 1:
            raise UsageError("A consumer must take one message at least", value=prefetch)
        consumer = _Consumer(self._queue(queue), prefetch)
        try:
            yield consumer
        finally:
            consumer.close()

    @override
    async def depth(self, queue: str) -> int:
        return self._queue(queue).depth

    @override
    async def dead_letters(self, queue: str = "") -> list[DeadLetter]:
        return [letter for letter, _ in self._letters.kept.values() if queue in {"", letter.queue}]

    @override
    async def redrive(self, letter_id: str) -> None:
        letter, stored = self._letters.take(letter_id)
        stored.deliveries = 0
        self._queue(letter.queue).append(stored)
        _log.info(
            "Dead letter was driven again",
            queue=letter.queue,
            letter=letter_id,
            reason=letter.reason,
        )

    @override
    async def dismiss(self, letter_id: str, *, reason: str) -> None:
        letter, _ = self._letters.take(letter_id)
        _log.info("Dead letter was dismissed", queue=letter.queue, letter=letter_id, reason=reason)

    async def _put(self, name: str, body: bytes, priority: int) -> None:
        await asyncio.sleep(0)  # a sender in a tight loop must not starve the consumers
        queue = self._queue(name)
        while queue.depth >= self._max_depth:
            if self._when_full is WhenFull.FAIL:
                raise QueueFullError("The queue is full", queue=name, limit=self._max_depth)
            await queue.changed()
        queue.append(_Stored(body, priority))

    def _queue(self, name: str) -> _Queue:
        if name not in self._queues:
            self._queues[name] = _Queue(
                name=name,
                clock=self._clock,
                letters=self._letters,
                delivery_limit=self._delivery_limit,
            )
        return self._queues[name]


class _Consumer:
    """Iterates deliveries; a cancelled wait takes nothing and may be followed by another."""

    def __init__(self, queue: _Queue, prefetch: int) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._unfinished: dict[_Delivery, None] = {}
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        while not self._closed:
            if len(self._unfinished) >= self._prefetch:
                await self._queue.changed()
                continue
            taken = self._queue.take()
            if taken is not None:
                delivery = _Delivery(self, self._queue, *taken)
                self._unfinished[delivery] = None
                return delivery
            await self._queue.changed(at_most_s=self._queue.next_due_s)
        raise StopAsyncIteration

    def forget(self, delivery: _Delivery) -> None:
        """Let a delivery end; it ends once."""
        if delivery not in self._unfinished:
            raise DeliverySettledError("The delivery had ended", type=delivery.message.type)
        if self._closed:
            raise DeliveryLostError("The consumer had closed", type=delivery.message.type)
        del self._unfinished[delivery]

    def close(self) -> None:
        """Give back what is unfinished."""
        self._closed = True
        for delivery in self._unfinished:
            self._queue.give_back(delivery.stored)


class _Delivery(Delivery):
    """One message in hand."""

    def __init__(
        self, consumer: _Consumer, queue: _Queue, stored: _Stored, message: Message
    ) -> None:
        self.stored = stored
        self._consumer = consumer
        self._queue = queue
        self._message = message
        self._attempt = stored.deliveries

    @property
    @override
    def message(self) -> Message:
        return self._message

    @property
    @override
    def attempt(self) -> int:
        return self._attempt

    @override
    async def ack(self) -> None:
        self._consumer.forget(self)
        self._queue.drop()

    @override
    async def retry(self, *, delay_s: float, reason: str) -> None:
        self._consumer.forget(self)
        self._queue.retry(self.stored, delay_s=delay_s, reason=reason)

    @override
    async def set_aside(self, *, reason: str) -> None:
        self._consumer.forget(self)
        self._queue.set_aside(self.stored, reason)
