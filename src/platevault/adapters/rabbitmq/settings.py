"""How RabbitMQ is reached, and what its queues are."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from yarl import URL

from platevault.domain.errors import UsageError

#: Ports without and with TLS (RabbitMQ, "Networking").
_PORT, _TLS_PORT = 5672, 5671
#: The broker of quorum queues drops a message itself after so many deliveries, see `topology`.
MOST_DELIVERIES = 100


class QueueKind(Enum):
    """What the broker makes of a queue; all of one virtual host are of one kind."""

    CLASSIC = "classic"
    """On one node, durable, with ten priorities."""
    QUORUM = "quorum"
    """Replicated over a cluster; no priorities before RabbitMQ 4, two from there on."""


@dataclass(frozen=True, kw_only=True)
class RabbitSettings:
    """Address, account, limits and queues of RabbitMQ; there is no default account.

    Attributes
    ----------
    user, password
        Account. The password is never shown.
    hosts
        Names of the cluster's nodes, tried in this order.
    port
        Port of every node; 0 for the usual one.
    virtual_host
        Where the queues live; sites that share a broker differ in it.
    tls
        Encrypt, and verify the broker's certificate and name.
    ca_file
        Certificates to trust instead of the system's.
    cert_file, key_file
        Certificate of this client and its key, where the broker asks for one.
    queue_kind
        Fixed when a queue is made; to change it, drain and delete the queues.
    max_depth
        So many messages may wait in a queue; the next sender hears `QueueFullError`. Fixed when a
        queue is made.
    delivery_limit
        After so many deliveries a message is set aside.
    heartbeat_s
        A broker that is silent for about three of these is given up [s], whole seconds.
    connect_timeout_s
        Limit of connecting to one node [s].
    answer_timeout_s
        Limit of one question to the broker, confirms included [s]; it counts as gone after that.
    roll_call_s
        Limit in which other consumers of a queue say what they have in hand [s].
    """

    user: str
    password: str = field(repr=False)
    hosts: tuple[str, ...] = ("localhost",)
    port: int = 0
    virtual_host: str = "/"
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    queue_kind: QueueKind = QueueKind.CLASSIC
    max_depth: int = 100_000
    delivery_limit: int = 10
    heartbeat_s: int = 10
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 10.0
    roll_call_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.hosts or not self.user:
            raise UsageError("RabbitMQ needs a host and an account", hosts=self.hosts)
        limits = {
            "max_depth": self.max_depth,
            "delivery_limit": self.delivery_limit,
            "heartbeat_s": self.heartbeat_s,
            "connect_timeout_s": self.connect_timeout_s,
            "answer_timeout_s": self.answer_timeout_s,
            "roll_call_s": self.roll_call_s,
        }
        for name, value in limits.items():
            if value <= 0:
                raise UsageError("A limit must be positive", field=name, value=value)
        if self.delivery_limit >= MOST_DELIVERIES:
            raise UsageError(
                "Delivery limit is too high",
                value=self.delivery_limit,
                expected=f"below {MOST_DELIVERIES}",
            )
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise UsageError("Certificates are given without TLS", hosts=self.hosts)

    def url(self, host: str, *, name: str) -> URL:
        """Give the address of a node, for a connection that the broker lists as ``name``."""
        return URL.build(
            scheme="amqps" if self.tls else "amqp",
            host=host,
            port=self.port or (_TLS_PORT if self.tls else _PORT),
            user=self.user,
            password=self.password,
            path=f"/{self.virtual_host}",
            query={"heartbeat": str(self.heartbeat_s), "name": name},
        )

    def tls_context(self) -> ssl.SSLContext | None:
        """Read the certificates; blocks.

        Raises
        ------
        UsageError
            They cannot be read.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            raise UsageError(
                "Certificates cannot be read",
                ca_file=str(self.ca_file),
                cert_file=str(self.cert_file),
                problem=str(error),
            ) from error
        return context
