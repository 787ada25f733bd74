"""Waiting a little, so that the files of an exposure go into the catalogue together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

from platevault.ports.clock import Clock
from platevault.runtime.service import StopToken
from platevault.runtime.waiting import wait_first


@dataclass(eq=False, slots=True)
class Batch:
    """The sensors of one exposure whose files were announced.

    Attributes
    ----------
    image
        The exposure.
    first_tai, last_tai
        When the first and the newest of them came [s, TAI].
    sensors
        Who waits for what becomes of each sensor.
    expected
        Sensors that can still come; ``None`` while that is not known.
    asked
        Somebody looks up which those are.
    overdue
        It was found in the ledger, and has waited long enough.
    """

    image: str
    first_tai: float
    last_tai: float
    sensors: dict[str, list[asyncio.Future[None]]] = field(default_factory=dict)
    expected: frozenset[str] | None = None
    asked: bool = False
    overdue: bool = False

    @property
    def complete(self) -> bool:
        """Nothing more can come."""
        return self.overdue or (
            self.expected is not None and self.expected.issubset(self.sensors.keys())
        )

    def settle(self, sensor: str, error: Exception | None) -> None:
        """Tell who waits for a sensor that it is done, or why not."""
        for waiting in self.sensors.pop(sensor, []):
            if waiting.done():
                continue
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)

    def settle_rest(self, error: Exception | None) -> None:
        """Tell all who still wait."""
        for sensor in tuple(self.sensors):
            self.settle(sensor, error)


class Gathering:
    """Open batches, one for each exposure.

    Parameters
    ----------
    clock
        Time of the window.
    idle_s
        A batch is due this long after its newest file [s].
    limit_s
        It is due this long after its first file at the latest [s].
    """

    def __init__(self, *, clock: Clock, idle_s: float, limit_s: float) -> None:
        self._clock = clock
        self._idle_s = idle_s
        self._limit_s = limit_s
        self._open: dict[str, Batch] = {}
        self._changed = asyncio.Event()

    def join(self, image: str, sensor: str) -> tuple[Batch, asyncio.Future[None]]:
        """Add a sensor to the batch of its exposure; the future ends when it is settled."""
        now_tai = self._clock.now_tai()
        batch = self._open.setdefault(image, Batch(image, now_tai, now_tai))
        batch.last_tai = now_tai
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch.sensors.setdefault(sensor, []).append(waiting)
        self._tell()
        return batch, waiting

    def expect(self, batch: Batch, sensors: Collection[str]) -> None:
        """Say which sensors can still come."""
        batch.expected = frozenset(sensors)
        self._tell()

    def hurry(self, image: str) -> None:
        """Make an exposure due, whether or not a file of it was announced."""
        now_tai = self._clock.now_tai()
        self._open.setdefault(image, Batch(image, now_tai, now_tai)).overdue = True
        self._tell()

    async def next(self, stop: StopToken) -> Batch:
        """Take the oldest batch that is due; after the stop every batch is due."""
        while True:
            now_tai = self._clock.now_tai()
            for batch in self._open.values():
                if stop.requested or self._remaining_s(batch, now_tai) <= 0:
                    return self._open.pop(batch.image)
            self._changed.clear()
            waits: list[Coroutine[Any, Any, object]] = [self._changed.wait()]
            if self._open:
                remaining_s = min(
                    self._remaining_s(batch, now_tai) for batch in self._open.values()
                )
                waits.append(self._clock.sleep(remaining_s))
            if not stop.requested:
                waits.append(stop.wait())
            await wait_first(*waits)

    def _remaining_s(self, batch: Batch, now_tai: float) -> float:
        if batch.complete or now_tai < batch.first_tai:  # the clock was set back
            return 0.0
        due_tai = min(batch.last_tai + self._idle_s, batch.first_tai + self._limit_s)
        return due_tai - now_tai

    def _tell(self) -> None:
        self._changed.set()
