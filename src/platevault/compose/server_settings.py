"""The parts of the settings that say where servers are and how to be let in."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from platevault.domain.errors import UsageError

ServerPort = Annotated[int, Field(ge=0, le=65535)]
_HIGHEST_PORT = 65535
#: A bootstrap server as librdkafka takes it: a port and a protocol may be left out.
_BROKER = re.compile(r"([A-Za-z_]+://)?([^\s,:/\[\]]+|\[[0-9a-fA-F:.]+\])(:(?P<port>\d{1,5}))?")
_WEB_ADDRESS = re.compile(r"https?://[^\s/:]+(:\d{1,5})?(/\S*)?|https?://\[[0-9a-fA-F:.]+\]\S*")
#: Permissions that a file of secrets must not give: anything to the group or to others.
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretFileError(UsageError):
    """A file of secrets cannot be read or others can read it: mend it; nothing was started."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Account(_Part):
    """An account; the password is in a file, or in the environment."""

    password: SecretStr = Field(
        SecretStr(""), description="better in password_file, or as variable"
    )
    password_file: Path | None = Field(
        None, description="file that holds the password alone, readable by its owner only"
    )
    tls: bool = Field(False, description="encrypt, and verify the server's certificate and name")
    ca_file: Path | None = Field(None, description="certificates to trust, not the system's (PEM)")
    cert_file: Path | None = Field(None, description="certificate of this client (PEM)")
    key_file: Path | None = Field(None, description="its key (PEM)")

    @property
    def secret(self) -> str:
        """The password, from wherever it is; empty if there is none.

        Raises
        ------
        SecretFileError
            Its file cannot be read, or others can read it.
        """
        if self.password_file is None:
            return self.password.get_secret_value()
        return read_secret(self.password_file)


def _brokers(text: str) -> str:
    for one in text.split(","):
        found = _BROKER.fullmatch(one.strip())
        if found is None or not 0 < int(found["port"] or 1) <= _HIGHEST_PORT:
            raise ValueError("expected host:port, several by commas")
    return text


def _web_address(text: str) -> str:
    if _WEB_ADDRESS.fullmatch(text) is None:
        raise ValueError("expected http://host:port or https://host:port")
    return text


class KafkaPart(_Part):
    """Brokers of the SAL bus; the names of ts_salobj's variables are given."""

    brokers: Annotated[str, AfterValidator(_brokers)] = Field(
        "localhost:9092", description="host:port, several by commas (LSST_KAFKA_BROKER_ADDR)"
    )
    registry_url: Annotated[str, AfterValidator(_web_address)] = Field(
        "http://localhost:8081", description="schema registry (LSST_SCHEMA_REGISTRY_URL)"
    )
    subname: str = Field(
        "sal",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="second part of topic names (LSST_TOPIC_SUBNAME)",
    )
    replication_factor: int = Field(
        1, ge=1, description="copies of new topics (LSST_KAFKA_REPLICATION_FACTOR)"
    )
    acks: Literal["all", "-1", "0", "1"] = Field(
        "all", description="copies that must have a sample (LSST_KAFKA_PRODUCER_WAIT_ACKS)"
    )
    security_protocol: Literal["SASL_PLAINTEXT", "SASL_SSL", "PLAINTEXT", "SSL"] = Field(
        "SASL_PLAINTEXT",
        description="without an account SASL_ is left out (LSST_KAFKA_SECURITY_PROTOCOL)",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] = (
        Field("SCRAM-SHA-512", description="(LSST_KAFKA_SECURITY_MECHANISM)")
    )
    username: str = Field("", description="account (LSST_KAFKA_SECURITY_USERNAME)")
    password: SecretStr = Field(SecretStr(""), description="(LSST_KAFKA_SECURITY_PASSWORD)")
    password_file: Path | None = Field(
        None, description="file that holds the password alone, readable by its owner only"
    )
    ca_file: Path | None = Field(None, description="certificates that vouch for the brokers (PEM)")
    registry_ca_file: Path | None = Field(
        None, description="certificates that vouch for the registry (PEM)"
    )
    history_limit: int = Field(
        500, ge=1, description="messages read for the past of a topic (LSST_MAX_HISTORY_READ)"
    )
    history_limits_file: Path | None = Field(
        None, description="the same by component: file (YAML) (LSST_HISTORY_READ_CONFIG)"
    )
    client_options_file: Path | None = Field(
        None,
        description="file (YAML) of librdkafka options for every client, which win "
        "(LSST_KAFKA_BROKER_CLIENT_CONFIGURATION)",
    )
    consumer_options_file: Path | None = Field(
        None, description="the same for consumers (LSST_KAFKA_CONSUMER_CONFIGURATION)"
    )
    producer_options_file: Path | None = Field(
        None, description="the same for producers (LSST_KAFKA_PRODUCER_CONFIGURATION)"
    )

    @property
    def secret(self) -> str:
        """The password, from wherever it is; `SecretFileError` as for other servers."""
        if self.password_file is None:
            return self.password.get_secret_value()
        return read_secret(self.password_file)


class DdsPart(_Part):
    """DDS domain of the SAL bus; DDS knows no accounts, so its network must be closed."""

    domain_id: int = Field(0, ge=0, le=232, description="processes of different ids never meet")
    interface: str = Field("lo", description="network interface; lo keeps all on this host")
    peers: tuple[str, ...] = Field(
        ("127.0.0.1",), description="hosts to find processes on, this one included"
    )
    multicast: bool = Field(False, description="find processes and send by multicast")


class RabbitPart(_Account):
    """Message broker of the work queues."""

    hosts: tuple[str, ...] = Field(("localhost",), min_length=1, description="nodes, in order")
    port: ServerPort = Field(0, description="TCP port; 0: the usual one")
    virtual_host: str = Field("/", description="sites that share a broker differ in it")
    user: str = Field("platevault", min_length=1, description="account")
    queue_kind: Literal["classic", "quorum"] = Field(
        "classic", description="quorum: replicated over a cluster"
    )
    delivery_limit: int = Field(
        10, ge=1, le=99, description="deliveries after which a message is set aside"
    )


class RedisPart(_Account):
    """Store of leases and presence."""

    host: str = Field("localhost", description="host name")
    port: ServerPort = Field(6379, description="TCP port")
    database: int = Field(0, ge=0, description="number of the database")
    user: str = Field("", description="account; empty for the one named default")
    namespace: str = Field(
        "platevault",
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="beginning of every key; sites that share a server differ in it",
    )


class PostgresPart(_Account):
    """Database of the ledger, and of the Butler registry."""

    host: str = Field("localhost", description="host name or socket directory, several by commas")
    port: ServerPort = Field(5432, description="TCP port")
    database: str = Field("platevault", min_length=1, description="database")
    user: str = Field("platevault", min_length=1, description="account")
    ledger_schema: str = Field("ledger", description="schema of the ledger")
    registry_schema: str = Field("butler", description="schema of the Butler registry")
    connections: int = Field(8, ge=1, description="connections of a process at most")


def read_secret(file: Path) -> str:
    """Read a file that holds one secret; a line end after it does not count.

    Raises
    ------
    SecretFileError
        It cannot be read, or its group or others may.
    """
    try:
        refuse_readable_by_others(file)
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretFileError(
            "File of a secret cannot be read", file=str(file), problem=str(error)
        ) from error


def refuse_readable_by_others(file: Path) -> None:
    """Refuse a file that is not its owner's alone.

    Raises
    ------
    SecretFileError
        Its group or others have a permission.
    OSError
        There is no such file.
    """
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & _OTHERS:
        raise SecretFileError(
            "File of a secret is open to others",
            file=str(file),
            value=oct(mode),
            expected="0600 or 0400",
        )
