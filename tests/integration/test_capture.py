"""Exposures go from the camera's events to durable, delivered files."""

from __future__ import annotations

from pathlib import Path

from platevault.domain.lifecycles import Destination
from platevault.testing.capture import CaptureRig


async def test_an_exposure_becomes_one_file_per_sensor_at_every_destination(
    tmp_path: Path,
) -> None:
    async with CaptureRig(tmp_path) as rig:
        await rig.corridor(forwarders=2)
        image = rig.image_name()
        await rig.take(image)
        await rig.until(lambda: rig.is_delivered(image))
        folder = Path(rig.camera.name, "20330517", image)
        sensors = [detector.name for detector in rig.camera.detectors]
        expected = {f"{image}_expectedSensors.json"} | {
            f"{image}_{sensor}.{ending}" for sensor in sensors for ending in ("fits", "json")
        }
        for root in (rig.archive, rig.areas[Destination.OODS], rig.areas[Destination.BACKBONE]):
            assert {path.name for path in (root / folder).iterdir()} == expected
