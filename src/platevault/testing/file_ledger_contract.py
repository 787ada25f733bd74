"""What every file ledger must do; subclass `FileLedgerContract` in a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from platevault.domain.errors import PlatevaultError
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import FileRecord
from platevault.domain.lifecycles import FILE_TRANSITIONS, Destination, FileState
from platevault.ports.file_ledger import (
    Change,
    FileLedger,
    Staged,
    StaleFenceError,
    StateConflictError,
)
from platevault.testing.exposures_contract import (
    A,
    B,
    ExposuresContract,
    O,
    S,
    an_exposure,
    bring_to,
    files_of,
    registered,
)
from platevault.testing.file_ledger_machine import FileLedgerMachine

#: Runs one SQL statement on the store without the adapter; raises if the store refuses.
Sql = Callable[[str], Awaitable[list[tuple[Any, ...]]]]
#: Makes an empty store; what it gives opens a ledger on that store, as often as wanted.
NewStore = Callable[[], Callable[[], AbstractAsyncContextManager[FileLedger]]]


async def _begin(ledger: FileLedger, keys: Iterable[FileKey], *, fence: int = 5) -> list[int]:
    opened = await ledger.begin([*keys], A, worker="f1", fence=fence, now_tai=200.0)
    return [attempt.number for attempt in opened]


async def _file(ledger: FileLedger, key: FileKey, destination: Destination = A) -> FileRecord:
    records = await ledger.files(image=key.image, destination=destination)
    return next(record for record in records if record.key == key)


def _written(key: FileKey, *, fence: int = 5, digest: str = "md5:aa") -> Change:
    return Change(key, A, S.WRITTEN, fence=fence, path="/a/f", size_bytes=7, digest=digest)


class FileLedgerContract(ExposuresContract):
    """Give the fixtures ``ledger``, ``other``, ``sql`` and ``new_store``.

    ``ledger`` and ``other`` are two `FileLedger` objects on one empty store, as two processes
    would have; ``sql`` asks that store directly (`Sql`; the tables are those of the migrations);
    ``new_store`` (`NewStore`) serves the state machine, outside the loop of the test.
    """

    #: Examples and steps of the state machine.
    machine: ClassVar[settings] = settings(max_examples=25, stateful_step_count=20)

    # -- attempts ----------------------------------------------------------------------------

    async def test_begin_opens_an_attempt_for_each_file(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        keys = await registered(ledger)
        opened = await ledger.begin(keys[:2], O, worker="f1", fence=5, now_tai=200.0)
        assert [(one.key, one.destination, one.number) for one in opened] == [
            (keys[0], O, 1),
            (keys[1], O, 1),
        ]
        assert {(one.worker, one.fence, one.started_tai) for one in opened} == {("f1", 5, 200.0)}
        assert await other.attempts(keys[0].image) == opened
        sending = await other.files(states=[S.SENDING])
        assert [(one.key, one.destination) for one in sending] == [(keys[0], O), (keys[1], O)]
        assert {(one.attempt, one.fence, one.changed_tai) for one in sending} == {(1, 5, 200.0)}

    async def test_begin_again_closes_what_was_open_as_lost(self, ledger: FileLedger) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        await ledger.begin([key], A, worker="f2", fence=6, now_tai=250.0)
        first, second = await ledger.attempts(key.image)
        assert (first.outcome, first.ended_tai, first.worker) == ("lost", 250.0, "f1")
        assert (second.outcome, second.ended_tai, second.number) == ("", None, 2)

    async def test_a_file_named_twice_gets_one_attempt(self, ledger: FileLedger) -> None:
        (key,) = (await registered(ledger))[:1]
        assert await _begin(ledger, [key, key]) == [1]
        assert len(await ledger.attempts(key.image)) == 1

    async def test_begin_forgets_why_the_file_waited(self, ledger: FileLedger) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        await ledger.apply([Change(key, A, S.RETRY, fence=5, reason="disk full")], now_tai=300.0)
        assert (await _file(ledger, key)).reason == "disk full"
        await _begin(ledger, [key])
        assert (await _file(ledger, key)).reason == ""

    async def test_begin_leaves_out_what_is_done(self, ledger: FileLedger) -> None:
        keys = await registered(ledger)
        await ledger.apply([_written(keys[0])], now_tai=150.0)
        assert await _begin(ledger, keys[:2]) == [1]
        assert (await _file(ledger, keys[0])).state is S.WRITTEN
        assert [one.key for one in await ledger.attempts(keys[0].image)] == [keys[1]]

    @pytest.mark.parametrize("state", [S.HELD, S.SENT, S.DEAD, S.ABANDONED, S.REMOVED, S.CORRUPT])
    async def test_begin_refuses_a_state_that_allows_no_work(
        self, ledger: FileLedger, state: FileState
    ) -> None:
        keys = await registered(ledger)
        await bring_to(ledger, keys[1], state)
        with pytest.raises(StateConflictError):
            await ledger.begin(keys[:2], B, worker="f1", fence=5, now_tai=200.0)
        assert (await _file(ledger, keys[0], B)).state is S.EXPECTED
        assert await ledger.attempts(keys[0].image) == []

    async def test_begin_under_an_old_fence_is_refused_whole(self, ledger: FileLedger) -> None:
        keys = await registered(ledger)
        await _begin(ledger, [keys[1]], fence=6)
        before = await ledger.files(), await ledger.attempts(keys[0].image)
        with pytest.raises(StaleFenceError):
            await _begin(ledger, keys[:2], fence=5)
        assert (await ledger.files(), await ledger.attempts(keys[0].image)) == before

    async def test_work_without_a_lease_is_allowed_and_lowers_no_fence(
        self, ledger: FileLedger
    ) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key], fence=6)
        assert await _begin(ledger, [key], fence=0) == [2]
        await ledger.apply([_written(key, fence=0)], now_tai=300.0)
        assert (await _file(ledger, key)).fence == 6

    async def test_work_on_a_file_never_registered_is_refused(self, ledger: FileLedger) -> None:
        keys = await registered(ledger)
        stranger = replace(keys[0], sensor="R99_S99")
        with pytest.raises(StateConflictError):
            await _begin(ledger, [keys[0], stranger])
        with pytest.raises(StateConflictError):
            await ledger.apply([_written(keys[0]), _written(stranger)], now_tai=1.0)
        assert (await _file(ledger, keys[0])).state is S.EXPECTED

    async def test_what_was_staged_is_kept_with_the_attempt(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        for digest in ("md5:aa", "md5:bb"):
            await ledger.stage([Staged(key, A, 1, "/a/.f", 7, digest)])
        (attempt,) = await other.attempts(key.image)
        assert (attempt.staged_path, attempt.staged_digest) == ("/a/.f", "md5:bb")
        assert attempt.staged_size_bytes == 7
        assert (await _file(ledger, key)).digest == ""

    async def test_an_attempt_that_was_taken_over_stages_nothing(self, ledger: FileLedger) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        await _begin(ledger, [key], fence=6)
        with pytest.raises(StaleFenceError):
            await ledger.stage([Staged(key, A, 1, "/x", 1, "md5:x")])
        assert {one.staged_path for one in await ledger.attempts(key.image)} == {""}

    async def test_an_attempt_that_ended_or_never_was_stages_nothing(
        self, ledger: FileLedger
    ) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        await ledger.apply([_written(key)], now_tai=300.0)
        for number in (1, 2):
            with pytest.raises(StateConflictError):
                await ledger.stage([Staged(key, A, number, "/x", 1, "m:x")])

    async def test_of_several_staged_together_all_are_kept_or_none(
        self, ledger: FileLedger
    ) -> None:
        first, second = (await registered(ledger))[:2]
        await _begin(ledger, [first, second])
        both = [Staged(first, A, 1, "/f", 1, "md5:f"), Staged(second, A, 1, "/s", 2, "md5:s")]
        await ledger.stage([])
        await ledger.stage([replace(both[0], path="/earlier"), *both])
        found = {one.key: one for one in await ledger.attempts(first.image)}
        assert [found[one.key].staged_path for one in both] == ["/f", "/s"]
        assert [found[one.key].staged_digest for one in both] == ["md5:f", "md5:s"]
        await _begin(ledger, [second], fence=6)
        with pytest.raises(StaleFenceError):
            await ledger.stage([replace(one, path="/x", digest="md5:x") for one in both])
        with pytest.raises(StateConflictError):
            await ledger.stage([replace(both[0], path="/x"), replace(both[1], number=3)])
        staged = [one.staged_path for one in await ledger.attempts(first.image)]
        assert sorted(staged) == ["", "/f", "/s"]

    # -- changes -----------------------------------------------------------------------------

    @pytest.mark.parametrize("state", [*FileState])
    async def test_a_file_goes_only_where_the_table_says(
        self, ledger: FileLedger, state: FileState
    ) -> None:
        exposure = an_exposure(sensors=[f"R22_S{n:02d}" for n in range(len(FileState))])
        keys = [key for key in files_of(exposure) if key.kind is FileKind.RAW]
        await ledger.register(exposure, files=keys, now_tai=1.0)
        for key, to in zip(keys, FileState, strict=True):
            await bring_to(ledger, key, state)
            if to is state or to in FILE_TRANSITIONS[state]:
                await ledger.apply([Change(key, B, to)], now_tai=200.0)
                assert (await _file(ledger, key, B)).state is to
            else:
                with pytest.raises(StateConflictError):
                    await ledger.apply([Change(key, B, to)], now_tai=200.0)
                assert (await _file(ledger, key, B)).state is state

    async def test_a_change_stores_what_it_gives_and_keeps_the_rest(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        (key,) = (await registered(ledger))[:1]
        first = replace(_written(key), degraded=True, reason="no header")
        await ledger.apply([first], now_tai=300.0)
        await ledger.apply([Change(key, A, S.VERIFIED, fence=7)], now_tai=310.0)
        assert await _file(other, key) == FileRecord(
            key=key,
            destination=A,
            state=S.VERIFIED,
            path="/a/f",
            size_bytes=7,
            digest="md5:aa",
            degraded=True,
            attempt=0,
            fence=7,
            reason="",
            changed_tai=310.0,
        )

    @pytest.mark.parametrize(
        ("to", "outcome", "error"),
        [
            (S.WRITTEN, "done", ""),
            (S.SENT, "done", ""),
            (S.RETRY, "failed", "why"),
            (S.DEAD, "failed", "why"),
            (S.READY, "failed", "why"),
        ],
    )
    async def test_a_change_closes_the_open_attempt(
        self, ledger: FileLedger, to: FileState, outcome: str, error: str
    ) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        await ledger.apply([Change(key, A, to, fence=5, reason="why")], now_tai=300.0)
        (attempt,) = await ledger.attempts(key.image)
        assert (attempt.outcome, attempt.ended_tai, attempt.error) == (outcome, 300.0, error)
        assert (await _file(ledger, key)).reason == "why"

    async def test_saying_sending_again_leaves_the_attempt_open(self, ledger: FileLedger) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        await ledger.apply([Change(key, A, S.SENDING, fence=5)], now_tai=300.0)
        (attempt,) = await ledger.attempts(key.image)
        assert attempt.outcome == ""

    async def test_a_change_in_place_succeeds_again(self, ledger: FileLedger) -> None:
        (key,) = (await registered(ledger))[:1]
        await _begin(ledger, [key])
        await ledger.apply([_written(key)], now_tai=300.0)
        before = await ledger.files(), await ledger.attempts(key.image)
        await ledger.apply([_written(key)], now_tai=400.0)
        assert (await ledger.files(), await ledger.attempts(key.image)) == before

    async def test_a_change_in_place_may_say_more(self, ledger: FileLedger) -> None:
        (key,) = (await registered(ledger))[:1]
        await ledger.apply([_written(key)], now_tai=300.0)
        await ledger.apply([replace(_written(key), path="/moved", fence=6)], now_tai=400.0)
        record = await _file(ledger, key)
        assert (record.path, record.fence, record.changed_tai) == ("/moved", 6, 300.0)

    async def test_a_late_report_of_what_is_in_place_succeeds_and_writes_nothing(
        self, ledger: FileLedger
    ) -> None:
        (key,) = (await registered(ledger))[:1]
        await ledger.apply([_written(key, fence=6)], now_tai=300.0)
        before = await ledger.files()
        await ledger.apply([replace(_written(key, fence=5), path="/other")], now_tai=400.0)
        assert await ledger.files() == before
        for late in (_written(key, fence=5, digest="md5:bb"), Change(key, A, S.WRITTEN, fence=5)):
            with pytest.raises(StaleFenceError):
                await ledger.apply([late], now_tai=400.0)

    @pytest.mark.parametrize("to", [S.WRITTEN, S.VERIFIED])
    async def test_other_contents_of_a_file_in_place_are_refused(
        self, ledger: FileLedger, to: FileState
    ) -> None:
        (key,) = (await registered(ledger))[:1]
        await ledger.apply([_written(key)], now_tai=300.0)
        with pytest.raises(StateConflictError):
            await ledger.apply([replace(_written(key, digest="md5:bb"), to=to)], now_tai=400.0)
        assert (await _file(ledger, key)).digest == "md5:aa"

    async def test_changes_are_made_all_or_none(self, ledger: FileLedger) -> None:
        keys = await registered(ledger)
        await _begin(ledger, keys)
        before = await ledger.files(), await ledger.attempts(keys[0].image)
        for last in (Change(keys[-1], A, S.CATALOGUED), _written(keys[-1], fence=4)):
            changes = [*(_written(key) for key in keys[:-1]), last]
            with pytest.raises((StateConflictError, StaleFenceError)):
                await ledger.apply(changes, now_tai=300.0)
            assert (await ledger.files(), await ledger.attempts(keys[0].image)) == before

    async def test_no_change_at_all_is_success(self, ledger: FileLedger) -> None:
        await ledger.apply([], now_tai=1.0)
        assert await ledger.begin([], A, worker="f1", fence=1, now_tai=1.0) == []

    async def test_calls_that_come_together_succeed_and_fail_alone(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        exposure = an_exposure(sensors=[f"R22_S{n:02d}" for n in range(40)])
        keys = [key for key in files_of(exposure) if key.kind is FileKind.RAW]
        await ledger.register(exposure, files=keys, now_tai=1.0)

        async def change(each: FileLedger, number: int) -> str:
            to = S.CATALOGUED if number % 3 == 0 else S.WRITTEN
            try:
                await each.apply([Change(keys[number], A, to)], now_tai=2.0)
            except PlatevaultError as error:
                return type(error).__name__
            return "written"

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(change((ledger, other)[number % 2], number))
                for number in range(40)
            ]
        for number, task in enumerate(tasks):
            good = number % 3 != 0
            assert task.result() == ("written" if good else "StateConflictError")
            assert (await _file(other, keys[number])).state is (S.WRITTEN if good else S.EXPECTED)

    async def test_a_cancelled_call_is_whole_or_nothing(
        self, ledger: FileLedger, other: FileLedger
    ) -> None:
        for number in range(1, 30):
            exposure = an_exposure(number)
            task = asyncio.get_running_loop().create_task(
                ledger.register(exposure, files=files_of(exposure), now_tai=1.0)
            )
            for _ in range(number % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        await registered(ledger, 100)
        for number in range(1, 30):
            known = await other.exposure(an_exposure(number).image)
            files = await other.files(image=an_exposure(number).image)
            assert len(files) == (0 if known is None else 3 * len(files_of(an_exposure())))

    async def test_files_are_listed_in_order_by_any_condition(self, ledger: FileLedger) -> None:
        keys = [*await registered(ledger, 2), *await registered(ledger, 1)]
        await ledger.apply([_written(keys[0]), _written(keys[-1])], now_tai=2.0)
        everything = await ledger.files()
        order = [
            (one.key.image, one.key.sensor, one.key.kind, one.destination) for one in everything
        ]
        assert order == sorted(order)
        assert len(order) == 3 * len(keys)
        assert await ledger.files(image=keys[0].image) == [
            one for one in everything if one.key.image == keys[0].image
        ]
        assert await ledger.files(
            image=keys[-1].image, sensors=[keys[-1].sensor, "R99_S99"], destination=A
        ) == [
            one
            for one in everything
            if one.key.image == keys[-1].image
            and one.key.sensor == keys[-1].sensor
            and one.destination is A
        ]
        assert await ledger.files(destination=O) == [
            one for one in everything if one.destination is O
        ]
        assert await ledger.files(states=[S.WRITTEN, S.DEAD]) == [
            one for one in everything if one.state is S.WRITTEN
        ]
        assert await ledger.files(image=keys[0].image, destination=A, states=[S.EXPECTED]) == [
            one
            for one in everything
            if (one.key.image, one.destination, one.state) == (keys[0].image, A, S.EXPECTED)
        ]

    # -- the store itself --------------------------------------------------------------------

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM attempt",
            "UPDATE attempt SET worker = 'x' WHERE outcome = ''",
            "UPDATE attempt SET number = 9 WHERE outcome = ''",
            "UPDATE attempt SET started_tai = 0 WHERE outcome = ''",
            "UPDATE attempt SET fence = 0 WHERE outcome = ''",
            "UPDATE attempt SET error = 'x' WHERE outcome <> ''",
            "UPDATE attempt SET outcome = '', ended_tai = NULL WHERE outcome <> ''",
            "UPDATE file_state SET fence = 1",
            "DELETE FROM exposure",
        ],
    )
    async def test_the_store_itself_refuses_to_change_history(
        self, ledger: FileLedger, sql: Sql, statement: str
    ) -> None:
        keys = await registered(ledger)
        await _begin(ledger, keys[:2])
        await ledger.apply([_written(keys[0])], now_tai=300.0)
        before = await ledger.files(), await ledger.attempts(keys[0].image)
        with pytest.raises(Exception, match=r"never|FOREIGN KEY|foreign key"):
            await sql(statement)
        assert (await ledger.files(), await ledger.attempts(keys[0].image)) == before

    async def test_the_store_holds_what_the_ledger_tells(
        self, ledger: FileLedger, sql: Sql
    ) -> None:
        keys = await registered(ledger)
        await _begin(ledger, keys[:1])
        await ledger.apply([_written(keys[0])], now_tai=300.0)
        rows = await sql("SELECT destination, state, digest FROM file_state WHERE attempt = 1")
        assert rows == [("archive", "written", "md5:aa")]
        assert await sql("SELECT outcome, worker, number FROM attempt") == [("done", "f1", 1)]

    def test_any_life_of_files_agrees_with_the_oracle(self, new_store: NewStore) -> None:
        class Machine(FileLedgerMachine):
            store = staticmethod(new_store)

        run_state_machine_as_test(Machine, settings=self.machine)
