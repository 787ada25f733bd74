"""Names and numbers of exposures, sensors and files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platevault.domain.ids import (
    SEQUENCE_LIMIT,
    FileKey,
    FileKind,
    ImageName,
    InvalidNameError,
    SensorName,
)

image_names = st.builds(
    ImageName,
    source=st.sampled_from(["AT", "CC", "MC", "TS", "SIN"]),
    controller=st.sampled_from("OCHPQS"),
    day_obs=st.integers(20180101, 20991231),
    sequence=st.integers(0, SEQUENCE_LIMIT - 1),
)


@given(image_names)
def test_an_image_name_survives_its_text_form(name: ImageName) -> None:
    assert ImageName.parse(str(name)) == name


@given(image_names, image_names)
def test_exposure_ids_order_as_day_and_sequence(one: ImageName, other: ImageName) -> None:
    if one.controller == other.controller == "O":
        assert (one.exposure_id < other.exposure_id) == (
            (one.day_obs, one.sequence) < (other.day_obs, other.sequence)
        )


@pytest.mark.parametrize(
    ("name", "exposure_id"),
    [
        ("MC_O_20250415_000060", 2025041500060),
        ("MC_C_20231004_000001", 3023100400001),
        ("MC_C_20231005_000001", 2023100500001),
        ("MC_S_20250417_000002", 7025041700002),
        ("MC_S_20250418_000002", 2025041800002),
        ("MC_H_20260101_000003", 4026010100003),
    ],
)
def test_the_exposure_id_is_day_and_sequence_shifted_by_controller(
    name: str, exposure_id: int
) -> None:
    assert ImageName.parse(name).exposure_id == exposure_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MC_O_20250415",
        "MC_X_20250415_000060",
        "MC_O_2025-04-15_000060",
        "MC_O_20250415_100000",
        "../MC_O_20250415_000060",
        "MC_O_20250415_000060\n",
    ],
)
def test_what_is_no_image_name_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        ImageName.parse(text)
    assert caught.value.context["value"] == text


def test_sensor_names_have_a_full_and_a_compact_form() -> None:
    assert SensorName.parse("R22S01") == SensorName.parse("R22_S01")
    assert str(SensorName.parse("R22S01")) == "R22_S01"
    assert SensorName.parse("R00_SW1").compact == "R00SW1"


@pytest.mark.parametrize("text", ["R22", "R22_S01_", "R22/S01", "r22_s01"])
def test_what_is_no_sensor_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        SensorName.parse(text)


def test_file_names_are_those_readers_look_for() -> None:
    image = "CC_O_20261121_000001"
    assert FileKey(image, "R22_S01", FileKind.RAW).file_name == f"{image}_R22_S01.fits"
    assert FileKey(image, "R22_S01", FileKind.SIDECAR).file_name == f"{image}_R22_S01.json"
    assert FileKey(image, "", FileKind.MANIFEST).file_name == f"{image}_expectedSensors.json"
