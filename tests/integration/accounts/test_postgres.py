"""PostgreSQL as the stack starts it lets each account do its work, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import psycopg
import psycopg.sql
import pytest

from platevault.adapters.postgres import PostgresFileLedger, PostgresSettings
from platevault.testing.stack_servers import StackPostgres, password_of, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def postgres(
    tmp_path_factory: pytest.TempPathFactory,
    secrets: Path,
    accounts: ModuleType,
    service_missing: Callable[[str], NoReturn],
) -> Iterator[StackPostgres]:
    server = StackPostgres(tmp_path_factory.mktemp("postgres"), secrets)
    with running(server, service_missing):
        server.guard()
        for _ in range(2):
            accounts.make_postgres(f"{server.host}:{server.port}", secrets)
        yield server


def connected(
    postgres: StackPostgres, account: str, secret: str
) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=postgres.host,
        port=postgres.port,
        user=account,
        dbname="platevault",
        password=secret,
        autocommit=True,
    )


@pytest.mark.parametrize(
    "account", ["forwarder", "archiver", "archive-controller", "oods", "observatory"]
)
async def test_postgres_gives_each_account_the_ledger_and_no_more(
    postgres: StackPostgres, secrets: Path, account: str
) -> None:
    secret = password_of(secrets, "postgres", account)
    settings = PostgresSettings(
        host=postgres.host, port=postgres.port, user=account, password=secret
    )
    async with PostgresFileLedger(settings=settings) as ledger:
        assert await ledger.exposures() == []
        assert await ledger.first_fence() >= 0
    with connected(postgres, account, secret) as connection:
        # Whoever was first, all share what is there.
        assert connection.execute(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'ledger'"
        ).fetchall() == [("platevault",)]
        for refused in (
            "CREATE ROLE intruder",
            "CREATE DATABASE another",
            "COPY (SELECT 1) TO '/tmp/x'",
            "SELECT rolpassword FROM pg_authid",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)


async def test_the_observer_reads_the_ledger_and_changes_nothing(
    postgres: StackPostgres, secrets: Path
) -> None:
    settings = PostgresSettings(
        host=postgres.host,
        port=postgres.port,
        user="archiver",
        password=password_of(secrets, "postgres", "archiver"),
    )
    async with PostgresFileLedger(settings=settings):
        pass
    with connected(
        postgres, "observer", password_of(secrets, "postgres", "observer")
    ) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'ledger' ORDER BY 1"
        ).fetchall()
        assert tables
        for (table,) in tables:
            name = psycopg.sql.Identifier("ledger", str(table))
            connection.execute(psycopg.sql.SQL("SELECT count(*) FROM {}").format(name))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(psycopg.sql.SQL("DELETE FROM {}").format(name))
        for refused in ("CREATE TABLE ledger.x (a int)", "SET ROLE platevault"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)


async def test_the_observer_of_a_site_that_ran_before_reads_what_was_there(
    postgres: StackPostgres, secrets: Path, accounts: ModuleType
) -> None:
    secret = password_of(secrets, "postgres", "archiver")
    settings = PostgresSettings(
        host=postgres.host, port=postgres.port, user="archiver", password=secret
    )
    async with PostgresFileLedger(settings=settings):
        pass
    with connected(postgres, "archiver", secret) as connection:
        connection.execute("REVOKE ALL ON SCHEMA ledger FROM observer")
        connection.execute("REVOKE ALL ON ALL TABLES IN SCHEMA ledger FROM observer")
    with connected(
        postgres, "observer", password_of(secrets, "postgres", "observer")
    ) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM ledger.schema_version")
        accounts.make_postgres(f"{postgres.host}:{postgres.port}", secrets)
        connection.execute("SELECT * FROM ledger.schema_version")


def test_postgres_lets_nobody_in_with_another_password(postgres: StackPostgres) -> None:
    for account, secret in (("archiver", "guessed"), ("postgres", ""), ("installer", "")):
        with pytest.raises(psycopg.OperationalError):
            connected(postgres, account, secret)
