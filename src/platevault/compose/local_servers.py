"""Servers of one's own on this host: started from what is installed, on free ports of loopback.

``make services`` installs them. For tests, and for nights on one host: they trust whoever reaches
them there. Every server is a context manager; `restart`, `pause` and `kill` are for tests and
drills of what happens then. Data live in a directory that the caller gives and removes.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from platevault.compose.postgres_server import PostgresServer
from platevault.compose.server_process import (
    Server,
    ServerFailedError,
    ServerMissingError,
    free_port,
    newest,
    require,
)

__all__ = [
    "KafkaServer",
    "PostgresServer",
    "RabbitServer",
    "RedisServer",
    "Server",
    "ServerFailedError",
    "ServerMissingError",
    "free_port",
]

_RABBIT_HOME = Path("/usr/lib/rabbitmq/bin")
_KAFKA_HOME = Path("/opt/platevault/kafka")
#: Bytes read of Kafka's answer: its length and the number of the question.
_ANSWER_BYTES = 8


class RedisServer(Server):
    """Redis that keeps an append-only file, so that it survives `restart`."""

    @property
    def url(self) -> str:
        """Address for redis-py."""
        return f"redis://{self.host}:{self.port}/0"

    @override
    def prepare(self) -> None:
        require("redis-server")

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
        require("java")
        newest((_KAFKA_HOME / "libs").glob("kafka_2.13-*.jar"), "kafka")
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
            # After kill -9 the controller refuses the broker until its session has ended: after 9 s
            # by default, and with the start that is longer than samples are offered again.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
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
