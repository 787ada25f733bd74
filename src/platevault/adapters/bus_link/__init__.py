"""The sample bus of one process, lent to others on the same host."""

from platevault.adapters.bus_link.client import LinkedSampleBus
from platevault.adapters.bus_link.server import BusLinkServer
from platevault.adapters.bus_link.wire import LinkAddress, LinkMissingError

__all__ = ["BusLinkServer", "LinkAddress", "LinkMissingError", "LinkedSampleBus"]
