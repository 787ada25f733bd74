"""Trying again: pauses that grow, within a deadline, and together when a destination is down."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from platevault.domain.errors import PlatevaultError, TransientError, UsageError
from platevault.ports.clock import Clock
from platevault.runtime.service import Deadline, StopToken
from platevault.runtime.waiting import wait_first

ResultT = TypeVar("ResultT")

#: Told at each failure that is tried again: the error, how many there were, the pause [s].
OnRetry = Callable[[TransientError, int, float], None]

_log = structlog.get_logger(__name__)


class DestinationDownError(TransientError):
    """A destination is down and the caller may not wait longer: put the work back for later."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that grow and spread.

    Attributes
    ----------
    first_s
        Pause after the first failure [s].
    factor
        Growth from one pause to the next.
    ceiling_s
        Longest pause before spreading [s].
    spread
        Each pause is changed by at most this part of it, at random, so that many callers do not
        come back together.
    seed
        Of the random spread; equal seeds give equal pauses.
    """

    first_s: float = 0.2
    factor: float = 2.0
    ceiling_s: float = 30.0
    spread: float = 0.25
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.first_s <= 0 or self.factor < 1 or self.ceiling_s < self.first_s:
            raise UsageError(
                "Pauses must be positive and must not shrink",
                first_s=self.first_s,
                factor=self.factor,
                ceiling_s=self.ceiling_s,
            )
        if not 0 <= self.spread < 1:
            raise UsageError("Spread is out of range", value=self.spread, expected="0 to below 1")

    def pauses(self) -> Pauses:
        """Begin a series of pauses."""
        return Pauses(self)


class Pauses:
    """A series of pauses after failures in a row."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._random = random.Random(backoff.seed)  # noqa: S311 - spreads load, hides nothing
        self._next_s = backoff.first_s
        self.failures = 0

    def next_s(self) -> float:
        """Count a failure; give the pause after it [s]."""
        policy = self._backoff
        self.failures += 1
        pause_s = self._next_s
        self._next_s = min(pause_s * policy.factor, policy.ceiling_s)
        return pause_s * (1 + policy.spread * self._random.uniform(-1, 1))

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0
        self._next_s = self._backoff.first_s


async def retry(
    operation: Callable[[], Awaitable[ResultT]],
    *,
    clock: Clock,
    backoff: Backoff,
    deadline: Deadline | None = None,
    on_retry: OnRetry | None = None,
) -> ResultT:
    """Do ``operation`` until it succeeds; only a `TransientError` is tried again.

    Parameters
    ----------
    operation
        Makes the call; must be idempotent.
    clock
        Time of the pauses.
    backoff
        Policy of the pauses.
    deadline
        No attempt begins after it; ``None`` tries for ever.
    on_retry
        Told before each pause.

    Raises
    ------
    TransientError
        The last one, when the next attempt would begin after the deadline. The caller's own
        caller decides.
    """
    pauses = backoff.pauses()
    while True:
        try:
            return await operation()
        except TransientError as error:
            pause_s = pauses.next_s()
            if deadline is not None and pause_s >= deadline.remaining_s:
                error.add_note(f"tried {pauses.failures} times until the deadline")
                raise
            if on_retry is not None:
                on_retry(error, pauses.failures, pause_s)
        await clock.sleep(pause_s)


class Gate:
    """Keeps work from a destination that is down, and uses up no attempt meanwhile.

    All users of one destination share one gate. After a failure the gate is closed for a pause;
    then one caller tries alone while the others wait. Its success opens the gate for all.

    Parameters
    ----------
    name
        The destination, for logs and metrics.
    clock
        Time of the pauses.
    backoff
        Policy of the pauses.
    outages
        Errors that mean the destination is down. All others, transient ones too, pass through and
        leave the gate as it is.
    """

    def __init__(
        self,
        *,
        name: str,
        clock: Clock,
        backoff: Backoff,
        outages: tuple[type[TransientError], ...] = (TransientError,),
    ) -> None:
        self.name = name
        self._clock = clock
        self._outages = outages
        self._pauses = backoff.pauses()
        self._closed_until_tai = 0.0
        self._trying = False
        self._opened = StopToken()
        self.problem: TransientError | None = None

    @property
    def is_open(self) -> bool:
        """The destination answered when it was asked last."""
        return self.problem is None

    async def call(
        self,
        operation: Callable[[], Awaitable[ResultT]],
        *,
        stop: StopToken,
        deadline: Deadline | None = None,
    ) -> ResultT:
        """Do ``operation``; wait out an outage and do it again.

        Parameters
        ----------
        operation
            Makes the call; must be idempotent.
        stop
            Ends the waiting, not the operation.
        deadline
            Ends the waiting.

        Raises
        ------
        DestinationDownError
            The outage lasts and waiting was ended by ``stop`` or the deadline.
        """
        while True:
            alone = await self._pass(stop, deadline)
            try:
                result = await operation()
            except self._outages as error:
                self._close(error, alone=alone)
            except PlatevaultError:
                self._open()  # it answered, though not as the caller had hoped
                raise
            else:
                self._open()
                return result
            finally:
                if alone:
                    self._trying = False
                    self._tell()

    async def _pass(self, stop: StopToken, deadline: Deadline | None) -> bool:
        """Return when the gate is open; ``True`` when it is closed and the caller's turn to try."""
        while self.problem is not None:
            left_s = self._closed_until_tai - self._clock.now_tai()
            if left_s <= 0 and not self._trying:
                self._trying = True
                return True
            if stop.requested or (deadline is not None and deadline.passed):
                raise DestinationDownError(
                    "The destination is down", destination=self.name, problem=str(self.problem)
                ) from self.problem
            waits = [stop.wait(), self._opened.wait()]
            if left_s > 0:
                waits.append(self._clock.sleep(left_s))
            if deadline is not None:
                waits.append(deadline.wait())
            await wait_first(*waits)
        return False

    def _close(self, error: TransientError, *, alone: bool) -> None:
        began = self.problem is None
        self.problem = error
        if began:
            _log.warning("Destination is down", destination=self.name, problem=str(error))
        if began or alone:  # calls that were under way when it closed count as one outage
            self._closed_until_tai = self._clock.now_tai() + self._pauses.next_s()

    def _open(self) -> None:
        if self.problem is not None:
            _log.info("Destination answers again", destination=self.name)
            self.problem = None
            self._pauses.reset()
            self._tell()

    def _tell(self) -> None:
        """Wake all who wait at the gate."""
        self._opened.request()
        self._opened = StopToken()
