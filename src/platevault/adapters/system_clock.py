"""The time of the machine."""

from __future__ import annotations

import asyncio
import time

from platevault.domain.timescales import tai_from_utc


class SystemClock:
    """The machine's time as TAI; sleeping does not depend on steps of the machine's time."""

    def now_tai(self) -> float:
        """Give the present moment [s, TAI]; may step back when the machine's clock is set."""
        return tai_from_utc(time.time())  # noqa: TID251 (this is the Clock that others take)

    async def sleep(self, duration_s: float) -> None:
        """Return after ``duration_s`` [s] of the monotonic clock."""
        await asyncio.sleep(max(0.0, duration_s))
