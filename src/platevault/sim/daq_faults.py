"""What can be wrong with a simulated DAQ."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from platevault.domain.errors import UsageError


class InvalidFaultError(UsageError):
    """A fault is asked for that means nothing: mend the named field."""


class FaultKind(StrEnum):
    """Kinds of fault; what `DaqFault.amount` means for each."""

    BOARD_MISSING = "board_missing"
    """The store does not hold the board."""
    BOARD_COUNT = "board_count"
    """An image has ``amount`` boards: the last ones are lost, or unknown ones are listed."""
    BOARD_TRUNCATED = "board_truncated"
    """A read delivers the part ``amount`` (0 to 1) of the board's words."""
    CORRUPT = "corrupt"
    """A read delivers ``amount`` words with bits turned."""
    SLOW = "slow"
    """A read takes ``amount`` more [s, device time]."""
    STALLED = "stalled"
    """A read does not end until the fault is cleared."""
    DISCONNECTED = "disconnected"
    """The connection breaks half way through a read."""
    UNREACHABLE = "unreachable"
    """No call is answered; connections are closed."""
    PAUSED = "paused"
    """Device time stands still: no readout ends, but every call is answered."""


#: Faults of single reads and calls, which `DaqFault.times` counts.
COUNTED = frozenset(
    {
        FaultKind.BOARD_TRUNCATED,
        FaultKind.CORRUPT,
        FaultKind.SLOW,
        FaultKind.DISCONNECTED,
        FaultKind.UNREACHABLE,
    }
)


@dataclass(frozen=True, slots=True)
class DaqFault:
    """One fault.

    Attributes
    ----------
    kind
        What goes wrong.
    image, location
        Where; empty means everywhere.
    amount
        How much, as its kind says.
    times
        How many reads or calls it spoils; ``None`` all until it is cleared.
    """

    kind: FaultKind
    image: str = ""
    location: str = ""
    amount: float = 0.0
    times: int | None = None

    def strikes(self, image: str, location: str) -> bool:
        """Say whether the fault concerns a board of an image."""
        return self.image in {"", image} and self.location in {"", location}


class FaultBook:
    """The faults of one device at present."""

    def __init__(self) -> None:
        self._faults: list[tuple[DaqFault, list[int | None]]] = []

    def add(self, fault: DaqFault) -> None:
        """Begin a fault.

        Raises
        ------
        InvalidFaultError
            Its amount or count means nothing. Nothing was changed.
        """
        if fault.times is not None and (fault.times < 1 or fault.kind not in COUNTED):
            raise InvalidFaultError(
                "Fault cannot be counted so", field="times", value=fault.times, kind=fault.kind
            )
        upper = 1.0 if fault.kind is FaultKind.BOARD_TRUNCATED else float("inf")
        if not 0.0 <= fault.amount <= upper:
            raise InvalidFaultError(
                "Amount of the fault is out of range",
                field="amount",
                value=fault.amount,
                expected=f"0 to {upper}",
            )
        self._faults.append((fault, [fault.times]))

    def clear(self, kind: FaultKind | None = None) -> None:
        """End the faults of a kind, or all."""
        self._faults = [
            entry for entry in self._faults if kind is not None and entry[0].kind is not kind
        ]

    def present(self) -> tuple[DaqFault, ...]:
        """List the faults in the order in which they began."""
        return tuple(fault for fault, _ in self._faults)

    def find(self, kind: FaultKind, image: str = "", location: str = "") -> DaqFault | None:
        """Give the first fault of a kind that concerns the board, without counting it."""
        for fault, _ in self._faults:
            if fault.kind is kind and fault.strikes(image, location):
                return fault
        return None

    def strike(self, kind: FaultKind, image: str = "", location: str = "") -> DaqFault | None:
        """Give the first fault of a kind that concerns the board, and count that it struck."""
        for number, (fault, left) in enumerate(self._faults):
            if fault.kind is not kind or not fault.strikes(image, location):
                continue
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    del self._faults[number]
            return fault
        return None
