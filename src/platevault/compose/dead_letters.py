"""Messages that were set aside, for a command: of a site whose queue outlives its processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from platevault.adapters.system_clock import SystemClock
from platevault.compose.settings import Settings
from platevault.compose.work_queues import rabbit_queue, sqlite_queue
from platevault.domain.errors import PermanentError, PlatevaultError, UsageError
from platevault.ports.work_queue import (
    DeadLetter,
    DeadLetterMissingError,
    QueueUnavailableError,
    WorkQueue,
)

#: Told of each letter that was dealt with: its name.
OnLetter = Callable[[str], None]


class NoLettersError(UsageError):
    """One process keeps its queue in memory, letters included: name a site that has a queue."""


class QueueMissingError(PermanentError):
    """There is no queue at this place: nothing has run there, or the place is wrong."""


async def list_letters(settings: Settings, *, queue: str = "") -> list[DeadLetter]:
    """List what was set aside, of one queue or of all.

    Raises
    ------
    NoLettersError, QueueMissingError
        The settings name no queue that outlives a process, or one that is not there.
    QueueUnavailableError
        It does not answer. Retry.
    """
    async with _opened(settings) as letters:
        return await letters.dead_letters(queue)


async def redrive_letters(
    settings: Settings, letter_ids: Iterable[str], *, on_letter: OnLetter
) -> list[PlatevaultError]:
    """Put letters back on their queues.

    Parameters
    ----------
    settings
        Of the site.
    letter_ids
        Their names.
    on_letter
        Told of each that is back.

    Returns
    -------
    list
        What hindered the others: they are gone, or their queue takes nothing now.

    Raises
    ------
    NoLettersError, QueueMissingError, QueueUnavailableError
        As for `list_letters`; nothing was done.
    """
    async with _opened(settings) as letters:
        return await _each(letter_ids, letters.redrive, on_letter)


async def redrive_every_letter(
    settings: Settings, *, queue: str, on_letter: OnLetter
) -> list[PlatevaultError]:
    """Put every letter of a queue back, or of all queues; as `redrive_letters`.

    Each once: one that is set aside again meanwhile stays.
    """
    async with _opened(settings) as letters:
        found = [letter.letter_id for letter in await letters.dead_letters(queue)]
        return await _each(found, letters.redrive, on_letter)


async def dismiss_letters(
    settings: Settings, letter_ids: Iterable[str], *, reason: str, on_letter: OnLetter
) -> list[PlatevaultError]:
    """Drop letters for good; as `redrive_letters`."""

    async def dismiss(letter_id: str) -> None:
        await letters.dismiss(letter_id, reason=reason)

    async with _opened(settings) as letters:
        return await _each(letter_ids, dismiss, on_letter)


async def _each(
    letter_ids: Iterable[str], deal_with: Callable[[str], Awaitable[None]], on_letter: OnLetter
) -> list[PlatevaultError]:
    problems: list[PlatevaultError] = []
    for letter_id in dict.fromkeys(letter_ids):
        try:
            await deal_with(letter_id)
        except DeadLetterMissingError as error:
            problems.append(error)
        except QueueUnavailableError as error:
            # Of one queue, perhaps: it is full, or its consumer has not made it.
            problems.append(
                QueueUnavailableError(error.message, **{"letter": letter_id, **error.context})
            )
        else:
            on_letter(letter_id)
    return problems


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[WorkQueue]:
    clock = SystemClock()
    if settings.queue == "memory":
        raise NoLettersError(
            "Nothing can be set aside here: the queue is in the memory of one process",
            field="queue",
            value=settings.queue,
            expected="rabbitmq or sqlite, in the file of --config",
        )
    if settings.queue == "sqlite":
        if await asyncio.to_thread(_is_missing, settings.queue_path):
            raise QueueMissingError("There is no work queue here", path=str(settings.queue_path))
        async with sqlite_queue(settings, clock=clock) as in_file:
            yield in_file
        return
    async with rabbit_queue(settings, clock=clock) as on_broker:
        for state in on_broker.states.values():
            if not state.connected:
                # Its facts, host and port among them, are in the text already.
                raise QueueUnavailableError(state.problem)
        yield on_broker


def _is_missing(path: Path) -> bool:
    """Tell whether there is no file; one that may not be looked at is left to who opens it."""
    try:
        return not path.is_file()
    except OSError:
        return False
