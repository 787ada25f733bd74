"""Operators list what was set aside, put it back and drop it, by the command itself."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from platevault.adapters.system_clock import SystemClock
from platevault.cli.main import app
from platevault.cli.queue import WrongLettersError
from platevault.compose.local_servers import free_port
from platevault.compose.settings import load_settings
from platevault.compose.work_queues import rabbit_queue, sqlite_queue
from platevault.domain.errors import UsageError
from platevault.domain.messages import FileTransferCompleted
from platevault.ports.work_queue import WorkQueue
from platevault.testing.command_line import run_platevault

pytestmark = pytest.mark.timeout(120)
#: Whoever names files so gets a message that fits no line.
LONG_NAME = "x" * 400
REASON = "[oods] no such instrument"


def written(file: Path, **more: object) -> Path:
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump({"root": str(file.parent / "data"), **more}))
    return file


@pytest.fixture
def in_file(tmp_path: Path) -> Path:
    return written(tmp_path / "site.yaml", queue="sqlite")


@pytest.fixture(params=["in_file", pytest.param("rabbitmq", marks=pytest.mark.servers)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a site for each queue that outlives a process."""
    if request.param == "in_file":
        return written(tmp_path / "site.yaml", queue="sqlite")
    server = request.getfixturevalue("rabbit_server")
    return written(
        tmp_path / "site.yaml",
        queue="rabbitmq",
        rabbitmq={
            "hosts": [server.host], "port": server.port, "user": "guest", "password": "guest"
        },
    )  # fmt: skip


@pytest.fixture
def name() -> str:
    """Name a queue; the broker's are shared by all tests."""
    return f"oods.{uuid.uuid4().hex[:8]}"


@asynccontextmanager
async def opened(site: Path) -> AsyncIterator[WorkQueue]:
    settings = load_settings(site)
    make = sqlite_queue if settings.queue == "sqlite" else rabbit_queue
    async with make(settings, clock=SystemClock()) as queue:
        yield queue


def a_message(image: str) -> FileTransferCompleted:
    return FileTransferCompleted(camera="LATISS", image=image, sensor="R00_S00")


async def set_aside(site: Path, name: str, images: Sequence[str]) -> list[str]:
    """Set messages aside as a service does; give the names of the letters."""
    async with opened(site) as queue:
        for image in images:
            await queue.send(name, a_message(image))
        async with queue.consume(name, prefetch=1) as deliveries:
            for _ in images:
                await (await anext(deliveries)).set_aside(reason=REASON)
        return [letter.letter_id for letter in await queue.dead_letters(name)]


async def command(verb: str, site: Path, *arguments: str) -> CompletedProcess[str]:
    return await asyncio.to_thread(run_platevault, "queue", verb, *arguments, "--config", str(site))


async def listed(site: Path, name: str) -> list[dict[str, Any]]:
    done = await command("list", site, "--queue", name, "--json")
    letters: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == (1 if letters else 0), done.stderr
    return letters


async def test_what_was_set_aside_is_listed_with_queue_moment_reason_and_body(
    site: Path, name: str
) -> None:
    (letter_id,) = await set_aside(site, name, [LONG_NAME])
    (letter,) = await listed(site, name)
    assert (letter["letter_id"], letter["queue"], letter["reason"]) == (letter_id, name, REASON)
    assert json.loads(letter["body"])["image"] == LONG_NAME
    # Half the difference of TAI and UTC tells one from the other.
    age = datetime.now(UTC) - datetime.fromisoformat(letter["set_aside_utc"])
    assert abs(age) < timedelta(seconds=18)
    shown = await command("list", site, "--queue", name)
    assert shown.returncode == 1
    assert f"{letter_id}: {REASON}" in shown.stdout.splitlines()
    assert letter["set_aside_utc"][:19] in shown.stdout
    assert "file_transfer_completed" in shown.stdout
    assert LONG_NAME[:200] not in shown.stdout


async def test_a_letter_that_is_put_back_is_delivered_as_new_and_logged(
    site: Path, name: str
) -> None:
    first, second = await set_aside(site, name, ["one", "two"])
    done = await command("redrive", site, first)
    assert done.returncode == 0, done.stderr
    assert f"{first} is back on its queue" in done.stdout
    (line,) = [one for one in done.stderr.splitlines() if "Dead letter was driven again" in one]
    assert f"letter={first} " in line
    assert f"queue={name} " in line
    assert f"reason='{REASON}'" in line
    assert [one["letter_id"] for one in await listed(site, name)] == [second]
    async with opened(site) as queue, queue.consume(name, prefetch=1) as deliveries:
        again = await anext(deliveries)
        assert (again.message, again.attempt) == (a_message("one"), 1)
        await again.ack()
        assert await queue.depth(name) == 0


async def test_a_letter_that_is_gone_is_named_and_hinders_no_other(site: Path, name: str) -> None:
    first, second, third = await set_aside(site, name, ["one", "two", "three"])
    assert (await command("redrive", site, first)).returncode == 0
    done = await command("redrive", site, first, second)
    assert done.returncode == 1
    assert f"There is no such dead letter (letter='{first}')" in done.stderr
    assert "Traceback" not in done.stderr
    assert f"{second} is back" in done.stdout
    done = await command("dismiss", site, first, third, "--reason", "a test")
    assert done.returncode == 1
    assert f"letter='{first}'" in done.stderr
    assert f"{third} is dismissed" in done.stdout
    assert await listed(site, name) == []


async def test_a_letter_that_is_dismissed_is_gone_and_its_reason_is_logged(
    site: Path, name: str
) -> None:
    (letter,) = await set_aside(site, name, ["one"])
    done = await command("dismiss", site, letter, "--reason", "a test image")
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in done.stderr.splitlines() if "Dead letter was dismissed" in one]
    assert f"letter={letter} " in line
    assert f"queue={name} " in line
    assert "reason='a test image'" in line
    assert await listed(site, name) == []
    async with opened(site) as queue:
        assert await queue.depth(name) == 0


async def test_all_of_one_queue_are_put_back_and_those_of_others_stay(
    site: Path, name: str
) -> None:
    mine = await set_aside(site, name, ["one", "two"])
    (other,) = await set_aside(site, f"{name}-other", ["three"])
    assert [one["letter_id"] for one in await listed(site, name)] == mine
    done = await command("redrive", site, "--all", "--queue", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{letter} is back on its queue" for letter in mine]
    assert [one["letter_id"] for one in await listed(site, f"{name}-other")] == [other]
    async with opened(site) as queue:
        assert await queue.depth(name) == 2
        assert await queue.depth(f"{name}-other") == 0


async def test_all_are_put_back_of_every_queue(in_file: Path) -> None:
    for name in ("oods.LATISS", "work.LATISS"):
        await set_aside(in_file, name, ["one"])
    assert (await command("redrive", in_file, "--all")).returncode == 0
    done = await command("list", in_file)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Nothing is set aside" in done.stderr


def test_a_queue_in_memory_can_hold_nothing_for_a_command(tmp_path: Path) -> None:
    for verb in (["list"], ["redrive", "--all"], ["dismiss", "a", "--reason", "b"]):
        done = run_platevault("queue", *verb, "--root", str(tmp_path))
        assert done.returncode == 2
        assert "Nothing can be set aside here" in done.stderr
        assert "field='queue'" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_place_where_nothing_has_run_is_named_and_stays_as_it_is(
    in_file: Path, tmp_path: Path
) -> None:
    done = run_platevault("queue", "list", "--config", str(in_file))
    assert done.returncode == 1
    assert str(tmp_path / "data" / "host" / "queue.sqlite") in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("verb", [["list"], ["redrive", "--all"]])
def test_a_broker_that_is_away_is_named_with_its_port(tmp_path: Path, verb: list[str]) -> None:
    port = free_port()
    site = written(
        tmp_path / "site.yaml",
        queue="rabbitmq",
        rabbitmq={"hosts": ["127.0.0.1"], "port": port, "user": "u", "password": "p"},
    )
    done = run_platevault("queue", *verb, "--config", str(site))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"platevault: RabbitMQ does not answer (host='127.0.0.1', port={port}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["redrive"], ["redrive", "a", "--all"], ["redrive", "a", "--queue", "oods.LATISS"]],
)
def test_letters_are_named_one_way(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["queue", *arguments])
    assert isinstance(done.exception, WrongLettersError)


def test_nothing_is_dismissed_without_a_reason() -> None:
    assert CliRunner().invoke(app, ["queue", "dismiss", "a"]).exit_code == 2
    blank = CliRunner().invoke(app, ["queue", "dismiss", "a", "--reason", " "])
    assert isinstance(blank.exception, UsageError)
    assert blank.exception.context["field"] == "--reason"
