"""Shipped cameras are registered whole, and their exposures go in at a price that is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from platevault.adapters.butler.ingest import ButlerIngest
from platevault.adapters.butler.measurement import measure_ingest
from platevault.compose.cameras import load_camera
from platevault.domain.headers import HeaderValue
from platevault.ports.ingest import IngestFile
from platevault.testing.cameras import tiny_camera
from platevault.testing.raw_files import a_header


@pytest.mark.parametrize(
    ("name", "detectors", "filters"),
    [
        ("comcam", 9, {"g_01": "g", "unknown": "unknown", "r_03": "r"}),
        ("latiss", 1, {"SDSSr_65mm~empty": "r", "empty~holo4_003": "white"}),
        ("lsstcam", 205, {"u_24": "u", "empty": "white", "none": "white"}),
    ],
)
async def test_a_shipped_camera_is_registered(
    tmp_path: Path, name: str, detectors: int, filters: dict[str, str]
) -> None:
    camera = load_camera(name)
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        await ingest.register_camera(camera)
        await ingest.register_camera(camera)
    with Butler.from_config(str(tmp_path / "repo"), instrument=camera.name) as butler:
        assert len(butler.query_dimension_records("detector", limit=None)) == detectors
        known = {
            record.name: record.band
            for record in butler.query_dimension_records("physical_filter", limit=None)
        }
        (instrument,) = butler.query_dimension_records("instrument")
    assert filters.items() <= known.items()
    assert instrument.detector_max == 1000
    assert instrument.exposure_max == 7050123199999


@pytest.mark.parametrize("name", ["comcam", "latiss", "lsstcam"])
async def test_a_shipped_camera_may_bear_the_names_of_obs_lsst(tmp_path: Path, name: str) -> None:
    async with ButlerIngest(repository=tmp_path / "repo", compatibility="obs_lsst") as ingest:
        await ingest.register_camera(load_camera(name))


async def test_an_exposure_of_latiss_goes_in_without_a_known_filter(tmp_path: Path) -> None:
    camera = load_camera("latiss")
    image = "AT_O_20250415_000060"
    sensor = camera.detectors[0].name
    header: dict[str, HeaderValue] = {**a_header(camera, image, sensor), "FILTER": None}
    path = tmp_path / f"{image}_{sensor}.fits"
    path.write_bytes(f"{'SIMPLE  =                    T':80}{'END':80}".ljust(2880).encode())
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps(header))
    async with ButlerIngest(repository=tmp_path / "repo") as ingest:
        (result,) = await ingest.ingest(camera, image, [IngestFile(path, sensor, sidecar)])
    assert result.problem == ""


async def test_the_measurement_compares_the_same_files(tmp_path: Path) -> None:
    figures = await measure_ingest(tmp_path, tiny_camera(), exposures=2, science_only=False)
    assert (figures.camera, figures.files) == ("TinyCam", 4)
    assert len(figures.ours_s) == len(figures.bare_s) == 2
    assert 0.1 < figures.ratio < 50
    for repository in ("ours", "bare"):
        with Butler.from_config(str(tmp_path / repository)) as butler:
            refs = butler.query_datasets("raw", collections="TinyCam/raw/all", limit=None)
            assert len(refs) == 3 * 4
            assert butler.getURI(refs[0]).ospath.startswith(str(tmp_path / "files"))
