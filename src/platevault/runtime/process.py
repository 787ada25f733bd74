"""A process: services that start in order, stop in reverse, and fail together."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import structlog

from platevault.domain.errors import PlatevaultError, UsageError
from platevault.ports.clock import Clock
from platevault.runtime.service import Deadline, Service, StopToken
from platevault.runtime.waiting import wait_first

_log = structlog.get_logger(__name__)

EXIT_ASKED = 0
EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 2
EXIT_NOT_DRAINED = 3


class ServiceExitedError(PlatevaultError):
    """A service returned without being asked: a bug; the process ends."""


class DrainError(PlatevaultError):
    """Services did not stop in time and were cancelled: what they had in hand is done again."""


class _Running:
    """One service of this process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stop = StopToken()
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        try:
            await self.service.run(self.stop, self.ready.set)
        except Exception as error:
            error.add_note(f"in service {self.service.name}")
            raise
        finally:
            self.ended.set()
        if not self.stop.requested:
            raise ServiceExitedError("A service ended unasked", service=self.service.name)


async def run_services(
    services: Sequence[Service],
    *,
    clock: Clock,
    drain_within_s: float = 10.0,
    stop: StopToken | None = None,
    install_signals: bool = False,
) -> None:
    """Run services until a stop is asked for, or until all have ended on request.

    Each service is ready before the next one starts, so one may use those before it. The stop
    goes to them in reverse order, to each when the one after it has ended.

    Parameters
    ----------
    services
        In the order of their start; names are unique.
    clock
        Time of the drain limit.
    drain_within_s
        How long each service may take to stop [s].
    stop
        Asks the process to stop.
    install_signals
        SIGTERM and SIGINT ask to stop; a second one ends the drain at once.

    Raises
    ------
    ServiceExitedError
        A service returned without being asked. The others were cancelled.
    DrainError
        Its context names the services that were cancelled. All others stopped in order.
    ExceptionGroup
        More than one service failed; a single failure is raised as it is. The others were
        cancelled.
    """
    names = [service.name for service in services]
    if len(set(names)) != len(names):
        raise UsageError("Two services have one name", services=names)
    asked = stop if stop is not None else StopToken()
    hurry = StopToken()
    running: list[_Running] = []
    late: list[str] = []
    with _signals(asked, hurry) if install_signals else _nothing():
        try:
            async with asyncio.TaskGroup() as group:
                for service in services:
                    if asked.requested:
                        break
                    await _start(_Running(service), running, group, asked)
                await wait_first(asked.wait(), _all_ended(running))
                late = [
                    one.service.name
                    for one in reversed(running)
                    if not await _drained(one, clock, drain_within_s, hurry)
                ]
        except BaseExceptionGroup as failures:
            raise _single(failures) from None
    if late:
        raise DrainError("Services did not stop in time", services=late)


@asynccontextmanager
async def running_beneath(
    services: Sequence[Service], *, clock: Clock, drain_within_s: float = 10.0
) -> AsyncIterator[None]:
    """Run services for the time of the context: from before others begin until they have ended.

    The body begins when all are ready; after it, also after a failure, they stop in reverse order.

    Raises
    ------
    ServiceExitedError
        One returned without being asked; the body was cancelled.
    ExceptionGroup
        More than one service failed, or one and the body; a single failure is raised as it is.
    """
    running: list[_Running] = []
    never = StopToken()
    try:
        async with asyncio.TaskGroup() as group:
            for service in services:
                await _start(_Running(service), running, group, never)
            try:
                yield
            finally:
                for one in reversed(running):
                    await _drained(one, clock, drain_within_s, never)
    except BaseExceptionGroup as failures:
        raise _single(failures) from None


def exit_code(error: BaseException | None) -> int:
    """Give the exit code of a process that ended with ``error``, ``None`` if it was asked to.

    0 asked to stop, 1 failed, 2 bad settings or use, 3 did not drain.
    """
    match error:
        case None:
            return EXIT_ASKED
        case DrainError():
            return EXIT_NOT_DRAINED
        case UsageError():
            return EXIT_BAD_SETTINGS
        case BaseExceptionGroup():
            codes = {exit_code(one) for one in error.exceptions}
            return codes.pop() if len(codes) == 1 else EXIT_FAILED
        case _:
            return EXIT_FAILED


async def _start(
    one: _Running, running: list[_Running], group: asyncio.TaskGroup, asked: StopToken
) -> None:
    running.append(one)
    one.task = group.create_task(one.run(), name=one.service.name)
    await wait_first(one.ready.wait(), one.ended.wait(), asked.wait())
    if one.ready.is_set():
        _log.info("Service ready", service=one.service.name)


async def _all_ended(running: Sequence[_Running]) -> None:
    for one in running:
        await one.ended.wait()


async def _drained(one: _Running, clock: Clock, drain_within_s: float, hurry: StopToken) -> bool:
    """Stop one service; ``False`` if it had to be cancelled."""
    one.stop.request()
    deadline = Deadline(clock, clock.now_tai() + drain_within_s)
    if not one.ended.is_set():
        await wait_first(one.ended.wait(), deadline.wait(), hurry.wait())
    if one.ended.is_set() or one.task is None:
        _log.info("Service stopped", service=one.service.name)
        return True
    _log.error("Service did not stop in time", service=one.service.name)
    one.task.cancel()
    await asyncio.wait({one.task})
    return False


def _single(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Give the one failure, or the flat group of several."""
    leaves = [*_leaves(failures)]
    return leaves[0] if len(leaves) == 1 else BaseExceptionGroup("Services failed", leaves)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


@contextmanager
def _signals(asked: StopToken, hurry: StopToken) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def ask() -> None:
        if asked.requested:
            hurry.request()
        asked.request()

    taken = (signal.SIGTERM, signal.SIGINT)
    for number in taken:
        loop.add_signal_handler(number, ask)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
