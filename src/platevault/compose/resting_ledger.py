"""The ledger of a site to read, also where its own PostgreSQL was stopped with the night."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from platevault.adapters.sqlite import SqliteLedgerReader
from platevault.compose.ledgers import ledger_reader
from platevault.compose.postgres_server import PostgresServer
from platevault.compose.server_settings import PostgresPart
from platevault.compose.settings import InvalidSettingsError, Settings

if TYPE_CHECKING:
    from platevault.adapters.postgres import PostgresLedgerReader

#: Time between looks whether another reader has ended [s].
_LOOK_S = 0.05
#: Line of a running server's ``postmaster.pid`` with its TCP port, from 0 (PostgreSQL, "Database
#: File Layout").
_PORT_LINE = 3


@asynccontextmanager
async def site_ledger(
    settings: Settings,
) -> AsyncIterator[SqliteLedgerReader | PostgresLedgerReader]:
    """Open a reader of the site's ledger; it changes nothing in it.

    A night with servers of its own leaves its ledger in a PostgreSQL below its root. If that was
    stopped, it runs for the time of the context, on a free port of this host.

    Parameters
    ----------
    settings
        Of the site. With a root alone, the ledger is that of the last night below it.

    Raises
    ------
    ServerMissingError
        PostgreSQL is not installed: ``make services``.
    ServerFailedError
        It did not start; its log is named.
    InvalidSettingsError
        What the night wrote about itself cannot be read: ask as its owner.
    """
    found = await asyncio.to_thread(_of_last_night, settings)
    directory = found.root.absolute() / "servers" / "postgres"
    async with AsyncExitStack() as opened:
        if found.ledger == "postgres" and await asyncio.to_thread(directory.exists):
            await opened.enter_async_context(_its_turn(directory))
            # Looked for in our turn: a server that starts or stops may move its data.
            if await asyncio.to_thread((directory / "data").exists):
                port = await opened.enter_async_context(_answering(directory))
                part = found.postgres.model_copy(update={"host": "127.0.0.1", "port": port})
                found = found.model_copy(update={"postgres": part})
        yield await opened.enter_async_context(ledger_reader(found))


def _of_last_night(settings: Settings) -> Settings:
    """Take the ledger that the last night below the root had, if the settings name none."""
    file = settings.root / "run" / "site.yaml"
    if settings.ledger != "sqlite" or not file.exists():
        return settings
    own = settings.ledger_path
    if own.exists() and own.stat().st_mtime_ns > file.stat().st_mtime_ns:
        return settings
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if content["ledger"] != "postgres":
            return settings
        part = PostgresPart.model_validate(content["postgres"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
        raise InvalidSettingsError(
            "The settings of the last night cannot be read",
            file=str(file),
            problem=str(error),
            expected="settings, written by a night with servers",
        ) from error
    return settings.model_copy(update={"ledger": "postgres", "postgres": part})


@asynccontextmanager
async def _its_turn(directory: Path) -> AsyncIterator[None]:
    """Be the only reader here, so that none stops the server of another."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _answering(directory: Path) -> AsyncIterator[int]:
    """Give the port of the PostgreSQL whose data lie there, run for this time if it is stopped."""
    port = _port_of_running(directory)
    if port:
        yield port
        return
    server = PostgresServer(directory)
    with _interrupted_by_sigterm():
        try:
            await asyncio.to_thread(server.prepare)
            await asyncio.to_thread(server.start)
            yield server.port
        finally:
            await asyncio.to_thread(server.rest)


def _port_of_running(directory: Path) -> int:
    """Give the port of a server that runs on these data, 0 if none does.

    The port in settings of a night that is over may be another server's by now.
    """
    data = (directory / "data").resolve()
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        command = Path("/proc", lines[0].strip(), "cmdline").read_bytes().split(b"\0")
        return int(lines[_PORT_LINE]) if str(data).encode() in command else 0
    except (OSError, ValueError, IndexError):
        return 0


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, in good order, so that no server stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
