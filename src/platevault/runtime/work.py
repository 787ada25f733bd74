"""A queue worked off: one task per message, settled by what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog

from platevault.domain.errors import PlatevaultError, TransientError
from platevault.domain.messages import Message, SingleMessage, Together, in_envelopes
from platevault.ports.clock import Clock
from platevault.ports.work_queue import (
    Delivery,
    DeliveryLostError,
    QueueUnavailableError,
    WorkQueue,
)
from platevault.runtime.service import StopToken
from platevault.runtime.waiting import wait_first

#: Handles one message; the second argument counts its deliveries from 1. Returning acknowledges.
Handler = Callable[[Message, int], Awaitable[None]]

#: Pause before a failed message comes again [s]: first, and longest. Chosen so that a hiccup of a
#: second is bridged at once and an outage of minutes does not use up a queue's delivery limit.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0

_log = structlog.get_logger(__name__)


class ComeBackError(TransientError):
    """The work may be done after ``pause_s`` [s]: the message comes again then."""

    def __init__(self, message: str, /, *, pause_s: float, **context: object) -> None:
        super().__init__(message, pause_s=pause_s, **context)
        self.pause_s = pause_s


def pause_before(attempt: int) -> float:
    """Give the pause [s] after delivery ``attempt`` (from 1) failed: doubled each time."""
    return float(min(FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 20), LONGEST_PAUSE_S))


async def pause(clock: Clock, stop: StopToken, duration_s: float) -> None:
    """Return after ``duration_s`` [s], or when the stop is asked for."""
    await wait_first(clock.sleep(duration_s), stop.wait())


async def send_together(
    queue: WorkQueue, name: str, messages: Sequence[SingleMessage], *, priority: int = 0
) -> None:
    """Send messages to one queue as few; returns once it holds them all.

    Raises
    ------
    QueueUnavailableError
        Some may have gone out. Retry: every consumer is idempotent.
    """
    for message in in_envelopes(messages):
        await queue.send(name, message, priority=priority)


async def work_off(
    queue: WorkQueue,
    name: str,
    handle: Handler,
    *,
    prefetch: int,
    stop: StopToken,
    clock: Clock,
    consuming: Callable[[], None] = lambda: None,
) -> None:
    """Hand each message of a queue to ``handle`` until the stop, ``prefetch`` at once.

    A message is acknowledged when ``handle`` returns, comes again later when it raises a
    `TransientError`, and is set aside when it raises anything else. Those that came in one
    envelope are handled at once, and one that fails is sent again alone. An outage of the broker
    is waited out. Messages in hand at the stop are finished.

    Parameters
    ----------
    queue, name
        Where the messages come from.
    handle
        Does the work; must be idempotent.
    prefetch
        Messages in hand at most.
    stop
        Ends the work.
    clock
        Time for pauses.
    consuming
        Called each time the queue begins to be consumed.
    """
    failures = 0
    while not stop.requested:
        outage: QueueUnavailableError | None = None
        try:
            async with queue.consume(name, prefetch=prefetch) as deliveries:
                consuming()
                failures = 0
                async with asyncio.TaskGroup() as units:
                    outage = await _take(
                        stop.until(deliveries), units, _opening(queue, name, handle)
                    )
        except QueueUnavailableError as error:
            outage = error
        if outage is not None:
            failures += 1
            _log.warning("Queue does not answer", queue=name, problem=str(outage))
            await pause(clock, stop, pause_before(failures))


async def _take(
    deliveries: AsyncIterator[Delivery], units: asyncio.TaskGroup, handle: Handler
) -> QueueUnavailableError | None:
    try:
        async for delivery in deliveries:
            units.create_task(_settle(delivery, handle), name=f"message-{delivery.message.type}")
    except QueueUnavailableError as error:
        return error  # units in hand go on; what they cannot settle comes again
    return None


def _opening(queue: WorkQueue, name: str, handle: Handler) -> Handler:
    """Give a handler that opens envelopes."""

    async def opened(message: Message, attempt: int) -> None:
        if not isinstance(message, Together):
            await handle(message, attempt)
            return
        async with asyncio.TaskGroup() as units:
            done = [
                units.create_task(_does(handle, one, attempt), name=f"message-{one.type}")
                for one in message.messages
            ]
        failed = [
            one for one, task in zip(message.messages, done, strict=True) if not task.result()
        ]
        for one in failed:
            await queue.send(name, one)

    return opened


async def _does(handle: Handler, message: SingleMessage, attempt: int) -> bool:
    """Handle a message of an envelope; tell whether that is done."""
    try:
        await handle(message, attempt)
    except PlatevaultError as error:
        _log.warning("Message goes on alone", type=message.type, problem=str(error))
        return False
    except Exception as error:  # noqa: BLE001  outermost loop of a unit of work
        _log.warning("Message goes on alone", type=message.type, problem=repr(error))
        return False
    return True


async def _settle(delivery: Delivery, handle: Handler) -> None:
    message = delivery.message
    try:
        try:
            await handle(message, delivery.attempt)
        except TransientError as error:
            _log.warning("Message comes again", type=message.type, problem=str(error))
            if isinstance(error, ComeBackError):
                delay_s = error.pause_s
            else:
                delay_s = pause_before(delivery.attempt)
            await delivery.retry(delay_s=delay_s, reason=str(error))
        except PlatevaultError as error:
            _log.error("Message was set aside", type=message.type, problem=str(error))
            await delivery.set_aside(reason=str(error))
        except Exception as error:  # noqa: BLE001  outermost loop of a unit of work
            _log.exception("Message was set aside after a bug", type=message.type)
            await delivery.set_aside(reason=f"{type(error).__name__}: {error}")
        else:
            await delivery.ack()
    except (QueueUnavailableError, DeliveryLostError) as error:
        _log.warning("Message could not be settled", type=message.type, problem=str(error))
