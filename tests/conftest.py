"""What holds for every test: nothing is left behind, and unit tests stay off the network."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from platevault.testing.leaks import check_directory, check_tasks, check_threads

pytest_plugins = [
    "pytester",
    "platevault.testing.message_servers",
    "platevault.testing.kafka_fixtures",
]

_UNIT = Path(__file__).parent / "unit"

# The same examples each time, so that a red test is red for everybody; `--hypothesis-profile
# thorough` looks for new ones.
hypothesis.settings.register_profile(
    "platevault", deadline=None, database=None, derandomize=True, max_examples=60
)
hypothesis.settings.register_profile(
    "thorough", deadline=None, database=None, derandomize=False, max_examples=2000
)
hypothesis.settings.load_profile("platevault")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-services",
        action="store_true",
        help="fail, instead of skipping, where a server is missing",
    )


@pytest.fixture(scope="session")
def service_missing(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """Say that a server is neither given nor installed: skip, or fail if all are required."""

    def say(what: str) -> NoReturn:
        if request.config.getoption("--require-services"):
            pytest.fail(f"{what} is required and missing")
        pytest.skip(f"{what} is missing")

    return say


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = threading.enumerate()
    yield
    check_threads(before)


@pytest.fixture(autouse=True)
def _no_temporary_file_left(
    _no_thread_left: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    directory = tmp_path_factory.getbasetemp() / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory))
    yield
    try:
        check_directory(directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
async def _watched_tasks(_no_thread_left: None) -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    await check_tasks(before)


@pytest.fixture(autouse=True)
def _no_task_left(request: pytest.FixtureRequest, _no_thread_left: None) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_watched_tasks")


@pytest.fixture(autouse=True)
def _no_network_in_unit_tests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if _UNIT not in request.path.parents:
        return

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("A unit test used the network")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
