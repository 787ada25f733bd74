"""What every file ledger must do for published results; part of its contract."""

from __future__ import annotations

import pytest

from platevault.domain.inventory import ToldResult
from platevault.ports.file_ledger import FileLedger, UnknownExposureError
from platevault.testing.exposures_contract import an_exposure, registered

RETRIEVAL = "imageRetrievalForArchiving"


class ToldResultsContract:
    """Subclass it in a test; give the fixtures ``ledger`` and ``other``, two views of one store."""

    async def test_nothing_was_told_of_a_new_exposure(self, ledger: FileLedger) -> None:
        await registered(ledger)
        assert await ledger.told(an_exposure().image) == []

    async def test_results_are_listed_in_order(self, ledger: FileLedger, other: FileLedger) -> None:
        await registered(ledger)
        image = an_exposure().image
        results = [
            ToldResult("", "exposureClosed", 1),
            ToldResult("R22_S00", "imageInOODS", 0),
            ToldResult("R22_S00", RETRIEVAL, 0),
            ToldResult("R22_S00", RETRIEVAL, 5611),
            ToldResult("R22_S01", RETRIEVAL, 0),
        ]
        for result in reversed(results):
            await ledger.set_told(image, result, now_tai=200.0)
        assert await other.told(image) == results

    async def test_the_same_result_again_is_success(self, ledger: FileLedger) -> None:
        await registered(ledger)
        image = an_exposure().image
        for now_tai in (200.0, 300.0):
            await ledger.set_told(image, ToldResult("R22_S00", RETRIEVAL, 0), now_tai=now_tai)
        assert await ledger.told(image) == [ToldResult("R22_S00", RETRIEVAL, 0)]

    async def test_results_belong_to_their_image(self, ledger: FileLedger) -> None:
        await registered(ledger, 1)
        await registered(ledger, 2)
        result = ToldResult("R22_S00", RETRIEVAL, 0)
        await ledger.set_told(an_exposure(1).image, result, now_tai=200.0)
        assert await ledger.told(an_exposure(2).image) == []

    async def test_a_result_of_an_unknown_exposure_is_refused(self, ledger: FileLedger) -> None:
        with pytest.raises(UnknownExposureError):
            await ledger.set_told("CC_O_20250415_000099", ToldResult("", "x", 1), now_tai=1.0)
