"""Ledgers remember which results were published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from platevault.adapters.sqlite import SqliteFileLedger
from platevault.testing.told_results_contract import ToldResultsContract


class TestSqliteToldResults(ToldResultsContract):
    @pytest.fixture
    async def ledger(self, tmp_path: Path) -> AsyncIterator[SqliteFileLedger]:
        async with SqliteFileLedger(tmp_path / "ledger.sqlite") as ledger:
            yield ledger

    @pytest.fixture
    async def other(
        self, ledger: SqliteFileLedger, tmp_path: Path
    ) -> AsyncIterator[SqliteFileLedger]:
        async with SqliteFileLedger(tmp_path / "ledger.sqlite") as other:
            yield other
