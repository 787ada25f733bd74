"""Replies to commands, as values and as errors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from platevault.domain.errors import PermanentError, TransientError
from platevault.domain.samples import Sample


class AckCode(IntEnum):
    """Reply codes; the numbers are those on the wire.

    References
    ----------
    SAL over Kafka, section 9.
    """

    ACK = 300
    IN_PROGRESS = 301
    STALLED = 302
    COMPLETE = 303
    NO_PERMISSION = -300
    NO_ACK = -301
    FAILED = -302
    ABORTED = -303
    TIMEOUT = -304

    @property
    def is_final(self) -> bool:
        """No further reply follows."""
        return self not in {AckCode.ACK, AckCode.IN_PROGRESS}


@dataclass(frozen=True, slots=True)
class Ack:
    """One reply to a command.

    Attributes
    ----------
    code
        What became of the command.
    error
        Error number, if it failed.
    result
        Text for people.
    timeout_s
        With ``IN_PROGRESS``: time [s] to add to the limit.
    """

    code: AckCode
    error: int = 0
    result: str = ""
    timeout_s: float = 0.0

    @classmethod
    def from_sample(cls, sample: Sample) -> Self:
        """Read a sample of ``ackcmd``; `ValueError` if its code is none."""
        fields = sample.fields
        return cls(
            AckCode(fields["ack"]), fields["error"], fields["result"], float(fields["timeout"])
        )


class CommandRefusedError(PermanentError):
    """A command cannot be done; raised by its callback to choose the reply.

    Parameters
    ----------
    message
        One constant sentence; becomes the text of the reply.
    code
        Reply code.
    error
        Error number of the reply.
    **context
        The facts.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        code: AckCode = AckCode.FAILED,
        error: int = 1,
        **context: object,
    ) -> None:
        super().__init__(message, **context)
        self.code = code
        self.error = error


class CommandFailedError(PermanentError):
    """The component answered that it did not do the command: ``ack`` says why."""

    def __init__(self, ack: Ack, /, **context: object) -> None:
        super().__init__(
            "The command failed", **context, ack=ack.code.name, error=ack.error, result=ack.result
        )
        self.ack = ack


class CommandTimeoutError(TransientError):
    """No final reply came in time: whether it was done is unknown; look at the state first."""

    def __init__(self, ack: Ack, /, **context: object) -> None:
        super().__init__("No final reply came in time", **context, last_reply=ack.result)
        self.ack = ack
