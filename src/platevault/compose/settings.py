"""The settings tree: ts_salobj < file < environment < command line; unknown keys are refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from platevault.compose.salobj_variables import SITE_VARIABLE, SalobjVariableError, salobj_fields
from platevault.compose.server_settings import (
    DdsPart,
    KafkaPart,
    PostgresPart,
    RabbitPart,
    RedisPart,
    refuse_readable_by_others,
)
from platevault.compose.setting_errors import (
    DELIMITER,
    PREFIX,
    expectation,
    unknown_variable,
    yaml_problem,
)
from platevault.domain.errors import UsageError
from platevault.services.archiver.settings import ArchiverConfiguration

Seconds = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class InvalidSettingsError(UsageError):
    """A setting is wrong or unknown: mend the named field; nothing was started."""


class RootUnusableError(UsageError):
    """``root`` cannot be made: mend the setting, or the owner and mode; nothing was started."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogSettings(_Part):
    """How the process logs."""

    format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="json or console on standard error; auto: json into log/ below root",
    )
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level")


class MetricsSettings(_Part):
    """The Prometheus end point, and whether the process lives and is ready."""

    port: Port = Field(0, description="TCP port of /metrics, /livez and /readyz; 0 serves none")
    host: str = Field("127.0.0.1", description="address to listen on")


class ForwarderSettings(_Part):
    """Forwarders."""

    count: int = Field(2, ge=1, description="Forwarders in an embedded deployment")
    concurrency: int = Field(2, ge=1, description="boards in hand at once, per Forwarder")
    readout_timeout_s: Seconds = Field(30.0, description="wait for a complete readout [s]")
    digest: Literal["xxh3", "sha256"] = Field("xxh3", description="digest of every file")
    durability: Literal["durable", "ramdisk"] = Field(
        "durable", description="durable: fsync every file; ramdisk: none"
    )
    compression: Literal["rice", "none"] = Field("rice", description="RICE_1 tiles or plain int32")
    codec: Literal["auto", "avx2", "portable", "numba", "library"] = Field(
        "auto", description="what encodes pixels; auto: the fastest that runs here"
    )
    tile_rows: int = Field(1, ge=1, description="image rows in a compressed tile")


class HeaderServiceSettings(_Part):
    """Header Services."""

    margin_s: Seconds = Field(
        30.0, description="wait beyond the exposure's own timeout, then publish what is there [s]"
    )
    settle_s: Seconds = Field(
        0.1, description="wait after the closing event for samples that were sent before it [s]"
    )


class OodsSettings(_Part):
    """Observatory operations data service."""

    registry: Literal["sqlite", "postgres"] = Field(
        "sqlite", description="database of the Butler registry; sqlite is one host"
    )
    gather_s: Seconds = Field(0.5, description="wait for the next file of an exposure [s]")
    gather_limit_s: Seconds = Field(2.0, description="longest wait for all its files [s]")
    compatibility: Literal["platevault", "obs_lsst"] = Field(
        "platevault",
        description="names recorded in the Butler; obs_lsst needs the LSST stack to read",
    )


class ServeSettings(_Part):
    """Services that are processes of their own."""

    drain_within_s: Seconds = Field(
        20.0, description="how long a service may finish what it has in hand when asked to stop [s]"
    )
    registry_host: str = Field(
        "127.0.0.1", description="address on which our schema registry listens; it has no accounts"
    )
    registry_port: Port = Field(8081, description="TCP port of our schema registry")
    initial_state: Literal["offline", "standby", "disabled", "enabled"] = Field(
        "standby", description="state that commandable components go to at their start"
    )
    presence_s: float = Field(
        10.0, gt=0, description="a process that is silent for so long counts as gone [s]"
    )


class DaqSettings(_Part):
    """The camera's data acquisition."""

    store_hours: float = Field(48.0, gt=0, description="how long the store keeps an image [h]")
    host: str = Field("", description="DAQ server; empty: the emulator in this process")
    port: Port = Field(0, description="TCP port of the DAQ server")
    listen: str = Field("127.0.0.1", description="address on which a DAQ emulator listens")
    control_port: Port = Field(0, description="TCP port of the emulator's control channel")


class Settings(BaseSettings):
    """Everything that can be set; see each part."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
    )

    site: str = Field("local", pattern=r"^[a-z0-9_-]{1,32}$", description="name of the site")
    root: Path = Field(Path("night"), description="directory below which all data go")
    bus: Literal["memory", "kafka", "dds"] = Field(
        "memory", description="what carries SAL samples; memory is one process"
    )
    queue: Literal["memory", "sqlite", "rabbitmq"] = Field(
        "memory", description="what holds work; memory is one process, sqlite one host"
    )
    leases: Literal["memory", "sqlite", "redis"] = Field(
        "memory",
        description="what keeps leases and presence; memory is one process, sqlite one host",
    )
    ledger: Literal["sqlite", "postgres"] = Field(
        "sqlite", description="what keeps the ledger; sqlite is one host"
    )
    csc_configuration: Path | None = Field(
        None,
        description="directory with the configurations of components, "
        "<component>/<schema version>/_init.yaml; empty: made below root from these settings",
    )
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    archiver: ArchiverConfiguration = ArchiverConfiguration()
    forwarder: ForwarderSettings = ForwarderSettings()
    header_service: HeaderServiceSettings = HeaderServiceSettings()
    oods: OodsSettings = OodsSettings()
    daq: DaqSettings = DaqSettings()
    serve: ServeSettings = ServeSettings()
    kafka: KafkaPart = KafkaPart()
    dds: DdsPart = DdsPart()
    rabbitmq: RabbitPart = RabbitPart()
    redis: RedisPart = RedisPart()
    postgres: PostgresPart = PostgresPart()

    @property
    def archive_dir(self) -> Path:
        """Where Forwarders write."""
        return self.root / "archive"

    @property
    def oods_dir(self) -> Path:
        """Where the OODS finds files."""
        return self.root / "oods"

    @property
    def butler_dir(self) -> Path:
        """The Butler repository."""
        return self.root / "butler"

    @property
    def backbone_dir(self) -> Path:
        """Where the Data Backbone finds files."""
        return self.root / "backbone"

    @property
    def quarantine_dir(self) -> Path:
        """Where files that cannot be catalogued are set aside."""
        return self.root / "quarantine"

    @property
    def annex_dir(self) -> Path:
        """The large file annex."""
        return self.root / "annex"

    @property
    def log_file(self) -> Path:
        """Where a night logs to."""
        return self.root / "log" / "night.jsonl"

    @property
    def schemas_file(self) -> Path:
        """What our schema registry remembers."""
        return self.root / "registry" / "schemas.jsonl"

    @property
    def spool_dir(self) -> Path:
        """What services keep on this host across a restart."""
        return self.root / "spool"

    @property
    def queue_path(self) -> Path:
        """Work that processes of one host share."""
        return self.root / "host" / "queue.sqlite"

    @property
    def leases_path(self) -> Path:
        """Leases and presence that processes of one host share."""
        return self.root / "host" / "leases.sqlite"

    @property
    def ledger_path(self) -> Path:
        """The ledger's database."""
        return self.root / "ledger.sqlite"


def load_settings(file: Path | None = None, **overrides: object) -> Settings:
    """Read settings, later ones win: variables of ts_salobj, ``file``, our own, ``overrides``.

    Parameters
    ----------
    file
        YAML file; ``None`` for defaults.
    **overrides
        Values from the command line, by field, nested as dictionaries.

    Raises
    ------
    InvalidSettingsError
        A value is wrong; the error names file, field, value and what was expected.
    SalobjVariableError
        A variable of ts_salobj is wrong; the error names it, its value and what was expected.
    SecretFileError
        ``file`` holds a password and others can read it.
    """
    values = _read(file) if file is not None else {}
    if file is not None and _holds_secret(values):
        refuse_readable_by_others(file)
    own = _merged(_merged(values, EnvSettingsSource(Settings)()), overrides)
    unknown = unknown_variable(os.environ, Settings)  # noqa: TID251 - this is where it is read
    if unknown is not None:
        variable, expected = unknown
        raise InvalidSettingsError(
            "A variable names no setting", variable=variable, expected=expected
        )
    known = salobj_fields(os.environ, own=own)  # noqa: TID251 - this is where it is read
    try:
        return Settings.model_validate(_merged(known, own))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        secret = "password" in first["loc"]
        if first["loc"] == ("site",) and "site" in known:
            raise SalobjVariableError(
                "A variable of ts_salobj is not valid",
                variable=SITE_VARIABLE,
                value=known["site"],
                expected=first["msg"],
            ) from error
        raise InvalidSettingsError(
            "A setting is not valid",
            file=str(file) if file is not None else "",
            field=".".join(str(part) for part in first["loc"]),
            value="***" if secret else first.get("input"),
            expected=expectation(first, Settings),
        ) from (None if secret else error)


def notify_address() -> str:
    """Give the socket on which a supervisor waits to hear of readiness; empty if none does."""
    return os.environ.get("NOTIFY_SOCKET", "")  # noqa: TID251 - this is where it is read


def make_directory(directory: Path) -> None:
    """Make ``root`` or a directory in it, if it is not there.

    Raises
    ------
    RootUnusableError
        It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RootUnusableError(
            "The directory of the site cannot be made",
            field="root",
            value=str(directory),
            problem=str(error),
            expected="a directory that this account may write to",
        ) from error


def offer_registry_password(password: str) -> None:
    """Let libpq find the password of the Butler registry, whose address never holds one.

    What the environment says already (``PGPASSWORD``, ``PGPASSFILE``) stands.

    References
    ----------
    PostgreSQL, libpq, 34.15 "Environment Variables".
    """
    environment = os.environ  # noqa: TID251 - this is where it is read
    if password and not environment.keys() & {"PGPASSWORD", "PGPASSFILE"}:
        environment["PGPASSWORD"] = password


def child_environment() -> dict[str, str]:
    """Give the environment for a process of ours whose settings are all in its file."""
    return {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - this is where it is read
        if not name.startswith(("PLATEVAULT_", "LSST_", "NOTIFY_SOCKET"))
    }


def revealed(settings: Settings) -> dict[str, Any]:
    """Give settings as plain data with their secrets, to be kept in a file of the owner alone."""
    return {name: _plain(getattr(settings, name)) for name in type(settings).model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _holds_secret(values: Mapping[str, Any]) -> bool:
    return any(isinstance(part, Mapping) and bool(part.get("password")) for part in values.values())


def settings_schema() -> dict[str, Any]:
    """Give the JSON schema of the settings file."""
    return Settings.model_json_schema()


def _merged(base: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in upper.items():
        below = merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(below, value)
        else:
            merged[name] = value
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(
            "The settings file cannot be read", file=str(file), problem=str(error)
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettingsError(
            "The settings file is not YAML", file=str(file), problem=yaml_problem(error)
        ) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise InvalidSettingsError(
            "The settings file has no fields", file=str(file), expected="a mapping of settings"
        )
    return {str(name): value for name, value in loaded.items()}
