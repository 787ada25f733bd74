"""How PostgreSQL is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from platevault.domain.errors import UsageError

#: A plain identifier needs no quotes and cannot hold SQL.
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, kw_only=True)
class PostgresSettings:
    """Address, account and limits of PostgreSQL; there is no default password.

    Attributes
    ----------
    host
        Host name, or directory of a Unix socket; several, separated by commas, are tried in order
        until one takes writes.
    port, database
        Where on it.
    user
        Account.
    password
        Its password; empty where the server asks for none or ``password_file`` has it. Never
        shown.
    password_file
        File of libpq's ``.pgpass`` form, readable by its owner alone.
    tls
        Encrypt, and verify the server's certificate and name.
    ca_file
        Certificates to trust instead of the system's.
    cert_file, key_file
        Certificate of this client and its key, where the server asks for one.
    schema
        Schema that holds the ledger; sites that share a database differ in it.
    reader_role, writer_role
        Roles that the ledger's owner lets read, or read and write; empty grants nothing.
    connect_within_s
        Limit of connecting [s].
    call_within_s
        Limit of one call, from asking for a connection to the commit [s].
    statement_within_s
        Limit of one statement, kept by the server [s].
    lock_within_s
        Limit of waiting for a row that another process is changing, kept by the server [s].
    connections
        Connections at most; further calls wait for one within ``call_within_s``.
    """

    host: str = "localhost"
    port: int = 5432
    database: str = "platevault"
    user: str = "platevault"
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    schema: str = "ledger"
    reader_role: str = ""
    writer_role: str = ""
    connect_within_s: float = 3.0
    call_within_s: float = 10.0
    statement_within_s: float = 5.0
    lock_within_s: float = 3.0
    connections: int = 8

    def __post_init__(self) -> None:
        for name in ("schema", "reader_role", "writer_role"):
            value = getattr(self, name)
            if _NAME.fullmatch(value) is None and (value or name == "schema"):
                raise UsageError(
                    "A name in the database is no plain identifier",
                    field=name,
                    value=value,
                    expected=_NAME.pattern,
                )
        for name in (
            "connect_within_s",
            "call_within_s",
            "statement_within_s",
            "lock_within_s",
            "connections",
        ):
            if getattr(self, name) <= 0:
                raise UsageError("A limit must be positive", field=name, value=getattr(self, name))
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise UsageError("Certificates are given without TLS", host=self.host)

    def place(self) -> dict[str, object]:
        """Say where it is, for error messages."""
        return {
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "schema": self.schema,
        }

    def connection_parameters(self, *, read_only: bool) -> dict[str, str]:
        """Give the parameters of libpq."""
        options = {
            # Durability of a commit rests on these two; a role's own defaults must not weaken it.
            "synchronous_commit": "on",
            "default_transaction_isolation": r"read\ committed",
            "default_transaction_read_only": "on" if read_only else "off",
            "search_path": f"{self.schema},pg_catalog",
            "statement_timeout": _milliseconds(self.statement_within_s),
            "lock_timeout": _milliseconds(self.lock_within_s),
            # A client that vanished must not keep rows locked.
            "idle_in_transaction_session_timeout": _milliseconds(self.call_within_s),
            "client_min_messages": "warning",
        }
        parameters = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "user": self.user,
            "application_name": "platevault-ledger",
            "connect_timeout": str(max(2, round(self.connect_within_s))),
            "target_session_attrs": "any" if read_only else "read-write",
            "keepalives_idle": "10",
            "keepalives_interval": "5",
            "keepalives_count": "3",
            "tcp_user_timeout": _milliseconds(self.call_within_s),
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "sslmode": "verify-full" if self.tls else "disable",
        }
        if self.tls:
            parameters["sslrootcert"] = str(self.ca_file) if self.ca_file else "system"
            parameters["ssl_min_protocol_version"] = "TLSv1.2"
            if self.cert_file and self.key_file:
                parameters |= {"sslcert": str(self.cert_file), "sslkey": str(self.key_file)}
        if self.password:
            parameters["password"] = self.password
        if self.password_file:
            parameters["passfile"] = str(self.password_file)
        return parameters


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
