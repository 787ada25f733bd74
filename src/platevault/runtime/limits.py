"""Work under a time limit, and errors out of the group that they came in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from platevault.domain.errors import TransientError
from platevault.ports.clock import Clock

ResultT = TypeVar("ResultT")


class TimeLimitError(TransientError):
    """Something took longer than it may: it was cancelled; retry."""


async def within(
    clock: Clock, limit_s: float, work: Coroutine[Any, Any, ResultT], *, what: str
) -> ResultT:
    """Give the result of ``work``, or cancel it after ``limit_s`` [s].

    Parameters
    ----------
    clock
        Whose time counts.
    limit_s
        Longest duration [s].
    work
        What is done; its own exceptions pass through.
    what
        Name of the work, for the error.

    Raises
    ------
    TimeLimitError
        It took longer.
    """

    async def outcome() -> ResultT | Exception:
        try:
            return await work
        except Exception as error:  # noqa: BLE001  raised again below, outside the group
            return error

    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(outcome(), name=f"limited-{what}")
        waiting = tasks.create_task(clock.sleep(limit_s), name=f"limit-of-{what}")
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        waiting.cancel()
    if working.cancelled():
        raise TimeLimitError("It took too long", what=what, limit_s=limit_s)
    result = working.result()
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the first error of an exception group as it is, so that callers can tell its class."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _first_of(group) from None


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
