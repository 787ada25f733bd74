"""The ledger in PostgreSQL keeps the contract, and what is its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, NoReturn

import psycopg
import pytest

from platevault.adapters.postgres import PostgresFileLedger, PostgresSettings
from platevault.ports.file_ledger import FileLedger
from platevault.testing.file_ledger_contract import FileLedgerContract, NewStore, Sql
from platevault.testing.servers import PostgresServer, ServerMissingError

pytestmark = pytest.mark.servers
_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[PostgresServer]:
    try:
        with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
            yield server
    except ServerMissingError as error:
        service_missing(str(error))


@pytest.fixture
def settings(server: PostgresServer) -> PostgresSettings:
    return PostgresSettings(
        host=server.host, port=server.port, schema=f"ledger_{next(_numbers)}", connections=4
    )


class TestPostgresFileLedger(FileLedgerContract):
    @pytest.fixture
    async def ledger(self, settings: PostgresSettings) -> AsyncIterator[PostgresFileLedger]:
        async with PostgresFileLedger(settings=settings) as ledger:
            yield ledger

    @pytest.fixture
    async def other(
        self, ledger: PostgresFileLedger, settings: PostgresSettings
    ) -> AsyncIterator[PostgresFileLedger]:
        async with PostgresFileLedger(settings=settings) as other:
            yield other

    @pytest.fixture
    def sql(
        self, ledger: PostgresFileLedger, server: PostgresServer, settings: PostgresSettings
    ) -> Sql:
        async def run(statement: str) -> list[tuple[Any, ...]]:
            async with await psycopg.AsyncConnection.connect(
                server.url, options=f"-c search_path={settings.schema}"
            ) as connection:
                done = await connection.execute(statement)
                return await done.fetchall() if done.description else []

        return run

    @pytest.fixture
    def new_store(self, settings: PostgresSettings) -> NewStore:
        def make() -> Callable[[], AbstractAsyncContextManager[FileLedger]]:
            fresh = replace(settings, schema=f"ledger_{next(_numbers)}")
            return lambda: PostgresFileLedger(settings=fresh)

        return make
