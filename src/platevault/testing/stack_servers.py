"""Servers of the stack: started by its own scripts, with accounts made by its own program.

Where the scripts lie is the caller's to say: they are not part of the package.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import psycopg
import psycopg.sql
from typing_extensions import override

from platevault.testing.servers import (
    KafkaServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    ServerMissingError,
    free_port,
)

#: Larger files hold data and no settings.
_SETTINGS_BYTES = 1_000_000


def load_accounts(scripts: Path) -> ModuleType:
    """Load the program that makes the accounts."""
    found = importlib.util.spec_from_file_location("accounts", scripts / "accounts.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def make_secrets(scripts: Path, directory: Path) -> Path:
    """Make the passwords of all accounts below a directory; give where they are."""
    script = shutil.copy(scripts / "make-secrets.sh", directory)
    subprocess.run(  # noqa: S603 - our own script
        ["/bin/bash", str(script)], check=True, capture_output=True
    )
    return directory / "secrets"


def password_of(secrets: Path, server: str, account: str) -> str:
    """Read the password of an account."""
    return (secrets / f"{server}_{account}").read_text(encoding="utf-8")


@contextmanager
def running(server: Server, service_missing: Callable[[str], NoReturn]) -> Iterator[None]:
    """Run a server while the body runs, if it is installed."""
    try:
        server.__enter__()
    except ServerMissingError as error:
        service_missing(str(error))
    try:
        yield
    finally:
        server.__exit__()


def readable_secrets(directory: Path, secrets: Path) -> list[Path]:
    """Give the files of a server that hold a password and that others than their owner may use."""
    words = [file.read_bytes().strip() for file in secrets.iterdir()]
    found = []
    for folder, _, names in os.walk(directory):
        for file in (Path(folder) / name for name in names):
            facts = file.stat()
            if facts.st_size < _SETTINGS_BYTES and facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                text = file.read_bytes()
                if any(word in text for word in words):
                    found.append(file)
    return found


class StackKafka(KafkaServer):
    """A broker that `kafka.sh` starts, on ports of its own.

    Parameters
    ----------
    directory
        For its data and log.
    secrets
        Passwords, as `make_secrets` makes them.
    scripts
        Where the stack's scripts are.
    """

    def __init__(self, directory: Path, secrets: Path, scripts: Path) -> None:
        super().__init__(directory)
        self._secrets = secrets
        self._scripts = scripts
        self._quorum = free_port()

    @override
    def prepare(self) -> None:
        super().prepare()  # says if it is not installed
        shutil.rmtree(self.directory / "data")
        (self.directory / "data").mkdir()
        libraries = str(Path(self._java()[-1]))
        for name, program in (
            ("kafka-storage.sh", "kafka.tools.StorageTool"),
            ("kafka-server-start.sh", "kafka.Kafka"),
        ):
            script = self.directory / name
            script.write_text(
                f'#!/bin/sh\nexec java -Xmx384m -XX:+UseSerialGC -cp "{libraries}" {program} "$@"\n'
            )
            script.chmod(0o700)

    @override
    def environment(self) -> dict[str, str]:
        return {
            "SECRETS_DIR": str(self._secrets),
            "CONFIG_DIR": str(self._scripts),
            "DATA_DIR": str(self.directory / "data"),
            "RUN_DIR": str(self.directory),
            "KAFKA_BIN": str(self.directory),
        }

    @override
    def command(self) -> Sequence[str]:
        clients, quorum = f"CLIENTS://{self.host}:{self.port}", f"{self.host}:{self._quorum}"
        return [
            "bash", str(self._scripts / "kafka.sh"),
            f"listeners={clients},CONTROLLER://{quorum}",
            f"advertised.listeners={clients}",
            f"controller.quorum.voters=1@{quorum}",
        ]  # fmt: skip


class StackRabbit(RabbitServer):
    """A broker that `rabbitmq.sh` starts, with its management plugin; parameters as for Kafka.

    Attributes
    ----------
    management_port
        Where accounts are made.
    """

    def __init__(self, directory: Path, secrets: Path, scripts: Path) -> None:
        super().__init__(directory)
        self._secrets = secrets
        self._scripts = scripts
        self.management_port = free_port()

    @override
    def prepare(self) -> None:
        super().prepare()
        (self.directory / "enabled_plugins").write_text("[rabbitmq_management].\n")

    @override
    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "SECRETS_DIR": str(self._secrets),
            "DATA_DIR": str(self.directory),
            "RUN_DIR": str(self.directory),
            "RABBITMQ_START": super().command()[0],
        }

    @override
    def command(self) -> Sequence[str]:
        return [
            "bash", str(self._scripts / "rabbitmq.sh"),
            f"management.tcp.port = {self.management_port}",
            f"management.tcp.ip = {self.host}",
        ]  # fmt: skip

    @override
    def answers(self) -> bool:
        if not super().answers():
            return False
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.management_port}", timeout=2):
                return True
        except OSError:
            return False


class StackRedis(RedisServer):
    """A store that `redis.sh` starts; parameters as for Kafka."""

    def __init__(self, directory: Path, secrets: Path, scripts: Path) -> None:
        super().__init__(directory)
        self._secrets = secrets
        self._scripts = scripts

    @override
    def environment(self) -> dict[str, str]:
        return {"SECRETS_DIR": str(self._secrets), "DATA_DIR": str(self.directory)}

    @override
    def command(self) -> Sequence[str]:
        return [
            "bash", str(self._scripts / "redis.sh"), "--port", str(self.port), "--bind", self.host,
        ]  # fmt: skip


class StackPostgres(PostgresServer):
    """A database that asks for passwords, as the image of the stack is told to."""

    def __init__(self, directory: Path, secrets: Path) -> None:
        super().__init__(directory)
        self._secrets = secrets

    def guard(self) -> None:
        """Give the administrator a password, and trust nobody from here on."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE postgres SUPERUSER LOGIN")
            connection.execute(
                psycopg.sql.SQL("ALTER ROLE postgres PASSWORD {}").format(
                    psycopg.sql.Literal(password_of(self._secrets, "postgres", "admin"))
                )
            )
        with self._as_admin() as connection:
            connection.execute("ALTER ROLE platevault RENAME TO installer")
            connection.execute("ALTER ROLE installer NOLOGIN")
        rules = self._data / "pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        with self._as_admin() as connection:
            connection.execute("SELECT pg_reload_conf()")

    def _as_admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user="postgres",
            dbname="platevault",
            password=password_of(self._secrets, "postgres", "admin"),
            autocommit=True,
        )
