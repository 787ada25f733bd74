"""Presence stores keep their contract."""

from __future__ import annotations

import pytest

from platevault.adapters.memory.presence import MemoryPresence
from platevault.testing.clocks import SteppedClock
from platevault.testing.presence_contract import Advance, PresenceContract


class TestMemoryPresence(PresenceContract):
    @pytest.fixture
    def clock(self) -> SteppedClock:
        return SteppedClock()

    @pytest.fixture
    def presence(self, clock: SteppedClock) -> MemoryPresence:
        return MemoryPresence(clock=clock)

    @pytest.fixture
    def advance(self, clock: SteppedClock) -> Advance:
        return clock.advance
