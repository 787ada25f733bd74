"""State tables that code, diagrams and documentation share.

References
----------
File states: one state per (file, destination). CSC states: LSE-209.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum

from platevault.domain.ids import FileKind


class FileState(StrEnum):
    """State of one file at one destination."""

    EXPECTED = "expected"
    LATE = "late"
    WRITTEN = "written"
    HELD = "held"
    READY = "ready"
    SENDING = "sending"
    SENT = "sent"
    VERIFIED = "verified"
    CATALOGUED = "catalogued"
    RETRY = "retry"
    DEAD = "dead"
    CORRUPT = "corrupt"
    ABANDONED = "abandoned"
    REMOVED = "removed"


_S = FileState

#: Where a file may go from each state. A state may always be written again as itself.
FILE_TRANSITIONS: Mapping[FileState, frozenset[FileState]] = {
    _S.EXPECTED: frozenset({_S.WRITTEN, _S.LATE, _S.READY, _S.SENDING, _S.ABANDONED, _S.DEAD}),
    _S.LATE: frozenset({_S.WRITTEN, _S.READY, _S.SENDING, _S.ABANDONED, _S.DEAD}),
    _S.WRITTEN: frozenset({_S.READY, _S.HELD, _S.SENDING, _S.CORRUPT, _S.REMOVED, _S.VERIFIED}),
    _S.HELD: frozenset({_S.READY, _S.ABANDONED}),
    _S.READY: frozenset({_S.SENDING, _S.HELD, _S.ABANDONED}),
    _S.SENDING: frozenset({_S.SENT, _S.WRITTEN, _S.RETRY, _S.DEAD, _S.READY}),
    _S.SENT: frozenset({_S.VERIFIED, _S.RETRY, _S.DEAD}),
    _S.VERIFIED: frozenset({_S.CATALOGUED, _S.RETRY, _S.DEAD, _S.CORRUPT, _S.REMOVED}),
    _S.CATALOGUED: frozenset({_S.REMOVED, _S.CORRUPT}),
    _S.RETRY: frozenset({_S.READY, _S.SENDING, _S.DEAD, _S.ABANDONED}),
    _S.DEAD: frozenset({_S.READY, _S.ABANDONED}),
    _S.CORRUPT: frozenset({_S.READY, _S.DEAD}),
    _S.ABANDONED: frozenset({_S.READY}),
    _S.REMOVED: frozenset({_S.READY}),
}

#: States in which nothing more is expected to happen without a person or a policy.
SETTLED_STATES = frozenset({_S.DEAD, _S.ABANDONED, _S.REMOVED})


class Destination(StrEnum):
    """Where each file of an exposure must be."""

    ARCHIVE = "archive"
    OODS = "oods"
    BACKBONE = "backbone"


def done_state(kind: FileKind, destination: Destination) -> FileState:
    """Give the state in which a file is done at a destination.

    Only raw images are catalogued; sidecars and manifests stand beside them in the OODS.
    """
    if destination is Destination.ARCHIVE:
        return _S.WRITTEN
    if destination is Destination.OODS and kind is FileKind.RAW:
        return _S.CATALOGUED
    return _S.VERIFIED


def done_states(kind: FileKind, destination: Destination) -> frozenset[FileState]:
    """Give the states in which a file needs nothing more: `done_state` and those beyond it."""
    in_place = (_S.WRITTEN, _S.VERIFIED, _S.CATALOGUED)
    return frozenset(in_place[in_place.index(done_state(kind, destination)) :])


class SummaryState(IntEnum):
    """State of a CSC; the numbers are those on the wire."""

    DISABLED = 1
    ENABLED = 2
    FAULT = 3
    OFFLINE = 4
    STANDBY = 5


#: Command -> (states it is allowed in, state it leads to).
CSC_TRANSITIONS: Mapping[str, tuple[frozenset[SummaryState], SummaryState]] = {
    "start": (frozenset({SummaryState.STANDBY}), SummaryState.DISABLED),
    "enable": (frozenset({SummaryState.DISABLED}), SummaryState.ENABLED),
    "disable": (frozenset({SummaryState.ENABLED}), SummaryState.DISABLED),
    "standby": (frozenset({SummaryState.DISABLED, SummaryState.FAULT}), SummaryState.STANDBY),
    "exitControl": (frozenset({SummaryState.STANDBY}), SummaryState.OFFLINE),
}
