"""What every readout must do; subclass `ReadoutContract` in a test."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from platevault.domain.camera import Camera
from platevault.domain.errors import UsageError
from platevault.domain.headers import HeaderValue
from platevault.domain.wire import BoardPixels, MalformedPixelsError, registers_of
from platevault.ports.readout import (
    ImageIncompleteError,
    ImageMissingError,
    Readout,
    ReadoutUnavailableError,
)
from platevault.sim.daq import SimDaq
from platevault.sim.daq_faults import DaqFault, FaultKind
from platevault.sim.pixels import ImageType, PixelRecipe
from platevault.sim.sky import Pointing
from platevault.testing.cameras import tiny_camera

FIRST = "TC_O_20250415_000001"
SECOND = "TC_O_20250415_000002"
BOARD = "22/0"
OTHER_BOARD = "00/1"
RECIPE = PixelRecipe(
    ImageType.OBJECT, 5.0, Pointing(53.1, -27.8, 30.0), "r_tiny", sky_mag_arcsec2=24.0
)


@dataclass(frozen=True, slots=True)
class ReadoutRig:
    """A readout under test, and the device that it reads.

    Attributes
    ----------
    readout
        Under test.
    daq
        The device itself; it bypasses the readout.
    """

    readout: Readout
    daq: SimDaq

    def take(self, image: str) -> None:
        """Take an image and wait until it is complete, in device time."""
        self.daq.trigger(image, recipe=RECIPE)
        self.daq.step(self.daq.camera.readout_s)


def words_of(camera: Camera, pixels: BoardPixels, location: str) -> dict[str, NDArray[np.int32]]:
    """Take the counts of a board's sensors apart, word by word in the order of the wire.

    It shares no code with what makes or decodes boards elsewhere.

    Returns
    -------
    dict
        By sensor, each ``(n_amp, rows, columns)`` in HDU order [adu].
    """
    board = camera.board_by_location[location]
    words = [int(word) for word in pixels.data.view("<i4")]
    rows, columns = pixels.registers.rows, pixels.registers.columns
    kinds = [camera.detector_by_name[name].type for name in board.detectors]
    counts = [np.zeros((len(kind.amplifiers), rows, columns), np.int32) for kind in kinds]
    position = 0
    for row in range(rows):
        for column in range(columns):
            for group, kind in enumerate(kinds):
                for channel in range(len(kind.amplifiers)):
                    for hdu, amplifier in enumerate(kind.amplifiers):
                        if amplifier.channel == channel:
                            counts[group][hdu, row, column] = words[position] ^ kind.xor_mask
                    position += 1
    assert position == len(words)
    return dict(zip(board.detectors, counts, strict=True))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


class ReadoutContract(ABC):
    """Tests of the `platevault.ports.readout.Readout` port."""

    @pytest.fixture
    def daq(self) -> SimDaq:
        """Give the device; the fixture ``rig`` reads it."""
        return SimDaq(camera=tiny_camera(), seed=7, start_tai=1.4e9, capacity_images=3)

    @abstractmethod
    async def rig(self, daq: SimDaq) -> AsyncIterator[ReadoutRig]:
        """Give readout and device, as a fixture."""
        yield ReadoutRig(..., daq)  # type: ignore[arg-type]

    async def test_images_are_listed_oldest_first_and_by_folder(self, rig: ReadoutRig) -> None:
        rig.take(SECOND)
        rig.take(FIRST)
        rig.daq.trigger("aside", recipe=RECIPE, folder="test", annotation="a note")
        listed = await rig.readout.images()
        assert [item.image for item in listed] == [SECOND, FIRST]
        assert all(item.complete and item.folder == "raw" for item in listed)
        assert listed[0].triggered_tai == 1.4e9
        assert int(listed[0].tag, 16) < int(listed[1].tag, 16)
        assert set(listed[0].boards) == {BOARD, OTHER_BOARD}
        [aside] = await rig.readout.images(folder="test")
        assert (aside.image, aside.annotation, aside.complete) == ("aside", "a note", False)
        assert await rig.readout.images(folder="nothing") == []

    async def test_an_image_is_announced_when_triggered_and_when_complete(
        self, rig: ReadoutRig
    ) -> None:
        async with rig.readout.announcements() as heard:
            rig.take(FIRST)
            first, second = await anext(heard), await anext(heard)
        assert (first.image, first.complete) == (FIRST, False)
        assert (second.image, second.complete) == (FIRST, True)
        assert first.tag == second.tag

    async def test_every_listener_hears_every_image(self, rig: ReadoutRig) -> None:
        async with rig.readout.announcements() as one, rig.readout.announcements() as two:
            rig.take(FIRST)
            rig.take(SECOND)
            heard_by_one = [(await anext(one)).image for _ in range(4)]
            heard_by_two = [(await anext(two)).image for _ in range(4)]
        assert heard_by_one == heard_by_two == [FIRST, FIRST, SECOND, SECOND]

    async def test_a_board_is_described_as_it_was_read(self, rig: ReadoutRig) -> None:
        facts: dict[str, HeaderValue] = {
            "CCDTEMP": -100.5,
            "GAINS": 1,
            "WHO": "O'Neil",
            "OK": True,
            "NONE": None,
        }
        rig.daq.trigger(FIRST, recipe=RECIPE, facts=facts)
        rig.daq.step(2.0)
        camera = rig.daq.camera
        told = await rig.readout.describe(FIRST, BOARD)
        board = camera.board_by_location[BOARD]
        assert told.location == BOARD
        assert told.registers == registers_of(camera.detector_by_name["R22_S00"].type)
        assert told.channels == (4, 4)
        assert told.size_bytes == 40 * 18 * 8 * 4
        assert told.serial == board.serial
        assert (told.partition, told.platform) == (camera.partition, camera.platform)
        assert told.firmware
        assert told.daq_version
        assert dict(told.facts) == facts
        assert [type(value) for value in told.facts.values()] == [
            type(value) for value in facts.values()
        ]

    @pytest.mark.parametrize("location", [BOARD, OTHER_BOARD])
    async def test_the_words_of_a_board_are_the_pixels_of_its_sensors(
        self, rig: ReadoutRig, location: str
    ) -> None:
        rig.take(FIRST)
        pixels = await rig.readout.read_board(FIRST, location)
        assert len(pixels.data) == pixels.expected_bytes
        for sensor, counts in words_of(rig.daq.camera, pixels, location).items():
            assert np.array_equal(counts, rig.daq.planes(FIRST, sensor)), sensor

    async def test_pixels_arrive_in_the_callers_buffer_and_nowhere_else(
        self, rig: ReadoutRig
    ) -> None:
        rig.take(FIRST)
        size = (await rig.readout.describe(FIRST, BOARD)).size_bytes
        buffer = np.full(size + 100, 0xA5, np.uint8)
        pixels = await rig.readout.read_board(FIRST, BOARD, into=buffer)
        assert len(pixels.data) == size
        assert np.shares_memory(pixels.data, buffer)
        assert (buffer[size:] == 0xA5).all()
        again = await rig.readout.read_board(FIRST, BOARD)
        assert np.array_equal(pixels.data, again.data)

    async def test_a_buffer_that_does_not_suit_is_refused(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        size = (await rig.readout.describe(FIRST, BOARD)).size_bytes
        small = np.zeros(size - 1, np.uint8)
        for buffer in (small, np.zeros(2 * size, np.uint8)[::2]):
            with pytest.raises(UsageError):
                await rig.readout.read_board(FIRST, BOARD, into=buffer)
        assert not small.any()
        assert len((await rig.readout.read_board(FIRST, BOARD)).data) == size

    async def test_any_image_of_the_store_is_read_again_by_name(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        before = (await rig.readout.read_board(FIRST, BOARD)).data.copy()
        rig.take(SECOND)
        between = (await rig.readout.read_board(SECOND, BOARD)).data.copy()
        after = (await rig.readout.read_board(FIRST, BOARD)).data
        assert np.array_equal(before, after)
        assert not np.array_equal(before, between)

    async def test_boards_are_read_side_by_side(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        alone = {
            place: (await rig.readout.read_board(FIRST, place)).data.copy()
            for place in (BOARD, OTHER_BOARD)
        }
        places = [BOARD, OTHER_BOARD] * 8
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(rig.readout.read_board(FIRST, place)) for place in places]
        for place, read in zip(places, reads, strict=True):
            assert np.array_equal(read.result().data, alone[place])

    async def test_an_image_in_readout_is_incomplete(self, rig: ReadoutRig) -> None:
        rig.daq.trigger(FIRST, recipe=RECIPE)
        rig.daq.step(1.9)
        with pytest.raises(ImageIncompleteError):
            await rig.readout.describe(FIRST, BOARD)
        with pytest.raises(ImageIncompleteError):
            await rig.readout.read_board(FIRST, BOARD)
        rig.daq.step(0.2)
        assert (await rig.readout.read_board(FIRST, BOARD)).expected_bytes

    async def test_what_the_store_does_not_hold_is_missing(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        for image, location in ((SECOND, BOARD), (FIRST, "43/2")):
            with pytest.raises(ImageMissingError):
                await rig.readout.describe(image, location)
            with pytest.raises(ImageMissingError):
                await rig.readout.read_board(image, location)

    async def test_the_oldest_images_leave_a_full_store(self, rig: ReadoutRig) -> None:
        for name in ("a", "b", "c", "d"):
            rig.take(name)
        assert [item.image for item in await rig.readout.images()] == ["b", "c", "d"]
        with pytest.raises(ImageMissingError):
            await rig.readout.read_board("a", BOARD)

    async def test_a_missing_board_leaves_the_image_incomplete_but_the_rest_readable(
        self, rig: ReadoutRig
    ) -> None:
        rig.daq.inject(DaqFault(FaultKind.BOARD_MISSING, image=FIRST, location=BOARD))
        rig.take(FIRST)
        [listed] = await rig.readout.images()
        assert (listed.complete, listed.boards) == (False, (OTHER_BOARD,))
        with pytest.raises(ImageMissingError):
            await rig.readout.read_board(FIRST, BOARD)
        assert (await rig.readout.read_board(FIRST, OTHER_BOARD)).expected_bytes

    async def test_a_truncated_board_is_malformed_and_read_well_the_next_time(
        self, rig: ReadoutRig
    ) -> None:
        rig.take(FIRST)
        for amount in (0.999, 0.5, 0.0):
            rig.daq.inject(DaqFault(FaultKind.BOARD_TRUNCATED, FIRST, BOARD, amount, times=1))
            with pytest.raises(MalformedPixelsError):
                await rig.readout.read_board(FIRST, BOARD)
            pixels = await rig.readout.read_board(FIRST, BOARD)
            assert len(pixels.data) == pixels.expected_bytes

    async def test_corrupt_words_arrive_as_they_are(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        sound = (await rig.readout.read_board(FIRST, BOARD)).data.view("<i4").copy()
        rig.daq.inject(DaqFault(FaultKind.CORRUPT, FIRST, BOARD, amount=3, times=1))
        spoiled = (await rig.readout.read_board(FIRST, BOARD)).data.view("<i4")
        assert (spoiled != sound).sum() == 3
        again = (await rig.readout.read_board(FIRST, BOARD)).data.view("<i4")
        assert np.array_equal(again, sound)

    async def test_a_broken_connection_is_unavailable_and_the_next_call_works(
        self, rig: ReadoutRig
    ) -> None:
        rig.take(FIRST)
        rig.daq.inject(DaqFault(FaultKind.DISCONNECTED, FIRST, BOARD, times=1))
        with pytest.raises(ReadoutUnavailableError):
            await rig.readout.read_board(FIRST, BOARD)
        pixels = await rig.readout.read_board(FIRST, BOARD)
        assert len(pixels.data) == pixels.expected_bytes

    async def test_an_unreachable_store_answers_no_call(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        rig.daq.inject(DaqFault(FaultKind.UNREACHABLE))
        with pytest.raises(ReadoutUnavailableError):
            await rig.readout.images()
        with pytest.raises(ReadoutUnavailableError):
            await rig.readout.describe(FIRST, BOARD)
        with pytest.raises(ReadoutUnavailableError):
            await rig.readout.read_board(FIRST, BOARD)
        with pytest.raises(ReadoutUnavailableError):
            async with rig.readout.announcements():
                pass
        rig.daq.clear()
        assert len(await rig.readout.images()) == 1

    async def test_listeners_learn_that_the_store_went_away(self, rig: ReadoutRig) -> None:
        async with rig.readout.announcements() as heard:
            rig.take(FIRST)
            assert (await anext(heard)).image == FIRST
            assert (await anext(heard)).complete
            rig.daq.inject(DaqFault(FaultKind.UNREACHABLE))
            with pytest.raises(ReadoutUnavailableError):
                await anext(heard)

    async def test_a_stalled_read_ends_when_the_fault_does(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        rig.daq.inject(DaqFault(FaultKind.STALLED, FIRST, BOARD))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(rig.readout.read_board(FIRST, BOARD))
            await _until(lambda: rig.daq.watchers == 1)
            assert (await rig.readout.read_board(FIRST, OTHER_BOARD)).expected_bytes
            rig.daq.step(100.0)
            assert not reading.done()
            rig.daq.clear(FaultKind.STALLED)
        assert len(reading.result().data) == reading.result().expected_bytes

    async def test_a_slow_read_ends_in_device_time(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        rig.daq.inject(DaqFault(FaultKind.SLOW, FIRST, BOARD, amount=3.0, times=1))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(rig.readout.read_board(FIRST, BOARD))
            await _until(lambda: rig.daq.watchers == 1)
            rig.daq.step(2.9)
            await rig.readout.images()
            assert not reading.done()
            rig.daq.step(0.2)
        assert len(reading.result().data) == reading.result().expected_bytes

    async def test_a_read_that_is_given_up_leaves_nothing_behind(self, rig: ReadoutRig) -> None:
        rig.take(FIRST)
        rig.daq.inject(DaqFault(FaultKind.STALLED, FIRST, BOARD))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(rig.readout.read_board(FIRST, BOARD))
            await _until(lambda: rig.daq.watchers == 1)
            reading.cancel()
        await _until(lambda: rig.daq.watchers == 0)
        assert (await rig.readout.read_board(FIRST, OTHER_BOARD)).expected_bytes

    async def test_a_paused_device_answers_but_reads_nothing_out(self, rig: ReadoutRig) -> None:
        rig.daq.inject(DaqFault(FaultKind.PAUSED))
        rig.take(FIRST)
        [listed] = await rig.readout.images()
        assert not listed.complete
        with pytest.raises(ImageIncompleteError):
            await rig.readout.read_board(FIRST, BOARD)
        rig.daq.clear(FaultKind.PAUSED)
        rig.daq.step(2.0)
        assert (await rig.readout.read_board(FIRST, BOARD)).expected_bytes
