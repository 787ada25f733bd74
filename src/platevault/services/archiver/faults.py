"""Faults of an Archiver: one code per cause.

References
----------
Capture contract, section 4. 5702 to 5704 take the causes apart that 5701 stood for.
"""

from __future__ import annotations

from enum import IntEnum

from platevault.domain.errors import TransientError
from platevault.ports.clock import Clock


class ArchiverFault(IntEnum):
    """Error codes of an Archiver."""

    WORK_FAILED = 5700
    """A part of the Archiver failed for a reason that nobody thought of."""
    NO_FORWARDER = 5701
    """No Forwarder is free."""
    LEASES_DOWN = 5702
    """The store of leases and presence does not answer."""
    QUEUE_DOWN = 5703
    """The work queue does not answer."""
    LEDGER_DOWN = 5704
    """The ledger does not answer."""
    CONTROLLER_SILENT = 5751
    """The Archive Controller does not answer."""
    ASSOCIATION_SILENT = 5752
    """A Forwarder is there and does not answer."""
    FORWARDER_LOST = 5755
    """The last Forwarder vanished and none took its place."""


class ArchiverFaultError(TransientError):
    """The Archiver cannot work; ``code`` says why. Mend that, then ``standby`` and ``start``."""

    def __init__(self, code: ArchiverFault, message: str, /, **context: object) -> None:
        super().__init__(message, **context)
        self.code = code


class Outage:
    """How long something has been away.

    Parameters
    ----------
    code
        The fault that it becomes when it lasts.
    clock
        Whose time counts.
    """

    def __init__(self, *, code: ArchiverFault, clock: Clock) -> None:
        self.code = code
        self._clock = clock
        self._since_tai: float | None = None

    @property
    def lasted_s(self) -> float:
        """Duration so far [s]; 0 if there is none."""
        return 0.0 if self._since_tai is None else self._clock.now_tai() - self._since_tai

    def began(self) -> bool:
        """Say that it is away; ``True`` if that is new."""
        new = self._since_tai is None
        if self._since_tai is None:
            self._since_tai = self._clock.now_tai()
        return new

    def ended(self) -> bool:
        """Say that it is back; ``True`` if it was away."""
        was = self._since_tai is not None
        self._since_tai = None
        return was
