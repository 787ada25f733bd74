"""Which command leads from which state to which."""

from __future__ import annotations

from collections.abc import Mapping

from platevault.domain.lifecycles import CSC_TRANSITIONS, SummaryState
from platevault.sal.acks import CommandRefusedError

#: Command -> (states it is allowed in, state it leads to); ``enterControl`` only where the
#: component has it.
TRANSITIONS: Mapping[str, tuple[frozenset[SummaryState], SummaryState]] = {
    **CSC_TRANSITIONS,
    "enterControl": (frozenset({SummaryState.OFFLINE}), SummaryState.STANDBY),
}
_UP = ("start", "enable")
_DOWN = {
    SummaryState.ENABLED: ("disable", "standby", "exitControl"),
    SummaryState.DISABLED: ("standby", "exitControl"),
    SummaryState.FAULT: ("standby", "exitControl"),
    SummaryState.STANDBY: ("exitControl",),
    SummaryState.OFFLINE: (),
}
_COMMANDS_TO = {
    SummaryState.STANDBY: (),
    SummaryState.DISABLED: _UP[:1],
    SummaryState.ENABLED: _UP,
}


class NotAllowedError(CommandRefusedError):
    """The command is not allowed in the present state: command the states in between first."""


def target_of(command: str, state: SummaryState) -> SummaryState:
    """Tell where a command leads from ``state``.

    Raises
    ------
    NotAllowedError
        Nothing changed; the text is the one that SAL clients know.
    """
    allowed, target = TRANSITIONS[command]
    if state not in allowed:
        raise NotAllowedError(f"{command} not allowed in state <State.{state.name}: {state.value}>")
    return target


def commands_up_to(state: SummaryState) -> tuple[str, ...]:
    """List the commands from STANDBY to ``state``; `KeyError` if it is no state to begin in."""
    return _COMMANDS_TO[state]


def commands_down_from(state: SummaryState) -> tuple[str, ...]:
    """List the commands from ``state`` to OFFLINE."""
    return _DOWN[state]
