"""What was ingested is read back through the Butler alone."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import Butler
from lsst.sphgeom import LonLat, UnitVector3d

from platevault.adapters.butler.ingest import ButlerIngest
from platevault.adapters.butler.raw_image import Box, RawImage
from platevault.domain.assembly import assemble
from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.ports.ingest import IngestFile
from platevault.sim.sky import Pointing, focal_plane_to_sky
from platevault.testing.cameras import tiny_camera
from platevault.testing.raw_files import some_counts, write_raw_file

CAMERA = tiny_camera()
IMAGE = "TC_O_20250415_000060"
DARK = "TC_O_20250415_000061"
SNAPS = ("TC_O_20250415_000070", "TC_O_20250415_000071")
SNAPS_THE_OTHER_WAY = ("TC_O_20250415_000080", "TC_O_20250415_000081")
EXPOSURE = ImageName.parse(IMAGE).exposure_id


def _write(
    directory: Path, image: str, camera: Camera = CAMERA, **changes: Any
) -> list[IngestFile]:
    return [
        write_raw_file(directory, camera, image, detector.name, seed=detector.id, **changes)
        for detector in camera.detectors
    ]


async def _fill(root: Path) -> None:
    async with ButlerIngest(repository=root / "repo") as ingest:
        # Snaps in both orders: the visit of both must come out whole.
        exposures: list[tuple[str, dict[str, Any]]] = [
            (IMAGE, {}),
            (DARK, {"IMGTYPE": "DARK", "SHUTTIME": 0.0}),
            (SNAPS[1], {"CURINDEX": 2, "MAXINDEX": 2, "GROUPID": "g", "AZSTART": 10.0}),
            (SNAPS[0], {"CURINDEX": 1, "MAXINDEX": 2, "GROUPID": "g", "AZSTART": 350.0}),
            (SNAPS_THE_OTHER_WAY[0], {"CURINDEX": 1, "MAXINDEX": 2, "AZSTART": 350.0}),
            (SNAPS_THE_OTHER_WAY[1], {"CURINDEX": 2, "MAXINDEX": 2, "AZSTART": 10.0}),
        ]
        for image, changes in exposures:
            files = _write(root / "oods", image, CAMERA, **changes)
            results = await ingest.ingest(CAMERA, image, files)
            assert [result.problem for result in results] == [""] * 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("night")
    asyncio.run(_fill(root))
    return root


@pytest.fixture
def butler(root: Path) -> Iterator[Butler]:
    with Butler.from_config(
        str(root / "repo"), collections="TinyCam/raw/all", instrument="TinyCam"
    ) as butler:
        yield butler


@pytest.mark.parametrize("detector", CAMERA.detectors, ids=lambda detector: detector.name)
def test_raw_gives_amplifiers_and_metadata(butler: Butler, detector: Any) -> None:
    raw = butler.get("raw", detector=detector.id, exposure=EXPOSURE)
    assert isinstance(raw, RawImage)
    assert raw.metadata["OBSID"] == IMAGE
    assert raw.metadata["CCDSLOT"] == detector.slot
    counts = some_counts(detector.type, seed=detector.id)
    for amplifier, plane in zip(raw.amplifiers, counts, strict=True):
        np.testing.assert_array_equal(amplifier.pixels, plane)
    np.testing.assert_array_equal(raw.assemble(), assemble(tuple(counts), detector.type))


def test_the_metadata_component_equals_the_sidecar(butler: Butler, root: Path) -> None:
    metadata = butler.get("raw.metadata", detector=1, exposure=EXPOSURE)
    sidecar = json.loads((root / "oods" / f"{IMAGE}_R22_S01.json").read_bytes())
    assert sidecar.pop("__CONTENT__") == "metadata"
    assert metadata == sidecar
    assert metadata["SEEING"] is None


def test_the_dimensions_component_is_the_size_of_the_detector(butler: Butler) -> None:
    assert butler.get("raw.dimensions", detector=1, exposure=EXPOSURE) == Box(0, 0, 64, 32)


def test_a_bounding_box_is_read_alone(butler: Butler) -> None:
    raw = butler.get("raw", detector=0, exposure=EXPOSURE, parameters={"bbox": Box(40, 2, 60, 10)})
    assert [amplifier.name for amplifier in raw.amplifiers] == ["Segment01"]
    assert raw.amplifiers[0].pixels.shape[0] == 8
    whole = butler.get("raw", detector=0, exposure=EXPOSURE)
    np.testing.assert_array_equal(raw.assemble(), whole.assemble()[2:10, 40:60])


def test_a_bounding_box_outside_is_told_with_what_is_possible(butler: Butler) -> None:
    with pytest.raises(ValueError, match=r"within \(0, 0, 64, 32\)"):
        butler.get("raw", detector=0, exposure=EXPOSURE, parameters={"bbox": (0, 0, 99, 1)})


def test_a_truncated_file_is_noticed_when_it_is_read(butler: Butler, root: Path) -> None:
    path = root / "oods" / f"{DARK}_R22_S00.fits"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2880])
    try:
        with pytest.raises(Exception, match="Size of file"):
            butler.get("raw", detector=0, exposure=ImageName.parse(DARK).exposure_id)
    finally:
        path.write_bytes(whole)


def test_any_process_can_read(root: Path) -> None:
    script = (
        "from lsst.daf.butler import Butler\n"
        f"with Butler.from_config({str(root / 'repo')!r}) as butler:\n"
        "    raw = butler.get('raw', instrument='TinyCam', detector=0,\n"
        f"                     exposure={EXPOSURE}, collections='TinyCam/raw/all')\n"
        "    print(raw.assemble().sum(), raw.metadata['OBJECT'])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = assemble(
        tuple(some_counts(CAMERA.detectors[0].type, seed=0)), CAMERA.detectors[0].type
    )
    assert answer.stdout.split(maxsplit=1) == [str(expected.sum()), "field 7\n"]


def test_reading_imports_no_service(root: Path) -> None:
    script = (
        "import sys, platevault.adapters.butler.formatter\n"
        "print(*(name for name in sys.modules if name.startswith('platevault.')))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = {name.split(".")[1] for name in answer.stdout.split()}
    assert loaded <= {"adapters", "domain", "ports"}


def test_the_adapter_imports_no_butler_before_it_is_used() -> None:
    script = (
        "import sys, platevault.adapters.butler.ingest\n"
        "print('lsst.daf.butler' in sys.modules, 'astropy' in sys.modules)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.split() == ["False", "False"]


def test_the_instrument_and_its_parts_are_registered(butler: Butler) -> None:
    (instrument,) = butler.query_dimension_records("instrument", limit=None)
    assert instrument.class_name == "platevault.adapters.butler.instrument.CameraInstrument"
    assert instrument.visit_system == 2
    detectors = butler.query_dimension_records("detector", limit=None)
    assert {(d.id, d.full_name, d.raft, d.name_in_raft, d.purpose) for d in detectors} == {
        (0, "R22_S00", "R22", "S00", "SCIENCE"),
        (1, "R22_S01", "R22", "S01", "SCIENCE"),
        (2, "R00_SG0", "R00", "SG0", "GUIDER"),
        (3, "R00_SG1", "R00", "SG1", "GUIDER"),
    }
    filters = butler.query_dimension_records("physical_filter", limit=None)
    assert {(f.name, f.band) for f in filters} == {
        ("r_tiny", "r"),
        ("i_tiny", "i"),
        ("pinhole", "pinhole"),
        ("unknown", "unknown"),
    }


def test_the_exposure_record_says_what_the_header_says(butler: Butler) -> None:
    (record,) = butler.query_dimension_records("exposure", exposure=EXPOSURE)
    assert (record.obs_id, record.group, record.physical_filter) == (
        IMAGE,
        "2025-04-16T01:23:40.123",
        "r_tiny",
    )
    assert (record.tracking_ra, record.tracking_dec, record.sky_angle) == (53.125, -28.0, 33.0)
    assert record.timespan.begin.tai.isot[:23] == "2025-04-16T01:23:45.678"
    assert record.timespan.end.tai.isot[:23] == "2025-04-16T01:24:15.678"
    assert record.can_see_sky is True
    (day,) = butler.query_dimension_records("day_obs", day_obs=20250415)
    assert day.timespan.begin.tai.isot[:23] == "2025-04-15T12:00:00.000"
    assert day.timespan.end.tai.isot[:23] == "2025-04-16T12:00:00.000"


def test_an_exposure_on_sky_is_a_visit_of_both_systems(butler: Butler) -> None:
    (visit,) = butler.query_dimension_records("visit", visit=EXPOSURE)
    assert (visit.name, visit.exposure_time, visit.physical_filter) == (IMAGE, 30.0, "r_tiny")
    (definition,) = butler.query_dimension_records("visit_definition", visit=EXPOSURE)
    assert definition.exposure == EXPOSURE
    members = butler.query_dimension_records("visit_system_membership", visit=EXPOSURE)
    assert {member.visit_system for member in members} == {0, 2}


def test_a_dark_is_no_visit(butler: Butler) -> None:
    dark = ImageName.parse(DARK).exposure_id
    (record,) = butler.query_dimension_records("exposure", exposure=dark)
    assert record.tracking_ra == 53.125
    assert not butler.query_dimension_records("visit", visit=dark, explain=False)


@pytest.mark.parametrize("snaps", [SNAPS, SNAPS_THE_OTHER_WAY], ids=["late first", "in order"])
def test_snaps_are_one_visit_together_and_one_each(butler: Butler, snaps: tuple[str, str]) -> None:
    first, second = (ImageName.parse(image).exposure_id for image in snaps)
    visits = {
        record.id: record
        for record in butler.query_dimension_records("visit", limit=None)
        if record.day_obs == 20250415
    }
    both, alone, other = visits[first], visits[int(f"9{first}")], visits[second]
    assert (both.name, both.exposure_time) == (snaps[0], 60.0)
    assert (alone.name, alone.exposure_time) == (f"{snaps[0]}_first", 30.0)
    assert (other.name, other.exposure_time) == (snaps[1], 30.0)
    assert other.seq_num == both.seq_num + 1
    assert math.isclose(both.azimuth, 0.0, abs_tol=1e-9)
    definitions = butler.query_dimension_records("visit_definition", visit=first, limit=None)
    assert {definition.exposure for definition in definitions} == {first, second}
    members = butler.query_dimension_records("visit_system_membership", limit=None)
    systems = {(member.visit, member.visit_system) for member in members}
    assert {(first, 2), (alone.id, 0), (second, 0)} <= systems
    assert not {(first, 0), (alone.id, 2), (second, 2)} & systems


def test_each_region_is_centred_on_its_detector(butler: Butler) -> None:
    pointing = Pointing(53.125, -28.0, 33.0)
    (visit,) = butler.query_dimension_records("visit", visit=EXPOSURE)
    regions = {
        record.detector: record.region
        for record in butler.query_dimension_records("visit_detector_region", visit=EXPOSURE)
    }
    assert set(regions) == {detector.id for detector in CAMERA.detectors}
    for detector in CAMERA.detectors:
        ra, dec = focal_plane_to_sky(
            CAMERA,
            pointing,
            np.array([detector.centre_x_mm]),
            np.array([detector.centre_y_mm]),
        )
        centre = UnitVector3d(LonLat.fromDegrees(float(ra[0]), float(dec[0])))
        assert regions[detector.id].contains(centre)
        assert visit.region.contains(centre)
        offset = centre.dot(regions[detector.id].getCentroid())
        assert math.acos(min(1.0, offset)) < math.radians(1.0 / 3600.0)


def test_a_visit_is_found_by_its_place_on_the_sky(butler: Butler) -> None:
    with butler.query() as query:
        found = query.where("visit_detector_region.region OVERLAPS POINT(53.125, -28.0)").where(
            instrument="TinyCam"
        )
        assert EXPOSURE in {data_id["visit"] for data_id in found.data_ids(["visit", "detector"])}


async def test_names_of_obs_lsst_are_recorded(tmp_path: Path) -> None:
    camera = replace(
        CAMERA,
        name="LATISS",
        obs_class="lsst.obs.lsst.Latiss",
        obs_formatter="lsst.obs.lsst.rawFormatter.LatissRawFormatter",
        detectors=(replace(CAMERA.detectors[0], raft="R00"),),
        boards=(),
    )
    async with ButlerIngest(repository=tmp_path / "repo", compatibility="obs_lsst") as ingest:
        (result,) = await ingest.ingest(camera, IMAGE, _write(tmp_path / "oods", IMAGE, camera))
    assert result.problem == ""
    with Butler.from_config(str(tmp_path / "repo")) as butler:
        (instrument,) = butler.query_dimension_records("instrument")
        assert instrument.class_name == "lsst.obs.lsst.Latiss"
        (detector,) = butler.query_dimension_records("detector", instrument="LATISS")
        assert (detector.full_name, detector.raft) == ("RXX_S00", "RXX")
        dataset_type = butler.get_dataset_type("raw")
        assert dataset_type.storageClass_name == "Exposure"
        (ref,) = butler.query_datasets("raw", "LATISS/raw/all", instrument="LATISS")
        (item,) = butler._datastore.getStoredItemsInfo(ref)
        assert item.formatter == "lsst.obs.lsst.rawFormatter.LatissRawFormatter"
        assert str(ref.id) == result.dataset_id
    assert not [name for name in sys.modules if name.startswith("lsst.obs")]
