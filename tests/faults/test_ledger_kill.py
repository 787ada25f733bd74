"""The ledger under kill -9, a torn log and a full disk: whole transactions, none forgotten."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from platevault.adapters.sqlite import SqliteFileLedger
from platevault.domain.lifecycles import Destination, FileState
from platevault.testing.exposures_contract import an_exposure, files_of

WRITER = Path(__file__).with_name("ledger_writer.py")
FILES = len(files_of(an_exposure()))


def _start(path: Path, worker: str, limit_bytes: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WRITER), str(path), worker, str(limit_bytes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _killed(path: Path, workers: Iterable[str], after_lines: int) -> dict[str, set[str]]:
    """Let writers say so many lines each, kill them; give all that they said."""
    said: dict[str, set[str]] = defaultdict(set)
    with ExitStack() as stack:
        running = [stack.enter_context(_start(path, worker)) for worker in workers]
        try:
            for process in running:
                assert process.stdout is not None
                for _ in range(after_lines):
                    line = process.stdout.readline()
                    assert line.endswith("\n"), process.communicate()
                    _note(said, line)
        finally:
            for process in running:
                process.kill()
        for process in running:
            assert process.stdout is not None
            for line in process.stdout:
                if line.endswith("\n"):
                    _note(said, line)
    return said


def _note(said: dict[str, set[str]], line: str) -> None:
    what, _, image = line.strip().partition(" ")
    said[what].add(image)


async def _check(path: Path, said: dict[str, set[str]]) -> None:
    """Check that transactions are whole, and that what was said is stored."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    async with SqliteFileLedger(path) as ledger:
        exposures = {record.exposure.image for record in await ledger.exposures()}
        written, begun = set(), set()
        for image in exposures:
            files = await ledger.files(image=image)
            assert len(files) == 3 * FILES
            states = [file.state for file in files if file.destination is Destination.ARCHIVE]
            assert len(set(states)) == 1, (image, states)
            attempts = await ledger.attempts(image)
            match states[0]:
                case FileState.EXPECTED:
                    assert attempts == []
                case FileState.SENDING:
                    assert [attempt.outcome for attempt in attempts] == [""] * FILES
                    begun.add(image)
                case _:
                    assert [attempt.outcome for attempt in attempts] == ["done"] * FILES
                    begun.add(image)
                    written.add(image)
    assert said["registered"] <= exposures
    assert said["begun"] <= begun
    assert said["written"] <= written


async def test_a_killed_writer_leaves_whole_transactions_and_all_that_it_was_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sqlite"
    lines = random.Random(20250415)
    all_said: dict[str, set[str]] = defaultdict(set)
    for number in range(6):  # on one file, so that recovery is recovered from too
        said = _killed(path, [f"W{number}"], lines.randrange(1, 60))
        for what, images in said.items():
            all_said[what] |= images
        await _check(path, all_said)
    assert len(all_said["written"]) > 10


async def test_writers_killed_together_leave_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for number in range(2):
        said = _killed(path, [f"X{number}", f"Y{number}"], 25)
        assert {image[0] for image in said["registered"]} == {"X", "Y"}
        await _check(path, said)


async def test_a_log_cut_anywhere_loses_whole_transactions_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    _killed(path, ["W"], 40)
    log = path.with_name(f"{path.name}-wal")
    size = log.stat().st_size
    assert size > 100_000
    places = random.Random(7)
    kept = []
    for number in range(12):
        copy = tmp_path / f"copy-{number}.sqlite"
        shutil.copy(path, copy)
        cut = copy.with_name(f"{copy.name}-wal")
        shutil.copy(log, cut)
        with cut.open("r+b") as file:
            file.truncate(places.randrange(60_000, size))
        await _check(copy, defaultdict(set))
        async with SqliteFileLedger(copy) as ledger:
            kept.append(len(await ledger.exposures()))
    assert len(set(kept)) > 1, "the cuts made no difference"


@pytest.mark.parametrize("limit_bytes", [200_000, 1_000_000])
async def test_a_full_disk_refuses_whole_transactions_and_more_room_lets_it_go_on(
    tmp_path: Path, limit_bytes: int
) -> None:
    path = tmp_path / "ledger.sqlite"
    with _start(path, "W", limit_bytes) as process:
        output, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
    said: dict[str, set[str]] = defaultdict(set)
    for line in output.splitlines():
        _note(said, line)
    assert output.count("full\n") == 4
    assert "MORE_ROOM" in said["written"]
    assert len(said["written"]) > 2
    assert "STILL_FULL" not in said["written"]
    await _check(path, said)
