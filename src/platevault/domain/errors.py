"""The error classes; each says who acts next.

A subclass names the situation and lives beside the code that finds it.
"""

from __future__ import annotations

from typing_extensions import override


class PlatevaultError(Exception):
    """Base of every error that Platevault raises on purpose.

    Parameters
    ----------
    message
        One constant sentence for people.
    **context
        The facts (file, field, value, expected ...); they become log fields.
    """

    def __init__(self, message: str, /, **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.context = context

    @override
    def __str__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self.context.items())
        return f"{self.message} ({facts})" if facts else self.message


class TransientError(PlatevaultError):
    """May succeed later: the service retries with backoff within its deadline."""


class PermanentError(PlatevaultError):
    """Will fail again: set the unit of work aside, count it, go on."""


class IntegrityError(PermanentError):
    """Contents disagree with their digest: touch nothing, alarm, call a person."""


class UsageError(PlatevaultError):
    """A bug or a bad setting: never retried."""
