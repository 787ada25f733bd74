"""Where the brokers and the schema registry are, and how to be let in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from platevault.domain.errors import UsageError

#: Messages of a topic that are read for the past of indexed components (SAL over Kafka, section
#: 8.1).
HISTORY_LIMIT = 500


class KafkaSettingsError(UsageError):
    """A setting does not go with the others: mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Everything that `KafkaSampleBus` must be told; the names of SAL's variables are given.

    Attributes
    ----------
    brokers
        ``host:port``, several by commas (``LSST_KAFKA_BROKER_ADDR``).
    registry_url
        ``http`` or ``https`` URL (``LSST_SCHEMA_REGISTRY_URL``).
    subname
        Second part of every topic name (``LSST_TOPIC_SUBNAME``).
    replication_factor
        Copies of topics that are created here (``LSST_KAFKA_REPLICATION_FACTOR``).
    acks
        Copies that must have a sample before it counts as taken: ``all``, ``1`` or ``0``
        (``LSST_KAFKA_PRODUCER_WAIT_ACKS``). With ``all``, repeats by the client are recognised.
    username, password
        Account; only if both are set is one used (``LSST_KAFKA_SECURITY_USERNAME``,
        ``_PASSWORD``).
    security_protocol
        ``SASL_PLAINTEXT`` or ``SASL_SSL``; without an account its ``SASL_`` is left out
        (``LSST_KAFKA_SECURITY_PROTOCOL``).
    sasl_mechanism
        (``LSST_KAFKA_SECURITY_MECHANISM``).
    ca_file
        Certificates that vouch for the brokers, PEM; those of the system unless given.
    certificate_file, key_file, key_password
        Our own certificate, where brokers ask for one, PEM.
    client_options, consumer_options, producer_options
        Further librdkafka options by name; they win (contents of the files that
        ``LSST_KAFKA_BROKER_CLIENT_CONFIGURATION``, ``_CONSUMER_`` and ``_PRODUCER_`` name).
    registry_ca_file
        Certificates that vouch for the registry, PEM.
    registry_username, registry_password
        Account with the registry, for HTTP basic authentication.
    history_limit
        Messages of each topic read for the past of indexed components (``LSST_MAX_HISTORY_READ``).
    history_limits
        The same by component (contents of the file that ``LSST_HISTORY_READ_CONFIG`` names).
    publish_within_s
        Longest wait for the broker to take a sample [s].
    forget_after_s
        How long the client goes on sending a sample whose publisher gave up [s]; a retry within
        this time continues it and does not send it twice.
    answer_within_s
        Longest wait for brokers or registry in any other matter [s].
    probe_every_s
        Time between looks at the broker's health [s].
    queue_limit
        Samples that a subscriber may be behind.
    """

    brokers: str
    registry_url: str
    subname: str = "sal"
    replication_factor: int = 1
    acks: str = "all"
    username: str = ""
    password: str = field(default="", repr=False)
    security_protocol: str = "SASL_PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: str = field(default="", repr=False)
    client_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    consumer_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    producer_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    registry_ca_file: Path | None = None
    registry_username: str = ""
    registry_password: str = field(default="", repr=False)
    history_limit: int = HISTORY_LIMIT
    history_limits: Mapping[str, int] = field(default_factory=dict)
    publish_within_s: float = 5.0
    forget_after_s: float = 30.0
    answer_within_s: float = 10.0
    probe_every_s: float = 5.0
    queue_limit: int = 10_000

    def history_limit_of(self, component: str) -> int:
        """Give the messages read for the past of an indexed component."""
        return self.history_limits.get(component, self.history_limit)

    def client(self) -> dict[str, str]:
        """Give the librdkafka options that every client shares.

        Raises
        ------
        KafkaSettingsError
            Do not retry.

        References
        ----------
        librdkafka, CONFIGURATION.md. Pauses before a lost broker is tried again are shortened from
        10 s, since a broker restarts within seconds and exposures do not wait.
        """
        options = {
            "bootstrap.servers": self.brokers,
            "security.protocol": self._protocol(),
            "socket.nagle.disable": "true",
            "reconnect.backoff.ms": "100",
            "reconnect.backoff.max.ms": "1000",
            "socket.connection.setup.timeout.ms": "5000",
            "allow.auto.create.topics": "false",
            **self._account(),
            **self._certificates(),
            **self.client_options,
        }
        if not self.brokers:
            raise KafkaSettingsError("No broker is named", field="brokers", value=self.brokers)
        return options

    def consumer(self, group: str) -> dict[str, str]:
        """Give the options of a consumer of the group.

        A position that the broker no longer has is an error, upon which the reader decides: a
        consumer that begins again with the oldest on its own would give old commands once more.
        """
        return {
            **self.client(),
            "group.id": group,
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "auto.offset.reset": "error",
            # Transactions are not used; waiting for their end would only hold readers up.
            "isolation.level": "read_uncommitted",
            "fetch.error.backoff.ms": "100",
            "check.crcs": "true",
            **self.consumer_options,
        }

    def producer(self) -> dict[str, str]:
        """Give the options of the producer."""
        return {
            **self.client(),
            "acks": self.acks,
            "enable.idempotence": "true" if self.acks in {"all", "-1"} else "false",
            "linger.ms": "0",
            "message.timeout.ms": str(int(self.forget_after_s * 1000)),
            # A topic that was deleted is missed, and made again, no later than a sender is told.
            "topic.metadata.propagation.max.ms": str(int(self.publish_within_s * 1000)),
            **self.producer_options,
        }

    def group(self, name: str) -> str:
        """Give the name of a consumer group; all have one prefix, for access rules."""
        return f"platevault.{self.subname}.{name}"

    def _protocol(self) -> str:
        protocol = self.security_protocol.upper()
        if not self._has_account:
            protocol = protocol.removeprefix("SASL_")
        if protocol not in {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}:
            raise KafkaSettingsError(
                "Unknown security protocol",
                field="security_protocol",
                value=self.security_protocol,
                expected="SASL_PLAINTEXT or SASL_SSL",
            )
        return protocol

    @property
    def _has_account(self) -> bool:
        return bool(self.username and self.password)

    def _account(self) -> dict[str, str]:
        if not self._has_account or not self._protocol().startswith("SASL_"):
            return {}
        return {
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password,
        }

    def _certificates(self) -> dict[str, str]:
        if not self._protocol().endswith("SSL"):
            return {}
        given = {
            "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.certificate_file,
            "ssl.key.location": self.key_file,
            "ssl.key.password": self.key_password or None,
        }
        return {name: str(value) for name, value in given.items() if value is not None}
