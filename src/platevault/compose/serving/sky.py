"""The simulated observatory as a process: device time goes on while no exposure moves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from platevault.compose.context import ProcessContext
from platevault.compose.night.observatory import (
    simulate_observatory,
    simulated_daqs,
    simulated_services,
)
from platevault.compose.night.patience import PatientSampleBus
from platevault.runtime.service import Deadline, Service, StopToken
from platevault.runtime.waiting import wait_first
from platevault.sim.daq import SimDaq
from platevault.sim.observatory import Observatory

#: Time between steps of device time while nothing else moves it [s].
_STEP_S = 1.0


class Sky:
    """Lets the observatory's time go by; a `Service`.

    Parameters
    ----------
    context
        The ports.
    observatory
        What goes on.
    """

    name = "sky"

    def __init__(self, *, context: ProcessContext, observatory: Observatory) -> None:
        self._context = context
        self._observatory = observatory

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Step once a second until ``stop``."""
        await self._observatory.start()
        ready()
        clock = self._context.clock
        while not stop.requested:
            due = Deadline(clock, clock.now_tai() + _STEP_S)
            # A step lasts as long as the bus is away; nobody misses the rest of the last one.
            await wait_first(stop.wait(), self._observatory.advance(_STEP_S))
            await wait_first(stop.wait(), due.wait())


def daq_emulator(context: ProcessContext, *, seed: int) -> list[Service]:
    """Build DAQs alone, triggered over their control channel."""
    daqs = {
        name: SimDaq(
            camera=camera,
            seed=seed,
            start_tai=context.clock.now_tai(),
            retention_s=context.settings.daq.store_hours * 3600.0,
        )
        for name, camera in context.cameras.items()
    }
    return [simulated_daqs(context, daqs, moves=True)]


async def observatory_services(
    context: ProcessContext, *, seed: int, sensors: Sequence[str]
) -> list[Service]:
    """Build telescopes, weather, DAQs and cameras that take commands."""

    async def once(_camera: str, _topic: str, _image: str) -> int:
        return 1

    # Devices retry by the host's time: their own stands still until a sample is out.
    patient = replace(context, bus=PatientSampleBus(bus=context.bus, clock=context.clock))
    simulated = await simulate_observatory(patient, seed=seed, sensors=sensors, on_event=once)
    return [
        Sky(context=context, observatory=simulated.observatory),
        *simulated_services(context, simulated),
    ]
