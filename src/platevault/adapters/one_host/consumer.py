"""One consumer of a queue, and the deliveries in its hands."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import structlog
from typing_extensions import override

from platevault.adapters.one_host import messages
from platevault.adapters.one_host.bells import Bell
from platevault.adapters.one_host.messages import Claim, Rules, Taken
from platevault.adapters.sqlite.connection import ConnectionThread
from platevault.domain.errors import PlatevaultError
from platevault.domain.messages import Message
from platevault.ports.clock import Clock
from platevault.ports.work_queue import Delivery, DeliveryLostError, DeliverySettledError
from platevault.runtime.waiting import wait_first

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What all consumers of a process share.

    Attributes
    ----------
    thread
        Works on the file.
    rules
        Rules of all queues.
    clock
        Time of delays.
    look_s
        So often who waits looks unasked [s].
    """

    thread: ConnectionThread
    rules: Rules
    clock: Clock
    look_s: float


class Consumer:
    """Iterates deliveries; a cancelled wait takes nothing and may be followed by another.

    Messages are taken as many at once as have a place. What the iterator was not asked for yet
    goes back undelivered.

    Parameters
    ----------
    desk
        What all consumers share.
    queue, prefetch
        Which queue, and how many unfinished deliveries at most.
    name
        Unique for all time; of the bell too.
    bell
        Rung when the queue has something new.
    """

    def __init__(self, *, desk: Desk, queue: str, prefetch: int, name: str, bell: Bell) -> None:
        self._desk = desk
        self._queue = queue
        self._prefetch = prefetch
        self._name = name
        self._bell = bell
        self._listening = False
        self._closed = False
        self._problem: PlatevaultError | None = None
        self._wake = asyncio.Event()
        self._claiming: asyncio.Future[Claim] | None = None
        self._looked_tai: float | None = None
        self._due_tai: float | None = None
        self._taken: deque[Taken] = deque()
        self._unfinished: dict[int, _Delivery] = {}

    async def open(self) -> None:
        """Hang the bell and listen to it."""
        await self._desk.thread.call(lambda _: self._bell.hang(), durable=False)
        asyncio.get_running_loop().add_reader(self._bell.fileno(), self._on_ring)
        self._listening = True

    async def close(self) -> None:
        """Give back what is unfinished; who is cancelled here is closed all the same."""
        self._closed = True
        self._wake.set()
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._bell.fileno())
        try:
            answer = self._desk.thread.submit(self._give_back, durable=False)
        except PlatevaultError:
            self._bell.take_down()  # others see that nobody holds it
            return
        # In the thread, whether the work was done or not: without its bell the consumer is dead.
        answer.add_done_callback(self._take_down)
        try:
            await asyncio.shield(asyncio.wrap_future(answer))
        except PlatevaultError as error:
            _log.warning("Messages in hand go back later", queue=self._queue, problem=str(error))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        while not self._closed:
            if self._problem is not None:
                raise self._problem
            if self._taken:
                return self._hand(self._taken.popleft())
            self._wake.clear()
            if len(self._unfinished) >= self._prefetch:
                await self._wake.wait()
                continue
            await self._claim(self._prefetch - len(self._unfinished))
            if not self._taken and not self._closed:
                await wait_first(self._wake.wait(), self._desk.clock.sleep(self._rest_s()))
        raise StopAsyncIteration

    async def settle(self, delivery: _Delivery, work: Any) -> None:
        """End a delivery by ``work``, which goes on to its end if the caller is cancelled.

        Raises
        ------
        QueueUnavailableError
            It may have been done. The consumer is of no more use; what it has comes again.
        """
        answer = asyncio.wrap_future(self._desk.thread.submit(work, durable=False))
        answer.add_done_callback(partial(self._settled, delivery.row_id))
        await asyncio.shield(answer)

    @property
    def closed(self) -> bool:
        """Whether it has closed."""
        return self._closed

    @property
    def queue(self) -> str:
        """Its queue."""
        return self._queue

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def desk(self) -> Desk:
        """What it shares with others."""
        return self._desk

    def _hand(self, taken: Taken) -> _Delivery:
        delivery = _Delivery(self, taken)
        self._unfinished[taken.row_id] = delivery
        return delivery

    async def _claim(self, places: int) -> None:
        if self._claiming is None:
            now_tai = self._desk.clock.now_tai()
            looks = self._looked_tai is None or now_tai - self._looked_tai >= self._desk.look_s
            if looks:
                self._looked_tai = now_tai
            work = partial(
                messages.claim,
                rules=self._desk.rules,
                queue=self._queue,
                consumer=self._name,
                limit=places,
                take_back=looks,
                now_tai=now_tai,
            )
            self._claiming = asyncio.wrap_future(self._desk.thread.submit(work, durable=False))
            self._claiming.add_done_callback(self._claimed)
        # Shielded: what was taken for a wait that was cancelled is there for the next one.
        await asyncio.shield(self._claiming)

    def _claimed(self, claim: asyncio.Future[Claim]) -> None:
        self._claiming = None
        if claim.cancelled() or claim.exception() is not None:
            return
        self._taken.extend(claim.result().taken)
        self._due_tai = claim.result().due_tai

    def _settled(self, row_id: int, answer: asyncio.Future[None]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, PlatevaultError) and not isinstance(error, DeliveryLostError):
            self._problem = error  # the message stays in hand, and goes back with the others
        else:
            self._unfinished.pop(row_id, None)
        self._wake.set()

    def _rest_s(self) -> float:
        if self._due_tai is None:
            return self._desk.look_s
        return min(self._desk.look_s, max(0.0, self._due_tai - self._desk.clock.now_tai()))

    def _on_ring(self) -> None:
        self._bell.hush()
        self._wake.set()

    def _give_back(self, connection: Any) -> None:
        messages.give_back(
            connection,
            self._desk.rules,
            queue=self._queue,
            consumer=self._name,
            handed=set(self._unfinished),
            now_tai=self._desk.clock.now_tai(),
        )

    def _take_down(self, _: Future[None]) -> None:
        self._bell.take_down()


class _Delivery(Delivery):
    """One message in hand."""

    def __init__(self, consumer: Consumer, taken: Taken) -> None:
        self.row_id = taken.row_id
        self._consumer = consumer
        self._taken = taken
        self._ended = False

    @property
    @override
    def message(self) -> Message:
        return self._taken.message

    @property
    @override
    def attempt(self) -> int:
        return self._taken.deliveries

    @override
    async def ack(self) -> None:
        self._end()
        await self._consumer.settle(
            self,
            partial(messages.acknowledge, consumer=self._consumer.name, row_id=self.row_id),
        )

    @override
    async def retry(self, *, delay_s: float, reason: str) -> None:
        self._end()
        desk = self._consumer.desk
        await self._consumer.settle(
            self,
            partial(
                messages.put_back,
                rules=desk.rules,
                consumer=self._consumer.name,
                row_id=self.row_id,
                delay_s=delay_s,
                reason=reason,
                now_tai=desk.clock.now_tai(),
            ),
        )

    @override
    async def set_aside(self, *, reason: str) -> None:
        self._end()
        await self._consumer.settle(
            self,
            partial(
                messages.set_aside,
                consumer=self._consumer.name,
                row_id=self.row_id,
                reason=reason,
                now_tai=self._consumer.desk.clock.now_tai(),
            ),
        )

    def _end(self) -> None:
        """Let the delivery end; it ends once."""
        kind = self._taken.message.type
        if self._ended:
            raise DeliverySettledError("The delivery had ended", type=kind)
        if self._consumer.closed:
            raise DeliveryLostError("The consumer had closed", type=kind)
        self._ended = True
