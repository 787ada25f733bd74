"""How long commands take."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import quantiles


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Times from command to final reply.

    Attributes
    ----------
    count
        How many were measured.
    p50_s, p95_s, longest_s
        Median, 95th percentile, and the longest [s].
    """

    count: int
    p50_s: float
    p95_s: float
    longest_s: float


async def measure_command_round_trip(
    command: Callable[[], Awaitable[object]], *, count: int = 200, warm_up: int = 20
) -> RoundTrips:
    """Give one command after the other and measure each until its final reply.

    Parameters
    ----------
    command
        Sends a command and returns with its final reply, as ``sal.Remote.command`` does.
    count
        Commands that are measured; 20 at least say something of the 95th percentile.
    warm_up
        Commands before those, in which both sides meet.
    """
    for _ in range(warm_up):
        await command()
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await command()
        times.append(time.perf_counter() - begun)
    parts = quantiles(times, n=20, method="inclusive")
    return RoundTrips(count, parts[9], parts[18], max(times))
