"""The base of every commandable component."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import structlog

from platevault.csc.background import BackgroundWork, WorkBody, reason_of
from platevault.csc.configuration import Applied, ConfigurationSource
from platevault.csc.duplicates import refuse_duplicate
from platevault.csc.offering import ConfigurationOffer
from platevault.csc.states import commands_down_from, commands_up_to, target_of
from platevault.csc.voice import Voice
from platevault.domain.errors import PlatevaultError
from platevault.domain.lifecycles import SummaryState
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import BusUnavailableError, SampleBus
from platevault.runtime.service import StopToken
from platevault.sal.acks import Ack, CommandRefusedError
from platevault.sal.controller import Command, CommandCallback, Controller
from platevault.sal.schema import Interfaces

#: Time between signs of life, and between looks at the configurations [s] (SAL over Kafka, 10, 11).
HEARTBEAT_S = 1.0
CONFIGURATION_LOOK_S = 1.0
#: Time from the final reply to ``exitControl`` to the end [s] (same, 10).
EXIT_DELAY_S = 1.0
#: Error code of a fault whose cause has no code of its own.
UNNAMED_ERROR_CODE = 1

_Hook = Callable[[], Awaitable[None]]

_log = structlog.get_logger(__name__)


class Csc:
    """A commandable component with the standard states, as a `Service`.

    A subclass overrides the ``on_`` hooks, which run before the state changes and may refuse, and
    the ``after_`` hooks, which run in the new state. When one raises, the state is what it was,
    and the command fails with the error as its text. Work for as long as a state lasts is given to
    `while_in`. Further commands are given to `on_command`.

    Parameters
    ----------
    component
        SAL component.
    sal_index
        Instance; 0 if the component is not indexed.
    bus, interfaces, clock
        What it works with.
    version
        Version of the component, for ``softwareVersions``.
    configuration
        Where ``start`` reads the settings; without it `on_start` gets an empty dictionary.
    simulation_mode
        0 for real hardware.
    initial_state
        STANDBY; DISABLED or ENABLED to go there unasked; OFFLINE if it has ``enterControl``.
    initial_override
        Configuration override of the unasked ``start``.
    subsystem_versions
        Versions of what it is made of, by name.
    check_duplicates
        Listen for another instance before the first sign of life.
    drain_within_s
        Time that work of a state has to finish its unit in hand when the state ends [s]; less than
        the process has to stop.

    Notes
    -----
    ``exitControl`` asks the process to stop through the stop token, once its reply is out. A stop
    that comes from outside walks the states down to OFFLINE, through the same hooks.

    References
    ----------
    SAL over Kafka, section 10: order of outputs, texts, periods.
    """

    def __init__(
        self,
        *,
        component: str,
        bus: SampleBus,
        interfaces: Interfaces,
        clock: Clock,
        version: str,
        sal_index: int = 0,
        configuration: ConfigurationSource | None = None,
        simulation_mode: int = 0,
        initial_state: SummaryState = SummaryState.STANDBY,
        initial_override: str = "",
        subsystem_versions: Mapping[str, str] | None = None,
        check_duplicates: bool = False,
        drain_within_s: float = 5.0,
    ) -> None:
        self.clock = clock
        self._bus = bus
        self._interfaces = interfaces
        self._controller = Controller(
            component=component, sal_index=sal_index, bus=bus, interfaces=interfaces, clock=clock
        )
        self._version = version
        self._voice = Voice(controller=self._controller, clock=clock)
        self._offer = ConfigurationOffer(source=configuration, voice=self._voice)
        self._simulation_mode = simulation_mode
        self._initial_state = initial_state
        self._initial_override = initial_override
        self._subsystem_versions = subsystem_versions or {}
        self._check_duplicates = check_duplicates
        self._state = (
            SummaryState.OFFLINE if initial_state is SummaryState.OFFLINE else SummaryState.STANDBY
        )
        self._faults = 0
        self._transitions = asyncio.Lock()
        self._background = BackgroundWork(
            clock=clock, fault=self.fault, drain_within_s=drain_within_s
        )
        self._leaving: list[Command] = []
        self._exit = asyncio.Event()

    # What the process and the subclass see

    @property
    def name(self) -> str:
        """``Name`` or ``Name:index``."""
        return self._controller.identity

    @property
    def state(self) -> SummaryState:
        """The present state."""
        return self._state

    @property
    def sal_index(self) -> int:
        """Instance; 0 if the component is not indexed."""
        return self._controller.sal_index

    def on_command(self, name: str, callback: CommandCallback) -> None:
        """Let ``callback`` do a command of the component; see `Controller.on_command`."""
        self._controller.on_command(name, callback)

    def require_enabled(self, action: str) -> None:
        """Refuse what is only done while ENABLED; `CommandRefusedError` otherwise."""
        if self._state is not SummaryState.ENABLED:
            raise CommandRefusedError(f"{action} not allowed in state {self._state.name}")

    def while_in(
        self,
        states: Collection[SummaryState],
        body: WorkBody,
        *,
        name: str,
        error_code: int = UNNAMED_ERROR_CODE,
    ) -> None:
        """Let ``body(stop)`` run whenever the state is one of ``states``; from the constructor on.

        ``stop`` is requested when the state leaves them; the body finishes its unit in hand and
        returns, or is cancelled in time. When it raises, or returns unasked, the component goes to
        FAULT with ``error_code``.
        """
        self._background.add(body, name=name, states=states, error_code=error_code)

    def while_enabled(
        self, body: WorkBody, *, name: str, error_code: int = UNNAMED_ERROR_CODE
    ) -> None:
        """Let ``body(stop)`` run while ENABLED; see `while_in`."""
        self.while_in({SummaryState.ENABLED}, body, name=name, error_code=error_code)

    async def publish(self, event: str, /, *, force: bool = False, **fields: Any) -> bool:
        """Publish an event if a field differs from the last time, or ``force``; tell whether.

        An event that is an occurrence and not a state (a file was written) needs ``force``, or a
        second one with equal fields is not seen.
        """
        return await self._voice.publish(event, force=force, **fields)

    async def publish_telemetry(self, topic: str, /, **fields: Any) -> None:
        """Publish telemetry."""
        await self._voice.publish_telemetry(topic, **fields)

    async def log(self, level: int, message: str, /, **facts: Any) -> None:
        """Log, and publish ``logMessage`` if ``level`` reaches the level in use.

        ``traceback`` and ``subsystem`` among the facts go into the fields of that name.
        """
        await self._voice.log(level, message, **facts)

    async def fault(self, code: int, report: str, traceback: str = "") -> None:
        """Go to FAULT; the one way there. While in FAULT or OFFLINE it is only logged.

        Parameters
        ----------
        code
            Error number, not 0.
        report
            What happened, for people.
        traceback
            Stack trace, if there is one.

        Raises
        ------
        BusUnavailableError
            Nobody can be told. Let it end the process, so that it is seen and started again.
        """
        if self._state in {SummaryState.FAULT, SummaryState.OFFLINE}:
            await self.log(
                logging.ERROR,
                "Further fault",
                traceback=traceback,
                state=self._state.name,
                error_code=code,
                report=report,
            )
            return
        self._state = SummaryState.FAULT
        self._faults += 1
        self._background.release(SummaryState.FAULT)
        # A task of its own: whoever found the fault may be cancelled, the report must go out.
        telling = self._background.spawn(
            self._tell_fault(code or UNNAMED_ERROR_CODE, report, traceback),
            name=f"{self.name} fault",
        )
        if telling is not None:
            await asyncio.shield(telling)

    async def _tell_fault(self, code: int, report: str, traceback: str) -> None:
        await self.publish(
            "errorCode", force=True, errorCode=code, errorReport=report, traceback=traceback
        )
        await self.log(
            logging.CRITICAL, "Fault", traceback=traceback, error_code=code, report=report
        )
        await self.publish("summaryState", summaryState=int(SummaryState.FAULT))
        await self._tell_state(SummaryState.FAULT)

    # Hooks

    async def on_start(self, settings: Any) -> None:
        """Before DISABLED: take the settings; raise to stay in STANDBY."""

    async def on_enable(self) -> None:
        """Before ENABLED; raise to stay in DISABLED."""

    async def on_disable(self) -> None:
        """Before DISABLED; raise to stay in ENABLED."""

    async def on_standby(self) -> None:
        """Before STANDBY, from DISABLED or FAULT; raise to stay."""

    async def on_exit(self) -> None:
        """Before OFFLINE; raise to stay in STANDBY."""

    async def after_start(self) -> None:
        """In DISABLED, after `on_start`; raise to go back."""

    async def after_enable(self) -> None:
        """In ENABLED, before its work begins; raise to go back."""

    async def after_disable(self) -> None:
        """In DISABLED, after the work of ENABLED ended; raise to go back."""

    async def after_standby(self) -> None:
        """In STANDBY; raise to go back."""

    async def after_exit(self) -> None:
        """In OFFLINE; raise to go back."""

    async def on_state(self, state: SummaryState) -> None:
        """In every new state, FAULT included, before it is published; raising is a fault."""

    # Life

    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Be the component until ``stop`` or ``exitControl``.

        Raises
        ------
        DuplicateCscError
            Another process is this component. Do not retry.
        """
        self._take_commands()
        await self._controller.continue_stamps()
        await self._voice.say_level()
        if self._check_duplicates:
            await refuse_duplicate(
                name=self.name,
                heartbeat=self._controller.interface.event("heartbeat"),
                sal_index=self.sal_index,
                bus=self._bus,
                clock=self.clock,
            )
        async with asyncio.TaskGroup() as group:
            self._background.open(group)
            beat = group.create_task(self._beat(), name=f"{self.name} heartbeat")
            async with self._controller.serving(group):
                async with self._transitions:
                    await self._start_up()
                look = group.create_task(
                    self._look_for_configurations(), name=f"{self.name} configurations"
                )
                leave = group.create_task(self._await_exit(stop), name=f"{self.name} exit")
                ready()
                await stop.wait()
                leave.cancel()
                await self._walk_down()
                look.cancel()
            beat.cancel()

    def _take_commands(self) -> None:
        interface = self._controller.interface
        hooks = ("start", "enable", "disable", "standby", "exitControl", "enterControl")
        for name in hooks:
            if interface.has(f"command_{name}"):
                self._controller.on_command(name, self._do_transition)
        self._controller.on_command("setLogLevel", self._do_set_log_level)

    async def _start_up(self) -> None:
        await self.publish("simulationMode", force=True, mode=self._simulation_mode)
        await self.publish(
            "softwareVersions",
            salVersion=f"platevault {self._version}",
            xmlVersion=self._interfaces.version,
            cscVersion=self._version,
            subsystemVersions=",".join(
                f"{name}={version}" for name, version in self._subsystem_versions.items()
            ),
        )
        await self.publish("summaryState", summaryState=int(self._state))
        await self.publish("errorCode")
        await self._offer.look()
        if self._initial_state is SummaryState.OFFLINE:
            return
        self._background.start(self._state)
        for name in commands_up_to(self._initial_state):
            try:
                await self._change_state(name, self._initial_override)
            except Exception as error:  # noqa: BLE001 (outermost: it becomes a fault)
                await self.fault(
                    UNNAMED_ERROR_CODE,
                    f"{name} failed: {reason_of(error)}",
                    "" if isinstance(error, PlatevaultError) else traceback.format_exc(),
                )
                return

    async def _beat(self) -> None:
        while True:
            try:
                await self.publish("heartbeat", force=True, heartbeat=True)
            except BusUnavailableError as error:
                _log.error("No heartbeat", component=self.name, reason=str(error))
            await self.clock.sleep(HEARTBEAT_S)

    async def _await_exit(self, stop: StopToken) -> None:
        await self._exit.wait()
        for command in self._leaving:
            await command.answered.wait()
        await self.clock.sleep(EXIT_DELAY_S)
        stop.request()

    async def _walk_down(self) -> None:
        self._background.close()
        async with self._transitions:
            while steps := commands_down_from(self._state):
                target = target_of(steps[0], self._state)
                try:
                    await self._change_state(steps[0])
                except Exception as error:  # noqa: BLE001 (outermost: the way down must go on)
                    await self.log(
                        logging.ERROR,
                        "Step down failed",
                        traceback=traceback.format_exc(),
                        command=steps[0],
                        reason=reason_of(error),
                    )
                    self._state = target
                    await self._background.stop(target)
                    await self.publish("summaryState", summaryState=int(target))

    # Commands

    async def _do_transition(self, command: Command) -> Ack | None:
        async with self._transitions:
            await self._change_state(
                command.name, str(command.fields.get("configurationOverride", ""))
            )
        if self._state is SummaryState.OFFLINE:
            self._leaving.append(command)
            self._exit.set()
        return None

    async def _do_set_log_level(self, command: Command) -> Ack | None:
        level, subsystem = command.fields["level"], command.fields["subsystem"]
        if level < 0:
            raise CommandRefusedError("Not a log level", value=level, expected=">= 0")
        await self._voice.set_level(level, subsystem)
        return None

    async def _change_state(self, command: str, override: str = "") -> None:
        before, faults = self._state, self._faults
        target = target_of(command, before)
        applied: Applied | None = None
        try:
            if command == "start":
                applied = await self._offer.read(override)
                await self.on_start({} if applied is None else applied.settings)
                after: _Hook = self.after_start
            else:
                on, after = self._hooks(command)
                await on()
            self._refuse_if_faulted(faults)
            self._state = target
            await self._background.stop(target)
            await after()
            self._refuse_if_faulted(faults)
        except Exception:
            if self._faults == faults:
                self._state = before
                self._background.start(before)
            raise
        if applied is not None:
            await self._offer.tell(applied)
        await self._tell_state(target)
        self._refuse_if_faulted(faults)
        await self.publish("summaryState", summaryState=int(target))
        self._refuse_if_faulted(faults)
        await self.publish("errorCode")
        self._refuse_if_faulted(faults)
        self._background.start(target)

    def _hooks(self, command: str) -> tuple[_Hook, _Hook]:
        return {
            "enable": (self.on_enable, self.after_enable),
            "disable": (self.on_disable, self.after_disable),
            "standby": (self.on_standby, self.after_standby),
            "exitControl": (self.on_exit, self.after_exit),
            "enterControl": (_nothing, _nothing),
        }[command]

    def _refuse_if_faulted(self, faults: int) -> None:
        if self._faults != faults:
            raise CommandRefusedError("The component went to FAULT; see errorCode")

    async def _tell_state(self, state: SummaryState) -> None:
        try:
            await self.on_state(state)
        except Exception as error:  # noqa: BLE001 (outermost: it becomes a fault)
            await self.fault(
                UNNAMED_ERROR_CODE,
                f"Handling of {state.name} failed: {reason_of(error)}",
                traceback.format_exc(),
            )

    async def _look_for_configurations(self) -> None:
        while True:
            await self.clock.sleep(CONFIGURATION_LOOK_S)
            if self._state is SummaryState.STANDBY:
                await self._offer.look()


async def _nothing() -> None:
    pass
