"""The file ledger in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from typing_extensions import override

from platevault.adapters.postgres import rows, transactions
from platevault.adapters.postgres.migrations import check_schema, migrate
from platevault.adapters.postgres.pool import Connection, ConnectionPool
from platevault.adapters.postgres.settings import PostgresSettings
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


class PostgresLedgerReader:
    """Reads a ledger that exists, while others write it; its connections cannot write.

    An asynchronous context manager. A role that may only read is enough.

    Parameters
    ----------
    settings
        Where, who, and the limits.

    Raises
    ------
    LedgerUnavailableError
        On entering: the server does not answer. Retry.
    LedgerSchemaError
        On entering: there is no ledger, or another release made it. Do not retry.
    """

    def __init__(self, *, settings: PostgresSettings) -> None:
        self._settings = settings
        self._pool = ConnectionPool(settings=settings, read_only=True)

    async def __aenter__(self) -> Self:
        await self._pool.open(self._prepare)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._pool.close()

    async def _prepare(self, connection: Connection) -> None:
        await check_schema(connection, self._settings)

    async def exposure(self, image: str) -> ExposureRecord | None:
        """Give one exposure, as `FileLedger.exposure`."""
        return await self._pool.ask(partial(rows.select_exposure, image=image))

    async def exposures(
        self, *, camera: str = "", day_obs: int = 0, unfinished: bool = False
    ) -> list[ExposureRecord]:
        """List exposures by name, as `FileLedger.exposures`."""
        return await self._pool.ask(
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
        return await self._pool.ask(
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
        return await self._pool.ask(partial(rows.select_attempts, image=image))

    async def told(self, image: str) -> list[ToldResult]:
        """List published results, as `FileLedger.told`."""
        return await self._pool.ask(partial(rows.select_told, image=image))


class PostgresFileLedger(PostgresLedgerReader, FileLedger):
    """The `platevault.ports.file_ledger.FileLedger` port on PostgreSQL 14 or newer.

    An asynchronous context manager; entering makes the schema and brings it up to date. Calls run
    side by side, each change in a transaction that locks the rows it decides on. When the server
    is away each call fails at once or within ``call_within_s``, and the first call after it is
    back succeeds.

    Parameters
    ----------
    settings
        Where, who, and the limits.
    migrates
        Bring the schema up to date, which needs its owner's account; without, a schema of another
        release is refused.

    Raises
    ------
    LedgerUnavailableError
        On entering: the server does not answer. Retry.
    LedgerSchemaError
        On entering: a newer release made it. Do not retry.

    Notes
    -----
    A call that is cancelled is made whole or not at all.
    """

    def __init__(self, *, settings: PostgresSettings, migrates: bool = True) -> None:
        self._settings = settings
        self._migrates = migrates
        self._pool = ConnectionPool(settings=settings, read_only=False)

    @override
    async def _prepare(self, connection: Connection) -> None:
        if self._migrates:
            await migrate(connection, self._settings)
        else:
            await check_schema(connection, self._settings)

    @override
    async def register(
        self, exposure: Exposure, *, files: Collection[FileKey], now_tai: float
    ) -> bool:
        return await self._pool.call(
            partial(transactions.register, exposure=exposure, files=files, now_tai=now_tai)
        )

    @override
    async def set_target(self, image: str, target_dir: str) -> str:
        return await self._pool.call(
            partial(transactions.set_target, image=image, target_dir=target_dir)
        )

    @override
    async def set_end_readout(self, image: str, end_readout_tai: float) -> None:
        await self._pool.call(
            partial(transactions.set_end_readout, image=image, end_readout_tai=end_readout_tai)
        )

    @override
    async def set_header(self, image: str, header: HeaderReference) -> None:
        await self._pool.call(partial(transactions.set_header, image=image, header=header))

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
        return await self._pool.call(
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
        await self._pool.call(partial(transactions.stage, staged=tuple(staged)))

    @override
    async def apply(self, changes: Sequence[Change], *, now_tai: float) -> None:
        await self._pool.call(partial(transactions.apply, changes=tuple(changes), now_tai=now_tai))

    @override
    async def set_told(self, image: str, result: ToldResult, *, now_tai: float) -> None:
        await self._pool.call(
            partial(transactions.set_told, image=image, result=result, now_tai=now_tai)
        )

    @property
    def problem(self) -> str:
        """Why the last call found no server; empty if it did."""
        return self._pool.problem

    async def inquire(self) -> None:
        """Ask the server whether it is there; `problem` tells.

        Raises
        ------
        LedgerUnavailableError
            It is not. Its users retry by themselves.
        """
        await self._pool.ask(lambda connection: connection.execute("SELECT"))

    async def first_fence(self) -> int:
        """Give the first fencing number for an embedded lease store that starts now.

        An embedded store forgets its numbers when its process ends, the ledger does not; numbers
        from here on exceed all that former runs can have given. Lease stores that keep their
        numbers need none of this.
        """
        return await self._pool.call(transactions.first_fence)
