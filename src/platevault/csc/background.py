"""Work that goes on while a component is in certain states."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

from platevault.domain.errors import UsageError
from platevault.domain.lifecycles import SummaryState
from platevault.ports.clock import Clock
from platevault.runtime.service import StopToken
from platevault.sal.timing import time_limit

WorkBody = Callable[[StopToken], Awaitable[None]]
FaultReport = Callable[[int, str, str], Awaitable[None]]


class NotRunningError(UsageError):
    """The component does not run: call this within its hooks or commands."""


@dataclass(eq=False)
class _Work:
    name: str
    states: frozenset[SummaryState]
    body: WorkBody
    error_code: int
    stop: StopToken = field(default_factory=StopToken)
    task: asyncio.Task[None] | None = None


class BackgroundWork:
    """Starts and stops work as states change; its failure is a fault, never silence.

    Parameters
    ----------
    clock
        Measures the drain.
    fault
        Told error code, report and traceback when work fails, or ends without being asked.
    drain_within_s
        Time to finish the unit in hand after the request to stop [s]; then the work is cancelled.
    """

    def __init__(self, *, clock: Clock, fault: FaultReport, drain_within_s: float) -> None:
        self._clock = clock
        self._fault = fault
        self._drain_within_s = drain_within_s
        self._works: list[_Work] = []
        self._group: asyncio.TaskGroup | None = None
        self._closing = False

    def add(
        self, body: WorkBody, *, name: str, states: Collection[SummaryState], error_code: int
    ) -> None:
        """Let ``body`` run whenever the state is one of ``states``."""
        self._works.append(_Work(name, frozenset(states), body, error_code))

    def open(self, group: asyncio.TaskGroup) -> None:
        """Run the work in ``group`` from now on."""
        self._group = group

    def close(self) -> None:
        """Start nothing any more; the way down leads through states that have work."""
        self._closing = True

    async def stop(self, state: SummaryState) -> None:
        """Stop what does not belong to ``state``, and wait for it.

        Work that calls this itself is asked to stop, but not waited for.
        """
        async with asyncio.TaskGroup() as ending:
            for work in self._works:
                if state not in work.states or work.stop.requested:
                    work.stop.request()
                    if work.task is not asyncio.current_task():
                        ending.create_task(self._end(work), name=f"end {work.name}")

    def start(self, state: SummaryState) -> None:
        """Start what belongs to ``state`` and does not run."""
        for work in () if self._closing else self._works:
            if state in work.states and (work.task is None or work.task.done()):
                work.stop = StopToken()
                work.task = self.spawn(self._watch(work, work.stop), name=work.name)

    def release(self, state: SummaryState) -> None:
        """Ask what does not belong to ``state`` to stop, and do not wait for it."""
        for work in self._works:
            if state not in work.states and work.task is not None:
                work.stop.request()
                self.spawn(self._end(work), name=f"end {work.name}")

    def spawn(self, body: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
        """Run something beside the rest; ``None`` if the run is ending by an error already."""
        if self._group is None:
            body.close()
            raise NotRunningError("The component does not run")
        try:
            return self._group.create_task(body, name=name)
        except RuntimeError:  # what a group says that has been aborted
            body.close()
            return None

    async def _end(self, work: _Work) -> None:
        task = work.task
        if task is None:
            return
        try:
            async with time_limit(self._clock, self._drain_within_s):
                await asyncio.wait({task})
        except TimeoutError:
            task.cancel()
            await asyncio.wait({task})
        if work.task is task:
            work.task = None

    async def _watch(self, work: _Work, stop: StopToken) -> None:
        try:
            await work.body(stop)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            await self._fault(work.error_code, f"{work.name} was cancelled from within", "")
        except Exception as error:  # noqa: BLE001 (outermost of this work: it becomes a fault)
            await self._fault(
                work.error_code, f"{work.name} failed: {reason_of(error)}", traceback.format_exc()
            )
        else:
            if not stop.requested:
                await self._fault(work.error_code, f"{work.name} ended without being asked", "")


def reason_of(error: BaseException) -> str:
    """Say what went wrong; of a group, each single error."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(reason_of(single) for single in error.exceptions)
    return str(error) or type(error).__name__
