"""A command costs little more than the bare client needs for there and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from platevault.adapters.kafka import KafkaSettings
from platevault.adapters.system_clock import SystemClock
from platevault.compose.bench.command_round_trip import measure_command_round_trip

pytestmark = [pytest.mark.servers, pytest.mark.slow]

#: Floor of the median, over that of the library's own client for event loops in the same run.
LARGEST_RATIO = 1.5
#: A busy host may spoil a run; it does not spoil all.
RUNS = 3


async def test_a_command_costs_little_more_than_there_and_back(
    kafka_settings: KafkaSettings,
) -> None:
    measured = []
    for run in range(RUNS):
        settings = replace(kafka_settings, subname=f"{kafka_settings.subname}run{run}")
        measured.append(
            await measure_command_round_trip(settings, clock=SystemClock(), repeats=100, rounds=2)
        )
        if measured[-1].ratio <= LARGEST_RATIO:
            break
    best = min(measured, key=lambda result: result.ratio)
    assert best.ratio <= LARGEST_RATIO
    assert best.commands.p95_s >= best.commands.p50_s > 0
    assert best.ratio_to_blocking > 0
    assert len(best.commands.times_s) == len(best.bare.times_s) == len(best.blocking.times_s)
