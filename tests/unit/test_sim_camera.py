"""The simulated camera says what a real one says, in order and in device time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.compose.cameras import load_camera
from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.domain.timescales import day_obs_of
from platevault.ports.sample_bus import History
from platevault.sal.schema import load_interfaces
from platevault.sim.announcer import SalAnnouncer
from platevault.sim.camera import CameraDevice, Request, UnknownFilterError
from platevault.sim.camera_csc import KeyValueMapError, parse_key_value_map
from platevault.sim.clock import DeviceClock
from platevault.sim.daq import SimDaq
from platevault.sim.night import plan_night
from platevault.sim.observatory import Observatory
from platevault.sim.telescope import Site, Target, Telescope
from platevault.sim.weather import Weather

BEGIN = 1.8e9
SITE = Site(-70.749417, -30.244639, 2663.0)


class Rig:
    """A camera with its observatory on a memory bus."""

    def __init__(self, camera: Camera) -> None:
        self.clock = DeviceClock(BEGIN)
        self.bus = MemorySampleBus(clock=self.clock)
        self.interfaces = load_interfaces()
        announcer = SalAnnouncer(bus=self.bus, interfaces=self.interfaces, clock=self.clock)
        self.daq = SimDaq(camera=camera, start_tai=BEGIN)
        self.observatory = Observatory(
            clock=self.clock,
            telescopes={camera.components.telescope: Telescope(SITE)},
            weather=Weather(1),
            announcer=announcer,
            devices=[self.daq],
        )
        self.device = CameraDevice(
            camera=camera, observatory=self.observatory, announcer=announcer, daq=self.daq
        )

    async def take(self, request: Request) -> list[tuple[str, Mapping[str, Any], float]]:
        component = self.interfaces.component(self.device.camera.components.camera)
        heard = []
        async with self.bus.subscribe(component.events, history=History.NONE) as samples:
            images = await self.device.take(request)
            async with asyncio.timeout(5):
                async for sample in samples:
                    heard.append((sample.topic.name, sample.fields, sample.sent_tai))
                    last = sample.fields.get("imageName") == images[-1]
                    if sample.topic.name == "endOfImageTelemetry" and last:
                        break
        return heard


@pytest.fixture(params=["latiss", "comcam", "lsstcam"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(load_camera(request.param))


async def test_events_of_an_exposure_come_in_order_and_name_it(rig: Rig) -> None:
    await rig.device.start()
    telescope = rig.device.camera.components.telescope
    ra, dec = rig.observatory.telescopes[telescope].overhead_position(BEGIN)
    await rig.observatory.point(telescope, Target("field", ra, dec, 10.0))
    heard = await rig.take(Request("OBJECT", 15.0, count=2, keys={"program": "BLOCK:1"}))
    named = [name for name, fields, _ in heard if "imageName" in fields]
    assert named == 2 * [
        "startIntegration",
        "startReadout",
        "imageReadoutParameters",
        "endReadout",
        "endOfImageTelemetry",
    ]
    shutter = [name for name, _, _ in heard if "Shutter" in name]
    assert shutter == 2 * [
        "startShutterOpen",
        "endShutterOpen",
        "startShutterClose",
        "endShutterClose",
    ]
    stamps = [stamp for _, _, stamp in heard]
    assert stamps == sorted(stamps)
    start = next(fields for name, fields, _ in heard if name == "startIntegration")
    name = ImageName.parse(start["imageName"])
    assert (name.source, name.day_obs) == (rig.device.camera.code, day_obs_of(BEGIN))
    assert "BLOCK\\:1" in start["additionalValues"]
    ends = [fields for name, fields, _ in heard if name == "endOfImageTelemetry"]
    assert [end["imageNumber"] for end in ends] == [1, 2]
    assert all(end["measuredShutterOpenTime"] == 15.0 for end in ends)
    assert all(end["darkTime"] >= 15.0 for end in ends)


async def test_a_bias_does_not_open_the_shutter(rig: Rig) -> None:
    await rig.device.start()
    heard = await rig.take(Request("BIAS", 0.0))
    assert not [name for name, _, _ in heard if "Shutter" in name]
    end = next(fields for name, fields, _ in heard if name == "endOfImageTelemetry")
    assert end["measuredShutterOpenTime"] == 0.0


async def test_the_image_is_complete_in_the_daq_at_end_readout(rig: Rig) -> None:
    await rig.device.start()
    await rig.take(Request("DARK", 1.0))
    stored = rig.daq.images()
    assert [image.complete for image in stored] == [True]
    assert len(stored[0].boards) == len(rig.device.camera.boards)


async def test_a_filter_the_camera_does_not_have_is_refused(rig: Rig) -> None:
    with pytest.raises(UnknownFilterError, match="moonlight"):
        await rig.device.set_filter("moonlight")


def test_a_night_gives_exactly_its_exposures_and_repeats_with_its_seed() -> None:
    camera = load_camera("lsstcam")
    for exposures in (1, 2, 4, 5, 6, 7, 12):
        plans = [
            list(
                plan_night(camera, Telescope(SITE), begin_tai=BEGIN, exposures=exposures, seed=seed)
            )
            for seed in (3, 3, 4)
        ]
        assert sum(visit.snaps for visit in plans[0]) == exposures
        assert plans[0] == plans[1]
        if exposures > 4:
            assert plans[0] != plans[2]


def test_science_fields_are_up() -> None:
    telescope = Telescope(SITE)
    import numpy as np

    for visit in plan_night(
        load_camera("comcam"), telescope, begin_tai=BEGIN, exposures=20, seed=9
    ):
        if visit.target is not None:
            telescope.slew(visit.target)
            assert telescope.track(np.array([BEGIN])).elevation_deg[0] > 40.0


def test_key_value_maps_hold_colons_in_values() -> None:
    text = "imageType: BIAS, groupId: 2025-05-02T13:29:16.756, "
    assert parse_key_value_map(text) == {
        "imageType": "BIAS",
        "groupId": "2025-05-02T13:29:16.756",
    }
    with pytest.raises(KeyValueMapError, match="nonsense"):
        parse_key_value_map("imageType: BIAS, nonsense")
