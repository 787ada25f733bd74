"""What a test must not leave behind: tasks, threads, temporary files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from pathlib import Path

#: Turns of the event loop in which a task that was cancelled may still end.
_LAST_TURNS = 10
#: Time in which a thread that was told to end may still end [s]; long, for a busy host.
_LAST_MOMENTS_S = 20.0


class LeakError(AssertionError):
    """Something outlived its owner: close it where it was opened."""


async def check_tasks(before: Collection[asyncio.Task[object]]) -> None:
    """Raise `LeakError` for tasks of this loop that came after ``before`` and do not end.

    Parameters
    ----------
    before
        Tasks that may stay.
    """
    left: set[asyncio.Task[object]] = set()
    for _ in range(_LAST_TURNS):
        left = asyncio.all_tasks() - {asyncio.current_task()} - set(before)
        if not left:
            return
        await asyncio.sleep(0)
    names = sorted(f"{task.get_name()}: {task.get_coro()!r}" for task in left)
    for task in left:
        task.cancel()
    raise LeakError(f"Tasks were left: {'; '.join(names)}")


def check_threads(before: Collection[threading.Thread]) -> None:
    """Raise `LeakError` for threads that run on, except those in ``before``."""
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(_LAST_MOMENTS_S)
    names = sorted(thread.name for thread in left if thread.is_alive())
    if names:
        raise LeakError(f"Threads were left: {', '.join(names)}")


def check_directory(directory: Path) -> None:
    """Raise `LeakError` for anything in a directory that should be empty again."""
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    if names:
        raise LeakError(f"Temporary files were left: {', '.join(names)}")
