"""How Redis is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from platevault.domain.errors import UsageError

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Address, account and limits of Redis; there is no default password.

    Attributes
    ----------
    host, port, database
        Where it is.
    user
        Account of the access control list; empty for the one named ``default``.
    password
        Its password; empty where the server asks for none. Never shown.
    tls
        Encrypt, and verify the server's certificate and name.
    ca_file
        Certificates to trust instead of the system's.
    cert_file, key_file
        Certificate of this client and its key, where the server asks for one.
    namespace
        Beginning of every key; sites that share a server differ in it.
    timeout_s
        Limit of one call and of connecting [s]. Well below the shortest lease, so that a holder
        hears of an outage before its lease ends.
    connections
        Connections at most; further calls wait for one within ``timeout_s``.
    """

    host: str = "localhost"
    port: int = 6379
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    namespace: str = "platevault"
    timeout_s: float = 2.0
    connections: int = 8

    def __post_init__(self) -> None:
        if _NAMESPACE.fullmatch(self.namespace) is None:
            raise UsageError("Namespace cannot begin a key", value=self.namespace)
        if self.timeout_s <= 0 or self.connections < 1:
            raise UsageError(
                "A limit must be positive", timeout_s=self.timeout_s, connections=self.connections
            )
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise UsageError("Certificates are given without TLS", host=self.host)
