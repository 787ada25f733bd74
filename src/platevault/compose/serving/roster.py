"""Who is there: every process of a site, with its state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from platevault.adapters.system_clock import SystemClock
from platevault.compose.server_context import Part, Servers
from platevault.compose.serving.life import PROCESS_ROLE, ProcessState
from platevault.compose.settings import Settings
from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.presence import Member, Presence


class NoRosterError(UsageError):
    """One process keeps presence in its memory: see its own display, or name a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHealth:
    """One process.

    Attributes
    ----------
    name, service, cameras, host, pid, version
        Who it is.
    state
        Where it is in its life.
    for_s, silent_s
        Time in this state, and since its last sign of life [s].
    trouble
        Connections that do not serve; empty if all do.
    """

    name: str
    service: str
    cameras: str
    host: str
    pid: int
    version: str
    state: ProcessState
    for_s: float
    silent_s: float
    trouble: str

    @property
    def good(self) -> bool:
        """It is ready and everything it needs serves."""
        return self.state is ProcessState.READY and not self.trouble


async def list_services(settings: Settings) -> list[ServiceHealth]:
    """List the processes of a site that gave a sign of life, by name.

    Raises
    ------
    NoRosterError
        The settings name no server that keeps presence.
    LeasesUnavailableError
        It does not answer. Retry.
    """
    if settings.leases == "memory":
        raise NoRosterError(
            "Presence is in the memory of one process", field="leases", value=settings.leases
        )
    clock = SystemClock()
    async with _presence(settings, clock) as presence:
        members = await presence.alive(PROCESS_ROLE)
    return health_of(members, now_tai=clock.now_tai())


def health_of(members: Sequence[Member], *, now_tai: float) -> list[ServiceHealth]:
    """Read what processes say of themselves."""
    return [
        ServiceHealth(
            name=member.name,
            service=member.facts.get("service", ""),
            cameras=member.facts.get("cameras", ""),
            host=member.facts.get("host", ""),
            pid=int(member.facts.get("pid", "0")),
            version=member.facts.get("version", ""),
            state=ProcessState(member.facts.get("state", ProcessState.STARTING.value)),
            for_s=max(0.0, now_tai - float(member.facts.get("since_tai", now_tai))),
            silent_s=max(0.0, now_tai - member.seen_tai),
            trouble=member.facts.get("trouble", ""),
        )
        for member in members
    ]


@asynccontextmanager
async def _presence(settings: Settings, clock: Clock) -> AsyncIterator[Presence]:
    async with AsyncExitStack() as stack:
        servers = Servers(
            settings=settings, clock=clock, stack=stack, parts=frozenset({Part.LEASES})
        )
        yield await servers.presence()
