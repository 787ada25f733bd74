"""Two OODS processes may share one Butler repository whose registry is a SQLite file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from platevault.testing.cameras import tiny_camera
from platevault.testing.raw_files import write_raw_file

WORKER = Path(__file__).with_name("ingest_worker.py")
IMAGES = [f"TC_O_20250415_{number:06d}" for number in range(60, 64)]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_processes_that_ingest_the_same_exposures_catalogue_each_file_once(tmp_path: Path) -> None:
    """They also make the repository and register the camera at the same time."""
    camera = tiny_camera()
    for image in IMAGES:
        for detector in camera.detectors:
            write_raw_file(tmp_path / "files", camera, image, detector.name, seed=detector.id)
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path / "repo"), str(tmp_path / "files"), way],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for way in ("forward", "backward", "forward")
    ]  # fmt: skip
    for child in running:
        output, errors = child.communicate(timeout=150)
        assert child.returncode == 0, errors
        problems = json.loads(output)
        assert len(problems) == len(IMAGES) * len(camera.detectors)
        assert {*problems.values()} == {""}
    with Butler.from_config(str(tmp_path / "repo")) as butler:
        refs = butler.query_datasets("raw", collections=f"{camera.name}/raw/all", find_first=False)
        assert len(refs) == len(IMAGES) * len(camera.detectors)
        assert len(butler.query_dimension_records("exposure")) == len(IMAGES)
    # The repository that lost the race to be the first is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "repo"]
