"""Cameras that come with the product, and documents of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from platevault.compose.cameras import (
    camera_schema,
    format_camera,
    load_camera,
    parse_camera,
    shipped_cameras,
)
from platevault.domain.camera import (
    Amplifier,
    Board,
    Camera,
    Components,
    Detector,
    DetectorType,
    Filter,
    InvalidCameraError,
    SensorPurpose,
)
from platevault.domain.ids import SensorName
from platevault.sal.schema import load_interfaces

EXAMPLES = sorted((Path(__file__).parents[2] / "config" / "cameras").glob("*.yaml"))
SHIPPED = ("comcam", "latiss", "lsstcam")


def minimal() -> dict[str, Any]:
    return {
        "name": "Small",
        "code": "SM",
        "keyword_set": "GenericCamera",
        "header_name": "small",
        "telescope_name": "Small Telescope",
        "components": {
            "camera": "GCCamera",
            "header_service": "GCHeaderService",
            "archiver": "GCArchiver",
            "oods": "GCOODS",
        },
        "site": {"name": "Hill", "longitude_deg": 10, "latitude_deg": 50.5, "elevation_m": 300},
        "plate_scale_arcsec_per_mm": 20,
        "partition": "small",
        "platform": "small",
        "detector_types": {
            "ccd": {
                "vendor": "Maker",
                "model": "M1",
                "data_columns": 8,
                "data_rows": 6,
                "xor_mask": 0,
                "pixel_um": 15,
                "saturation_adu": 65535,
                "amplifiers": [
                    {"name": "A", "channel": 1, "x0": 0, "y0": 0},
                    {"name": "B", "channel": 0, "x0": 8, "y0": 0, "flip_x": True},
                ],
            }
        },
        "raft_layouts": {
            "one": {
                "detectors": [{"slot": "S00"}],
                "boards": [{"board": "0", "name": "Board", "slots": ["S00"]}],
            }
        },
        "rafts": [{"name": "R00", "layout": "one", "type": "ccd", "first_id": 0, "serial": "1"}],
        "filters": [{"name": "V", "band": "v"}],
    }


def parse(document: dict[str, Any]) -> Camera:
    return parse_camera(yaml.safe_dump(document), source="small.yaml")


# --- shipped cameras ------------------------------------------------------------------------------


def test_the_product_ships_three_cameras() -> None:
    assert shipped_cameras() == list(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cameras_load_by_name_in_any_case(name: str) -> None:
    assert load_camera(name) == load_camera(name.upper())


def test_a_camera_loads_by_path(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    assert load_camera(path).name == "Small"
    assert load_camera(str(path)) == load_camera(path)


def test_lsstcam_has_205_detectors_of_three_purposes_on_71_boards() -> None:
    camera = load_camera("lsstcam")
    assert [detector.id for detector in camera.detectors] == list(range(205))
    assert Counter(str(detector.purpose) for detector in camera.detectors) == {
        "SCIENCE": 189,
        "WAVEFRONT": 8,
        "GUIDER": 8,
    }
    assert Counter(
        detector.type.vendor
        for detector in camera.detectors
        if detector.purpose is SensorPurpose.SCIENCE
    ) == {"E2V": 117, "ITL": 72}
    assert len(camera.boards) == 71
    assert sum(len(detector.type.amplifiers) for detector in camera.detectors) == 197 * 16 + 8 * 8


@pytest.mark.parametrize(
    ("sensor", "number"),
    [
        ("R01_S00", 0),
        ("R01_S01", 1),
        ("R03_S22", 26),
        ("R10_S00", 27),
        ("R14_S00", 63),
        ("R20_S00", 72),
        ("R22_S11", 94),
        ("R34_S00", 153),
        ("R41_S00", 162),
        ("R43_S22", 188),
        ("R00_SG0", 189),
        ("R00_SW1", 192),
        ("R04_SG1", 194),
        ("R40_SW0", 199),
        ("R44_SW1", 204),
    ],
)
def test_lsstcam_ids_are_those_of_the_butler(sensor: str, number: int) -> None:
    assert load_camera("lsstcam").detector_by_name[sensor].id == number


def test_comcam_has_nine_detectors_with_their_serials() -> None:
    camera = load_camera("comcam")
    assert [detector.name for detector in camera.detectors] == [
        f"R22_S{i}{j}" for i in range(3) for j in range(3)
    ]
    assert [int(detector.serial.removeprefix("ITL-3800C-")) for detector in camera.detectors] == [
        229, 251, 215, 326, 283, 243, 319, 209, 206,
    ]  # fmt: skip
    assert [board.location for board in camera.boards] == ["22/0", "22/1", "22/2"]
    assert camera.board_of("R22_S00").serial == "18edfc9b"


def test_latiss_has_one_detector_and_every_filter_with_every_grating() -> None:
    camera = load_camera("latiss")
    assert [(detector.id, detector.name) for detector in camera.detectors] == [(0, "R00_S00")]
    assert [board.location for board in camera.boards] == ["00/0"]
    bands = {one.name: one.band for one in camera.filters}
    assert bands["SDSSr_65mm~ronchi170lpmm"] == "r"
    assert bands["KPNO_1111_436nm~pinhole_2_1_1000"] == "g"
    assert bands["empty~SDSSy_65mm"] == "y"
    assert bands["empty~empty"] == "white"
    assert bands["SDSSg"] == "g"
    assert "SDSSg~SDSSy_65mm" not in bands
    assert "diffuser~empty" not in bands
    assert bands["diffuser"] == "diffuser"
    assert len(camera.filters) == 26 + 25 * 27 + 6


@pytest.mark.parametrize(
    ("camera", "sensor", "channels", "mask"),
    [
        ("comcam", "R22_S00", [*range(8, 16), *range(7, -1, -1)], 0x1FFFF),
        ("lsstcam", "R01_S01", [*range(8, 16), *range(7, -1, -1)], 0x1FFFF),
        ("lsstcam", "R22_S11", [*range(8, 16), *range(7, -1, -1)], 0x1FFFF),
        ("lsstcam", "R00_SG0", list(range(16)), 0x20000),
        ("lsstcam", "R00_SW0", list(range(8)), 0x20000),
        ("latiss", "R00_S00", list(range(15, -1, -1)), 0x20000),
    ],
)
def test_channels_in_hdu_order_and_masks_are_those_of_the_daq(
    camera: str, sensor: str, channels: list[int], mask: int
) -> None:
    kind = load_camera(camera).detector_by_name[sensor].type
    names = ["10", "11", "12", "13", "14", "15", "16", "17"]
    names += ["07", "06", "05", "04", "03", "02", "01", "00"]
    assert [amp.name for amp in kind.amplifiers] == names[: len(channels)]
    assert [amp.channel for amp in kind.amplifiers] == channels
    assert kind.xor_mask == mask


def test_science_channel_map_inverts_to_its_published_opposite() -> None:
    amplifiers = load_camera("comcam").detectors[0].type.amplifiers
    position = {amp.channel: index for index, amp in enumerate(amplifiers)}
    assert [position[channel] for channel in range(16)] == [*range(15, 7, -1), *range(8)]


@pytest.mark.parametrize(
    ("camera", "location", "sensors"),
    [
        ("comcam", "22/1", ("R22_S12", "R22_S11", "R22_S10")),
        ("lsstcam", "43/2", ("R43_S22", "R43_S21", "R43_S20")),
        ("lsstcam", "44/1", ("R44_SG1", "R44_SG0")),
        ("lsstcam", "04/0", ("R04_SW0", "R04_SW1")),
        ("latiss", "00/0", ("R00_S00",)),
    ],
)
def test_boards_hold_their_sensors_in_stripe_order(
    camera: str, location: str, sensors: tuple[str, ...]
) -> None:
    assert load_camera(camera).board_by_location[location].detectors == sensors


@pytest.mark.parametrize("name", ["comcam", "lsstcam"])
def test_science_stripes_carry_the_highest_position_first(name: str) -> None:
    science = [board for board in load_camera(name).boards if len(board.detectors) == 3]
    assert len(science) == {"comcam": 3, "lsstcam": 63}[name]
    for board in science:
        row = f"R{board.location[:2]}_S{board.location[3]}"
        assert board.detectors == (f"{row}2", f"{row}1", f"{row}0")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_detector_is_on_exactly_one_board(name: str) -> None:
    camera = load_camera(name)
    read = [sensor for board in camera.boards for sensor in board.detectors]
    assert sorted(read) == sorted(detector.name for detector in camera.detectors)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_detector_has_a_serial_number_of_its_own(name: str) -> None:
    camera = load_camera(name)
    prefixes = {"3800C": "ITL-3800C-", "CCD250": "E2V-CCD250-", "4400": "ITL-4400B-"}
    for detector in camera.detectors:
        assert detector.serial.startswith(prefixes[detector.type.model])
    assert len({detector.serial for detector in camera.detectors}) == len(camera.detectors)


@pytest.mark.parametrize("name", SHIPPED)
def test_detector_names_are_sensor_names(name: str) -> None:
    for detector in load_camera(name).detectors:
        assert str(SensorName.parse(detector.compact_name)) == detector.name


def test_centre_of_the_focal_plane_and_the_pitches() -> None:
    by_name = load_camera("lsstcam").detector_by_name
    centre = by_name["R22_S11"]
    assert (centre.centre_x_mm, centre.centre_y_mm) == (0.0, 0.0)
    assert (by_name["R22_S01"].centre_x_mm, by_name["R22_S01"].centre_y_mm) == (0.0, -42.25)
    assert (by_name["R23_S11"].centre_x_mm, by_name["R23_S11"].centre_y_mm) == (127.0, 0.0)
    assert (by_name["R01_S20"].centre_x_mm, by_name["R01_S20"].centre_y_mm) == (
        -127.0 - 42.25,
        -254.0 + 42.25,
    )


def test_wavefront_detectors_are_nearest_to_the_centre_in_every_corner() -> None:
    by_name = load_camera("lsstcam").detector_by_name
    for raft in ("R00", "R04", "R40", "R44"):
        radii = {
            slot: (by_name[f"{raft}_{slot}"].centre_x_mm ** 2
                   + by_name[f"{raft}_{slot}"].centre_y_mm ** 2) ** 0.5
            for slot in ("SG0", "SG1", "SW0", "SW1")
        }  # fmt: skip
        assert max(radii["SW0"], radii["SW1"]) < min(radii["SG0"], radii["SG1"])
        assert (radii["SW0"] + radii["SW1"]) / 2 == pytest.approx(299.3, abs=0.5)


@pytest.mark.parametrize("name", SHIPPED)
def test_detectors_do_not_overlap_in_the_focal_plane(name: str) -> None:
    boxes = []
    for one in load_camera(name).detectors:
        width, height = one.type.trimmed_columns, one.type.trimmed_rows
        if one.orientation_deg % 180:
            width, height = height, width
        boxes.append((one.centre_x_mm, one.centre_y_mm, width / 100, height / 100, one.name))
    for index, (x, y, w, h, _) in enumerate(boxes):
        for x2, y2, w2, h2, _ in boxes[:index]:
            assert abs(x - x2) >= (w + w2) / 2 or abs(y - y2) >= (h + h2) / 2


@pytest.mark.parametrize("name", [*SHIPPED, *(str(path) for path in EXAMPLES)])
def test_every_component_of_a_camera_has_an_interface(name: str) -> None:
    components, known = load_camera(name).components, load_interfaces()
    for component in (
        components.camera, components.header_service, components.archiver, components.oods,
    ):  # fmt: skip
        assert component in known
    assert known.component(components.camera).indexed == (components.sal_index > 0)


# --- documents ------------------------------------------------------------------------------------


def test_the_schema_accepts_every_shipped_document() -> None:
    validator = jsonschema.Draft202012Validator(camera_schema())
    folder = Path(__file__).parents[2] / "src" / "platevault" / "data" / "cameras"
    assert EXAMPLES
    for path in [*(folder / f"{name}.yaml" for name in SHIPPED), *EXAMPLES]:
        validator.validate(yaml.safe_load(path.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**minimal(), "colour": "red"})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_camera_survives_writing_and_reading(name: str) -> None:
    camera = load_camera(name)
    assert parse_camera(format_camera(camera)) == camera


Change = Callable[[dict[str, Any]], object]


def _amps(document: dict[str, Any]) -> list[dict[str, Any]]:
    amplifiers: list[dict[str, Any]] = document["detector_types"]["ccd"]["amplifiers"]
    return amplifiers


FAULTS: dict[str, tuple[Change, str, object]] = {
    "unknown key": (lambda d: d.update(colour="red"), "colour", "red"),
    "missing key": (lambda d: d.pop("code"), "code", None),
    "wrong type": (
        lambda d: d["site"].update(longitude_deg="east"), "site.longitude_deg", "east",
    ),
    "bad code": (lambda d: d.update(code="toolong"), "code", "toolong"),
    "number for text": (lambda d: d["rafts"][0].update(serial=1), "rafts[0].serial", 1),
    "filter too long": (
        lambda d: d["filters"].append({"name": "x" * 33}), "filters[1].name", "x" * 33,
    ),
    "filter twice": (lambda d: d["filters"].append({"name": "V"}), "filters[1].name", "V"),
    "raft twice": (
        lambda d: d["rafts"].append({**d["rafts"][0], "first_id": 5}), "rafts[1].name", "R00",
    ),
    "id twice": (
        lambda d: d["rafts"].append({**d["rafts"][0], "name": "R01"}), "rafts", 0,
    ),
    "id above the limit": (lambda d: d["rafts"][0].update(first_id=1000), "rafts", 1000),
    "location twice": (
        lambda d: d["rafts"].append(
            {**d["rafts"][0], "name": "R01", "bay": "00", "first_id": 5}
        ),
        "rafts", "00/0",
    ),
    "unknown layout": (
        lambda d: d["rafts"][0].update(layout="two"), "rafts[0].layout", "two",
    ),
    "unknown type": (lambda d: d["rafts"][0].update(type="eev"), "rafts[0].type", "eev"),
    "no type": (lambda d: d["rafts"][0].pop("type"), "rafts[0].type", None),
    "unknown slot": (
        lambda d: d["rafts"][0].update(serials={"S11": "7"}), "rafts[0].serials.S11", "S11",
    ),
    "unknown board": (
        lambda d: d["rafts"][0].update(boards={"Reb9": {}}), "rafts[0].boards.Reb9", "Reb9",
    ),
    "raft name of another form": (
        lambda d: d["rafts"][0].update(name="Raft1"), "rafts[0].name", "Raft1",
    ),
    "no bay": (lambda d: d["rafts"][0].update(name="RXX"), "rafts[0].bay", None),
    "detector without board": (
        lambda d: d["raft_layouts"]["one"]["detectors"].append({"slot": "S01"}),
        "raft_layouts.one.boards", ["S01"],
    ),
    "detector on two boards": (
        lambda d: d["raft_layouts"]["one"]["boards"].append(
            {"board": "1", "name": "B", "slots": ["S00"]}
        ),
        "raft_layouts.one.boards", "S00",
    ),
    "slot twice": (
        lambda d: d["raft_layouts"]["one"]["detectors"].append({"slot": "S00"}),
        "raft_layouts.one.detectors[1].slot", "S00",
    ),
    "mask too wide": (
        lambda d: d["detector_types"]["ccd"].update(xor_mask=0x200000),
        "detector_types.ccd.xor_mask", "0x200000",
    ),
    "saturation too high": (
        lambda d: d["detector_types"]["ccd"].update(saturation_adu=1 << 18),
        "detector_types.ccd.saturation_adu", "0x40000",
    ),
    "channel twice": (
        lambda d: _amps(d)[1].update(channel=1), "detector_types.ccd.channels", [1, 1],
    ),
    "channel missing": (
        lambda d: _amps(d)[1].update(channel=2), "detector_types.ccd.channels", [1, 2],
    ),
    "amplifier name twice": (
        lambda d: _amps(d)[1].update(name="A"), "detector_types.ccd.amplifiers[1].name", "A",
    ),
    "amplifiers overlap": (
        lambda d: _amps(d)[1].update(x0=7), "detector_types.ccd.amplifiers[1]", "B",
    ),
    "amplifiers leave a gap": (
        lambda d: _amps(d)[1].update(x0=9), "detector_types.ccd.amplifiers", "96 pixels",
    ),
    "names do not suit the frame rule": (
        lambda d: d["detector_types"]["ccd"].update(frames="lsst"),
        "detector_types.ccd.frames", ["A", "B"],
    ),
    "no amplifiers": (
        lambda d: d["detector_types"]["ccd"].pop("amplifiers"), "detector_types.ccd", None,
    ),
    "run without a channel": (
        lambda d: d["detector_types"]["ccd"].update(
            amplifiers=[],
            amplifier_runs=[{"names": ["A", "B"], "channels": [0], "x0": 0, "y0": 0}],
        ),
        "detector_types.ccd.amplifier_runs[0].channels", [0],
    ),
    "run outside the detector": (
        lambda d: d["detector_types"]["ccd"].update(
            amplifiers=[],
            amplifier_runs=[
                {"names": ["A", "B"], "channels": [0, 1], "x0": 0, "x_step": -8, "y0": 0}
            ],
        ),
        "detector_types.ccd.amplifiers[1]", (-8, 0),
    ),
    "combination of an unknown filter": (
        lambda d: d.update(filter_combinations={"gratings": ["g"], "open_filter": "none"}),
        "filter_combinations.open_filter", "none",
    ),
    "combined name too long": (
        lambda d: d.update(filter_combinations={"gratings": ["g" * 31], "open_filter": "V"}),
        "filter_combinations", "V~" + "g" * 31,
    ),
    "combined name twice": (
        lambda d: d.update(filter_combinations={"gratings": ["g", "g"], "open_filter": "V"}),
        "filter_combinations", "V~g",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_in_a_document_is_named_with_file_field_value_and_expectation(name: str) -> None:
    change, field, value = FAULTS[name]
    document = minimal()
    parse(document)
    change(document)
    with pytest.raises(InvalidCameraError) as caught:
        parse(document)
    context = caught.value.context
    assert (context["file"], context["field"], context["value"]) == ("small.yaml", field, value)
    assert context["expected"]


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(InvalidCameraError, match=r"code.* stands twice"):
        parse_camera(yaml.safe_dump(minimal()) + "code: ZZ\n")


def test_text_that_is_not_yaml_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidCameraError, match="line 1"):
        parse_camera("name: [unclosed", source="broken.yaml")


def test_a_document_that_is_not_a_mapping_is_refused() -> None:
    with pytest.raises(InvalidCameraError, match="Camera document is wrong"):
        parse_camera("just text")


def test_an_unknown_camera_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidCameraError, match="comcam, latiss, lsstcam"):
        load_camera("hubble")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCameraError, match="cannot be read"):
        load_camera(tmp_path / "none.yaml")


# --- property: writing and reading ----------------------------------------------------------------

_text = st.text("ABCdef0123 -_", min_size=1, max_size=12)
_number = st.floats(-180, 180, allow_nan=False).map(lambda value: round(value, 6))


@st.composite
def detector_types(draw: st.DrawFn, name: str = "ccd") -> DetectorType:
    across, up = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    channels = draw(st.permutations(range(across * up)))
    amplifiers = tuple(
        Amplifier(
            name=f"{y}{x}",
            channel=channels[y * across + x],
            x0=x * width,
            y0=y * height,
            flip_x=draw(st.booleans()),
            flip_y=draw(st.booleans()),
        )
        for y in range(up)
        for x in range(across)
    )
    return DetectorType(
        name=name,
        vendor=draw(_text),
        model=draw(_text),
        data_columns=width,
        data_rows=height,
        prescan=draw(st.integers(0, 12)),
        serial_overscan=draw(st.integers(0, 12)),
        parallel_overscan=draw(st.integers(0, 12)),
        amplifiers=amplifiers,
        xor_mask=draw(st.integers(0, 2**16 - 1)),
        pixel_um=draw(st.floats(0.5, 50)),
        frames=draw(st.sampled_from(["assembly", "lsst"])),
        saturation_adu=draw(st.integers(1, 2**16 - 1)),
        gain_e_per_adu=draw(st.floats(0.1, 10)),
        bias_adu=draw(st.floats(0, 30000)),
        read_noise_adu=draw(st.floats(0, 30)),
        binning=draw(st.integers(1, 4)),
    )


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    kinds = [draw(detector_types(name)) for name in ("one", "two")]
    detectors: list[Detector] = []
    boards: list[Board] = []
    for raft in draw(st.lists(st.sampled_from(["R00", "R12", "R44"]), min_size=1, unique=True)):
        slots = draw(st.lists(st.sampled_from(["S00", "S01", "SG0"]), min_size=1, unique=True))
        raft_serial, bay = draw(_text), draw(st.sampled_from(["", raft, "R01"]))
        first = len(detectors)
        detectors += [
            Detector(
                id=first + index,
                raft=raft,
                slot=slot,
                type=draw(st.sampled_from(kinds)),
                purpose=draw(st.sampled_from(SensorPurpose)),
                serial=draw(_text),
                maker_serial=draw(st.just("") | _text),
                raft_serial=raft_serial,
                centre_x_mm=draw(_number),
                centre_y_mm=draw(_number),
                orientation_deg=draw(st.sampled_from([0.0, 90.0, 180.0, 270.0])),
                frame_bay=bay,
            )
            for index, slot in enumerate(slots)
        ]
        cut = draw(st.integers(0, len(slots) - 1))
        parts = [part for part in (slots[:cut], slots[cut:]) if part]
        boards += [
            Board(
                location=f"{raft[1:]}/{index}",
                name=f"{raft}/Reb{index}",
                detectors=tuple(f"{raft}_{slot}" for slot in reversed(part)),
                serial=draw(st.sampled_from(["", "18ed9486"])),
                lsst_name=draw(st.just("") | _text),
            )
            for index, part in enumerate(parts)
        ]
    names = draw(st.lists(st.text("abc~_1", min_size=1, max_size=32), min_size=1, unique=True))
    obs_class = draw(st.sampled_from(["", "lsst.obs.lsst.Latiss"]))
    return Camera(
        name="Any",
        code="ANY",
        keyword_set="GenericCamera",
        header_name=draw(_text),
        telescope_name=draw(_text),
        components=Components("C", "H", "A", "O", draw(st.integers(0, 9)), "aux"),
        detectors=tuple(detectors),
        boards=tuple(sorted(boards, key=lambda board: board.location)),
        filters=tuple(Filter(name, draw(st.sampled_from(["", "r"]))) for name in names),
        extname_prefix="Amp",
        partition="p",
        platform="q",
        plate_scale_arcsec_per_mm=draw(st.floats(0.1, 100)),
        exposure_max=draw(st.integers(1, 2**62)),
        detector_max=draw(st.integers(9, 5000)),
        site=draw(_text),
        longitude_deg=draw(_number),
        latitude_deg=draw(_number) / 2,
        elevation_m=draw(st.floats(-400, 5000)),
        obs_class=obs_class,
        obs_formatter="f" if obs_class else "",
        constants=draw(
            st.dictionaries(
                st.sampled_from(["ORIGIN", "TSTAND", "OBSGEO-X"]),
                st.none() | st.booleans() | st.integers() | _number | _text,
            )
        ),
        word_bits=draw(st.integers(16, 31)),
        readout_s=draw(st.floats(0, 100)),
    )


@settings(max_examples=60, deadline=None)
@given(cameras())
def test_any_camera_survives_writing_and_reading(camera: Camera) -> None:
    used = {detector.type.name for detector in camera.detectors}
    again = parse_camera(format_camera(camera))
    assert again == camera
    assert {detector.type.name for detector in again.detectors} == used
