"""The simulated observatory: one device time, telescopes, weather, cameras and their DAQs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from platevault.sim.clock import DeviceClock
from platevault.sim.telemetry import (
    SIMULATED,
    Said,
    aux_telescope,
    main_telescope,
    seeing_monitor,
    target_events,
    weather_tower,
)
from platevault.sim.telescope import Target, Telescope, Track
from platevault.sim.weather import Weather

#: Period of telescope telemetry [s].
_TELEMETRY_S = 1.0
#: Periods of the weather tower and of the seeing monitor [s].
_WEATHER_S, _SEEING_S = 10.0, 120.0


class Stepped(Protocol):
    """A device that moves with device time."""

    def step(self, duration_s: float) -> object:
        """Move on by ``duration_s`` [s]."""


class Announcer(Protocol):
    """Publishes what devices say."""

    async def say(self, said: Said) -> None:
        """Publish one sample, stamped with the present device time."""

    async def say_known(self, said: Said) -> None:
        """Publish what the component's interface has of a sample, nothing if it has no such topic.

        Cameras of one family differ by a few fields and topics.
        """


class Observatory:
    """Moves device time and lets every device say what it measures.

    Parameters
    ----------
    clock
        Device time; nobody else steps it.
    telescopes
        ``main`` and ``aux``, those that exist.
    weather
        Weather of the site.
    announcer
        Publishes samples.
    devices
        Stepped along, such as DAQs.
    """

    def __init__(
        self,
        *,
        clock: DeviceClock,
        telescopes: Mapping[str, Telescope],
        weather: Weather,
        announcer: Announcer,
        devices: Sequence[Stepped],
    ) -> None:
        self.clock = clock
        self.telescopes = telescopes
        self._weather = weather
        self._announcer = announcer
        self._devices = devices
        self._weather_due_tai = 0.0
        self._seeing_due_tai = 0.0
        self._moving = asyncio.Lock()

    @property
    def weather(self) -> Weather:
        """Weather of the site."""
        return self._weather

    async def start(self) -> None:
        """Say everything once, so that whoever listens later finds a complete state."""
        now = self.clock.now_tai()
        for name in self.telescopes:
            for component, index in SIMULATED[name]:
                await self._announcer.say(Said(component, "simulationMode", {"mode": 1}, index))
            await self._say(target_events(name, None, now, dome_open=False))
        await self.advance(2 * _TELEMETRY_S)

    async def point(self, telescope: str, target: Target | None) -> Target | None:
        """Send a telescope to a target, ``None`` for the dome; gives it with its track number."""
        device = self.telescopes[telescope]
        if target is None:
            device.target = None
            pointed = None
        else:
            pointed = device.slew(target)
        await self._say(
            target_events(telescope, pointed, self.clock.now_tai(), dome_open=pointed is not None)
        )
        return pointed

    async def advance(self, duration_s: float) -> None:
        """Move device time on by ``duration_s`` [s], with telemetry every second on the way."""
        async with self._moving:
            begin = self.clock.now_tai()
            steps = max(1, int(np.ceil(duration_s / _TELEMETRY_S)))
            moments = begin + np.linspace(0.0, duration_s, steps + 1)
            # One second more at the front, for the block that ends with the first moment.
            tracked = np.concatenate([[begin - 1.0], moments])
            tracks: dict[str, tuple[Track, Target | None]] = {}
            for name, telescope in self.telescopes.items():
                track = await asyncio.to_thread(telescope.track, tracked)
                tracks[name] = track, telescope.target
            for at in range(2, tracked.size):
                step_s = float(tracked[at] - self.clock.now_tai())
                self.clock.step(max(step_s, 0.0))
                for device in self._devices:
                    device.step(max(step_s, 0.0))
                for name, (track, target) in tracks.items():
                    said = main_telescope if name == "main" else aux_telescope
                    await self._say(said(track, target, at))
                await self._say_weather(self.clock.now_tai())
                # Let the services have the loop: a night at full speed must not starve them.
                await asyncio.sleep(0)

    async def skip_to(self, moment_tai: float) -> None:
        """Jump to a later moment [s, TAI] without telemetry on the way; never back."""
        async with self._moving:
            jump_s = moment_tai - self.clock.now_tai()
            if jump_s > 0:
                self.clock.step(jump_s)
                for device in self._devices:
                    device.step(jump_s)

    async def _say_weather(self, now_tai: float) -> None:
        if now_tai >= self._weather_due_tai:
            self._weather_due_tai = now_tai + _WEATHER_S
            await self._say(weather_tower(self._weather.at(now_tai), now_tai))
        if now_tai >= self._seeing_due_tai:
            self._seeing_due_tai = now_tai + _SEEING_S
            await self._say(seeing_monitor(self._weather.at(now_tai), now_tai))

    async def _say(self, sayings: Iterable[Said]) -> None:
        # All of one moment together: a broker takes as long for ten samples as for one.
        async with asyncio.TaskGroup() as group:
            for said in sayings:
                group.create_task(self._announcer.say(said), name=f"say-{said.topic}")
