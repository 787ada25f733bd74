"""The manifest lists what an exposure must give, in the form that readers know."""

from __future__ import annotations

import json

from platevault.domain.inventory import Exposure
from platevault.services.archive_controller import encode_manifest

IMAGE = "MC_O_20250415_000060"


def manifest(sensors: dict[str, str]) -> dict[str, object]:
    exposure = Exposure(IMAGE, "LSSTCam", 20250415, 2025041500060, sensors)
    return dict(json.loads(encode_manifest(exposure)))


def test_it_has_the_keys_of_a_real_one() -> None:
    assert manifest({"R22_S11": "SCIENCE"}) == {
        "fileName": f"{IMAGE}_expectedSensors.json",
        "fileType": "expectedSensors",
        "obsId": IMAGE,
        "version": 1.0,
        "expectedSensors": {"R22_S11": "SCIENCE"},
    }


def test_full_frames_of_every_sensor_are_listed_as_science() -> None:
    found = manifest({"R44_SW1": "WAVEFRONT", "R00_SG0": "GUIDER", "R01_S00": "SCIENCE"})
    assert found["expectedSensors"] == {
        "R00_SG0": "SCIENCE",
        "R01_S00": "SCIENCE",
        "R44_SW1": "SCIENCE",
    }


def test_the_same_exposure_gives_the_same_bytes() -> None:
    one = Exposure(IMAGE, "LSSTCam", 20250415, 1, {"R01_S00": "SCIENCE", "R01_S01": "SCIENCE"})
    two = Exposure(IMAGE, "LSSTCam", 20250415, 1, {"R01_S01": "SCIENCE", "R01_S00": "SCIENCE"})
    assert encode_manifest(one) == encode_manifest(two)
