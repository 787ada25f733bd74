"""How a process shows that it lives: presence, readiness, and its supervisor's socket."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog

from platevault.ports.clock import Clock
from platevault.ports.leases import LeasesUnavailableError
from platevault.ports.presence import Presence
from platevault.runtime.service import Deadline, Service, StopToken
from platevault.runtime.waiting import wait_first

#: Role under which every process is present; those of pairing are others.
PROCESS_ROLE = "process"
#: Signs of life within the time after which a silent process counts as gone.
_SIGNS = 4
#: Time between looks whether a server is there that was away at the start [s].
_LOOK_S = 0.2
#: Time between looks at servers later, below the patience of whoever reads a list [s].
_LOOK_AGAIN_S = 5.0

_log = structlog.get_logger(__name__)


class ProcessState(StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a process is.

    Attributes
    ----------
    name
        Unique among the processes of a site.
    service
        Kind of service.
    cameras
        Names of its cameras.
    host, pid, version
        Where it runs, and what.
    """

    name: str
    service: str
    cameras: tuple[str, ...]
    host: str
    pid: int
    version: str


class Life:
    """The life of this process, told to whoever asks.

    Parameters
    ----------
    problems
        By server, what is wrong with its connection; empty text if nothing is.
    clock
        Gives the moment of each change.
    notify_address
        Socket of the supervisor, in the form of ``sd_notify``; empty if there is none.
    """

    def __init__(
        self,
        *,
        problems: Mapping[str, Callable[[], str]],
        clock: Clock,
        notify_address: str = "",
    ) -> None:
        self._problems = problems
        self._clock = clock
        self._notify_address = notify_address
        self.state = ProcessState.STARTING
        self.since_tai = clock.now_tai()

    def enter(self, state: ProcessState) -> None:
        """Go on to a state."""
        self.state = state
        self.since_tai = self._clock.now_tai()
        if state is ProcessState.READY:
            self.notify("READY=1")
        if state is ProcessState.STOPPING:
            self.notify("STOPPING=1")

    @property
    def trouble(self) -> str:
        """Which connections do not serve, and why; empty if all do."""
        found = ((name, problem()) for name, problem in self._problems.items())
        return "; ".join(f"{name}: {text}" for name, text in found if text)

    def is_alive(self) -> tuple[bool, str]:
        """Answer the question of liveness: whoever answers lives."""
        return True, self.state.value

    def is_ready(self) -> tuple[bool, str]:
        """Answer the question of readiness.

        A process is not ready before each server that it uses has answered once. One that goes
        away later does not make it unready: it waits, and starting it again would not help. The
        text names the server.
        """
        trouble = self.trouble
        text = f"{self.state.value}; {trouble}" if trouble else self.state.value
        return self.state is ProcessState.READY, text

    def notify(self, text: str) -> None:
        """Tell the supervisor; one that does not listen is no business of ours.

        References
        ----------
        systemd, ``sd_notify(3)``: a datagram to the named socket, ``@`` for an abstract name.
        """
        if not self._notify_address:
            return
        address = self._notify_address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.connect(address)
                sender.send(text.encode())
        except OSError as error:
            _log.warning("Supervisor does not hear", address=address, problem=str(error))


class SignsOfLife:
    """Announces this process, from before its servers are there until it ends.

    Parameters
    ----------
    life, identity
        What is told.
    presence, clock
        Ports.
    ttl_s
        Time after which a silent process counts as gone [s].
    """

    name = "signs-of-life"

    def __init__(
        self, *, life: Life, identity: Identity, presence: Presence, clock: Clock, ttl_s: float
    ) -> None:
        self._life = life
        self._identity = identity
        self._presence = presence
        self._clock = clock
        self._ttl_s = ttl_s

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Announce again and again; a store that is away is no reason to end."""
        ready()
        while not stop.requested:
            await self._tell()
            self._life.notify("WATCHDOG=1")
            pause = Deadline(self._clock, self._clock.now_tai() + self._ttl_s / _SIGNS)
            await wait_first(stop.wait(), pause.wait())
        try:
            await self._presence.withdraw(PROCESS_ROLE, self._identity.name)
        except LeasesUnavailableError as error:
            _log.warning("Presence runs out by itself", problem=str(error))

    async def _tell(self) -> None:
        identity, life = self._identity, self._life
        facts = {
            "service": identity.service,
            "cameras": ",".join(identity.cameras),
            "host": identity.host,
            "pid": str(identity.pid),
            "version": identity.version,
            "state": life.state.value,
            "since_tai": f"{life.since_tai:.3f}",
            "trouble": life.trouble,
        }
        try:
            await self._presence.announce(PROCESS_ROLE, identity.name, facts, ttl_s=self._ttl_s)
        except LeasesUnavailableError as error:
            _log.warning("Presence not told", problem=str(error))


class ServersAnswer:
    """Is ready when each server of the process has answered, so that services start with all.

    Parameters
    ----------
    life
        Tells what is missing.
    inquire
        Asks servers; who answers is in trouble no more.
    look
        Asks now and then, while services work, what no connection says by itself.
    clock
        Time of the looks.
    """

    name = "servers"

    def __init__(
        self,
        *,
        life: Life,
        inquire: Callable[[], Awaitable[None]],
        look: Callable[[], Coroutine[Any, Any, None]],
        clock: Clock,
    ) -> None:
        self._life = life
        self._inquire = inquire
        self._look = look
        self._clock = clock

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Ask until nothing is missing, then look now and then until ``stop``."""
        await self._inquire()
        while self._life.trouble and not stop.requested:
            await wait_first(stop.wait(), self._clock.sleep(_LOOK_S))
            await self._inquire()
        ready()
        while not stop.requested:
            await wait_first(stop.wait(), self._clock.sleep(_LOOK_AGAIN_S))
            await wait_first(stop.wait(), self._look())


class Readiness:
    """Starts after all others and stops before them, so that its life is the readiness of all."""

    name = "readiness"

    def __init__(self, life: Life) -> None:
        self._life = life

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Be ready until ``stop``."""
        self._life.enter(ProcessState.READY)
        ready()
        await stop.wait()
        self._life.enter(ProcessState.STOPPING)


class Principal:
    """The service for which a process is there: when its users end it, the process ends.

    Parameters
    ----------
    service
        The service.
    process_stop
        Ends the process.
    """

    def __init__(self, service: Service, process_stop: StopToken) -> None:
        self._service = service
        self._process_stop = process_stop

    @property
    def name(self) -> str:
        """Name of the service."""
        return self._service.name

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Run the service."""
        await self._service.run(stop, ready)
        if stop.requested:
            self._process_stop.request()
