"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def wait_first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of ``waits`` ends; the others are cancelled, and have ended too.

    Raises
    ------
    ExceptionGroup
        One of them failed.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait, name="wait-first") for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
