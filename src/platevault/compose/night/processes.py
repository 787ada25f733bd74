"""Runs service processes, and starts again those that end unasked, as an init system does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from platevault.compose.settings import child_environment
from platevault.domain.errors import PlatevaultError
from platevault.ports.clock import Clock

#: Pause before a process that ended unasked is started again [s].
_RESTART_S = 1.0
#: Longest start of a process on a loaded machine, and time between looks [s].
_READY_S, _LOOK_S = 120.0, 0.1
#: Longest wait for a process that was asked to stop [s].
_STOP_S = 60.0
_ANSWER_S = 2.0

_log = structlog.get_logger(__name__)


class ProcessNotReadyError(PlatevaultError):
    """A service process was not ready in time: its log says why."""


@dataclass(frozen=True, kw_only=True)
class ProcessPlan:
    """One process.

    Attributes
    ----------
    name
        Unique; also of its log.
    arguments
        Of ``platevault serve``.
    port
        Its end point of readiness.
    """

    name: str
    arguments: tuple[str, ...]
    port: int


class _Process:
    """One process through all its lives."""

    def __init__(self, *, plan: ProcessPlan, config: Path, log: Path, clock: Clock) -> None:
        self.plan = plan
        self._config = config
        self._log = log
        self._clock = clock
        self._child: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.exit_code: int | None = None
        self.starts = 0

    async def run(self) -> None:
        while not self._stopping:
            with self._log.open("ab") as log:
                self._child = await asyncio.create_subprocess_exec(
                    *self._command(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=child_environment(),
                    start_new_session=True,
                )
            self.starts += 1
            try:
                self.exit_code = await self._child.wait()
            finally:
                self.signal(signal.SIGKILL)
            if not self._stopping:
                _log.warning("Process ended", process=self.plan.name, exit_code=self.exit_code)
                await self._clock.sleep(_RESTART_S)

    async def stop(self) -> None:
        self._stopping = True
        self.signal(signal.SIGTERM)
        if self._child is not None:
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._child.wait()
            except TimeoutError:
                _log.error("Process did not stop", process=self.plan.name)
                self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def wait_ready(self) -> None:
        try:
            async with asyncio.timeout(_READY_S):
                while not await answers_ready(self.plan.port):
                    await self._clock.sleep(_LOOK_S)
        except TimeoutError:
            raise ProcessNotReadyError(
                "Process is not ready", process=self.plan.name, log=str(self._log)
            ) from None

    def _command(self) -> list[str]:
        command = [
            sys.executable, "-m", "platevault", "serve", *self.plan.arguments,
            "--config", str(self._config), "--name", self.plan.name,
            "--metrics-port", str(self.plan.port),
        ]  # fmt: skip
        # A component that was ENABLED when it died goes on with its work unasked.
        return command if self.starts == 0 else [*command, "--state", "enabled"]


class Supervisor:
    """Runs processes of a site on this host.

    Parameters
    ----------
    config
        Settings file of the site.
    log_dir
        For a log of each process.
    clock
        Time of the pauses.
    """

    def __init__(self, *, config: Path, log_dir: Path, clock: Clock) -> None:
        self._config = config
        self._log_dir = log_dir
        self._clock = clock
        self._processes: dict[str, _Process] = {}

    @asynccontextmanager
    async def running(self, plans: Sequence[ProcessPlan]) -> AsyncIterator[None]:
        """Run processes for the time of the context; the body begins when all are ready.

        At the end they are asked to stop, the last one first.

        Raises
        ------
        ProcessNotReadyError
            One of them did not come up. All were stopped.
        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        made = [
            _Process(
                plan=plan,
                config=self._config,
                log=self._log_dir / f"{plan.name}.jsonl",
                clock=self._clock,
            )
            for plan in plans
        ]
        self._processes |= {one.plan.name: one for one in made}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.run(), name=f"process-{one.plan.name}") for one in made]
            try:
                for one in made:
                    await one.wait_ready()
                yield
            finally:
                async with asyncio.TaskGroup() as stopping:
                    for one in made:
                        stopping.create_task(one.stop(), name=f"stop-{one.plan.name}")
                for task in tasks:
                    task.cancel()

    def kill(self, name: str) -> None:
        """End a process as a crash would; it is started again."""
        self._processes[name].signal(signal.SIGKILL)

    @property
    def names(self) -> list[str]:
        """Names of the processes."""
        return list(self._processes)

    @property
    def exit_codes(self) -> dict[str, int | None]:
        """Exit code of each process's last life, by name."""
        return {name: one.exit_code for name, one in self._processes.items()}


async def answers_ready(port: int) -> bool:
    """Ask a process of this host whether it is ready."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return b" 200 " in await reader.readline()
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()
