"""One holder per unit of work, until a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from platevault.domain.errors import TransientError


class LeasesUnavailableError(TransientError):
    """The lease store does not answer: claim nothing, retry."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease in hand.

    Attributes
    ----------
    name
        Unit of work.
    holder
        Who holds it.
    fence
        Grows with every grant of ``name``; carried into every ledger write.
    expires_tai
        When it lapses unless renewed [s, TAI].
    """

    name: str
    holder: str
    fence: int
    expires_tai: float


class Leases(Protocol):
    """Named leases with fencing numbers."""

    async def acquire(self, name: str, *, holder: str, ttl_s: float) -> Grant | None:
        """Take the lease, or give ``None`` while another holder has it.

        The present holder gets its grant again, renewed, with the same fence.
        """

    async def renew(self, grant: Grant, *, ttl_s: float) -> Grant | None:
        """Extend the lease; ``None`` if it was lost, and then nothing may be written under it."""

    async def release(self, grant: Grant) -> None:
        """Give the lease back; nothing happens if it was lost already."""

    async def current(self, name: str) -> Grant | None:
        """Tell who holds the lease now."""
