"""Exit statuses, and what error leads to which."""

from __future__ import annotations

from enum import IntEnum

from platevault.domain.errors import IntegrityError, PlatevaultError, UsageError


class ExitCode(IntEnum):
    """Exit statuses of every ``platevault`` command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_DRAINED = 3
    INTEGRITY = 4


def exit_code_of(error: PlatevaultError) -> ExitCode:
    """Give the exit status for one of our errors."""
    if isinstance(error, UsageError):
        return ExitCode.USAGE
    if isinstance(error, IntegrityError):
        return ExitCode.INTEGRITY
    return ExitCode.FAILED
