"""Which DDS domain, over which network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from platevault.domain.errors import UsageError

#: The ports of a higher domain id are out of range (SAL over Kafka and DDS, section 13).
LARGEST_DOMAIN_ID = 232
#: Processes on one host that find each other without multicast.
_PROCESSES = 99
_LIMITS = (
    "accept_within_s",
    "lease_s",
    "queue_limit",
    "reader_depth",
    "spool_limit",
)


@dataclass(frozen=True, kw_only=True)
class DdsSettings:
    """Domain and network of the bus; without any setting, the processes of this host.

    DDS knows no accounts: whoever reaches the network of the domain reads and writes.

    Attributes
    ----------
    domain_id
        0 to 232; processes of different ids never meet.
    interface
        Name or address of the network interface; ``lo`` keeps all on this host.
    peers
        Hosts to look for processes on, this host included.
    multicast
        Find processes and send by multicast; the network must allow it.
    config
        Configuration of Cyclone DDS, as XML text or as a ``file://`` address, instead of
        ``interface``, ``peers``, ``multicast`` and ``lease_s``.
    discover_s
        Time on opening in which running processes are found [s].
    settle_s
        Time that a new reader or writer gives those it meets in other processes [s].
    accept_within_s
        How long a sample is offered while a reader of another process is behind [s].
    lease_s
        A process that is silent for so long is gone [s].
    queue_limit
        Samples a subscriber may be behind before it overflows.
    reader_depth
        Samples per key that wait for the receiving thread.
    spool_directory
        Where recording groups are kept; ``None`` allows no recording. One process at a time.
    spool_limit
        Samples kept for each recording group; the oldest are dropped and become a `Gap`.
    """

    domain_id: int = 0
    interface: str = "lo"
    peers: tuple[str, ...] = ("127.0.0.1",)
    multicast: bool = False
    config: str = ""
    discover_s: float = 0.3
    settle_s: float = 0.05
    accept_within_s: float = 1.0
    lease_s: float = 5.0
    queue_limit: int = 10_000
    reader_depth: int = 10_000
    spool_directory: Path | None = None
    spool_limit: int = 100_000

    def __post_init__(self) -> None:
        if not 0 <= self.domain_id <= LARGEST_DOMAIN_ID:
            raise UsageError(
                "There is no such DDS domain",
                value=self.domain_id,
                expected=f"0 to {LARGEST_DOMAIN_ID}",
            )
        for name in _LIMITS:
            if getattr(self, name) <= 0:
                raise UsageError("A limit must be positive", field=name, value=getattr(self, name))
        for name in ("discover_s", "settle_s"):
            if getattr(self, name) < 0:
                raise UsageError("A time is negative", field=name, value=getattr(self, name))
        if not self.config and not self.interface:
            raise UsageError("No network interface is named", field="interface")

    @property
    def interface_name(self) -> str:
        """Name of the network interface; empty if it is given otherwise."""
        return "" if self.config or self._is_address else self.interface

    @property
    def _is_address(self) -> bool:
        return self.interface.replace(".", "").isdigit() or ":" in self.interface

    def configuration(self) -> str:
        """Give the configuration of Cyclone DDS."""
        if self.config:
            return self.config
        which = "address" if self._is_address else "name"
        multicast = str(self.multicast).lower()
        peers = "".join(f"<Peer address={quoteattr(peer)}/>" for peer in self.peers)
        return (
            '<CycloneDDS><Domain Id="any">'
            "<General><Interfaces>"
            f'<NetworkInterface {which}={quoteattr(self.interface)} multicast="{multicast}"/>'
            f"</Interfaces><AllowMulticast>{multicast}</AllowMulticast></General>"
            "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
            f"<MaxAutoParticipantIndex>{_PROCESSES}</MaxAutoParticipantIndex>"
            f"<LeaseDuration>{self.lease_s}s</LeaseDuration>"
            f"<Peers>{peers}</Peers></Discovery>"
            # A reader that is busy for a moment must not hold up its writers.
            "<Internal><Watermarks><WhcHigh>8 MB</WhcHigh></Watermarks></Internal>"
            "</Domain></CycloneDDS>"
        )
