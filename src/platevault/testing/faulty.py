"""Ports that fail at a chosen call, before or after its real effect.

Run something once with a plan that fails nothing, and it counts the calls; then run it once for
each of `plans`, and check each time that what must hold still holds.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, cast

from typing_extensions import override

from platevault.ports.file_ledger import FileLedger, LedgerUnavailableError
from platevault.ports.image_writer import DiskFullError, ImageWriter, LinkStore
from platevault.ports.ingest import CatalogueUnavailableError, Ingest
from platevault.ports.leases import Leases, LeasesUnavailableError
from platevault.ports.object_store import ObjectStore, StoreUnavailableError
from platevault.ports.presence import Presence
from platevault.ports.readout import Readout, ReadoutUnavailableError
from platevault.ports.sample_bus import BusUnavailableError, SampleBus
from platevault.ports.work_queue import QueueUnavailableError, WorkQueue

ResultT = TypeVar("ResultT")

#: Makes what is raised, from the name of the call.
MakeError = Callable[[str], BaseException]


class FaultPlan:
    """Counts the calls of all ports that share it, and fails one of them.

    Parameters
    ----------
    fail_at
        Number of the call that fails, from 1; 0 fails none.
    after
        Fail after the real effect instead of before it.
    only
        Beginnings of the names of calls that count, such as ``ledger.``; all if empty.
    error
        What is raised instead of the port's own transient error; a `BaseException` stands for
        the end of the process.
    """

    def __init__(
        self,
        *,
        fail_at: int = 0,
        after: bool = False,
        only: tuple[str, ...] = (),
        error: MakeError | None = None,
    ) -> None:
        self._fail_at = fail_at
        self._after = after
        self._only = only
        self._error = error
        #: Names of the calls so far.
        self.calls: list[str] = []
        #: Name of the call that failed; empty while none did.
        self.failed = ""

    @override
    def __repr__(self) -> str:
        when = "after" if self._after else "before"
        return f"FaultPlan({self.failed or f'call {self._fail_at}'} fails {when} its effect)"

    def counts(self, name: str) -> bool:
        """Count a call; ``True`` if it is the one that fails."""
        if self._only and not name.startswith(self._only):
            return False
        self.calls.append(name)
        return len(self.calls) == self._fail_at

    def fail(self, name: str, port_error: MakeError) -> BaseException:
        """Note that a call fails; give what is raised."""
        self.failed = name
        return (self._error or port_error)(name)

    async def around(self, name: str, work: Awaitable[ResultT], port_error: MakeError) -> ResultT:
        """Do ``work``, or fail before or after it."""
        fails = self.counts(name)
        if fails and not self._after:
            if inspect.iscoroutine(work):
                work.close()
            raise self.fail(name, port_error)
        result = await work
        if fails:
            raise self.fail(name, port_error)
        return result


def plans(
    calls: int, *, only: tuple[str, ...] = (), error: MakeError | None = None
) -> Iterator[FaultPlan]:
    """Give a plan for each of ``calls`` calls, failing before and after its effect."""
    for number in range(1, calls + 1):
        for after in (False, True):
            yield FaultPlan(fail_at=number, after=after, only=only, error=error)


class FaultyPort:
    """Stands before any port and asks the plan at each call.

    Methods that open something (``consume``, ``subscribe``, ``record``, ``announcements``) count
    when they are entered, and then at each item that arrives; deliveries and recordings count
    their own calls. Closing never fails.

    Parameters
    ----------
    port
        Does the work.
    name
        Beginning of the names of its calls.
    plan
        Says which call fails.
    error
        The port's own transient error, made from a sentence.
    """

    def __init__(self, port: Any, *, name: str, plan: FaultPlan, error: MakeError) -> None:
        self._port = port
        self._name = name
        self._plan = plan
        self._error = error

    def __getattr__(self, attribute: str) -> Any:
        """Give the port's attribute; its methods ask the plan."""
        value = getattr(self._port, attribute)
        if not inspect.isroutine(value) and not inspect.isfunction(value):
            return value
        name = f"{self._name}.{attribute}"

        def guarded(*args: Any, **kwargs: Any) -> Any:
            outcome = value(*args, **kwargs)
            if inspect.isawaitable(outcome):
                return self._plan.around(name, outcome, self._error)
            if isinstance(outcome, AbstractAsyncContextManager):
                return self._opened(name, outcome)
            return outcome

        return guarded

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items(f"{self._name}.item", aiter(self._port))

    @asynccontextmanager
    async def _opened(
        self, name: str, opening: AbstractAsyncContextManager[Any]
    ) -> AsyncIterator[Any]:
        fails = self._plan.counts(name)
        if fails:
            raise self._plan.fail(name, self._error)
        async with opening as opened:
            if hasattr(opened, "commit"):
                yield self._wrapped(opened, f"{name}.recording")
            else:
                yield self._items(f"{name}.item", opened)

    def _items(self, name: str, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        def arrived(item: Any) -> Any:
            if self._plan.counts(name):
                raise self._plan.fail(name, self._error)
            return self._wrapped(item, f"{name}.delivery") if hasattr(item, "ack") else item

        return _Items(items, arrived)

    def _wrapped(self, inner: Any, name: str) -> FaultyPort:
        return FaultyPort(inner, name=name, plan=self._plan, error=self._error)


class _Items(AsyncIterator[Any]):
    """Passes items on; a cancelled wait may be followed by another."""

    def __init__(self, items: AsyncIterator[Any], arrived: Callable[[Any], Any]) -> None:
        self._items = items
        self._arrived = arrived

    @override
    async def __anext__(self) -> Any:
        return self._arrived(await anext(self._items))


def _error(kind: type[Exception]) -> MakeError:
    def make(name: str) -> BaseException:
        return kind(f"Injected at {name}")

    return make


def faulty_ledger(ledger: FileLedger, plan: FaultPlan) -> FileLedger:
    """Let a ledger be unavailable at the plan's call."""
    error = _error(LedgerUnavailableError)
    return cast("FileLedger", FaultyPort(ledger, name="ledger", plan=plan, error=error))


def faulty_queue(queue: WorkQueue, plan: FaultPlan) -> WorkQueue:
    """Let a broker be unavailable at the plan's call."""
    error = _error(QueueUnavailableError)
    return cast("WorkQueue", FaultyPort(queue, name="queue", plan=plan, error=error))


def faulty_leases(leases: Leases, plan: FaultPlan) -> Leases:
    """Let a lease store be unavailable at the plan's call."""
    error = _error(LeasesUnavailableError)
    return cast("Leases", FaultyPort(leases, name="leases", plan=plan, error=error))


def faulty_presence(presence: Presence, plan: FaultPlan) -> Presence:
    """Let a presence store be unavailable at the plan's call."""
    error = _error(LeasesUnavailableError)
    return cast("Presence", FaultyPort(presence, name="presence", plan=plan, error=error))


def faulty_bus(bus: SampleBus, plan: FaultPlan) -> SampleBus:
    """Let a sample bus be unavailable at the plan's call."""
    error = _error(BusUnavailableError)
    return cast("SampleBus", FaultyPort(bus, name="bus", plan=plan, error=error))


def faulty_writer(writer: ImageWriter, plan: FaultPlan) -> ImageWriter:
    """Let a disk be full at the plan's call."""
    error = _error(DiskFullError)
    return cast("ImageWriter", FaultyPort(writer, name="writer", plan=plan, error=error))


def faulty_links(links: LinkStore, plan: FaultPlan) -> LinkStore:
    """Let the areas' disk be full at the plan's call."""
    error = _error(DiskFullError)
    return cast("LinkStore", FaultyPort(links, name="links", plan=plan, error=error))


def faulty_store(store: ObjectStore, plan: FaultPlan) -> ObjectStore:
    """Let an object store be unavailable at the plan's call."""
    error = _error(StoreUnavailableError)
    return cast("ObjectStore", FaultyPort(store, name="store", plan=plan, error=error))


def faulty_ingest(ingest: Ingest, plan: FaultPlan) -> Ingest:
    """Let a catalogue be unavailable at the plan's call."""
    error = _error(CatalogueUnavailableError)
    return cast("Ingest", FaultyPort(ingest, name="ingest", plan=plan, error=error))


def faulty_readout(readout: Readout, plan: FaultPlan) -> Readout:
    """Let a DAQ be unavailable at the plan's call."""
    error = _error(ReadoutUnavailableError)
    return cast("Readout", FaultyPort(readout, name="readout", plan=plan, error=error))
