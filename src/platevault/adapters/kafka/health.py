"""Whether the bus works, and if not, why."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

import structlog

from platevault.ports.clock import Clock

_log = structlog.get_logger(__name__)


class BusState(StrEnum):
    """How well the transport serves."""

    CONNECTED = "connected"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class BusHealth:
    """State of a bus.

    Attributes
    ----------
    state
        How well it serves.
    reason
        What is wrong, for people; empty while connected.
    since_tai
        When the state began [s, TAI].
    """

    state: BusState
    reason: str
    since_tai: float


class HealthBoard:
    """Gathers the problems of a bus by their source.

    Parameters
    ----------
    clock
        Gives the moments.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._problems: dict[str, str] = {}
        self._since_tai = 0.0
        self._changed = asyncio.Event()

    @property
    def health(self) -> BusHealth:
        """The present state."""
        state = BusState.DEGRADED if self._problems else BusState.CONNECTED
        return BusHealth(state, "; ".join(self._problems.values()), self._since_tai)

    def bad(self, source: str, reason: str, *, vague: bool = False) -> None:
        """Note that ``source`` does not serve; a ``vague`` reason does not replace another."""
        before = self._problems.get(source)
        if before is None or not vague:
            self._problems[source] = reason
        if before is None:
            _log.warning("Bus is degraded", source=source, reason=reason)
            self._tell()

    def good(self, source: str) -> None:
        """Note that ``source`` serves."""
        if self._problems.pop(source, None) is not None:
            _log.info("Bus serves again", source=source)
            self._tell()

    async def wait_for(self, state: BusState) -> BusHealth:
        """Return once the state is ``state``."""
        while (health := self.health).state is not state:
            await self._changed.wait()
        return health

    def _tell(self) -> None:
        self._since_tai = self._clock.now_tai()
        self._changed.set()
        self._changed = asyncio.Event()
