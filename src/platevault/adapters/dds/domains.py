"""The DDS domains of this process, which its buses share."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from cyclonedds.core import DDSException, Entity
from cyclonedds.domain import Domain

from platevault.domain.errors import UsageError
from platevault.ports.sample_bus import BusUnavailableError


@dataclass(slots=True)
class _Shared:
    domain: Domain
    configuration: str
    users: int


#: A domain exists once in a process, so what is known of it is the process's too.
_shared: dict[int, _Shared] = {}
_lock = threading.Lock()


def join_domain(domain_id: int, configuration: str) -> None:
    """Make the domain, or use it as it is.

    Raises
    ------
    UsageError
        This process has the domain with another configuration.
    BusUnavailableError
        The network interface is not there. Retry, or correct the settings.
    """
    with _lock:
        shared = _shared.get(domain_id)
        if shared is None:
            try:
                domain = Domain(domain_id, configuration)
            except DDSException as error:
                raise BusUnavailableError(
                    "The DDS domain cannot be opened", domain_id=domain_id, problem=str(error)
                ) from error
            shared = _shared[domain_id] = _Shared(domain, configuration, 0)
        elif shared.configuration != configuration:
            raise UsageError(
                "This process has the DDS domain with another configuration",
                domain_id=domain_id,
                value=configuration,
                expected=shared.configuration,
            )
        shared.users += 1


def leave_domain(domain_id: int) -> None:
    """Delete the domain with its last user."""
    with _lock:
        shared = _shared[domain_id]
        shared.users -= 1
        if not shared.users:
            del _shared[domain_id]
            delete(shared.domain)


def delete(entity: Entity) -> None:
    """Delete an entity now, and not when Python finds that nobody has it; again is harmless."""
    entity.__del__()
