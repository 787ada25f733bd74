"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


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
