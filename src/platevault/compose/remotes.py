"""Reach the components of a deployment from another process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from platevault.adapters.bus_link import LinkedSampleBus
from platevault.adapters.system_clock import SystemClock
from platevault.compose.server_context import Part, Servers
from platevault.compose.settings import Settings
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import SampleBus
from platevault.sal.remote import Remote
from platevault.sal.schema import Interfaces, load_interfaces


def bus_link_file(settings: Settings) -> Path:
    """Give the file in which an embedded deployment leaves the address of its bus."""
    return settings.root / "run" / "bus.json"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A running deployment, seen from outside.

    Attributes
    ----------
    bus, interfaces, clock
        What a `Remote` needs.
    """

    bus: SampleBus
    interfaces: Interfaces
    clock: Clock

    def remote(self, component: str, sal_index: int = 0) -> Remote:
        """Give a remote of a component, not yet open."""
        return Remote(
            component=component,
            sal_index=sal_index,
            bus=self.bus,
            interfaces=self.interfaces,
            clock=self.clock,
        )


@asynccontextmanager
async def running_deployment(settings: Settings) -> AsyncIterator[Deployment]:
    """Connect to the bus that the settings name, or to the one process under ``settings.root``.

    Raises
    ------
    LinkMissingError
        No process is running there.
    """
    if settings.bus != "memory":
        clock = SystemClock()
        async with AsyncExitStack() as stack:
            servers = Servers(
                settings=settings, clock=clock, stack=stack, parts=frozenset({Part.BUS})
            )
            bus = await servers.bus()
            yield Deployment(bus=bus, interfaces=load_interfaces(), clock=clock)
        return
    async with LinkedSampleBus(bus_link_file(settings)) as bus:
        yield Deployment(bus=bus, interfaces=load_interfaces(), clock=SystemClock())
