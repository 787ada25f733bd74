"""Bells: how a consumer hears of work, and how others see that it lives.

A bell is a named pipe that its consumer holds open for reading. Whoever has work rings it: opens
it for writing and writes one byte. When the consumer's process ends, however it ends, the kernel
closes the reading end, and opening it for writing fails at once (``ENXIO``, fifo(7)).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from platevault.adapters.one_host.errors import QueueSpaceError, StoreForbiddenError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}
_MODE = 0o660
#: More than a pipe holds [bytes] (pipe(7)).
_WHOLE_PIPE = 65536


class Bell:
    """The bell of one consumer.

    Parameters
    ----------
    directory
        The bells of one queue.
    name
        Unique for all time; never begins with a dot.
    """

    def __init__(self, *, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._ends: tuple[int, ...] = ()

    def hang(self) -> None:
        """Make the bell; others see it only when it is held.

        Raises
        ------
        QueueSpaceError
            There is no space for it. Retry.
        StoreForbiddenError
            It may not be made. Do not retry.
        """
        try:
            self._make()
        except OSError as error:
            facts = {"path": str(self._directory / self._name), "problem": str(error)}
            if error.errno in _NO_SPACE:
                raise QueueSpaceError("No space left for a consumer's bell", **facts) from error
            raise StoreForbiddenError("A consumer's bell cannot be made", **facts) from error

    def _make(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        unseen = self._directory / f".{self._name}"
        os.mkfifo(unseen, _MODE)
        reading = os.open(unseen, os.O_RDONLY | os.O_NONBLOCK)
        self._ends = (reading,)
        # An end of one's own for writing: else a pipe that others closed would always be readable.
        self._ends = (reading, os.open(unseen, os.O_WRONLY | os.O_NONBLOCK))
        unseen.rename(self._directory / self._name)

    def fileno(self) -> int:
        """Give the end that becomes readable when the bell is rung."""
        return self._ends[0]

    def hush(self) -> None:
        """Forget that it was rung."""
        with suppress(BlockingIOError):
            os.read(self._ends[0], _WHOLE_PIPE)

    def take_down(self) -> None:
        """Let go of the bell; again is harmless."""
        ends, self._ends = self._ends, ()
        for end in ends:
            os.close(end)
        for name in (self._name, f".{self._name}"):
            with suppress(OSError):  # who finds it later sees that nobody holds it
                (self._directory / name).unlink(missing_ok=True)


class Bells:
    """The bells of all consumers of a host.

    Parameters
    ----------
    directory
        Where they are, by queue.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._due: set[str] = set()

    def bell(self, queue: str, name: str) -> Bell:
        """Give the bell of a consumer, not yet hung."""
        return Bell(directory=self._of(queue), name=name)

    def remember(self, queue: str) -> None:
        """Note that a queue has something new, for `ring_due`."""
        self._due.add(queue)

    def ring_due(self) -> None:
        """Ring for every queue that was noted."""
        due, self._due = self._due, set()
        for queue in due:
            self._ring(self._of(queue))

    def is_held(self, queue: str, name: str) -> bool:
        """Say whether the consumer with this bell lives."""
        try:
            os.close(os.open(self._of(queue) / name, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            # What cannot be told apart from life counts as life: too many open files, permissions.
            return error.errno not in {errno.ENXIO, errno.ENOENT}
        return True

    def _of(self, queue: str) -> Path:
        return self._directory / quote(queue, safe="")

    def _ring(self, directory: Path) -> None:
        """Ring every bell; a ring that fails is made up for by the consumer's own look."""
        try:
            found = [*directory.iterdir()]
        except OSError:
            return
        for path in found:
            if not path.name.startswith("."):
                _ring_one(path)


def _ring_one(path: Path) -> None:
    try:
        end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return
    try:
        with suppress(OSError):  # full: it was rung often enough; broken: it is gone
            os.write(end, b"\0")
    finally:
        os.close(end)
