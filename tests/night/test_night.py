"""Whole nights through the command line, judged by their invariants."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from platevault.client import Archive, Verdict
from platevault.testing.command_line import run_platevault
from platevault.testing.nights import broken_invariants, run_night

ROOT = Path(__file__).parents[2]
FRAMES = ROOT.parent / "shared" / "data" / "frames"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def platevault(*arguments: str, status: int = 0) -> str:
    """Run the command as a user does; gives what it prints."""
    done = run_platevault(*arguments, variables={"COLUMNS": "160"})
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def night(tmp_path: Path, *arguments: str, verb: str = "run", status: int = 0) -> dict[str, Any]:
    """Run a night; gives its JSON report."""
    done, report = run_night(tmp_path, *arguments, verb=verb)
    assert done.returncode == status, done.stdout + done.stderr
    return report


def test_a_night_of_two_cameras_loses_nothing(tmp_path: Path) -> None:
    report = night(
        tmp_path, "--camera", "comcam", "--camera", "latiss", "--exposures", "4",
        "--detectors", "R22_S01,R22_S12,R00_S00",
    )  # fmt: skip
    assert broken_invariants(report) == []
    assert len(report["images"]) == 8
    by_name = {one["camera"]: one for one in report["cameras"]}
    assert by_name["LSSTComCam"]["sensors"] == 8
    assert by_name["LATISS"]["files"] == 4 * 3
    assert all(one["header_completeness"] == 1.0 for one in report["cameras"])
    archive = Archive(tmp_path / "night")
    assert [status.verdict for status in archive.images()] == [Verdict.COMPLETE] * 8
    # A second night in the same place goes on where the first one ended.
    again = night(tmp_path, "--camera", "latiss", "--exposures", "1")
    assert broken_invariants(again) == []
    assert again["images"][0] == max(
        status.record.exposure.image for status in archive.images(camera="LATISS")
    )
    assert len(archive.images(camera="LATISS")) == 5


def test_a_night_with_faults_still_loses_nothing(tmp_path: Path) -> None:
    report = night(
        tmp_path, "--camera", "comcam", "--exposures", "5", "--cadence", "1",
        "--detectors", "R22_S00,R22_S11,R22_S22",
        "--faults", str(ROOT / "docs" / "examples" / "faults.yaml"),
    )  # fmt: skip
    assert broken_invariants(report) == []
    assert len(report["faults"]) == 4


def test_lost_events_lose_no_image(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "- {exposure: 1, fault: lose_event, event: startIntegration}\n"
        "- {exposure: 2, fault: lose_event, event: endReadout}\n"
        "- {exposure: 3, fault: lose_event, event: startReadout}\n"
    )
    report = night(
        tmp_path, "--camera", "latiss", "--exposures", "3", "--cadence", "1",
        "--faults", str(plan),
    )  # fmt: skip
    assert broken_invariants(report) == []
    verdicts = [status.verdict for status in Archive(tmp_path / "night").images()]
    assert verdicts == [Verdict.COMPLETE] * 3


def test_a_header_that_ends_without_its_camera_is_partial_and_the_file_is_there(
    tmp_path: Path,
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("- {exposure: 1, fault: lose_event, event: endOfImageTelemetry}\n")
    report = night(
        tmp_path, "--camera", "latiss", "--exposures", "1", "--faults", str(plan), status=1
    )
    assert [one["name"] for one in report["invariants"] if not one["held"]] == [
        "headers are complete"
    ]
    (status,) = Archive(tmp_path / "night").images()
    assert status.verdict in {Verdict.COMPLETE, Verdict.DEGRADED}


def test_every_kind_of_sensor_of_the_large_camera_goes_through(tmp_path: Path) -> None:
    report = night(
        tmp_path, "--camera", "lsstcam", "--exposures", "1",
        "--detectors", "R01_S00,R22_S11,R00_SG0,R00_SW0,R00_SW1",
    )  # fmt: skip
    assert broken_invariants(report) == []
    raw = next((tmp_path / "night" / "archive").rglob("*_R00_SW0.fits"))
    with fits.open(raw, checksum=True) as file:
        assert [hdu.name for hdu in file[1:]] == [f"Segment1{n}" for n in range(8)]
    manifest = next((tmp_path / "night" / "archive").rglob("*_expectedSensors.json"))
    # Full frames are named like those of science sensors, whatever the sensor is for.
    assert set(json.loads(manifest.read_text())["expectedSensors"].values()) == {"SCIENCE"}


def test_frames_made_elsewhere_are_replayed_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    cube = random.integers(0, 60_000, (4, 2048, 2080)).astype(np.uint16)
    header = fits.Header(
        {
            "DATE-OBS": "2015-12-16T18:26:14.591",
            "EXPTIME": 60.0,
            "FILTER": "rp",
            "OBJECT": "S82_01",
            "OBSTYPE": "EXPOSE",
            "RA": "00:42:14.400",
            "DEC": "+00:21:24.42",
        }
    )
    good, bad = tmp_path / "good.fits", tmp_path / "bad.fits"
    fits.PrimaryHDU(cube, header).writeto(good)
    bad.write_bytes(good.read_bytes()[:100_000])
    camera = str(ROOT / "config" / "cameras" / "sinistro.yaml")
    report = night(tmp_path, "--camera", camera, str(good), str(bad), verb="replay", status=1)
    assert broken_invariants(report) == []
    (image,) = report["images"]
    raw = next((tmp_path / "night" / "archive").rglob(f"{image}_*.fits"))
    with fits.open(raw) as file:
        assert [np.array_equal(file[n + 1].data, cube[n]) for n in range(4)] == [True] * 4
        assert file[0].header["OBJECT"] == "S82_01"
        assert file[0].header["EXPTIME"] == 60.0
        assert file[0].header["RA"] == pytest.approx(10.56)


@pytest.mark.skipif(not FRAMES.is_dir(), reason="needs real Sinistro frames beside the checkout")
def test_real_frames_are_replayed(tmp_path: Path) -> None:
    frames = [str(path) for path in sorted(FRAMES.glob("*[sx]00.fits.fz"))]
    camera = str(ROOT / "config" / "cameras" / "sinistro.yaml")
    report = night(tmp_path, "--camera", camera, *frames, verb="replay")
    assert broken_invariants(report) == []
    assert len(report["images"]) == 2


def test_image_where_answers_for_people_and_programs(tmp_path: Path) -> None:
    report = night(tmp_path, "--camera", "latiss", "--exposures", "1")
    (image,) = report["images"]
    root = str(tmp_path / "night")
    text = platevault("image", "where", image, "--root", root)
    assert text.startswith(f"{image}: complete - 1 of 1 in the archive, 1 of 1 in the Butler")
    content = json.loads(platevault("image", "where", image, "--root", root, "--json"))
    assert content["verdict"] == "complete"
    assert content["expected"] == []
    assert {(one["kind"], one["destination"], one["state"]) for one in content["files"]} >= {
        ("raw", "archive", "written"),
        ("raw", "oods", "catalogued"),
        ("raw", "backbone", "verified"),
        ("sidecar", "oods", "verified"),
    }
    assert {one["outcome"] for one in content["attempts"]} == {"done"}
    raw = next(one for one in content["files"] if one["kind"] == "raw")
    assert re.fullmatch(r"xxh3:[0-9a-f]{32}", raw["digest"])
    assert Path(raw["path"]).stat().st_size == raw["size_bytes"]
    listing = json.loads(platevault("image", "list", "--root", root, "--json"))
    assert [one["image"] for one in listing] == [image]
    unknown = image[:-1] + "9"
    assert unknown in platevault("image", "where", unknown, "--root", root, status=2)


def test_wrong_usage_names_what_is_wrong(tmp_path: Path) -> None:
    root = str(tmp_path / "none")
    assert "moonlight" in platevault("camera", "show", "moonlight", status=2)
    assert "R22_S99" in platevault(
        "night", "run", "--root", root, "--camera", "comcam", "--detectors", "R22_S99", status=2
    )
    plan = tmp_path / "plan.yaml"
    plan.write_text("- {exposure: 1, fault: explode}\n")
    assert "explode" in platevault(
        "night", "run", "--root", root, "--camera", "comcam", "--faults", str(plan), status=2
    )
    settings = tmp_path / "site.yaml"
    settings.write_text("forwarder: {cuont: 3}\n")
    assert "forwarder.cuont" in platevault("config", "check", str(settings), status=2)


def test_a_drill_on_a_server_that_the_night_does_not_use_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "kills.yaml"
    plan.write_text("- {exposure: 1, fault: kill, target: redis}\n")
    told = platevault(
        "night", "run", "--camera", "latiss", "--quiet", "--root", str(tmp_path / "night"),
        "--faults", str(plan), status=2,
    )  # fmt: skip
    assert "--deployment local-servers" in told
