"""PostgreSQL of one's own on this host."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from platevault.compose.server_process import (
    LOOK_S,
    START_S,
    Server,
    ServerFailedError,
    newest,
)

_POSTGRES_HOME = Path("/usr/lib/postgresql")
#: Runs a server for root.
_POSTGRES_USER = "postgres"
#: What PostgreSQL says while it recovers.
_POSTGRES_WAITS = ("starting up", "not yet accepting connections")
#: A directory that every user may enter (FHS 3.0, sec. 5.15).
_OPEN_PLACE = Path("/var/tmp")  # noqa: S108 - the directory made in it is private to its owner


class PostgresServer(Server):
    """PostgreSQL with one database ``platevault``; trusts connections from this host.

    It refuses to run as root, and then runs as the owner of its data. Where that user cannot come,
    the data are elsewhere while it runs, and ``data`` is a link to them.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._data = directory / "data"
        self._elsewhere: Path | None = None

    @override
    def rest(self) -> None:
        super().rest()
        place = self.directory / "data"
        if self._elsewhere is None or not self._data.exists():
            return
        place.unlink()
        shutil.move(self._data, place)
        shutil.rmtree(self._elsewhere)
        self._data, self._elsewhere = place, None

    @property
    def url(self) -> str:
        """Address for psycopg."""
        return f"postgresql://platevault@{self.host}:{self.port}/platevault"

    @override
    def working_directory(self) -> Path:
        return self._data.parent

    @override
    def user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        owner = self._data.stat().st_uid if self._data.exists() else 0
        return pwd.getpwuid(owner).pw_name if owner else _POSTGRES_USER

    @override
    def prepare(self) -> None:
        place = self.directory / "data"
        if place.is_symlink() and not place.exists():
            place.unlink()  # somebody cleaned up where it led to
        data = self._data = place.resolve()
        self._home = self._programs(data)
        owner = self.user()
        if place.is_symlink():
            self._elsewhere = data.parent
        elif owner == _POSTGRES_USER and not _open_to_all(self.directory):
            # Another user cannot come here, and opening other people's directories is not ours.
            data = self._move_out(place)
        if data.exists():
            return
        data.mkdir()
        if owner is not None:
            _give(data, owner)
        self._run(
            "initdb", "-D", str(data), "-U", "platevault", "-A", "trust", "-E", "UTF8",
            "--no-sync",
        )  # fmt: skip

    def _move_out(self, place: Path) -> Path:
        self._elsewhere = Path(tempfile.mkdtemp(prefix="platevault-postgres-", dir=_OPEN_PLACE))
        self._elsewhere.chmod(0o711)
        data = self._data = self._elsewhere / "data"
        if place.exists():
            shutil.move(place, data)
            for part in (data, *data.rglob("*")):
                _give(part, _POSTGRES_USER)
        place.symlink_to(data)
        return data

    def _programs(self, data: Path) -> Path:
        """Give the directory of the release that made the data, or of the newest."""
        latest = newest(_POSTGRES_HOME.glob("*/bin/initdb"), "postgresql").parent
        try:
            release = (data / "PG_VERSION").read_text(encoding="ascii").strip()
        except OSError:
            return latest
        made_it = _POSTGRES_HOME / release / "bin"
        return made_it if made_it.exists() else latest

    @override
    def command(self) -> Sequence[str]:
        return [
            str(self._home / "postgres"), "-D", str(self._data),
            "-h", self.host, "-p", str(self.port), "-k", "", "-c", "shared_buffers=64MB",
        ]  # fmt: skip

    @override
    def start(self) -> None:
        super().start()
        self._psql("postgres", "select 1")
        if not self._psql("postgres", "select 1 from pg_database where datname = 'platevault'"):
            self._run(
                "createdb", "-h", self.host, "-p", str(self.port), "-U", "platevault", "platevault"
            )

    def add_extension(self, name: str) -> None:
        """Add an extension to the database, as an administrator does."""
        self._psql("platevault", f"create extension if not exists {name}")

    def _psql(self, database: str, command: str) -> str:
        return self._run(
            "psql", "-h", self.host, "-p", str(self.port), "-U", "platevault", "-d", database,
            "-Atqc", command,
        ).strip()  # fmt: skip

    @override
    def stop(self) -> None:
        # SIGINT ends connections at once; SIGTERM would wait for clients.
        self._end(signal.SIGINT)

    @override
    def _signal(self, number: signal.Signals) -> None:
        # Each child has a group of its own; all must hang, or die, with their parent.
        children: list[int] = []
        if number in {signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL}:
            children = self._children()
        super()._signal(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def _children(self) -> list[int]:
        children = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold anything.
                facts = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
                if self._process is not None and int(facts.split()[1]) == self._process.pid:
                    children.append(int(entry.parent.name))
        return children

    def _run(self, program: str, *arguments: str) -> str:
        deadline = time.monotonic() + START_S
        while True:
            done = subprocess.run(  # noqa: S603 - our own argument list
                [str(self._home / program), *arguments],
                check=False,
                capture_output=True,
                text=True,
                user=self.user(),
                cwd=self.working_directory(),
            )
            if done.returncode == 0:
                return done.stdout
            waits = any(sign in done.stderr for sign in _POSTGRES_WAITS)
            if not waits or time.monotonic() > deadline:
                raise ServerFailedError(
                    "Server refused to work", program=program, problem=done.stderr[-500:]
                )
            time.sleep(LOOK_S)


def _open_to_all(directory: Path) -> bool:
    """Say whether any user may enter a directory."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in (directory, *directory.parents))


def _give(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
