"""What every file ledger must do for exposures; part of its contract."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from platevault.domain.errors import UsageError
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import Exposure, HeaderReference, ToldResult
from platevault.domain.lifecycles import FILE_TRANSITIONS, Destination, FileState
from platevault.ports.file_ledger import (
    Change,
    ConflictingExposureError,
    FileLedger,
    UnknownExposureError,
)

A = Destination.ARCHIVE
O = Destination.OODS  # noqa: E741 - the field's abbreviation
B = Destination.BACKBONE
S = FileState


def an_exposure(number: int = 1, *, sensors: Iterable[str] = ("R22_S00", "R22_S01")) -> Exposure:
    """Make an exposure of a few sensors."""
    return Exposure(
        image=f"CC_O_20250415_{number:06d}",
        camera="LSSTComCam",
        day_obs=20250415,
        exposure_id=2025041500000 + number,
        sensors=dict.fromkeys(sensors, "SCIENCE"),
        facts={"exposureTime": 15.0, "imageType": "OBJECT", "note": "Ångström", "none": None},
    )


def files_of(exposure: Exposure) -> list[FileKey]:
    """List the files of an exposure: raw image and sidecar of each sensor, and the manifest."""
    keys = [
        FileKey(exposure.image, sensor, kind)
        for sensor in exposure.sensors
        for kind in (FileKind.RAW, FileKind.SIDECAR)
    ]
    return [*keys, FileKey(exposure.image, "", FileKind.MANIFEST)]


async def registered(ledger: FileLedger, number: int = 1) -> list[FileKey]:
    """Register an exposure at 100 s; give its files."""
    exposure = an_exposure(number)
    assert await ledger.register(exposure, files=files_of(exposure), now_tai=100.0)
    return files_of(exposure)


async def bring_to(
    ledger: FileLedger, key: FileKey, state: FileState, destination: Destination = B
) -> None:
    """Take a shortest way from EXPECTED to a state."""
    ways: dict[FileState, tuple[FileState, ...]] = {S.EXPECTED: ()}
    ahead = [S.EXPECTED]
    while state not in ways:
        here = ahead.pop(0)
        for to in sorted(FILE_TRANSITIONS[here] - set(ways)):
            ways[to] = (*ways[here], to)
            ahead.append(to)
    for to in ways[state]:
        await ledger.apply([Change(key, destination, to)], now_tai=150.0)


class ExposuresContract:
    """The part of `platevault.testing.file_ledger_contract.FileLedgerContract` on exposures."""

    async def test_a_new_exposure_expects_every_file_at_every_destination(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        keys = await registered(ledger)
        records = await other.files(image=an_exposure().image)
        assert {(record.key, record.destination) for record in records} == {
            (key, destination) for key in keys for destination in Destination
        }
        assert len(records) == 3 * len(keys)
        assert {record.state for record in records} == {S.EXPECTED}
        assert {record.changed_tai for record in records} == {100.0}
        known = await other.exposure(an_exposure().image)
        assert known is not None
        assert known.exposure == an_exposure()
        assert (known.registered_tai, known.target_dir, known.header) == (100.0, "", None)
        assert known.end_readout_tai is None

    async def test_an_unknown_exposure_is_none(self, ledger: FileLedger) -> None:
        assert await ledger.exposure("CC_O_20250415_999999") is None
        assert await ledger.files(image="CC_O_20250415_999999") == []
        assert await ledger.attempts("CC_O_20250415_999999") == []

    async def test_the_same_exposure_again_changes_nothing(self, ledger: FileLedger) -> None:
        keys = await registered(ledger)
        await ledger.begin(keys[:1], A, worker="f1", fence=5, now_tai=200.0)
        before = await ledger.files()
        assert not await ledger.register(an_exposure(), files=[*keys[::-1], keys[0]], now_tai=900.0)
        assert await ledger.files() == before

    @pytest.mark.parametrize(
        "other_contents",
        [
            {"camera": "LATISS"},
            {"day_obs": 20250416},
            {"exposure_id": 1},
            {"sensors": {"R22_S00": "SCIENCE", "R22_S01": "GUIDER"}},
            {"facts": {"exposureTime": 30.0}},
        ],
        ids=lambda contents: next(iter(contents)),
    )
    async def test_another_exposure_of_the_same_name_is_refused(
        self, ledger: FileLedger, other_contents: dict[str, Any]
    ) -> None:
        keys = await registered(ledger)
        before = await ledger.exposure(an_exposure().image)
        with pytest.raises(ConflictingExposureError):
            await ledger.register(
                replace(an_exposure(), **other_contents), files=keys, now_tai=900.0
            )
        assert await ledger.exposure(an_exposure().image) == before
        assert {record.state for record in await ledger.files()} == {S.EXPECTED}

    async def test_the_same_exposure_with_other_files_is_refused(self, ledger: FileLedger) -> None:
        keys = await registered(ledger)
        swapped = [replace(keys[0], sensor="R22_S02"), *keys[1:]]
        for files in (keys[:-1], swapped):
            with pytest.raises(ConflictingExposureError):
                await ledger.register(an_exposure(), files=files, now_tai=900.0)
        assert len(await ledger.files()) == 3 * len(keys)

    async def test_files_of_another_image_are_refused(self, ledger: FileLedger) -> None:
        with pytest.raises(UsageError):
            await ledger.register(an_exposure(1), files=files_of(an_exposure(2)), now_tai=1.0)
        assert await ledger.exposures() == []

    async def test_of_many_at_once_one_registers_it(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        keys = files_of(an_exposure())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each.register(an_exposure(), files=keys, now_tai=1.0))
                for each in (ledger, other) * 5
            ]
        assert sum(task.result() for task in tasks) == 1
        assert len(await ledger.files()) == 3 * len(keys)

    async def test_the_target_is_chosen_once(self, ledger: FileLedger, other: FileLedger) -> None:
        await registered(ledger)
        image = an_exposure().image
        assert await ledger.set_target(image, "/archive/20250415") == "/archive/20250415"
        assert await other.set_target(image, "/elsewhere") == "/archive/20250415"
        known = await ledger.exposure(image)
        assert known is not None
        assert known.target_dir == "/archive/20250415"

    async def test_the_first_end_of_readout_counts(self, ledger: FileLedger) -> None:
        await registered(ledger)
        for moment in (300.0, 299.0, 301.0):
            await ledger.set_end_readout(an_exposure().image, moment)
        known = await ledger.exposure(an_exposure().image)
        assert known is not None
        assert known.end_readout_tai == 300.0

    async def test_the_newest_header_counts(self, ledger: FileLedger) -> None:
        await registered(ledger)
        for version in (1, 3, 2):
            header = HeaderReference(f"file:///{version}", version, version * 10, f"{version}")
            await ledger.set_header(an_exposure().image, header)
        known = await ledger.exposure(an_exposure().image)
        assert known is not None
        assert known.header == HeaderReference("file:///3", 3, 30, "3")

    async def test_facts_of_an_unknown_exposure_are_refused(self, ledger: FileLedger) -> None:
        calls = (
            ledger.set_target("nope", "/x"),
            ledger.set_end_readout("nope", 1.0),
            ledger.set_header("nope", HeaderReference("u", 1)),
        )
        for call in calls:
            with pytest.raises(UnknownExposureError):
                await call

    async def test_what_was_published_is_remembered_once(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        await registered(ledger)
        image = an_exposure().image
        results = [
            ToldResult("R22_S01", "imageInOODS", 0),
            ToldResult("R22_S00", "imageInOODS", 1),
            ToldResult("R22_S00", "imageInOODS", 0),
        ]
        for moment, result in enumerate([*results, results[0]]):
            await ledger.set_told(image, result, now_tai=float(moment))
        assert await other.told(image) == results[::-1]
        assert await other.told("nope") == []
        with pytest.raises(UnknownExposureError):
            await ledger.set_told("nope", results[0], now_tai=1.0)

    async def test_exposures_are_listed_by_name_camera_and_day(self, ledger: FileLedger) -> None:
        for number, camera, day in ((3, "X", 1), (1, "X", 2), (2, "Y", 1)):
            exposure = replace(an_exposure(number), camera=camera, day_obs=day)
            await ledger.register(exposure, files=files_of(exposure), now_tai=1.0)

        async def numbers(**conditions: Any) -> list[int]:
            found = await ledger.exposures(**conditions)
            return [int(record.exposure.image[-6:]) for record in found]

        assert await numbers() == [1, 2, 3]
        assert await numbers(camera="X") == [1, 3]
        assert await numbers(day_obs=1) == [2, 3]
        assert await numbers(camera="X", day_obs=1) == [3]
        assert await numbers(camera="X", day_obs=1, unfinished=True) == [3]

    async def test_an_exposure_is_finished_when_every_file_is_done_or_settled(
        self, ledger: FileLedger
    ) -> None:
        keys = await registered(ledger)
        await registered(ledger, 2)
        way = {A: (S.WRITTEN,), B: (S.SENDING, S.SENT, S.VERIFIED)}
        steps = [
            Change(key, destination, state)
            for key in keys
            for destination in way
            for state in way[destination]
        ]
        for key in keys:
            steps += [Change(key, O, state) for state in (S.SENDING, S.SENT, S.VERIFIED)]
            if key.kind is FileKind.RAW:
                steps.append(Change(key, O, S.CATALOGUED))
        for step in steps[:-1]:
            await ledger.apply([step], now_tai=300.0)
            assert len(await ledger.exposures(unfinished=True)) == 2
        await ledger.apply(steps[-1:], now_tai=300.0)
        (left,) = await ledger.exposures(unfinished=True)
        assert left.exposure == an_exposure(2)

    @pytest.mark.parametrize("state", [S.DEAD, S.ABANDONED, S.REMOVED])
    async def test_a_settled_file_keeps_no_exposure_unfinished(
        self, ledger: FileLedger, state: FileState
    ) -> None:
        exposure = an_exposure()
        await ledger.register(exposure, files=files_of(exposure)[:1], now_tai=1.0)
        (key,) = files_of(exposure)[:1]
        for destination in (A, O):
            await ledger.apply([Change(key, destination, S.ABANDONED)], now_tai=2.0)
        assert len(await ledger.exposures(unfinished=True)) == 1
        await bring_to(ledger, key, state)
        assert await ledger.exposures(unfinished=True) == []
