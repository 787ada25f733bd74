from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from platevault.compose.cameras import load_camera, shipped_cameras
from platevault.domain.camera import Board, Camera, Detector
from platevault.domain.errors import UsageError
from platevault.domain.wire import (
    ReadoutRegisters,
    StripeLayout,
    WordPacking,
    board_bytes,
    registers_of,
)
from platevault.sim.delivery import UnsuitableLayoutError, rearranged
from platevault.sim.pixels import (
    ImageType,
    InvalidRecipeError,
    PixelRecipe,
    amplifier_planes,
    board_words,
    stripe_words,
)
from platevault.sim.sky import Pointing
from platevault.testing.cameras import tiny_camera, tiny_detector_type

CAMERA = tiny_camera()
DARK_SKY = PixelRecipe(
    ImageType.OBJECT, 5.0, Pointing(53.1, -27.8, 30.0), "r_tiny", sky_mag_arcsec2=24.0
)
RECIPES = (
    PixelRecipe(ImageType.BIAS),
    PixelRecipe(ImageType.DARK, 300.0),
    PixelRecipe(ImageType.FLAT, 5.0),
    PixelRecipe(ImageType.FLAT, 95.0),
    PixelRecipe(ImageType.FLAT, 500.0),
    PixelRecipe(ImageType.OBJECT, 30.0),
    DARK_SKY,
)


def unravelled(
    camera: Camera, board: Board, data: NDArray[np.uint8], registers: ReadoutRegisters
) -> dict[str, NDArray[np.int64]]:
    """De-interleave word by word; shares no code with what interleaves."""
    words = [int.from_bytes(data[at : at + 4].tobytes(), "little") for at in range(0, len(data), 4)]
    result: dict[str, NDArray[np.int64]] = {}
    stripe = sum(len(camera.detector_by_name[name].type.amplifiers) for name in board.detectors)
    offset = 0
    for name in board.detectors:
        kind = camera.detector_by_name[name].type
        planes = np.zeros((len(kind.amplifiers), registers.rows, registers.columns), np.int64)
        for hdu, amplifier in enumerate(kind.amplifiers):
            for sample in range(registers.samples):
                word = words[sample * stripe + offset + amplifier.channel]
                row, column = divmod(sample, registers.columns)
                planes[hdu, row, column] = word ^ kind.xor_mask
        result[name] = planes
        offset += len(kind.amplifiers)
    return result


def planes_of(
    camera: Camera, board: Board, recipe: PixelRecipe, registers: ReadoutRegisters | None = None
) -> Mapping[str, NDArray[np.int32]]:
    return {
        name: amplifier_planes(
            camera,
            camera.detector_by_name[name],
            recipe,
            seed=3,
            image="TC_O_20250415_000001",
            registers=registers,
        )
        for name in board.detectors
    }


@pytest.mark.parametrize("board", CAMERA.boards, ids=lambda board: board.location)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.image_type)
def test_words_of_a_board_are_the_planes_of_its_sensors(board: Board, recipe: PixelRecipe) -> None:
    words = board_words(CAMERA, board, recipe, seed=3, image="TC_O_20250415_000001")
    registers = registers_of(CAMERA.detector_by_name[board.detectors[0]].type)
    assert len(words) == board_bytes(registers, (4, 4), WordPacking.INT32)
    expected = planes_of(CAMERA, board, recipe)
    for name, planes in unravelled(CAMERA, board, words, registers).items():
        assert np.array_equal(planes, expected[name]), name


@pytest.mark.parametrize(
    "registers",
    [
        ReadoutRegisters(3, 10, 5, 6, 2, read_cols2=7, pre_cols=4, post_cols=3, pre_rows=5),
        ReadoutRegisters(0, 32, 0, 16, 0),
        ReadoutRegisters(0, 40, 12, 20, 3),
        ReadoutRegisters(3, 1, 0, 1, 0, pre_cols=31, pre_rows=15),
        ReadoutRegisters(3, 4, 5, 4, 0, pre_cols=60),
    ],
    ids=["two windows", "data only", "more than there is", "one pixel", "off the sensor"],
)
def test_words_and_planes_agree_in_windows(registers: ReadoutRegisters) -> None:
    board = CAMERA.boards[1]
    words = board_words(
        CAMERA, board, DARK_SKY, seed=3, image="TC_O_20250415_000001", registers=registers
    )
    expected = planes_of(CAMERA, board, DARK_SKY, registers)
    for name, planes in unravelled(CAMERA, board, words, registers).items():
        assert np.array_equal(planes, expected[name]), name


def test_a_window_shows_the_stars_of_the_full_frame() -> None:
    board, name = CAMERA.boards[1], "R22_S00"
    full = planes_of(CAMERA, board, DARK_SKY)[name]
    registers = ReadoutRegisters(3, 10, 5, 6, 2, read_cols2=7, pre_cols=4, post_cols=3, pre_rows=5)
    window = planes_of(CAMERA, board, DARK_SKY, registers)[name]
    columns = [3 + place for place in (*range(4, 14), *range(17, 24))]
    seen = full[:, 5:11][:, :, columns].astype(float)
    # The noise differs, by far less than the stars stand out.
    assert np.abs(seen - window[:, :6, 3:20]).max() < 500
    assert np.ptp(seen) > 1500


def test_detectors_of_different_masks_and_ranges_share_a_board() -> None:
    other = dataclasses.replace(
        tiny_detector_type("other", xor_mask=0x20000), saturation_adu=120_000
    )
    detectors = tuple(
        dataclasses.replace(item, type=other) if item.name == "R22_S01" else item
        for item in CAMERA.detectors
    )
    camera = dataclasses.replace(CAMERA, detectors=detectors)
    board = camera.boards[1]
    bright = PixelRecipe(ImageType.FLAT, 95.0)
    words = board_words(camera, board, bright, seed=3, image="TC_O_20250415_000001")
    expected = planes_of(camera, board, bright)
    assert expected["R22_S01"].max() == 120_000
    assert expected["R22_S00"].max() > 200_000
    for name, planes in unravelled(camera, board, words, registers_of(other)).items():
        assert np.array_equal(planes, expected[name]), name


def test_detectors_of_different_size_cannot_share_a_board() -> None:
    wide = dataclasses.replace(tiny_detector_type(), prescan=4)
    detectors = tuple(
        dataclasses.replace(item, type=wide) if item.name == "R22_S01" else item
        for item in CAMERA.detectors
    )
    camera = dataclasses.replace(CAMERA, detectors=detectors)
    with pytest.raises(InvalidRecipeError):
        board_words(camera, camera.boards[1], RECIPES[0], seed=3, image="a")


@pytest.mark.parametrize("board", CAMERA.boards, ids=lambda board: board.location)
def test_a_known_ramp_per_channel_comes_back_for_each_sensor_type(board: Board) -> None:
    registers = registers_of(CAMERA.detector_by_name[board.detectors[0]].type)
    ramp = np.arange(registers.samples, dtype=np.int32).reshape(registers.rows, registers.columns)
    planes = {
        name: np.stack([ramp + 10_000 * hdu + 1_000 * number for hdu in range(4)])
        for number, name in enumerate(board.detectors)
    }
    words = stripe_words(CAMERA, board, planes, registers)
    for name, found in unravelled(CAMERA, board, words, registers).items():
        assert np.array_equal(found, planes[name]), name
    # The second amplifier of the first group stands where its channel says, masked.
    kind = CAMERA.detector_by_name[board.detectors[0]].type
    first_stripe = words[:32].view("<i4")
    assert first_stripe[kind.amplifiers[1].channel] == 10_000 ^ kind.xor_mask


def kinds_of_boards() -> list[tuple[Camera, Board]]:
    """One board of each combination of sensor types, of every camera that is shipped."""
    found: dict[tuple[str, ...], tuple[Camera, Board]] = {}
    for name in shipped_cameras():
        camera = load_camera(name)
        for board in camera.boards:
            kinds = [camera.detector_by_name[item].type.name for item in board.detectors]
            found.setdefault((name, *kinds), (camera, board))
    return list(found.values())


@pytest.mark.parametrize(
    ("camera", "board"),
    kinds_of_boards(),
    ids=lambda value: getattr(value, "location", "") or getattr(value, "code", ""),
)
def test_a_ramp_and_made_pixels_come_back_on_every_kind_of_board(
    camera: Camera, board: Board
) -> None:
    registers = ReadoutRegisters(2, 6, 3, 4, 1, read_cols2=2, pre_cols=100, pre_rows=50)
    ramp = np.arange(registers.samples, dtype=np.int32).reshape(registers.rows, registers.columns)
    given = {
        name: np.stack(
            [
                ramp + 1_000 * hdu + 20_000 * number
                for hdu in range(len(camera.detector_by_name[name].type.amplifiers))
            ]
        )
        for number, name in enumerate(board.detectors)
    }
    found = unravelled(camera, board, stripe_words(camera, board, given, registers), registers)
    assert list(found) == list(board.detectors)
    for name, planes in found.items():
        assert np.array_equal(planes, given[name]), name
    recipe = PixelRecipe(ImageType.FLAT, 2.0)
    words = board_words(
        camera, board, recipe, seed=3, image="TC_O_20250415_000001", registers=registers
    )
    made = planes_of(camera, board, recipe, registers)
    for name, planes in unravelled(camera, board, words, registers).items():
        assert np.array_equal(planes, made[name]), name


def test_a_sensor_without_planes_reads_zero() -> None:
    board = CAMERA.boards[1]
    registers = registers_of(CAMERA.detector_by_name["R22_S00"].type)
    one = np.full((4, registers.rows, registers.columns), 7, np.int32)
    words = stripe_words(CAMERA, board, {"R22_S00": one}, registers)
    found = unravelled(CAMERA, board, words, registers)
    assert (found["R22_S00"] == 7).all()
    assert (found["R22_S01"] == 0).all()


def test_equal_seeds_give_equal_pixels_and_others_do_not() -> None:
    detector = CAMERA.detectors[0]

    def bias(*, seed: int = 1, image: str = "a", of: Detector = detector) -> NDArray[np.int32]:
        return amplifier_planes(CAMERA, of, RECIPES[0], seed=seed, image=image)

    assert np.array_equal(bias(), bias())
    for other in (bias(seed=2), bias(image="b"), bias(of=CAMERA.detectors[1])):
        # Equal levels apart, no noise is shared: hardly more pixels agree than by chance.
        assert (np.diff(other, axis=2) == np.diff(bias(), axis=2)).mean() < 0.1


def test_the_bias_level_belongs_to_the_amplifier_not_to_the_image() -> None:
    first, second = (
        amplifier_planes(CAMERA, CAMERA.detectors[0], RECIPES[0], seed=1, image=name)
        for name in ("a", "b")
    )
    levels = first[:, :, 10:].mean(axis=(1, 2))
    assert np.allclose(levels, second[:, :, 10:].mean(axis=(1, 2)), atol=2.0)
    assert np.ptp(levels) > 10.0
    assert abs(levels.mean() - 25_000.0) < 1000.0


def big_camera() -> Camera:
    """One sensor of 4 x 200 x 300 pixels, for statistics."""
    amplifiers = tuple(
        dataclasses.replace(item, x0=item.x0 // 32 * 200, y0=item.y0 // 16 * 300)
        for item in tiny_detector_type().amplifiers
    )
    kind = dataclasses.replace(
        tiny_detector_type(),
        data_columns=200,
        data_rows=300,
        serial_overscan=60,
        parallel_overscan=40,
        amplifiers=amplifiers,
    )
    detectors = tuple(dataclasses.replace(item, type=kind) for item in CAMERA.detectors)
    return dataclasses.replace(CAMERA, detectors=detectors, plate_scale_arcsec_per_mm=20.0)


@pytest.mark.parametrize(
    ("recipe", "electrons"),
    [
        (PixelRecipe(ImageType.BIAS), 0.0),
        (PixelRecipe(ImageType.DARK, 1000.0), 50.0),
        (PixelRecipe(ImageType.FLAT, 5.0), 20_000.0),
        (PixelRecipe(ImageType.OBJECT, 30.0), 30.0 * 0.04 * 10 ** (0.4 * 7.3)),
    ],
    ids=lambda value: str(getattr(value, "image_type", "")),
)
def test_light_and_its_noise_fall_on_the_image_area_only(
    recipe: PixelRecipe, electrons: float
) -> None:
    camera = big_camera()
    planes = amplifier_planes(camera, camera.detectors[0], recipe, seed=5, image="a").astype(float)
    # The droop of the first columns is gone after sixty.
    data = planes[:, :300, 103:203]
    overscan, below = planes[:, :300, 203:], planes[:, 300:, 103:203]
    light = data.mean(axis=(1, 2)) - overscan.mean(axis=(1, 2))
    assert np.allclose(light, electrons / 1.6, rtol=0.06, atol=0.3)
    assert np.allclose(below.mean(axis=(1, 2)), overscan.mean(axis=(1, 2)), atol=0.3)
    read = overscan.std(axis=(1, 2))
    assert ((read > 5.0 * 0.78) & (read < 5.0 * 1.32)).all()
    gain = electrons / np.maximum(light, 1e-9) if electrons else np.full(4, 1.6)
    assert np.allclose(data.std(axis=(1, 2)), np.sqrt(read**2 + electrons / gain**2), rtol=0.05)


def test_a_row_droops_at_its_beginning() -> None:
    camera = big_camera()
    planes = amplifier_planes(camera, camera.detectors[0], RECIPES[0], seed=5, image="a")
    columns = planes.mean(axis=(0, 1))
    assert columns[0] - columns[-1] == pytest.approx(-40.0, abs=1.0)
    assert columns[12] - columns[-1] == pytest.approx(-40.0 / np.e, abs=1.0)


def test_two_images_have_no_row_of_noise_in_common() -> None:
    camera = big_camera()
    first, second = (
        amplifier_planes(camera, camera.detectors[0], RECIPES[0], seed=5, image=name)[0]
        for name in ("a", "b")
    )
    assert not {row.tobytes() for row in first} & {row.tobytes() for row in second}


def test_rows_do_not_repeat_their_neighbours() -> None:
    camera = big_camera()
    planes = amplifier_planes(camera, camera.detectors[0], RECIPES[0], seed=5, image="a")
    rows = {row.tobytes() for row in planes[0]}
    assert len(rows) > 0.9 * planes.shape[1]


def test_the_converter_ends_at_its_top_and_at_zero() -> None:
    over = amplifier_planes(
        CAMERA, CAMERA.detectors[0], PixelRecipe(ImageType.FLAT, 500.0), seed=1, image="a"
    )
    assert over.max() == 0x3FFFF
    assert (over[:, :16, 3:35] == 0x3FFFF).all()
    assert (over[:, 16:] < 30_000).all()
    narrow = dataclasses.replace(CAMERA, word_bits=16)
    assert (
        amplifier_planes(
            narrow, narrow.detectors[0], PixelRecipe(ImageType.FLAT, 500.0), seed=1, image="a"
        ).max()
        == 0xFFFF
    )
    low = dataclasses.replace(tiny_detector_type(), bias_adu=0.0)
    detector = dataclasses.replace(CAMERA.detectors[0], type=low)
    camera = dataclasses.replace(CAMERA, detectors=(detector, *CAMERA.detectors[1:]))
    below = amplifier_planes(camera, detector, RECIPES[0], seed=1, image="a")
    assert below.min() == 0


def test_words_are_made_in_the_buffer_given() -> None:
    board = CAMERA.boards[0]
    fresh = board_words(CAMERA, board, DARK_SKY, seed=1, image="a")
    buffer = np.full(len(fresh) + 8, 0x5A, np.uint8)
    made = board_words(CAMERA, board, DARK_SKY, seed=1, image="a", into=buffer)
    assert np.shares_memory(made, buffer)
    assert np.array_equal(made, fresh)
    assert (buffer[len(fresh) :] == 0x5A).all()
    locked = np.zeros(len(fresh), np.uint8)
    locked.flags.writeable = False
    for unsuitable in (
        np.zeros(len(fresh) - 1, np.uint8),
        np.zeros(len(fresh), np.int8).astype(np.uint8)[None],
        np.zeros(2 * len(fresh), np.uint8)[::2],
        locked,
    ):
        with pytest.raises(UsageError):
            board_words(CAMERA, board, DARK_SKY, seed=1, image="a", into=unsuitable)


@pytest.mark.parametrize(
    ("imgtype", "expected"),
    [
        ("BIAS", ImageType.BIAS),
        ("dark", ImageType.DARK),
        ("DFLAT", ImageType.FLAT),
        ("ACQ", ImageType.OBJECT),
        ("OBJECT", ImageType.OBJECT),
    ],
)
def test_an_imgtype_says_what_falls_on_the_detectors(imgtype: str, expected: ImageType) -> None:
    assert ImageType.parse(imgtype) is expected


def bits_of(data: NDArray[np.uint8]) -> int:
    return int.from_bytes(data.tobytes(), "little")


@pytest.mark.parametrize("channels", [(4, 4), (16, 16, 16), (8,), (3,)])
def test_packed_words_stand_bit_by_bit_in_their_stripe(channels: tuple[int, ...]) -> None:
    total = sum(channels)
    words = np.random.default_rng(1).integers(0, 1 << 18, (5, total), dtype=np.int32)
    data = rearranged(words, channels, StripeLayout.SAMPLE_MAJOR, WordPacking.PACKED18)
    stripe = (total * 18 + 7) // 8
    assert len(data) == 5 * stripe
    for sample in range(5):
        bits = bits_of(data[sample * stripe : (sample + 1) * stripe])
        for channel in range(total):
            assert (bits >> (18 * channel)) & 0x3FFFF == words[sample, channel]
        assert bits >> (18 * total) == 0


@pytest.mark.parametrize("packing", list(WordPacking))
def test_detector_major_words_follow_detector_by_detector(packing: WordPacking) -> None:
    words = np.random.default_rng(1).integers(0, 1 << 18, (7, 12), dtype=np.int32)
    data = rearranged(words, (4, 8), StripeLayout.DETECTOR_MAJOR, packing)
    registers = ReadoutRegisters(0, 7, 0, 1, 0)
    assert len(data) == board_bytes(registers, (4, 8), packing)
    size = board_bytes(registers, (4,), packing)
    for part, detector in ((data[:size], words[:, :4]), (data[size:], words[:, 4:])):
        alone = rearranged(
            np.ascontiguousarray(detector),
            (detector.shape[1],),
            StripeLayout.SAMPLE_MAJOR,
            packing,
        )
        assert np.array_equal(part, alone)


def test_words_that_cannot_be_packed_are_refused() -> None:
    for value in (-1, 1 << 18):
        with pytest.raises(UnsuitableLayoutError):
            rearranged(
                np.full((2, 4), value, np.int32),
                (4,),
                StripeLayout.SAMPLE_MAJOR,
                WordPacking.PACKED18,
            )
    with pytest.raises(UnsuitableLayoutError):
        rearranged(
            np.zeros((2, 6), np.int32), (3, 3), StripeLayout.DETECTOR_MAJOR, WordPacking.PACKED18
        )
