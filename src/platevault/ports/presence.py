"""Who is alive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Member:
    """One live participant.

    Attributes
    ----------
    kind
        Role, such as ``forwarder``.
    name
        Unique within the role.
    facts
        What others need: queue, host, version, state.
    seen_tai
        Last sign of life [s, TAI].
    """

    kind: str
    name: str
    facts: Mapping[str, str]
    seen_tai: float


class Presence(Protocol):
    """Signs of life; silent for ``ttl_s`` is gone.

    Raises `platevault.ports.leases.LeasesUnavailableError` when the store does not answer.
    """

    async def announce(
        self, kind: str, name: str, facts: Mapping[str, str], *, ttl_s: float
    ) -> None:
        """Say that ``name`` lives; repeated well within ``ttl_s`` [s]."""

    async def withdraw(self, kind: str, name: str) -> None:
        """Say that ``name`` leaves in good order."""

    async def alive(self, kind: str) -> list[Member]:
        """List who is alive, sorted by name; ``*`` for every role."""
