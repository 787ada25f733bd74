from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typing_extensions import override

from platevault.compose.cameras import load_camera
from platevault.domain.camera import Camera, InvalidCameraError
from platevault.domain.errors import UsageError
from platevault.domain.wire import (
    ReadoutRegisters,
    StripeLayout,
    WordPacking,
    board_bytes,
    largest_board_bytes,
    registers_of,
)
from platevault.ports.readout import ImageAnnouncement, ImageIncompleteError, ImageMissingError
from platevault.sim.daq import DuplicateImageError, InvalidTriggerError, SimDaq
from platevault.sim.daq_boards import BoardCache, BoardSource
from platevault.sim.daq_faults import DaqFault, FaultBook, FaultKind, InvalidFaultError
from platevault.sim.daq_readout import SimReadout
from platevault.sim.pixels import ImageType, PixelRecipe, board_words, stripe_words
from platevault.sim.replay import UnsuitablePlanesError, registers_of_shape
from platevault.testing.cameras import tiny_camera, tiny_detector_type

CAMERA = tiny_camera()
BIAS = PixelRecipe(ImageType.BIAS)
BOARD = CAMERA.board_by_location["22/0"]
SIZE = board_bytes(registers_of(CAMERA.detector_by_name["R22_S00"].type), (4, 4), WordPacking.INT32)


def a_daq(**settings: object) -> SimDaq:
    return SimDaq(camera=CAMERA, seed=4, start_tai=1000.0, **settings)  # type: ignore[arg-type]


def names(daq: SimDaq) -> list[str]:
    return [item.image for item in daq.images()]


def test_an_image_is_complete_when_the_readout_time_has_been_stepped() -> None:
    daq = a_daq()
    heard: list[ImageAnnouncement] = []
    with daq.listening(heard.append):
        daq.trigger("a", recipe=BIAS)
        daq.step(1.999)
        with pytest.raises(ImageIncompleteError):
            daq.source("a", "22/0")
        assert [item.complete for item in heard] == [False]
        daq.step(0.001)
        daq.step(5.0)
    assert [(item.image, item.complete) for item in heard] == [("a", False), ("a", True)]
    assert daq.source("a", "22/0").description.size_bytes == SIZE
    assert daq.now_tai == 1007.0


def test_readouts_end_in_the_order_of_their_triggers_within_one_step() -> None:
    daq = a_daq()
    heard: list[str] = []
    daq.trigger("a", recipe=BIAS)
    daq.step(0.5)
    daq.trigger("b", recipe=BIAS)
    with daq.listening(lambda item: heard.append(item.image)):
        daq.step(10.0)
    assert heard == ["a", "b"]


@given(steps=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), max_size=20))
def test_equal_calls_give_equal_states_however_time_is_cut(steps: list[float]) -> None:
    def run(cut: list[float]) -> list[ImageAnnouncement]:
        daq = a_daq()
        heard: list[ImageAnnouncement] = []
        with daq.listening(heard.append):
            daq.trigger("a", recipe=BIAS)
            for duration in cut:
                daq.step(duration)
        return heard

    halves = [part for duration in steps for part in (duration / 2, duration / 2)]
    assert run(steps) == run(steps) == run(halves)


def test_device_time_does_not_go_back() -> None:
    with pytest.raises(UsageError):
        a_daq().step(-0.1)


def test_a_name_is_taken_once() -> None:
    daq = a_daq()
    first = daq.trigger("a", recipe=BIAS)
    with pytest.raises(DuplicateImageError):
        daq.trigger("a", recipe=BIAS, folder="other")
    assert daq.images() == [first]


def test_tags_are_unique_and_grow_even_at_one_moment() -> None:
    daq = a_daq()
    tags = [int(daq.trigger(name, recipe=BIAS).tag, 16) for name in "abc"]
    assert tags == sorted(set(tags))


def test_the_oldest_leave_when_there_are_too_many_images() -> None:
    daq = a_daq(capacity_images=2)
    for name in "abc":
        daq.trigger(name, recipe=BIAS)
    assert names(daq) == ["b", "c"]
    with pytest.raises(ImageMissingError):
        daq.source("a", "22/0")
    daq.trigger("a", recipe=BIAS)
    assert names(daq) == ["c", "a"]


def test_the_oldest_leave_when_there_are_too_many_bytes() -> None:
    daq = a_daq(capacity_bytes=5 * SIZE)
    for name in "abc":
        daq.trigger(name, recipe=BIAS)
    assert names(daq) == ["b", "c"]
    alone = a_daq(capacity_bytes=1)
    alone.trigger("a", recipe=BIAS)
    assert names(alone) == ["a"]


def test_images_leave_after_two_days() -> None:
    daq = a_daq()
    daq.trigger("a", recipe=BIAS)
    daq.step(86400.0)
    daq.trigger("b", recipe=BIAS)
    daq.step(86400.0)
    assert names(daq) == ["a", "b"]
    daq.step(1.0)
    assert names(daq) == ["b"]


def test_only_the_boards_that_take_part_are_there() -> None:
    daq = a_daq()
    taken = daq.trigger("a", recipe=BIAS, boards=["22/0"])
    daq.step(2.0)
    assert taken.boards == ("22/0",)
    [listed] = daq.images()
    assert listed.complete
    with pytest.raises(ImageMissingError):
        daq.source("a", "00/1")
    with pytest.raises(ImageMissingError):
        daq.planes("a", "R00_SG0")
    with pytest.raises(InvalidCameraError):
        daq.trigger("b", recipe=BIAS, boards=["22/0", "77/7"])
    assert names(daq) == ["a"]


def test_words_are_made_again_from_recipe_and_seed() -> None:
    daq = a_daq(cache_bytes=0)
    recipe = PixelRecipe(ImageType.FLAT, 3.0)
    daq.trigger("a", recipe=recipe)
    daq.step(2.0)
    source = daq.source("a", "22/0")
    expected = board_words(CAMERA, BOARD, recipe, seed=4, image="a")
    assert np.array_equal(daq.cache.words(source), expected)
    assert np.array_equal(source.words(np.zeros(SIZE + 1, np.uint8)), expected)


def test_registers_may_read_a_part() -> None:
    daq = a_daq()
    window = ReadoutRegisters(3, 8, 5, 4, 2, pre_cols=10)
    daq.trigger("a", recipe=BIAS, registers=window)
    daq.step(2.0)
    source = daq.source("a", "22/0")
    assert source.description.registers == window
    assert len(source.words()) == source.description.size_bytes == 16 * 6 * 8 * 4
    assert daq.planes("a", "R22_S00").shape == (4, 6, 16)


@pytest.mark.parametrize("layout", list(StripeLayout))
@pytest.mark.parametrize("packing", list(WordPacking))
def test_every_form_of_delivery_has_the_same_words(
    layout: StripeLayout, packing: WordPacking
) -> None:
    daq = a_daq(layout=layout, packing=packing)
    daq.trigger("a", recipe=BIAS)
    daq.step(2.0)
    source = daq.source("a", "22/0")
    told = source.description
    data = source.words()
    buffer = np.zeros(told.size_bytes + 9, np.uint8)
    assert np.array_equal(source.words(buffer), data)
    assert (told.layout, told.packing, len(data)) == (layout, packing, told.size_bytes)
    assert (told.size_bytes == SIZE) == (packing is WordPacking.INT32)
    # The last channel of the last sample is the last word in every form.
    kind = CAMERA.detector_by_name[BOARD.detectors[-1]].type
    [hdu] = [number for number, item in enumerate(kind.amplifiers) if item.channel == 3]
    expected = int(daq.planes("a", BOARD.detectors[-1])[hdu, -1, -1]) ^ kind.xor_mask
    last = int.from_bytes(data[-4:].tobytes(), "little")
    assert (last if packing is WordPacking.INT32 else last >> 14) == expected


# -- replay ------------------------------------------------------------------------------------


def real_planes(
    rows: int = 18, columns: int = 40
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int32]]]:
    random = np.random.default_rng(8)
    return {
        name: random.integers(-500, 70_000, (4, rows, columns), dtype=np.int32)
        for name in ("R22_S00", "R22_S01", "R00_SG1")
    }


@pytest.mark.parametrize("on_disk", [False, True])
def test_replayed_planes_come_out_as_they_went_in(tmp_path: Path, on_disk: bool) -> None:
    daq = a_daq(spool=tmp_path / "spool" if on_disk else None, capacity_images=1)
    planes = real_planes()
    given_planes = {name: counts.copy() for name, counts in planes.items()}
    taken = daq.trigger("a/b", planes=given_planes, facts={"OBJECT": "M 42"})
    for counts in given_planes.values():
        counts[:] = 0
    daq.step(2.0)
    assert set(taken.boards) == {"22/0", "00/1"}
    for board in CAMERA.boards:
        source = daq.source("a/b", board.location)
        assert source.description.facts == {"OBJECT": "M 42"}
        registers = source.description.registers
        assert np.array_equal(source.words(), stripe_words(CAMERA, board, planes, registers))
    for name, counts in planes.items():
        assert np.array_equal(daq.planes("a/b", name), counts)
    assert not daq.planes("a/b", "R00_SG0").any()
    assert len(list(tmp_path.rglob("*.npy"))) == (3 if on_disk else 0)
    daq.trigger("b", recipe=BIAS)
    assert list(tmp_path.rglob("*.npy")) == []


def test_registers_of_a_replayed_frame_follow_from_its_shape() -> None:
    daq = a_daq()
    daq.trigger("full", planes=real_planes())
    daq.trigger("other", planes=real_planes(rows=30, columns=50))
    daq.step(2.0)
    kind = CAMERA.detector_by_name["R22_S00"].type
    assert daq.source("full", "22/0").description.registers == registers_of(kind)
    other = daq.source("other", "22/0").description.registers
    assert (other.rows, other.columns) == (30, 50)
    assert (other.under_cols, other.read_cols, other.over_cols) == (3, 42, 5)
    given_registers = ReadoutRegisters(10, 40, 0, 30, 0)
    daq.trigger("told", planes=real_planes(rows=30, columns=50), registers=given_registers)
    daq.step(2.0)
    assert daq.source("told", "22/0").description.registers == given_registers


@given(rows=st.integers(1, 60), columns=st.integers(1, 60))
def test_registers_fit_any_shape(rows: int, columns: int) -> None:
    registers = registers_of_shape(tiny_detector_type(), rows, columns)
    assert (registers.rows, registers.columns) == (rows, columns)
    assert min(dataclasses.astuple(registers)) >= 0
    assert registers.read_cols > 0
    assert registers.read_rows > 0


def test_planes_that_do_not_fit_are_refused_and_nothing_is_stored() -> None:
    daq = a_daq()
    flat = np.zeros((4, 18, 40), np.int32)
    for planes in (
        {"R22_S00": flat[:3]},
        {"R22_S00": flat[0]},
        {"R22_S00": flat, "R22_S01": flat[:, :10]},
    ):
        with pytest.raises(UnsuitablePlanesError):
            daq.trigger("a", planes=planes)
    with pytest.raises(UnsuitablePlanesError):
        daq.trigger("a", planes={"R22_S00": flat}, registers=ReadoutRegisters(0, 40, 0, 17, 0))
    with pytest.raises(InvalidCameraError):
        daq.trigger("a", planes={"R99_S00": flat})
    with pytest.raises(InvalidCameraError):
        daq.trigger("a", planes={"R22_S00": flat}, boards=["00/1"])
    for wrong in ({}, {"recipe": BIAS, "planes": {"R22_S00": flat}}):
        with pytest.raises(InvalidTriggerError):
            daq.trigger("a", **wrong)  # type: ignore[arg-type]
    assert names(daq) == []


# -- faults ------------------------------------------------------------------------------------


def test_a_wrong_number_of_boards_is_told_as_it_is() -> None:
    daq = a_daq()
    daq.trigger("a", recipe=BIAS)
    daq.trigger("b", recipe=BIAS)
    daq.inject(DaqFault(FaultKind.BOARD_COUNT, image="a", amount=1))
    daq.inject(DaqFault(FaultKind.BOARD_COUNT, image="b", amount=4))
    daq.step(2.0)
    few, many = daq.images()
    assert (few.boards, few.complete) == (("00/1",), False)
    assert (many.boards, many.complete) == (("00/1", "22/0", "99/0", "99/1"), True)
    with pytest.raises(ImageMissingError):
        daq.source("a", "22/0")
    with pytest.raises(ImageMissingError):
        daq.source("b", "99/0")
    daq.clear()
    assert [item.complete for item in daq.images()] == [True, True]


def test_a_paused_device_moves_nothing_and_goes_on_where_it_was() -> None:
    daq = a_daq()
    daq.trigger("a", recipe=BIAS)
    daq.step(1.5)
    daq.inject(DaqFault(FaultKind.PAUSED))
    daq.step(100.0)
    assert daq.now_tai == 1001.5
    daq.clear(FaultKind.PAUSED)
    daq.step(0.4)
    assert not daq.images()[0].complete
    daq.step(0.2)
    assert daq.images()[0].complete


def test_counted_faults_end_by_themselves_and_strike_only_their_board() -> None:
    book = FaultBook()
    book.add(DaqFault(FaultKind.CORRUPT, image="a", location="22/0", amount=1, times=2))
    book.add(DaqFault(FaultKind.SLOW, amount=1))
    assert book.strike(FaultKind.CORRUPT, "a", "22/1") is None
    assert book.strike(FaultKind.CORRUPT, "b", "22/0") is None
    assert book.find(FaultKind.CORRUPT, "a", "22/0") is not None
    assert book.strike(FaultKind.CORRUPT, "a", "22/0") is not None
    assert book.strike(FaultKind.CORRUPT, "a", "22/0") is not None
    assert book.strike(FaultKind.CORRUPT, "a", "22/0") is None
    for _ in range(5):
        assert book.strike(FaultKind.SLOW, "any", "any") is not None
    book.clear(FaultKind.CORRUPT)
    assert [fault.kind for fault in book.present()] == [FaultKind.SLOW]
    book.clear()
    assert book.present() == ()


@pytest.mark.parametrize(
    "fault",
    [
        DaqFault(FaultKind.BOARD_TRUNCATED, amount=1.5),
        DaqFault(FaultKind.SLOW, amount=-1.0),
        DaqFault(FaultKind.SLOW, amount=float("nan")),
        DaqFault(FaultKind.CORRUPT, amount=1, times=0),
        DaqFault(FaultKind.PAUSED, times=2),
    ],
)
def test_a_fault_that_means_nothing_is_refused(fault: DaqFault) -> None:
    daq = a_daq()
    with pytest.raises(InvalidFaultError):
        daq.inject(fault)
    assert daq.faults.present() == ()


# -- cache -------------------------------------------------------------------------------------


def test_the_cache_keeps_the_boards_read_last_within_its_bound() -> None:
    daq = a_daq(cache_bytes=2 * SIZE)
    for name in "abc":
        daq.trigger(name, recipe=BIAS)
    daq.step(2.0)
    sources = {name: daq.source(name, "22/0") for name in "abc"}
    first = daq.cache.words(sources["a"])
    second = daq.cache.words(sources["b"])
    assert daq.cache.words(sources["a"]) is first
    daq.cache.words(sources["c"])
    assert daq.cache.held_bytes == 2 * SIZE
    assert daq.cache.words(sources["a"]) is first
    assert daq.cache.words(sources["b"]) is not second
    assert not first.flags.writeable


def test_a_board_larger_than_the_cache_is_not_kept() -> None:
    daq = a_daq(cache_bytes=SIZE - 1)
    daq.trigger("a", recipe=BIAS)
    daq.step(2.0)
    assert len(daq.cache.words(daq.source("a", "22/0"))) == SIZE
    assert daq.cache.held_bytes == 0


def test_boards_of_an_evicted_image_leave_the_cache() -> None:
    daq = a_daq(capacity_images=1)
    daq.trigger("a", recipe=BIAS)
    daq.step(2.0)
    daq.cache.words(daq.source("a", "22/0"))
    assert daq.cache.held_bytes == SIZE
    daq.trigger("b", recipe=BIAS)
    assert daq.cache.held_bytes == 0


def test_words_in_the_callers_buffer_are_not_kept() -> None:
    cache = BoardCache(1 << 30)
    daq = a_daq()
    daq.trigger("a", recipe=BIAS)
    daq.step(2.0)
    buffer = np.zeros(SIZE, np.uint8)
    cache.words(daq.source("a", "22/0"), buffer)
    assert cache.held_bytes == 0
    held = cache.words(daq.source("a", "22/0"))
    other = np.zeros(SIZE, np.uint8)
    assert np.array_equal(cache.words(daq.source("a", "22/0"), other), held)
    assert not np.shares_memory(other, held)


def test_memory_of_a_board_is_used_again_once_its_last_view_is_gone() -> None:
    daq = a_daq(cache_bytes=SIZE)
    for name in "abcd":
        daq.trigger(name, recipe=BIAS)
    daq.step(2.0)

    def address(words: NDArray[np.uint8]) -> int:
        return int(words.__array_interface__["data"][0])

    first = daq.cache.words(daq.source("a", "22/0"))
    place, held, part = address(first), first.copy(), first[: SIZE // 2]
    del first
    places = {address(daq.cache.words(daq.source(name, "22/0"))) for name in "bcb"}
    assert place not in places
    assert np.array_equal(part, held[: SIZE // 2])
    del part
    places = {address(daq.cache.words(daq.source(name, "22/0"))) for name in "cdc"}
    assert place in places
    assert np.array_equal(daq.cache.words(daq.source("a", "22/0")), held)


class HeldCache(BoardCache):
    """Makes boards only when it is told to go on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(0)
        self.entered = asyncio.Event()
        self.go_on = threading.Event()
        self._loop = loop

    @override
    def words(
        self, source: BoardSource, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self.go_on.wait(10.0)
        return super().words(source, into)


async def test_a_read_that_is_given_up_ends_when_nobody_writes_into_its_buffer() -> None:
    daq = a_daq()
    held = HeldCache(asyncio.get_running_loop())
    daq.cache = held
    daq.trigger("a", recipe=BIAS)
    daq.step(2.0)
    buffer = np.zeros(SIZE, np.uint8)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(SimReadout(daq).read_board("a", "22/0", into=buffer))
        await held.entered.wait()
        reading.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not reading.done()
        assert not buffer.any()
        held.go_on.set()
    assert reading.cancelled()
    assert buffer.any()


@pytest.mark.parametrize("camera", [tiny_camera(), load_camera("lsstcam")])
def test_no_board_is_larger_than_the_largest(camera: Camera) -> None:
    daq = SimDaq(camera=camera)
    daq.trigger("a", recipe=BIAS)
    daq.step(10.0)
    sizes = [daq.source("a", board.location).description.size_bytes for board in camera.boards]
    assert max(sizes) == largest_board_bytes(camera)
