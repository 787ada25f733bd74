"""The leak checks find what they look for."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from platevault.testing.leaks import LeakError, check_directory, check_tasks, check_threads


async def test_a_task_that_was_left_is_named() -> None:
    before = asyncio.all_tasks()
    task = asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="forgotten")
    with pytest.raises(LeakError, match="forgotten"):
        await check_tasks(before)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_was_cancelled_may_still_end() -> None:
    before = asyncio.all_tasks()
    task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    task.cancel()
    await check_tasks(before)
    assert task.cancelled()


def test_a_thread_that_was_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platevault.testing.leaks._LAST_MOMENTS_S", 0.01)
    before = threading.enumerate()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    try:
        with pytest.raises(LeakError, match="forgotten"):
            check_threads(before)
    finally:
        end.set()
        thread.join()
    check_threads(before)


def test_a_file_that_was_left_is_named(tmp_path: Path) -> None:
    check_directory(tmp_path)
    (tmp_path / "half.tmp").touch()
    with pytest.raises(LeakError, match=r"half\.tmp"):
        check_directory(tmp_path)


def test_a_unit_test_cannot_use_the_network() -> None:
    with socket.socket() as one, pytest.raises(AssertionError, match="network"):
        one.connect(("127.0.0.1", 9))


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ("asyncio.get_running_loop().create_task(asyncio.Event().wait())", "Tasks were left"),
        ("threading.Thread(target=time.sleep, args=(0.3,)).start()", "Threads were left"),
        ("tempfile.mkstemp()", "Temporary files were left"),
        ("with socket.socket() as one: one.connect(('127.0.0.1', 9))", "used the network"),
    ],
)
def test_a_test_that_leaves_something_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, left: str, message: str
) -> None:
    unit = pytester.mkdir("unit")
    conftest = Path(__file__).parents[1] / "conftest.py"
    pytester.makeconftest(conftest.read_text(encoding="utf-8"))
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error\n"
    )
    (unit / "test_leaky.py").write_text(
        f"import asyncio, socket, tempfile, threading, time\nasync def test_leaky():\n    {left}\n",
        encoding="utf-8",
    )
    with monkeypatch.context() as hasty:
        hasty.setattr("platevault.testing.leaks._LAST_MOMENTS_S", 0.01)
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*{message}*"])
