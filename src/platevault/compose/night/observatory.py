"""The simulated observatory of a night: device time, telescopes, DAQs, cameras."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from platevault.compose.context import ProcessContext
from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.domain.timescales import day_obs_of, tai_from_utc
from platevault.ports.file_ledger import FileLedger
from platevault.runtime.service import Service
from platevault.sim.announcer import SalAnnouncer
from platevault.sim.camera import CameraDevice
from platevault.sim.camera_csc import SimCameraCsc
from platevault.sim.clock import DeviceClock
from platevault.sim.daq import SimDaq
from platevault.sim.daq_server import DaqServer
from platevault.sim.observatory import Observatory
from platevault.sim.telescope import Site, Telescope
from platevault.sim.weather import Weather

#: Local mean time at which a simulated night begins [h].
_BEGIN_LOCAL_H = 21.0
#: A second night of the same day begins this long after the last exposure of the first [s].
_AFTER_LAST_S = 120.0
_DEGREES_PER_HOUR = 15.0

#: Told camera, topic and image before each event; gives how often it goes out.
EventHook = Callable[[str, str, str], Awaitable[int]]


@dataclass(frozen=True, kw_only=True)
class SimulatedObservatory:
    """Devices of a night.

    Attributes
    ----------
    clock
        Device time.
    observatory
        Steps it.
    daqs, devices
        DAQ and camera by camera name.
    """

    clock: DeviceClock
    observatory: Observatory
    daqs: Mapping[str, SimDaq]
    devices: Mapping[str, CameraDevice]


async def simulate_observatory(
    context: ProcessContext,
    *,
    seed: int,
    sensors: Sequence[str],
    on_event: EventHook,
    begin_tai: float | None = None,
) -> SimulatedObservatory:
    """Build the devices; the numbers of images go on where the ledger's last ones end.

    Parameters
    ----------
    context
        The ports.
    seed, sensors, on_event
        As for `SimDaq` and `CameraDevice`.
    begin_tai
        Device time at first [s, TAI]; this evening if not given.
    """
    cameras = list(context.cameras.values())
    if begin_tai is None:
        begin_tai, first = await _begin(context.ledger, cameras, context.clock.now_tai())
    else:
        first = {
            camera.name: await _next_number(context.ledger, camera, day_obs=0) for camera in cameras
        }
    clock = DeviceClock(begin_tai)
    announcer = SalAnnouncer(bus=context.bus, interfaces=context.interfaces, clock=clock)
    daqs = {
        camera.name: SimDaq(
            camera=camera,
            seed=seed,
            start_tai=begin_tai,
            retention_s=context.settings.daq.store_hours * 3600.0,
        )
        for camera in cameras
    }
    telescopes = {
        camera.components.telescope: Telescope(
            Site(camera.longitude_deg, camera.latitude_deg, camera.elevation_m)
        )
        for camera in cameras
    }
    observatory = Observatory(
        clock=clock,
        telescopes=telescopes,
        weather=Weather(seed),
        announcer=announcer,
        devices=list(daqs.values()),
    )

    def hook(camera: Camera) -> Callable[[str, str], Awaitable[int]]:
        async def told(topic: str, image: str) -> int:
            return await on_event(camera.name, topic, image)

        return told

    devices = {
        camera.name: CameraDevice(
            camera=camera,
            observatory=observatory,
            announcer=announcer,
            daq=daqs[camera.name],
            first_sequence=first[camera.name],
            sensors=[name for name in sensors if name in camera.detector_by_name],
            on_event=hook(camera),
        )
        for camera in cameras
    }
    return SimulatedObservatory(clock=clock, observatory=observatory, daqs=daqs, devices=devices)


def simulated_cameras(
    context: ProcessContext, simulated: SimulatedObservatory
) -> list[SimCameraCsc]:
    """Build the cameras as components, which take turns with device time."""
    turns = asyncio.Lock()
    return [
        SimCameraCsc(
            device=device,
            bus=context.bus,
            interfaces=context.interfaces,
            clock=context.clock,
            version=context.version,
            taking=turns,
        )
        for device in simulated.devices.values()
    ]


def simulated_services(context: ProcessContext, simulated: SimulatedObservatory) -> list[Service]:
    """Build what an observatory offers to other processes: its DAQs, and its cameras."""
    return [
        simulated_daqs(context, simulated.daqs, moves=False),
        *simulated_cameras(context, simulated),
    ]


def simulated_daqs(
    context: ProcessContext, daqs: Mapping[str, SimDaq], *, moves: bool
) -> DaqServer:
    """Build the server of simulated DAQs; with ``moves`` their time goes with ours."""
    daq = context.settings.daq
    return DaqServer(
        devices={context.cameras[name].partition: device for name, device in daqs.items()},
        host=daq.listen,
        port=daq.port,
        control_port=daq.control_port,
        clock=context.clock if moves else None,
    )


async def _begin(
    ledger: FileLedger, cameras: Sequence[Camera], now_tai: float
) -> tuple[float, dict[str, int]]:
    begin_tai = _evening_tai(now_tai, cameras[0].longitude_deg)
    day_obs = day_obs_of(begin_tai)
    first = {}
    for camera in cameras:
        first[camera.name] = await _next_number(ledger, camera, day_obs=day_obs)
        taken = await ledger.exposures(camera=camera.name, day_obs=day_obs)
        ends = [record.end_readout_tai for record in taken if record.end_readout_tai is not None]
        begin_tai = max(begin_tai, max(ends, default=0.0) + _AFTER_LAST_S)
    return begin_tai, first


async def _next_number(ledger: FileLedger, camera: Camera, *, day_obs: int) -> int:
    taken = await ledger.exposures(camera=camera.name, day_obs=day_obs)
    numbers = [ImageName.parse(record.exposure.image).sequence for record in taken]
    return max(numbers, default=0) + 1


def _evening_tai(now_tai: float, longitude_deg: float) -> float:
    """Give the evening of the observing day of ``now_tai`` at a longitude [s, TAI]."""
    day = datetime.strptime(str(day_obs_of(now_tai)), "%Y%m%d").replace(tzinfo=UTC)
    # The observing day begins at 12:00 UTC, so its evening is the first one after that.
    hours = (_BEGIN_LOCAL_H - longitude_deg / _DEGREES_PER_HOUR) % 24.0
    if hours < 12.0:  # noqa: PLR2004 - noon
        hours += 24.0
    return tai_from_utc((day + timedelta(hours=hours)).timestamp())
