"""Lease stores keep their contract, and what is their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from platevault.adapters.memory.leases import MemoryLeases
from platevault.ports.leases import Leases
from platevault.testing.clocks import SteppedClock
from platevault.testing.leases_contract import Advance, LeasesContract, OpenLeases


class TestMemoryLeases(LeasesContract):
    @pytest.fixture
    def clock(self) -> SteppedClock:
        return SteppedClock()

    @pytest.fixture
    def leases(self, clock: SteppedClock) -> MemoryLeases:
        return MemoryLeases(clock=clock)

    @pytest.fixture
    def advance(self, clock: SteppedClock) -> Advance:
        return clock.advance

    @pytest.fixture
    def open_leases(self) -> OpenLeases:
        @asynccontextmanager
        async def opened() -> AsyncIterator[tuple[Leases, Advance]]:
            clock = SteppedClock()
            yield MemoryLeases(clock=clock), clock.advance

        return opened

    async def test_numbers_begin_where_a_ledger_says(self, clock: SteppedClock) -> None:
        leases = MemoryLeases(clock=clock, first_fence=7_000)
        grants = [await leases.acquire(name, holder="f1", ttl_s=1.0) for name in "ab"]
        assert [grant.fence for grant in grants if grant is not None] == [7_000, 7_001]
