"""The services that can be processes, and what each needs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from platevault.compose.server_context import Part


class ServiceKind(StrEnum):
    """What a process can be."""

    ARCHIVER = "archiver"
    ARCHIVE_CONTROLLER = "archive-controller"
    FORWARDER = "forwarder"
    HEADER_SERVICE = "header-service"
    OODS = "oods"
    DAQ_EMULATOR = "daq-emulator"
    OBSERVATORY = "observatory"
    SCHEMA_REGISTRY = "schema-registry"


#: What each opens; all but the schema registry show that they live, which leases' store keeps.
PARTS: Mapping[ServiceKind, frozenset[Part]] = {
    ServiceKind.ARCHIVER: frozenset({Part.BUS, Part.QUEUE, Part.LEASES, Part.LEDGER}),
    ServiceKind.ARCHIVE_CONTROLLER: frozenset({Part.QUEUE, Part.LEASES, Part.LEDGER}),
    ServiceKind.FORWARDER: frozenset({Part.QUEUE, Part.LEASES, Part.LEDGER}),
    ServiceKind.HEADER_SERVICE: frozenset({Part.BUS, Part.LEASES}),
    ServiceKind.OODS: frozenset({Part.BUS, Part.QUEUE, Part.LEASES, Part.LEDGER}),
    ServiceKind.DAQ_EMULATOR: frozenset({Part.LEASES}),
    ServiceKind.OBSERVATORY: frozenset({Part.BUS, Part.LEASES, Part.LEDGER}),
    ServiceKind.SCHEMA_REGISTRY: frozenset(),
}
#: Serve one camera each.
ONE_CAMERA = frozenset({ServiceKind.ARCHIVER, ServiceKind.HEADER_SERVICE, ServiceKind.OODS})
#: Need no camera.
NO_CAMERA = frozenset({ServiceKind.ARCHIVE_CONTROLLER, ServiceKind.SCHEMA_REGISTRY})
