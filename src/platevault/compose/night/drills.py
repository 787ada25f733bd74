"""Faults on purpose: a plan says what goes wrong at which exposure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.runtime.service import Service, StopToken
from platevault.sim.daq import SimDaq
from platevault.sim.daq_faults import DaqFault, FaultKind

#: Pause before a Forwarder that was killed comes back [s].
_RESTART_S = 1.0


class InvalidPlanError(UsageError):
    """A fault plan cannot be read: mend the named field."""


class _Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    exposure: int = Field(ge=1, description="number of the exposure in the night, from 1")


class LoseEvent(_Fault):
    """An event of the camera is not published."""

    fault: Literal["lose_event"]
    event: str = Field(description="such as endReadout or endOfImageTelemetry")


class RepeatEvent(_Fault):
    """An event of the camera is published more than once."""

    fault: Literal["repeat_event"]
    event: str = Field(description="such as endReadout")
    times: int = Field(2, ge=2, description="how often it goes out")


class DaqFails(_Fault):
    """The DAQ fails while the exposure is read."""

    fault: Literal["daq"]
    kind: FaultKind
    board: str = Field("", description="DAQ location, such as 22/1; empty for all")
    amount: float = 0.0
    times: int | None = Field(1, ge=1, description="reads it spoils; null until the night ends")


class KillForwarder(_Fault):
    """A Forwarder dies at a step of its work, and comes back after a second."""

    fault: Literal["kill_forwarder"]
    step: str = Field(description="step of the Forwarder, such as linked")


class DisableArchiver(_Fault):
    """The Archiver is disabled while the exposure is taken."""

    fault: Literal["disable_archiver"]


class Kill(_Fault):
    """A process, or a server, is killed when an event of the camera goes out, and comes back.

    Only a night with servers has them.
    """

    fault: Literal["kill"]
    target: str = Field(description="archiver-LATISS, forwarder-1, kafka, postgres ...")
    event: str = Field("endReadout", description="when: as this event goes out")


Fault = Annotated[
    LoseEvent | RepeatEvent | DaqFails | KillForwarder | DisableArchiver | Kill,
    Field(discriminator="fault"),
]
_PLAN: TypeAdapter[list[Fault]] = TypeAdapter(list[Fault])


def read_plan(file: Path) -> list[Fault]:
    """Read a fault plan: a YAML list, one fault each.

    Raises
    ------
    InvalidPlanError
        The error names file, field, value and what was expected.
    """
    try:
        return _PLAN.validate_python(yaml.safe_load(file.read_text(encoding="utf-8")) or [])
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidPlanError(
            "The fault plan cannot be read", file=str(file), problem=str(error)
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidPlanError(
            "The fault plan is not valid",
            file=str(file),
            field=".".join(str(part) for part in first["loc"]),
            value=first.get("input"),
            expected=first["msg"],
        ) from error


def refuse_kills(plan: Sequence[Fault]) -> None:
    """Refuse a plan that kills processes or servers, for a night without any.

    Raises
    ------
    InvalidPlanError
        It has such a fault.
    """
    for fault in plan:
        if isinstance(fault, Kill):
            raise InvalidPlanError(
                "A night in one process has nothing to kill",
                field="fault",
                value=f"kill {fault.target}",
                expected="--deployment local-servers, or dds",
            )


class Drills:
    """Applies a fault plan to a night.

    Parameters
    ----------
    plan
        What goes wrong when.
    daqs
        DAQs by camera name.
    kill
        Kills a process or a server by name, in a night that has them.
    """

    def __init__(
        self,
        *,
        plan: Sequence[Fault],
        daqs: Mapping[str, SimDaq],
        kill: Callable[[str], None] | None = None,
    ) -> None:
        self._plan = plan
        self._daqs = daqs
        self._kill = kill
        self._numbers: dict[str, int] = {}
        self._deaths: dict[str, str] = {}
        self.injected: list[str] = []

    def due(self, number: int) -> list[Fault]:
        """Give the faults of an exposure by its number."""
        return [fault for fault in self._plan if fault.exposure == number]

    def disables_archiver(self, number: int) -> bool:
        """Say whether the Archiver is to be disabled during an exposure."""
        found = any(isinstance(fault, DisableArchiver) for fault in self.due(number))
        if found:
            self.injected.append(f"exposure {number}: Archiver disabled")
        return found

    def times_told(self, camera: str, event: str, image: str) -> int:
        """Say how often an event goes out; the first event of an image begins its faults."""
        if image not in self._numbers:
            self._numbers[image] = len(self._numbers) + 1
            self._begin(camera, image)
        for fault in self.due(self._numbers[image]):
            if isinstance(fault, Kill) and fault.event == event and self._kill is not None:
                self._kill(fault.target)
                self.injected.append(f"{image}: {fault.target} killed at {event}")
        for fault in self.due(self._numbers[image]):
            if isinstance(fault, LoseEvent) and fault.event == event:
                self.injected.append(f"{image}: {event} lost")
                return 0
            if isinstance(fault, RepeatEvent) and fault.event == event:
                self.injected.append(f"{image}: {event} told {fault.times} times")
                return fault.times
        return 1

    def dies_at(self, step: str, subject: str) -> bool:
        """Say once whether a Forwarder dies at a step of its work on ``subject``."""
        for image, fatal in self._deaths.items():
            if fatal == step and image in subject:
                del self._deaths[image]
                self.injected.append(f"{image}: Forwarder killed at {step}")
                return True
        return False

    def _begin(self, camera: str, image: str) -> None:
        for fault in self.due(self._numbers[image]):
            if isinstance(fault, DaqFails):
                self._daqs[camera].inject(
                    DaqFault(fault.kind, image, fault.board, fault.amount, fault.times)
                )
                self.injected.append(f"{image}: DAQ {fault.kind} {fault.board}".rstrip())
            if isinstance(fault, KillForwarder):
                self._deaths[image] = fault.step


class Mortal:
    """A service that can be killed and comes back: `Steps` of it, and its supervisor.

    Parameters
    ----------
    make
        Builds the service, given the steps it reports.
    name
        Name of the service.
    drills
        Say when it dies.
    clock
        Time of the pause before it comes back.
    """

    def __init__(
        self, *, make: Callable[[Mortal], Service], name: str, drills: Drills, clock: Clock
    ) -> None:
        self._make = make
        self._name = name
        self._drills = drills
        self._clock = clock
        self._dead = asyncio.Event()

    @property
    def name(self) -> str:
        """Name of the service."""
        return self._name

    async def reached(self, step: str, subject: str) -> None:
        """Die here if the drill says so: never return, until cancelled."""
        if self._drills.dies_at(step, subject):
            self._dead.set()
            await asyncio.Event().wait()

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Run the service, and again each time it was killed."""
        while not stop.requested:
            self._dead.clear()
            async with asyncio.TaskGroup() as life:
                living = life.create_task(
                    self._make(self).run(stop, ready), name=f"{self._name}-life"
                )
                dying = life.create_task(self._dead.wait(), name=f"{self._name}-death")
                await asyncio.wait({living, dying}, return_when=asyncio.FIRST_COMPLETED)
                living.cancel()
                dying.cancel()
            if self._dead.is_set() and not stop.requested:
                await self._clock.sleep(_RESTART_S)
