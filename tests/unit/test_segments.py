"""Geometry cards and assembly.

The real headers lie beside the checkout, if at all; tests that compare with them skip without.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from platevault.compose.cameras import load_camera as read_camera
from platevault.domain.assembly import assemble, take_apart
from platevault.domain.camera import Amplifier, Camera, Detector, DetectorType, InvalidCameraError
from platevault.domain.headers import HeaderValue
from platevault.domain.segments import detector_size, segment_cards
from platevault.domain.wire import MalformedPixelsError

load_camera = functools.cache(read_camera)
HEADERS = Path(__file__).parents[3] / "shared" / "data" / "headers"
_SECTION = re.compile(r"^\[(\d+):(\d+),(\d+):(\d+)\]$")


def header_of(camera_name: str, sensor: str, segment: str) -> dict[str, HeaderValue]:
    camera = load_camera(camera_name)
    for cards in segment_cards(camera, camera.detector_by_name[sensor]):
        header = {card.keyword: card.value for card in cards}
        assert len(header) == len(cards)
        if header["EXTNAME"] == f"Segment{segment}":
            return header
    raise AssertionError(segment)


def section(text: HeaderValue) -> tuple[int, int, int, int]:
    match = _SECTION.match(str(text))
    assert match is not None
    left, right, low, high = (int(part) for part in match.groups())
    return left, right, low, high


# --- the lsst rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sensor", "segment", "datasec", "detsec", "detsize", "vector"),
    [
        ("R01_S00", "10", "[4:512,1:2000]", "[509:1,1:2000]", "[1:4072,1:4000]", (513, 0)),
        ("R01_S00", "17", "[4:512,1:2000]", "[4072:3564,1:2000]", "[1:4072,1:4000]", (4076, 0)),
        (
            "R01_S00", "07", "[4:512,1:2000]", "[4072:3564,4000:2001]", "[1:4072,1:4000]",
            (4076, 4001),
        ),
        ("R01_S00", "00", "[4:512,1:2000]", "[509:1,4000:2001]", "[1:4072,1:4000]", (513, 4001)),
        ("R22_S11", "10", "[11:522,1:2002]", "[512:1,1:2002]", "[1:4096,1:4004]", (523, 0)),
        (
            "R22_S11", "07", "[11:522,1:2002]", "[3585:4096,4004:2003]", "[1:4096,1:4004]",
            (3574, 4005),
        ),
        ("R22_S11", "00", "[11:522,1:2002]", "[1:512,4004:2003]", "[1:4096,1:4004]", (-10, 4005)),
        ("R44_SW1", "10", "[4:512,1:2000]", "[509:1,1:2000]", "[1:4072,1:4000]", (513, 0)),
    ],
)  # fmt: skip
def test_sections_are_those_of_the_raw_files(
    sensor: str, segment: str, datasec: str, detsec: str, detsize: str, vector: tuple[int, int]
) -> None:
    header = header_of("lsstcam", sensor, segment)
    assert header["DATASEC"] == datasec
    assert header["DETSEC"] == detsec
    assert header["DETSIZE"] == detsize
    assert (header["DTV1"], header["DTV2"]) == vector


def test_matrix_signs_follow_the_reading_direction() -> None:
    signs = {
        (sensor, segment): (header["DTM1_1"], header["DTM2_2"])
        for sensor in ("R01_S00", "R22_S11")
        for segment in ("10", "00")
        for header in (header_of("lsstcam", sensor, segment),)
    }
    assert signs == {
        ("R01_S00", "10"): (-1.0, 1.0),
        ("R01_S00", "00"): (-1.0, -1.0),
        ("R22_S11", "10"): (-1.0, 1.0),
        ("R22_S11", "00"): (1.0, -1.0),
    }


@pytest.mark.parametrize(
    ("camera", "sensor", "segment", "origins"),
    [
        # Segment10 of real ITL files of 2024 and 2025
        (
            "lsstcam", "R01_S01", "10",
            {"A": (2001, 513), "C": (4001, 513), "R": (4126, 4827), "F": (4126, 17527),
             "E": (17527, 4126), "B": (513, 4001), "Q": (4827, 4126)},
        ),
        ("comcam", "R22_S00", "10", {"R": (4126, 602), "F": (29526, 26002)}),
        ("latiss", "R00_S00", "10", {"R": (4126, 602), "F": (16826, 602)}),
        # by the rule of the E2V files: H 2002, W 512, p 10, margins 122.5 and 77
        (
            "lsstcam", "R22_S11", "07",
            {"A": (0, -10), "C": (0, 3574), "R": (0 + 122.5 + 4225, 3574 + 77 + 4225),
             "F": (0 + 122.5 + 4225 + 25400, 3574 + 77 + 4225 + 25400)},
        ),
        ("lsstcam", "R22_S11", "10", {"A": (2003, 523), "C": (4005, 523)}),
    ],
)  # fmt: skip
def test_linear_frames_have_the_origins_of_real_files(
    camera: str, sensor: str, segment: str, origins: dict[str, tuple[float, float]]
) -> None:
    header = header_of(camera, sensor, segment)
    for letter, origin in origins.items():
        assert (header[f"CRVAL1{letter}"], header[f"CRVAL2{letter}"]) == origin


def test_frames_of_the_other_axis_order_have_their_matrix_rows_exchanged() -> None:
    header = header_of("lsstcam", "R22_S11", "00")
    straight = [header[f"PC{row}_{column}C"] for row in (1, 2) for column in (1, 2)]
    exchanged = [header[f"PC{row}_{column}B"] for row in (1, 2) for column in (1, 2)]
    assert straight == [0.0, 1.0, 1.0, 0.0]
    assert exchanged == [1.0, 0.0, 0.0, 1.0]


def test_corner_rafts_have_no_frames_that_nobody_has_seen() -> None:
    header = header_of("lsstcam", "R00_SG0", "10")
    assert "WCSNAMEC" in header
    assert not {"WCSNAMER", "WCSNAMEF", "WCSNAMEE", "WCSNAMEQ"} & set(header)


@pytest.mark.parametrize(
    ("name", "camera", "sensor"),
    [
        ("lsstCam-MC_O_20250415_000060_R01_S01.yaml", "lsstcam", "R01_S01"),
        ("comCam-CC_O_20241108_000266_R22_S00.yaml", "comcam", "R22_S00"),
        ("latiss-AT_O_20240624_000169_R00_S00.yaml", "latiss", "R00_S00"),
    ],
)
def test_cards_equal_those_of_a_real_file(name: str, camera: str, sensor: str) -> None:
    path = HEADERS / name
    if not path.exists():
        pytest.skip("the real headers are not here")
    real: dict[str, Any] = yaml.safe_load(path.read_text())
    order = list(real)
    keywords = order[order.index("CHANNEL") : order.index("INHERIT") + 1]
    header = header_of(camera, sensor, "10")
    assert {key: header.get(key) for key in keywords} == {key: real[key] for key in keywords}
    assert [key for key in header if not key.startswith("ASM")] == keywords
    assert [type(header[key]) for key in keywords] == [type(real[key]) for key in keywords]
    model = load_camera(camera)
    detector = model.detector_by_name[sensor]
    board = model.board_of(sensor)
    assert [real[key] for key in (
        "CCD_MANU", "CCD_TYPE", "LSST_NUM", "CCD_SERN", "RAFTNAME", "RAFTBAY", "CCDSLOT",
        "CONTNUM", "REBNAME", "PLATFORM", "DAQPART", "INSTRUME", "TELESCOP", "OBS-LONG",
        "OBS-LAT", "OBS-ELEV",
    )] == [
        detector.type.vendor, detector.type.model, detector.serial, detector.maker_serial,
        detector.raft_serial, detector.raft, detector.slot, board.serial, board.lsst_name,
        model.platform, model.partition, model.header_name, model.telescope_name,
        model.longitude_deg, model.latitude_deg, model.elevation_m,
    ]  # fmt: skip


@pytest.mark.parametrize("camera_name", ["latiss", "comcam", "lsstcam"])
def test_every_detector_has_a_set_of_cards_for_each_amplifier(camera_name: str) -> None:
    camera = load_camera(camera_name)
    for detector in camera.detectors:
        cards = segment_cards(camera, detector)
        assert [{c.keyword: c.value for c in one}["CHANNEL"] for one in cards] == list(
            range(1, len(detector.type.amplifiers) + 1)
        )
        assert all(len(card.keyword) <= 8 for one in cards for card in one)
        assert {c.keyword: c.value for c in cards[0]}["DETSIZE"] == detector_size(detector)


def test_an_unknown_frame_rule_is_refused() -> None:
    camera = load_camera("latiss")
    detector = camera.detectors[0]
    kind = dataclasses.replace(detector.type, frames="mystery")
    with pytest.raises(InvalidCameraError, match="Frame rule"):
        segment_cards(camera, dataclasses.replace(detector, type=kind))


def test_a_name_that_the_lsst_rule_does_not_know_is_refused() -> None:
    camera = load_camera("latiss")
    detector = camera.detectors[0]
    amplifiers = (dataclasses.replace(detector.type.amplifiers[0], name="18"),)
    kind = dataclasses.replace(detector.type, amplifiers=amplifiers)
    with pytest.raises(InvalidCameraError, match="Amplifier name"):
        segment_cards(camera, dataclasses.replace(detector, type=kind))


# --- the assembly rule, and assembly itself -------------------------------------------------------


@st.composite
def detector_types(draw: st.DrawFn) -> DetectorType:
    across, up = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    order = draw(st.permutations([(x, y) for y in range(up) for x in range(across)]))
    return DetectorType(
        name="any",
        vendor="Maker",
        model="M",
        data_columns=width,
        data_rows=height,
        prescan=draw(st.integers(0, 3)),
        serial_overscan=draw(st.integers(0, 3)),
        parallel_overscan=draw(st.integers(0, 3)),
        amplifiers=tuple(
            Amplifier(
                name=f"{index}",
                channel=index,
                x0=x * width,
                y0=y * height,
                flip_x=draw(st.booleans()),
                flip_y=draw(st.booleans()),
            )
            for index, (x, y) in enumerate(order)
        ),
        xor_mask=0,
        pixel_um=10.0,
        frames="assembly",
        saturation_adu=65535,
        gain_e_per_adu=1.0,
        bias_adu=0.0,
        read_noise_adu=0.0,
    )


def with_type(kind: DetectorType) -> tuple[Camera, Detector]:
    camera = load_camera("latiss")
    return camera, dataclasses.replace(camera.detectors[0], type=kind)


def raw_planes(kind: DetectorType, seed: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 1 << 18, (kind.rows, kind.columns), dtype=np.int32) for _ in kind.amplifiers
    ]


@settings(max_examples=40, deadline=None)
@given(detector_types())
def test_sections_are_disjoint_and_cover_the_detector(kind: DetectorType) -> None:
    hits = np.zeros((kind.trimmed_rows, kind.trimmed_columns), dtype=int)
    for cards in segment_cards(*with_type(kind)):
        x1, x2, y1, y2 = section({card.keyword: card.value for card in cards}["DETSEC"])
        hits[min(y1, y2) - 1 : max(y1, y2), min(x1, x2) - 1 : max(x1, x2)] += 1
    assert (hits == 1).all()


def placed_by_cards(header: dict[str, HeaderValue], column: int, row: int) -> tuple[float, float]:
    """Detector pixel from 1 of an image pixel from 1, by DTM and DTV alone."""
    numbers = {key: float(header[key] or 0) for key in ("DTM1_1", "DTM2_2", "DTV1", "DTV2")}
    return (
        numbers["DTM1_1"] * column + numbers["DTV1"],
        numbers["DTM2_2"] * row + numbers["DTV2"],
    )


@pytest.mark.parametrize("camera_name", ["latiss", "comcam", "lsstcam"])
def test_corners_of_the_data_section_map_to_those_of_the_detector_section(
    camera_name: str,
) -> None:
    camera = load_camera(camera_name)
    for detector in camera.detectors:
        for cards in segment_cards(camera, detector):
            header = {card.keyword: card.value for card in cards}
            x1, x2, y1, y2 = section(header["DATASEC"])
            u1, u2, v1, v2 = section(header["DETSEC"])
            assert placed_by_cards(header, x1, y1) == (u1, v1)
            assert placed_by_cards(header, x2, y2) == (u2, v2)


@settings(max_examples=40, deadline=None)
@given(detector_types(), st.integers(0, 2**32))
def test_vector_and_matrix_place_every_pixel_where_assembly_puts_it(
    kind: DetectorType, seed: int
) -> None:
    planes = raw_planes(kind, seed)
    whole = assemble(planes, kind)
    for plane, cards in zip(planes, segment_cards(*with_type(kind)), strict=True):
        header = {card.keyword: card.value for card in cards}
        x1, x2, y1, y2 = section(header["DATASEC"])
        for column in (x1, x2):
            for row in (y1, y2):
                x, y = placed_by_cards(header, column, row)
                assert whole[int(y) - 1, int(x) - 1] == plane[row - 1, column - 1]


@settings(max_examples=40, deadline=None)
@given(detector_types(), st.integers(0, 2**32))
def test_the_assembly_cards_alone_rebuild_the_detector(kind: DetectorType, seed: int) -> None:
    planes = raw_planes(kind, seed)
    rebuilt = np.zeros((kind.trimmed_rows, kind.trimmed_columns), dtype=np.int32)
    for plane, cards in zip(planes, segment_cards(*with_type(kind)), strict=True):
        header = {card.keyword: card.value for card in cards}
        x1, x2, y1, y2 = section(header["DATASEC"])
        data = plane[y1 - 1 : y2, x1 - 1 : x2]
        if header["ASMFLIPX"]:
            data = np.fliplr(data)
        if header["ASMFLIPY"]:
            data = np.flipud(data)
        x0, y0 = int(header["ASMX0"] or 0), int(header["ASMY0"] or 0)
        rebuilt[y0 : y0 + data.shape[0], x0 : x0 + data.shape[1]] = data
    np.testing.assert_array_equal(rebuilt, assemble(planes, kind))


@settings(max_examples=40, deadline=None)
@given(detector_types(), st.integers(0, 2**32))
def test_taking_apart_undoes_assembly(kind: DetectorType, seed: int) -> None:
    planes = raw_planes(kind, seed)
    for plane, data in zip(planes, take_apart(assemble(planes, kind), kind), strict=True):
        np.testing.assert_array_equal(
            data,
            plane[: kind.data_rows, kind.prescan : kind.prescan + kind.data_columns],
        )


@settings(max_examples=40, deadline=None)
@given(detector_types(), st.integers(0, 2**32))
def test_flips_are_involutions(kind: DetectorType, seed: int) -> None:
    bare = dataclasses.replace(kind, prescan=0, serial_overscan=0, parallel_overscan=0)
    planes = raw_planes(bare, seed)
    turned = take_apart(assemble(planes, bare), bare)
    plain = dataclasses.replace(
        bare,
        amplifiers=tuple(
            dataclasses.replace(amp, flip_x=False, flip_y=False) for amp in bare.amplifiers
        ),
    )
    once = take_apart(assemble(planes, bare), plain)
    twice = take_apart(assemble(once, bare), plain)
    for plane, same, back in zip(planes, turned, twice, strict=True):
        np.testing.assert_array_equal(plane, same)
        np.testing.assert_array_equal(plane, back)


@pytest.mark.parametrize(
    ("sensor", "segment", "corner"),
    [
        # first pixel read (row 0, first data column) in the trimmed detector, (x, y) from 0
        ("R01_S00", "10", (508, 3999)),
        ("R01_S00", "00", (508, 0)),
        ("R22_S11", "10", (511, 4003)),
        ("R22_S11", "17", (4095, 4003)),
        ("R22_S11", "00", (0, 0)),
        ("R22_S11", "07", (3584, 0)),
        ("R44_SW0", "10", (4071, 1999)),
        ("R44_SW0", "17", (508, 1999)),
    ],
)
def test_first_pixels_read_stand_in_the_readout_corners(
    sensor: str, segment: str, corner: tuple[int, int]
) -> None:
    kind = load_camera("lsstcam").detector_by_name[sensor].type
    dark = np.zeros((kind.rows, kind.columns), dtype=np.int32)
    bright = dark.copy()
    bright[0, kind.prescan] = 1
    planes = [bright if amp.name == segment else dark for amp in kind.amplifiers]
    whole = assemble(planes, kind)
    assert whole.shape == (kind.trimmed_rows, kind.trimmed_columns)
    assert int(whole.sum()) == whole[corner[1], corner[0]] == 1


def test_planes_of_another_number_or_shape_are_refused() -> None:
    kind = load_camera("latiss").detectors[0].type
    plane = np.zeros((kind.rows, kind.columns), dtype=np.int32)
    with pytest.raises(MalformedPixelsError, match="a plane for each"):
        assemble([plane] * 15, kind)
    with pytest.raises(MalformedPixelsError, match="another shape"):
        assemble([plane] * 15 + [plane[:-1]], kind)
    with pytest.raises(MalformedPixelsError, match="another shape"):
        take_apart(plane, kind)
