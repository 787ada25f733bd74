"""Messages that wait for their time, and go back to their queue when it comes.

The broker gives them to one consumer of the queue at a time (a single active consumer); if that
one vanishes, they go to the next. Queues with a time to live, which the broker empties itself, were
not used: they let go of a message without knowing that the next queue has it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable

import structlog
from aiormq.abc import DeliveredMessage

from platevault.adapters.rabbitmq.sender import Sender
from platevault.adapters.rabbitmq.topology import DELAY, NOT_BEFORE, headers_of, written_count
from platevault.ports.clock import Clock
from platevault.ports.work_queue import QueueUnavailableError
from platevault.runtime.waiting import wait_first

#: So many wait in memory; the broker keeps the rest until some of them have gone.
MOST_PARKED = 1000
#: After so long a message that still waits is parked anew [s]: the broker takes a consumer that
#: holds one for 30 min for stuck (RabbitMQ, "Delivery Acknowledgement Timeout").
_LONGEST_HOLD_S = 900.0
#: Pause while the queue takes nothing [s].
_AGAIN_S = 1.0

_log = structlog.get_logger(__name__)


class Parking:
    """Holds the parked messages of one queue for one consumer.

    Parameters
    ----------
    queue
        Name of the queue.
    sender, clock
        Shared by the adapter.
    ack
        Acknowledges a message.
    """

    def __init__(
        self,
        *,
        queue: str,
        sender: Sender,
        clock: Clock,
        ack: Callable[[int], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._clock = clock
        self._ack = ack
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, float, DeliveredMessage]] = []
        self._came = asyncio.Event()
        self._stopped = False
        self._moving = 0

    def __len__(self) -> int:
        return len(self._waiting) + self._moving

    async def take(self, message: DeliveredMessage) -> None:
        """Hold a message until its time."""
        headers = headers_of(message)
        now_tai = self._clock.now_tai()
        wait_s = 0.0
        if isinstance(headers.get(NOT_BEFORE), int) and isinstance(headers.get(DELAY), int):
            wait_s = min(headers[NOT_BEFORE] / 1000 - now_tai, headers[DELAY] / 1000)
        due_tai = now_tai + wait_s
        self._push(min(due_tai, now_tai + _LONGEST_HOLD_S), due_tai, message)
        self._came.set()

    def stop(self) -> None:
        """Let go of all; the broker gives them to another consumer."""
        self._stopped = True
        self._came.set()

    async def run(self) -> None:
        """Send each message on its way when its time has come."""
        while not self._stopped:
            self._came.clear()
            if not self._waiting:
                await self._came.wait()
                continue
            left_s = self._waiting[0][0] - self._clock.now_tai()
            if left_s > 0:
                await wait_first(self._came.wait(), self._clock.sleep(left_s))
                continue
            _, _, due_tai, message = heapq.heappop(self._waiting)
            self._moving = 1
            try:
                await self._send_on(message, due_tai)
            except QueueUnavailableError as error:
                _log.warning("Delayed message waits on", queue=self._queue, problem=str(error))
                self._push(self._clock.now_tai() + _AGAIN_S, due_tai, message)
            finally:
                self._moving = 0

    async def _send_on(self, message: DeliveredMessage, due_tai: float) -> None:
        # That it changed keepers meanwhile is no delivery.
        deliveries = written_count(message)
        left_s = due_tai - self._clock.now_tai()
        if left_s > 0:
            await self._sender.park(self._queue, message, deliveries=deliveries, delay_s=left_s)
        else:
            await self._sender.copy(self._queue, message, deliveries=deliveries)
        assert message.delivery_tag is not None
        await self._ack(message.delivery_tag)

    def _push(self, wake_tai: float, due_tai: float, message: DeliveredMessage) -> None:
        heapq.heappush(self._waiting, (wake_tai, next(self._order), due_tai, message))
