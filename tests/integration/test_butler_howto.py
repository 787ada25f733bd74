"""The examples of the how-to that reads the data run as they stand."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platevault.adapters.butler.ingest import ButlerIngest
from platevault.compose.cameras import load_camera
from platevault.compose.settings import OodsSettings
from platevault.domain.assembly import assemble
from platevault.domain.camera import Camera
from platevault.testing.raw_files import some_counts, write_raw_file

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "read-the-data.md"
IMAGE = "CC_O_20250415_000060"


@pytest.fixture
def camera() -> Camera:
    return load_camera("comcam")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, camera: Camera) -> Path:
    """A directory in which a night was run."""

    async def run() -> None:
        file = write_raw_file(
            tmp_path / "night" / "oods", camera, IMAGE, "R22_S11", seed=4, compressed=False
        )
        async with ButlerIngest(repository=tmp_path / "night" / "butler") as ingest:
            (result,) = await ingest.ingest(camera, IMAGE, [file])
            assert result.problem == ""

    asyncio.run(run())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_give_what_the_page_says(
    there: Path, camera: Camera, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    try:
        kind = camera.detector_by_name["R22_S11"].type
        whole = assemble(tuple(some_counts(kind, seed=4)), kind)
        np.testing.assert_array_equal(names["image"], whole)
        assert names["header"]["OBSID"] == IMAGE
        assert names["level"] > 0
        assert names["overscan"].shape == (2000, 64)
        assert names["target"] == "field 7"
        np.testing.assert_array_equal(names["stamp"], whole[500:700, 1000:1400])
        assert (names["columns"], names["rows"]) == (4072, 4000)
        assert names["paths"] == {4: str(there / "night" / "oods" / f"{IMAGE}_R22_S11.fits")}
        assert (2025041500060, 4) in names["found"]
        assert capsys.readouterr().out == f"{IMAGE} science {camera.filters[0].name} 30.0\n"
    finally:
        names["butler"].close()


def test_ids_and_names_are_those_of_the_page(camera: Camera) -> None:
    assert camera.detector_by_name["R22_S11"].id == 4


def test_the_setting_of_the_page_is_one() -> None:
    assert "`oods: {compatibility: obs_lsst}`" in PAGE.read_text()
    assert OodsSettings(compatibility="obs_lsst").compatibility == "obs_lsst"
