"""A server process of one's own: started, watched, stopped, and killed where that is wanted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from platevault.domain.errors import PlatevaultError

#: Longest start of a server on a loaded machine [s].
START_S = 90.0
#: Time between looks at a server that starts [s].
LOOK_S = 0.05
_STOP_S = 20.0


class ServerMissingError(PlatevaultError):
    """The server is not installed: run ``make services``, or skip the test."""


class ServerFailedError(PlatevaultError):
    """The server did not start, or died: its log is in its directory."""


def free_port() -> int:
    """Find a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(ABC):
    """One server process.

    Parameters
    ----------
    directory
        For its data and log; made if absent.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = "127.0.0.1"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.prepare()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Give the command line that runs the server in the foreground."""

    def environment(self) -> Mapping[str, str]:
        """Give variables beyond those of this process."""
        return {}

    def working_directory(self) -> Path:
        """Give the directory it runs in."""
        return self.directory

    def user(self) -> str | None:
        """Name the user it runs as, if it refuses to run as root."""
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Make its data if there are none; `ServerMissingError` if it is not installed."""

    def start(self) -> None:
        """Start and return when it answers; `ServerFailedError` if it does not."""
        log = (self.directory / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: S603 - our own argument list
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.working_directory(),
                env={**os.environ, **self.environment()},  # noqa: TID251 - the child's
                user=self.user(),
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServerFailedError(
                    "Server did not start",
                    server=type(self).__name__,
                    log=str(self.directory / "server.log"),
                )
            time.sleep(LOOK_S)

    def answers(self) -> bool:
        """Say whether it takes connections."""
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0):
            return True
        return False

    def stop(self) -> None:
        """Stop it in good order; after a while, without."""
        self._end(signal.SIGTERM)

    def rest(self) -> None:
        """Stop it for good; all that it keeps is in its directory then."""
        self.stop()

    def kill(self) -> None:
        """Stop it as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again, with its data and on its port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: it keeps its connections and does nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Id of the process, 0 if it was not started; it leads a process group."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """The process lives."""
        return self._process is not None and self._process.poll() is None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(_STOP_S)
        # Children of a killed parent (Erlang's, a JVM's) share its group.
        self._signal(signal.SIGKILL)
        self._process = None


def require(program: str) -> None:
    """Say that a program must be installed; `ServerMissingError` if it is not."""
    if shutil.which(program) is None:
        raise ServerMissingError("Server is not installed", server=program)


def newest(found: object, server: str) -> Path:
    """Give the last of the paths found; `ServerMissingError` if there is none."""
    paths = sorted(found) if hasattr(found, "__iter__") else []
    if not paths:
        raise ServerMissingError("Server is not installed", server=server)
    return Path(paths[-1])
