"""The simulated observatory outlasts a bus that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from platevault.compose.cameras import load_camera
from platevault.compose.context import ProcessContext, process_context
from platevault.compose.serving.sky import Sky, observatory_services
from platevault.compose.settings import Settings
from platevault.ports.sample_bus import BusUnavailableError, SampleBus
from platevault.runtime.metrics import Metrics
from platevault.runtime.service import StopToken
from platevault.testing.clocks import SteppedClock
from platevault.testing.outages import Outage

pytestmark = pytest.mark.timeout(120)


class SkyRig:
    """Telescopes and weather over a bus that can be taken away; time moves in `until`."""

    def __init__(self, sky: Sky, bus: Outage, clock: SteppedClock) -> None:
        self.sky = sky
        self.bus = bus
        self.stop = StopToken()
        self._clock = clock
        self._ready = asyncio.Event()
        self.running = asyncio.get_running_loop().create_task(sky.run(self.stop, self._ready.set))

    @property
    def device_tai(self) -> float:
        """Device time [s, TAI]."""
        return self.sky._observatory.clock.now_tai()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let threads work and time pass."""
        for _ in range(3000):
            if condition():
                return
            if self.running.done():
                self.running.result()
            await self._clock.advance(0.1)
            await asyncio.sleep(0.001)
        raise AssertionError("It did not come to pass")

    async def begun(self) -> None:
        await self.until(self._ready.is_set)
        began_tai = self.device_tai
        await self.until(lambda: self.device_tai > began_tai + 3.0)


@asynccontextmanager
async def observatory(root: Path) -> AsyncIterator[SkyRig]:
    clock = SteppedClock()
    cameras = {"LATISS": load_camera("latiss")}
    metrics = Metrics(CollectorRegistry())
    async with process_context(Settings(root=root), cameras, metrics, {}) as opened:
        bus = Outage(opened.bus, lambda: BusUnavailableError("away"), only=("publish",))
        context: ProcessContext = replace(opened, bus=cast("SampleBus", bus), clock=clock)
        sky, *_ = await observatory_services(context, seed=1, sensors=())
        assert isinstance(sky, Sky)
        rig = SkyRig(sky, bus, clock)
        try:
            yield rig
        finally:
            rig.running.cancel()
            await asyncio.wait({rig.running})


async def test_time_goes_on_when_the_bus_is_back(tmp_path: Path) -> None:
    async with observatory(tmp_path) as rig:
        await rig.begun()
        rig.bus.down = True
        await rig.until(lambda: rig.bus.refused > 50)
        stood_tai = rig.device_tai
        refused = rig.bus.refused
        await rig.until(lambda: rig.bus.refused > refused + 50)
        assert rig.device_tai == stood_tai
        rig.bus.down = False
        await rig.until(lambda: rig.device_tai > stood_tai + 3.0)


async def test_it_stops_while_the_bus_is_away(tmp_path: Path) -> None:
    async with observatory(tmp_path) as rig:
        await rig.begun()
        rig.bus.down = True
        await rig.until(lambda: rig.bus.refused > 5)
        rig.stop.request()
        await rig.until(rig.running.done)
        rig.running.result()
