"""Texts, folders and queues of the capture corridor have their form whatever comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platevault.domain.capture import TEXT_LIMIT, sensor_text, shortened
from platevault.domain.errors import UsageError
from platevault.domain.ids import InvalidNameError
from platevault.domain.places import exposure_directory, work_queue


@given(st.text())
def test_text_is_cut_on_a_character_boundary(text: str) -> None:
    cut = shortened(text)
    assert len(cut.encode()) <= TEXT_LIMIT
    replaced = text.encode("utf-8", errors="replace").decode()
    assert replaced.startswith(cut)
    if len(replaced.encode()) <= TEXT_LIMIT:
        assert cut == replaced


def test_a_character_that_does_not_fit_is_left_out_whole() -> None:
    assert shortened("a" * 255 + "é") == "a" * 255


def test_a_description_names_raft_and_sensor() -> None:
    assert sensor_text("R22_S01", "no pixels") == "raft R22 sensor S01: no pixels"
    assert len(sensor_text("R22_S01", "x" * 500)) == TEXT_LIMIT


def test_the_folder_has_the_day_of_the_image_name() -> None:
    folder = exposure_directory("LSSTCam", "MC_O_20250415_000060")
    assert str(folder) == "LSSTCam/20250415/MC_O_20250415_000060"


@pytest.mark.parametrize("image", ["../../etc", "MC_O_20250415_000060/..", "", "MC_O_2025_1"])
def test_a_name_that_is_no_image_name_is_no_folder(image: str) -> None:
    with pytest.raises(InvalidNameError):
        exposure_directory("LSSTCam", image)


@pytest.mark.parametrize("camera", ["", "..", "a/b", "-rf", "a b"])
def test_a_camera_that_is_no_folder_is_refused(camera: str) -> None:
    with pytest.raises(UsageError):
        exposure_directory(camera, "MC_O_20250415_000060")


def test_cameras_have_queues_of_their_own() -> None:
    assert work_queue("LATISS") != work_queue("LSSTCam")
