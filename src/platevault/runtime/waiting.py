"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from platevault.domain.errors import TransientError
from platevault.runtime.service import Deadline

ResultT = TypeVar("ResultT")


class DeadlinePassedError(TransientError):
    """The work was not done by its deadline and was cancelled: retry, or report it as late."""


async def wait_first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of ``waits`` ends; the others are cancelled, and have ended too.

    Raises
    ------
    Exception
        What the first one raised.
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(wait, name="wait-first") for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


async def within(deadline: Deadline, work: Coroutine[Any, Any, ResultT], *, what: str) -> ResultT:
    """Give the result of ``work``, which is cancelled when the deadline passes.

    Parameters
    ----------
    deadline
        Limit, by its own clock.
    work
        What is to be done; has ended when this returns or raises.
    what
        Name of the work, for the error.

    Raises
    ------
    DeadlinePassedError
        It was not done in time.
    """
    task = asyncio.get_running_loop().create_task(work, name=what)
    try:
        await wait_first(asyncio.wait({task}), deadline.wait())
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise DeadlinePassedError("Not done by the deadline", what=what, due_tai=deadline.due_tai)
    return task.result()
