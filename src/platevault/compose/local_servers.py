"""Servers of one's own on this host: started from what is installed, on free ports of loopback.

``make services`` installs them. For tests, and for nights on one host: they trust whoever reaches
them there. Every server is a context manager; `restart`, `pause` and `kill` are for tests and
drills of what happens then. Data live in a directory that the caller gives and removes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from typing_extensions import override

from platevault.domain.errors import PlatevaultError

#: Longest start of a server on a loaded machine [s].
_START_S = 90.0
_STOP_S = 20.0
_LOOK_S = 0.05
_RABBIT_HOME = Path("/usr/lib/rabbitmq/bin")
_POSTGRES_HOME = Path("/usr/lib/postgresql")
#: What PostgreSQL says while it recovers.
_POSTGRES_WAITS = ("starting up", "not yet accepting connections")
#: A directory that every user may enter (FHS 3.0, sec. 5.15).
_OPEN_PLACE = Path("/var/tmp")  # noqa: S108 - the directory made in it is private to its owner
_KAFKA_HOME = Path("/opt/platevault/kafka")
#: Bytes read of Kafka's answer: its length and the number of the question.
_ANSWER_BYTES = 8


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
        self.stop()

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
        deadline = time.monotonic() + _START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServerFailedError(
                    "Server did not start",
                    server=type(self).__name__,
                    log=str(self.directory / "server.log"),
                )
            time.sleep(_LOOK_S)

    def answers(self) -> bool:
        """Say whether it takes connections."""
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0):
            return True
        return False

    def stop(self) -> None:
        """Stop it in good order; after a while, without."""
        self._end(signal.SIGTERM)

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


class RedisServer(Server):
    """Redis that keeps an append-only file, so that it survives `restart`."""

    @property
    def url(self) -> str:
        """Address for redis-py."""
        return f"redis://{self.host}:{self.port}/0"

    @override
    def prepare(self) -> None:
        _require("redis-server")

    @override
    def command(self) -> Sequence[str]:
        return [
            "redis-server", "--port", str(self.port), "--bind", self.host, "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--dir", str(self.directory),
        ]  # fmt: skip


class RabbitServer(Server):
    """RabbitMQ with a node, port mapper and data of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._mapper_port = free_port()
        self._distribution_port = free_port()

    @property
    def url(self) -> str:
        """Address for aio-pika."""
        return f"amqp://guest:guest@{self.host}:{self.port}/"

    @override
    def prepare(self) -> None:
        if not (_RABBIT_HOME / "rabbitmq-server").exists():
            raise ServerMissingError("Server is not installed", server="rabbitmq-server")
        (self.directory / "enabled_plugins").write_text("[].\n", encoding="utf-8")
        # A cookie of its own keeps the node apart from others on the host.
        cookie = self.directory / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.write_text(secrets.token_hex(16), encoding="utf-8")
        cookie.chmod(0o400)

    @override
    def command(self) -> Sequence[str]:
        return [str(_RABBIT_HOME / "rabbitmq-server")]

    @override
    def environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.directory),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    @override
    def answers(self) -> bool:
        # The port opens before the broker answers: wait for the protocol's first frame.
        try:
            with socket.create_connection((self.host, self.port), 1.0) as connection:
                connection.settimeout(2.0)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False

    @override
    def stop(self) -> None:
        super().stop()
        self._stop_mapper()

    @override
    def kill(self) -> None:
        super().kill()
        self._stop_mapper()

    def _stop_mapper(self) -> None:
        # The port mapper daemon leaves the process group.
        for mapper in (Path("/usr/bin/epmd"), *Path("/usr/lib/erlang").glob("erts-*/bin/epmd")):
            if mapper.exists():
                subprocess.run(  # noqa: S603 - our own argument list
                    [str(mapper), "-port", str(self._mapper_port), "-kill"],
                    check=False,
                    capture_output=True,
                )
                return


class PostgresServer(Server):
    """PostgreSQL with one database ``platevault``; trusts connections from this host."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._data = directory / "data"
        self._elsewhere: Path | None = None

    @override
    def __exit__(self, *trace: object) -> None:
        super().__exit__(*trace)
        if self._elsewhere is not None:
            shutil.rmtree(self._elsewhere, ignore_errors=True)

    @property
    def url(self) -> str:
        """Address for psycopg."""
        return f"postgresql://platevault@{self.host}:{self.port}/platevault"

    @override
    def working_directory(self) -> Path:
        return self._data.parent

    @override
    def user(self) -> str | None:
        return "postgres" if os.geteuid() == 0 else None

    @override
    def prepare(self) -> None:
        self._home = _newest(_POSTGRES_HOME.glob("*/bin/initdb"), "postgresql").parent
        data = self._data = self.directory / "data"
        owner = self.user()
        if owner is not None and not _open_to_all(self.directory):
            # Another user cannot come here, and opening other people's directories is not ours.
            self._elsewhere = Path(tempfile.mkdtemp(prefix="platevault-postgres-", dir=_OPEN_PLACE))
            self._elsewhere.chmod(0o711)
            data = self._data = self._elsewhere / "data"
        if data.exists():
            return
        data.mkdir()
        if owner is not None:
            entry = pwd.getpwnam(owner)
            os.chown(data, entry.pw_uid, entry.pw_gid)
        self._run(
            "initdb", "-D", str(data), "-U", "platevault", "-A", "trust", "-E", "UTF8",
            "--no-sync",
        )  # fmt: skip

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
        deadline = time.monotonic() + _START_S
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
            time.sleep(_LOOK_S)


class KafkaServer(Server):
    """One Apache Kafka broker in KRaft mode, without automatic topics."""

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._controller_port = free_port()
        self._settings = dict(settings or {})

    @property
    def address(self) -> str:
        """Bootstrap address."""
        return f"{self.host}:{self.port}"

    @override
    def prepare(self) -> None:
        _require("java")
        _newest((_KAFKA_HOME / "libs").glob("kafka_2.13-*.jar"), "kafka")
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.host}:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.host}:{self.port},"
            f"CONTROLLER://{self.host}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.host}:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            **self._settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        (self.directory / "server.properties").write_text(text, encoding="utf-8")
        if (self.directory / "data").exists():
            return
        done = subprocess.run(  # noqa: S603 - our own argument list
            [
                *self._java(), "kafka.tools.StorageTool", "format", "-t", "cGxhdGV2YXVsdC10ZXN0cw",
                "-c", str(self.directory / "server.properties"),
            ],
            check=False,
            capture_output=True,
            text=True,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServerFailedError("Kafka storage not formatted", problem=done.stderr[-500:])

    @override
    def command(self) -> Sequence[str]:
        return [*self._java(), "kafka.Kafka", str(self.directory / "server.properties")]

    @override
    def answers(self) -> bool:
        # ApiVersions request, version 0, correlation 1: a broker that serves answers it.
        request = b"\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff"
        try:
            with socket.create_connection((self.host, self.port), 1.0) as connection:
                connection.settimeout(2.0)
                connection.sendall(len(request).to_bytes(4, "big") + request)
                return len(connection.recv(_ANSWER_BYTES)) == _ANSWER_BYTES
        except OSError:
            return False

    def _java(self) -> list[str]:
        return [
            "java", "-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dlog4j.configurationFile=", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", f"{_KAFKA_HOME / 'libs'}/*",
        ]  # fmt: skip


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise ServerMissingError("Server is not installed", server=program)


def _newest(found: object, server: str) -> Path:
    paths = sorted(found) if hasattr(found, "__iter__") else []
    if not paths:
        raise ServerMissingError("Server is not installed", server=server)
    return Path(paths[-1])


def _open_to_all(directory: Path) -> bool:
    """Say whether any user may enter a directory."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in (directory, *directory.parents))
