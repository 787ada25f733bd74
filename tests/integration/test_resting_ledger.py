"""The ledger of a night with servers answers when the night, and its servers, are over."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from platevault.adapters.postgres import PostgresFileLedger, PostgresSettings
from platevault.adapters.sqlite import SqliteFileLedger
from platevault.compose.local_servers import PostgresServer, ServerMissingError
from platevault.compose.resting_ledger import site_ledger
from platevault.compose.settings import Settings, child_environment
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import Exposure
from platevault.ports.file_ledger import FileLedger
from platevault.testing.command_line import PLATEVAULT, run_platevault

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]
FIRST, SECOND, OTHER = (f"AT_O_20261121_00000{number}" for number in (1, 2, 7))


def images(root: Path, *more: str) -> list[str]:
    done = run_platevault("image", "list", "--root", str(root), "--json", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return [one["image"] for one in json.loads(done.stdout)]


def servers_of(root: Path) -> list[str]:
    """Give the command line of each PostgreSQL that has its data below a root, or for it."""
    data = (root / "servers" / "postgres" / "data").resolve()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[0].endswith("/postgres") and str(data) in words:
            found.append(" ".join(words))
    return found


async def fill(ledger: FileLedger, *names: str) -> None:
    for name in names:
        exposure = Exposure(
            image=name,
            camera="LATISS",
            day_obs=20261121,
            exposure_id=2026112100000 + int(name[-1]),
            sensors={"R00_S00": "SCIENCE"},
        )
        key = FileKey(image=name, sensor="R00_S00", kind=FileKind.RAW)
        await ledger.register(exposure, files=[key], now_tai=1.0)


async def fill_postgres(server: PostgresServer, *names: str) -> None:
    settings = PostgresSettings(
        host=server.host, port=server.port, database="platevault", user="platevault",
        schema="ledger",
    )  # fmt: skip
    async with PostgresFileLedger(settings=settings) as ledger:
        await fill(ledger, *names)


@pytest.fixture
def server(tmp_path: Path, service_missing: Callable[[str], NoReturn]) -> Iterator[PostgresServer]:
    """Give the PostgreSQL of a night whose root is ``night``; it knows two images and runs."""
    root = tmp_path / "night"
    server = PostgresServer(root / "servers" / "postgres")
    try:
        server.__enter__()
    except ServerMissingError:
        service_missing("postgresql")
    try:
        asyncio.run(fill_postgres(server, FIRST, SECOND))
        file = root / "run" / "site.yaml"
        file.parent.mkdir()
        file.touch(mode=0o600)
        content: dict[str, Any] = {
            "root": str(root),
            "ledger": "postgres",
            "postgres": {"host": server.host, "port": server.port},
        }
        file.write_text(yaml.safe_dump(content))
        yield server
    finally:
        server.rest()


def test_a_running_ledger_answers_and_goes_on_running(
    tmp_path: Path, server: PostgresServer
) -> None:
    assert images(tmp_path / "night") == [FIRST, SECOND]
    assert server.running


def test_a_stopped_ledger_answers_and_rests_again(tmp_path: Path, server: PostgresServer) -> None:
    server.rest()
    root = tmp_path / "night"
    # By its root, and by the settings that the night wrote.
    assert images(root) == [FIRST, SECOND]
    config = str(root / "run" / "site.yaml")
    assert images(root, "--config", config) == [FIRST, SECOND]
    done = run_platevault("image", "where", FIRST, "--root", str(root), "--json")
    assert json.loads(done.stdout)["image"] == FIRST
    assert done.returncode == 1  # it is not complete
    assert servers_of(root) == []
    # All that it keeps stays below the root.
    assert (root / "servers" / "postgres" / "data" / "PG_VERSION").is_file()
    assert not (root / "servers" / "postgres" / "data").is_symlink()


def test_a_ledger_whose_server_was_killed_answers(tmp_path: Path, server: PostgresServer) -> None:
    server.kill()
    assert images(tmp_path / "night") == [FIRST, SECOND]


def test_a_night_may_be_moved(tmp_path: Path, server: PostgresServer) -> None:
    server.rest()
    (tmp_path / "night").rename(tmp_path / "kept")
    assert images(tmp_path / "kept") == [FIRST, SECOND]


def test_another_server_on_the_port_of_the_night_is_not_asked(
    tmp_path: Path, server: PostgresServer
) -> None:
    server.rest()
    other = PostgresServer(tmp_path / "other")
    other.port = server.port
    with other:
        asyncio.run(fill_postgres(other, OTHER))
        assert images(tmp_path / "night") == [FIRST, SECOND]


def test_several_may_ask_at_once(tmp_path: Path, server: PostgresServer) -> None:
    server.rest()
    root = tmp_path / "night"
    asked = [
        subprocess.Popen(
            [*PLATEVAULT, "image", "list", "--root", str(root), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment(),
        )
        for _ in range(3)
    ]  # fmt: skip
    for child in asked:
        output, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        assert [one["image"] for one in json.loads(output)] == [FIRST, SECOND]
    assert servers_of(root) == []


async def _ask_twice(settings: Settings) -> None:
    async with site_ledger(settings):
        # The second must not come to use a server that the first is about to stop.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2), site_ledger(settings):
                pass
    async with site_ledger(settings) as ledger:
        assert await ledger.exposure(FIRST) is not None


def test_one_waits_for_the_other(tmp_path: Path, server: PostgresServer) -> None:
    server.rest()
    asyncio.run(_ask_twice(Settings(root=tmp_path / "night")))
    assert servers_of(tmp_path / "night") == []


async def _ask_while_data_move(settings: Settings) -> None:
    servers = settings.root / "servers" / "postgres"
    turn = os.open(servers, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        (servers / "data").rename(servers / "moving")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2), site_ledger(settings):
                pass
        (servers / "moving").rename(servers / "data")
    finally:
        os.close(turn)
    async with site_ledger(settings) as ledger:
        assert await ledger.exposure(FIRST) is not None


def test_a_server_whose_data_another_moves_is_waited_for(
    tmp_path: Path, server: PostgresServer
) -> None:
    server.rest()
    asyncio.run(_ask_while_data_move(Settings(root=tmp_path / "night")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_leaves_no_server(
    tmp_path: Path, server: PostgresServer, number: signal.Signals
) -> None:
    server.rest()
    root = tmp_path / "night"
    child = subprocess.Popen(
        [*PLATEVAULT, "image", "list", "--root", str(root)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=child_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not servers_of(root):
        assert time.monotonic() < deadline
        assert child.poll() is None
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert "Traceback" not in errors
    assert child.returncode != 0
    assert servers_of(root) == []


def test_the_ledger_of_the_last_night_below_a_root_is_asked(
    tmp_path: Path, server: PostgresServer
) -> None:
    server.rest()
    root = tmp_path / "night"

    async def embedded() -> None:
        async with SqliteFileLedger(root / "ledger.sqlite") as ledger:
            await fill(ledger, OTHER)

    asyncio.run(embedded())
    assert images(root) == [OTHER]
    (root / "run" / "site.yaml").touch()
    assert images(root) == [FIRST, SECOND]


def test_settings_of_a_night_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "run" / "site.yaml"
    file.parent.mkdir()
    file.write_text("ledger: [")
    done = run_platevault("image", "list", "--root", str(tmp_path))
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_ledger_that_cannot_be_started_is_named_with_its_log(
    tmp_path: Path, server: PostgresServer
) -> None:
    server.rest()
    root = tmp_path / "night"
    (root / "servers" / "postgres" / "data" / "postgresql.conf").write_text("nonsense")
    done = run_platevault("image", "list", "--root", str(root))
    assert done.returncode == 1
    assert str(root / "servers" / "postgres" / "server.log") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_night_over_servers_is_asked_after_it_is_over(
    tmp_path: Path, service_missing: Callable[[str], NoReturn]
) -> None:
    root = tmp_path / "night"
    done = run_platevault(
        "night", "run", "--deployment", "local-servers", "--root", str(root), "--camera", "latiss",
        "--exposures", "1", "--quiet",
    )  # fmt: skip
    if "Server is not installed" in done.stderr:
        service_missing("a server of the night")
    assert done.returncode == 0, done.stdout + done.stderr
    (image,) = images(root)
    where = run_platevault("image", "where", image, "--root", str(root))
    assert where.returncode == 0, where.stdout + where.stderr
    assert "complete" in where.stdout
    assert servers_of(root) == []
