"""The progress of a night is true, and asked for no more often than it may change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typing_extensions import override

from platevault.adapters.sqlite import SqliteFileLedger
from platevault.compose.night.progress import NightProgress
from platevault.domain.ids import FileKind
from platevault.domain.inventory import ExposureRecord
from platevault.domain.lifecycles import Destination, done_state
from platevault.testing.exposures_contract import an_exposure, bring_to, files_of


class CountingLedger(SqliteFileLedger):
    """Counts the questions for exposures."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[str] = []

    @override
    async def exposure(self, image: str) -> ExposureRecord | None:
        self.asked.append(image)
        return await super().exposure(image)


async def _finish(ledger: SqliteFileLedger, number: int) -> None:
    for destination in Destination:
        for key in files_of(an_exposure(number)):
            await bring_to(ledger, key, done_state(key.kind, destination), destination)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[CountingLedger]:
    ledger = CountingLedger(tmp_path / "ledger.sqlite")
    async with ledger:
        for number in (1, 2):
            exposure = an_exposure(number)
            await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
        yield ledger


async def test_an_exposure_that_is_finished_is_not_asked_for_again(ledger: CountingLedger) -> None:
    images = [an_exposure(number).image for number in (1, 2)]
    await _finish(ledger, 1)
    progress = NightProgress(ledger)
    first = await progress.look(images)
    assert [one.finished for one in first] == [True, False]
    ledger.asked.clear()
    assert await progress.look(images) == first
    assert ledger.asked == [images[1]]


async def test_an_exposure_that_is_not_registered_is_left_out(ledger: CountingLedger) -> None:
    progress = NightProgress(ledger)
    found = await progress.look([an_exposure(1).image, an_exposure(9).image])
    assert [one.image for one in found] == [an_exposure(1).image]
    raws = [key for key in files_of(an_exposure(1)) if key.kind is FileKind.RAW]
    assert found[0].sensors == len(raws)
    assert found[0].pending == len(files_of(an_exposure(1))) * len(Destination)
