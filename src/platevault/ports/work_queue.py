"""Work, at least once: claim, acknowledge, redeliver, set aside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from platevault.domain.errors import PermanentError, TransientError, UsageError
from platevault.domain.messages import Message


class QueueUnavailableError(TransientError):
    """The broker does not take or give messages: retry; nothing was acknowledged."""


class QueueFullError(QueueUnavailableError):
    """The queue has as many messages as it may hold: retry later; the message is not on it."""


class DeliveryLostError(TransientError):
    """The consumer had closed: the message went back to its queue and comes again."""


class DeliverySettledError(UsageError):
    """A second of the three calls that end a delivery: a bug."""


class DeadLetterMissingError(PermanentError):
    """No dead letter has this name (any more): list them again."""


class Delivery(Protocol):
    """One message in hand; ends with exactly one of its three calls.

    A delivery whose consumer closes without one of them goes back to the queue; a call after that
    raises `DeliveryLostError`.
    """

    @property
    def message(self) -> Message:
        """The validated message."""

    @property
    def attempt(self) -> int:
        """How often the message was delivered, this time included; from 1."""

    async def ack(self) -> None:
        """Say that the durable effect is there."""

    async def retry(self, *, delay_s: float, reason: str) -> None:
        """Put it back, to come again after ``delay_s`` [s]; set aside after the queue's limit.

        The limit counts deliveries, however they ended, so a message that kills its consumers is
        set aside too.
        """

    async def set_aside(self, *, reason: str) -> None:
        """Move it to the dead letters."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside.

    Attributes
    ----------
    letter_id
        Name by which it is driven again or dismissed.
    queue
        Queue it came from.
    body
        Text as received, which may not be a valid message.
    reason
        Why it was set aside.
    set_aside_tai
        When [s, TAI].
    """

    letter_id: str
    queue: str
    body: str
    reason: str
    set_aside_tai: float


class WorkQueue(Protocol):
    """Durable queues by name (RabbitMQ shape)."""

    async def send(self, queue: str, message: Message, *, priority: int = 0) -> None:
        """Return once the queue holds the message; higher ``priority`` (0-9) goes first.

        Raises
        ------
        QueueUnavailableError
            It may have gone out. Retry: every consumer is idempotent.
        QueueFullError
            The queue is full and does not let senders wait. It has not gone out.
        """

    def consume(
        self, queue: str, *, prefetch: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Receive messages; at most ``prefetch`` unfinished at once.

        A body that is no valid message goes to the dead letters and never reaches the consumer.
        """

    async def depth(self, queue: str) -> int:
        """Count messages that wait or are unfinished."""

    async def dead_letters(self, queue: str = "") -> list[DeadLetter]:
        """List what was set aside, of one queue or of all."""

    async def redrive(self, letter_id: str) -> None:
        """Put a dead letter back on its queue, as if it had never been delivered.

        Raises
        ------
        DeadLetterMissingError
            It was driven again or dismissed before. `dismiss` raises it too.
        """

    async def dismiss(self, letter_id: str, *, reason: str) -> None:
        """Drop a dead letter for good."""
