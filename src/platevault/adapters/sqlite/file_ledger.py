"""The file ledger in one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from typing_extensions import override

from platevault.adapters.sql_ledger.errors import LedgerMissingError
from platevault.adapters.sqlite import rows, transactions
from platevault.adapters.sqlite.connection import ConnectionThread, open_connection
from platevault.adapters.sqlite.migrations import check_schema, migrate
from platevault.domain.ids import FileKey
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    ExposureRecord,
    FileRecord,
    HeaderReference,
    ToldResult,
)
from platevault.domain.lifecycles import Destination, FileState
from platevault.ports.file_ledger import Change, FileLedger, Staged

_MAX_WAITING = 256


class SqliteLedgerReader:
    """Reads a ledger that exists, while others write it; never changes the file.

    An asynchronous context manager, which opens a connection in a thread of its own.

    Parameters
    ----------
    path
        The database file.
    busy_timeout_s
        How long to wait for a lock [s].

    Raises
    ------
    LedgerMissingError
        On entering: there is no such file. Do not retry.
    LedgerSchemaError
        On entering: another release made it. Do not retry.
    """

    def __init__(self, path: Path | str, *, busy_timeout_s: float = 5.0) -> None:
        self._path = Path(path)
        self._busy_timeout_s = busy_timeout_s
        self._reader = ConnectionThread(
            name="ledger-reader",
            path=self._path,
            connect=self._connect_reader,
            begin="BEGIN",
            max_waiting=_MAX_WAITING,
        )

    async def __aenter__(self) -> Self:
        opened = False
        try:
            await self._open()
            opened = True
        finally:
            if not opened:
                await self._close()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def _open(self) -> None:
        await self._reader.start()

    async def _close(self) -> None:
        await self._reader.close()

    def _connect_reader(self) -> sqlite3.Connection:
        if not self._path.is_file():
            raise LedgerMissingError("There is no ledger here", path=str(self._path))
        connection = open_connection(
            self._path, busy_timeout_s=self._busy_timeout_s, read_only=True
        )
        return _or_closed(connection, check_schema)

    async def exposure(self, image: str) -> ExposureRecord | None:
        """Give one exposure, as `FileLedger.exposure`."""
        return await self._reader.call(partial(rows.select_exposure, image=image))

    async def exposures(
        self, *, camera: str = "", day_obs: int = 0, unfinished: bool = False
    ) -> list[ExposureRecord]:
        """List exposures by name, as `FileLedger.exposures`."""
        return await self._reader.call(
            partial(rows.select_exposures, camera=camera, day_obs=day_obs, unfinished=unfinished)
        )

    async def files(
        self,
        *,
        image: str = "",
        sensors: Collection[str] = (),
        destination: Destination | None = None,
        states: Collection[FileState] = (),
    ) -> list[FileRecord]:
        """List files, as `FileLedger.files`."""
        return await self._reader.call(
            partial(
                rows.select_files,
                image=image,
                sensors=sensors,
                destination=destination,
                states=states,
            )
        )

    async def attempts(self, image: str) -> list[AttemptRecord]:
        """List attempts, as `FileLedger.attempts`."""
        return await self._reader.call(partial(rows.select_attempts, image=image))

    async def told(self, image: str) -> list[ToldResult]:
        """List published results, as `FileLedger.told`."""
        return await self._reader.call(partial(rows.select_told, image=image))


class SqliteFileLedger(SqliteLedgerReader, FileLedger):
    """The `platevault.ports.file_ledger.FileLedger` port on a SQLite file.

    An asynchronous context manager; entering makes the file and brings its schema up to date.
    Writes go through one thread; those that come together share one transaction and one wait for
    the disk, and still succeed or fail alone. Several processes may use one file, on one host.

    Parameters
    ----------
    path
        The database file; its directory must exist. Not on a network file system.
    busy_timeout_s
        How long a write waits for another process [s].
    max_pages
        Largest size of the file [4096 bytes]; 0 is no limit of our own.
    """

    def __init__(
        self, path: Path | str, *, busy_timeout_s: float = 5.0, max_pages: int = 0
    ) -> None:
        super().__init__(path, busy_timeout_s=busy_timeout_s)
        self._max_pages = max_pages
        self._writer = ConnectionThread(
            name="ledger-writer",
            path=self._path,
            connect=self._connect_writer,
            begin="BEGIN IMMEDIATE",
            max_waiting=_MAX_WAITING,
            busy_timeout_s=busy_timeout_s,
        )

    @override
    async def _open(self) -> None:
        await self._writer.start()
        await super()._open()

    @override
    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            await self._writer.close()

    def _connect_writer(self) -> sqlite3.Connection:
        connection = open_connection(
            self._path, busy_timeout_s=self._busy_timeout_s, read_only=False
        )
        return _or_closed(connection, self._prepare)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        migrate(connection)
        if self._max_pages:
            connection.execute(f"PRAGMA max_page_count={self._max_pages:d}").fetchone()

    @override
    async def register(
        self, exposure: Exposure, *, files: Collection[FileKey], now_tai: float
    ) -> bool:
        return await self._writer.call(
            partial(transactions.register, exposure=exposure, files=files, now_tai=now_tai)
        )

    @override
    async def set_target(self, image: str, target_dir: str) -> str:
        return await self._writer.call(
            partial(transactions.set_target, image=image, target_dir=target_dir)
        )

    @override
    async def set_end_readout(self, image: str, end_readout_tai: float) -> None:
        await self._writer.call(
            partial(transactions.set_end_readout, image=image, end_readout_tai=end_readout_tai)
        )

    @override
    async def set_header(self, image: str, header: HeaderReference) -> None:
        await self._writer.call(partial(transactions.set_header, image=image, header=header))

    @override
    async def begin(
        self,
        keys: Sequence[FileKey],
        destination: Destination,
        *,
        worker: str,
        fence: int,
        now_tai: float,
    ) -> list[AttemptRecord]:
        return await self._writer.call(
            partial(
                transactions.begin,
                keys=keys,
                destination=destination,
                worker=worker,
                fence=fence,
                now_tai=now_tai,
            )
        )

    @override
    async def stage(self, staged: Sequence[Staged]) -> None:
        await self._writer.call(partial(transactions.stage, staged=tuple(staged)))

    @override
    async def apply(self, changes: Sequence[Change], *, now_tai: float) -> None:
        await self._writer.call(
            partial(transactions.apply, changes=tuple(changes), now_tai=now_tai)
        )

    @override
    async def set_told(self, image: str, result: ToldResult, *, now_tai: float) -> None:
        await self._writer.call(
            partial(transactions.set_told, image=image, result=result, now_tai=now_tai)
        )

    async def first_fence(self) -> int:
        """Give the first fencing number for an embedded lease store that starts now.

        An embedded store forgets its numbers when its process ends, the ledger does not; numbers
        from here on exceed all that former runs can have given. Lease stores that keep their
        numbers need none of this.
        """
        return await self._writer.call(transactions.first_fence)


def _or_closed(
    connection: sqlite3.Connection, check: Callable[[sqlite3.Connection], None]
) -> sqlite3.Connection:
    """Close the connection if the check fails."""
    passed = False
    try:
        check(connection)
        passed = True
    finally:
        if not passed:
            connection.close()
    return connection
