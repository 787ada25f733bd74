"""The side of a component: receive commands and answer them, write events and telemetry."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from platevault.domain.errors import PlatevaultError, UsageError
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import BusUnavailableError, History, SampleBus
from platevault.sal.acks import Ack, AckCode, CommandRefusedError
from platevault.sal.following import Follower
from platevault.sal.schema import ComponentInterface, Interfaces
from platevault.sal.topics import TopicWriter, TopicWriters
from platevault.sal.values import check_sample_fields

#: Commands of one name that may wait for their turn; one more is refused.
BACKLOG = 100
#: Answered commands that are remembered, to answer them again when they come again.
_REMEMBERED = 1000
#: Time that the reply to an aborted command may take [s, machine].
_LAST_WORD_S = 1.0

_log = structlog.get_logger(__name__)

_CommandKey = tuple[str, str, int, int]
CommandCallback = Callable[["Command"], Awaitable[Ack | None]]


class IndexMismatchError(UsageError):
    """A component without instances was given an index: mend the setting."""


class Command:
    """A command in hand.

    Parameters
    ----------
    sample
        As received; its fields are checked.
    reply
        Publishes a reply.
    """

    def __init__(self, *, sample: Sample, reply: Callable[[Ack], Awaitable[None]]) -> None:
        self.sample = sample
        self._reply = reply
        #: Set once the final reply is on the bus.
        self.answered = asyncio.Event()

    @property
    def name(self) -> str:
        """Short name, such as ``start``."""
        return self.sample.topic.name

    @property
    def fields(self) -> Mapping[str, Any]:
        """Every field by SAL name."""
        return self.sample.fields

    async def in_progress(self, timeout_s: float, result: str = "") -> None:
        """Tell the sender to wait ``timeout_s`` [s] longer than it would."""
        await self._reply(Ack(AckCode.IN_PROGRESS, result=result, timeout_s=timeout_s))


class Controller:
    """The one instance of a component on the bus.

    Parameters
    ----------
    component
        SAL component.
    sal_index
        Instance; 0 if the component is not indexed.
    bus, interfaces, clock
        What it works with.
    identity
        ``private_identity``; ``Name`` or ``Name:index`` unless given.
    origin
        Process id; that of this process unless given.

    Notes
    -----
    One callback runs at a time for each command name, in order of arrival; different commands run
    at the same time. A command that comes again (same sender and number) is not run again: it gets
    the same final reply.
    """

    def __init__(
        self,
        *,
        component: str,
        bus: SampleBus,
        interfaces: Interfaces,
        clock: Clock,
        sal_index: int = 0,
        identity: str = "",
        origin: int = 0,
    ) -> None:
        self.interface: ComponentInterface = interfaces.component(component)
        self.sal_index = sal_index
        self.identity = identity or (
            f"{component}:{sal_index}" if self.interface.indexed else component
        )
        self.origin = origin or os.getpid()
        self._bus = bus
        self._writers = TopicWriters(bus=bus, clock=clock, origin=self.origin)
        self._callbacks: dict[str, CommandCallback] = {}
        self._answers: OrderedDict[_CommandKey, Ack | None] = OrderedDict()

    def on_command(self, name: str, callback: CommandCallback) -> None:
        """Let ``callback`` do a command; what it returns is the final reply, ``None`` is success.

        Raises
        ------
        UnknownTopicError
            The component has no such command. A bug.
        """
        self._callbacks[self.interface.command(name).sal_name] = callback

    def event(self, name: str) -> TopicWriter:
        """Give the writer of an event; `UnknownTopicError` if there is none."""
        return self._writer(self.interface.event(name))

    def telemetry(self, name: str) -> TopicWriter:
        """Give the writer of a telemetry topic; `UnknownTopicError` if there is none."""
        return self._writer(self.interface.topic(name))

    async def continue_stamps(self) -> None:
        """Learn the last stamps of a former process, so that readers do not drop what follows.

        Raises
        ------
        IndexMismatchError
            Do not retry.
        """
        if self.sal_index and not self.interface.indexed:
            raise IndexMismatchError(
                "The component is not indexed",
                component=self.interface.name,
                field="sal_index",
                value=self.sal_index,
                expected=0,
            )

        def take(sample: Sample) -> None:
            if sample.sal_index == self.sal_index:
                topic = self.interface.topic(sample.topic.sal_name)
                self._writer(topic).continue_after(sample.sent_tai)

        problems: list[PlatevaultError] = []
        async with self._bus.subscribe(
            self.interface.events, history=History.LATEST, sal_index=self.sal_index
        ) as samples:
            follower = Follower(
                samples=samples, take=take, failed=problems.append, name="former-stamps"
            )
            await follower.start()
            await follower.stop()
        if problems:
            raise problems[0]

    @asynccontextmanager
    async def serving(self, group: asyncio.TaskGroup) -> AsyncIterator[None]:
        """Receive commands while the body runs; commands sent before are not seen.

        Parameters
        ----------
        group
            Runs the tasks; it fails when reception fails. What is in hand or waits when the body
            ends is answered as aborted.
        """
        commands = self.interface.commands
        async with self._bus.subscribe(
            commands, history=History.NONE, sal_index=self.sal_index
        ) as samples:
            backlogs = {topic.sal_name: _backlog() for topic in commands}
            tasks = [
                group.create_task(self._work_off(backlog), name=f"{self.identity} {sal_name}")
                for sal_name, backlog in backlogs.items()
            ]
            tasks.append(
                group.create_task(
                    self._receive(samples, backlogs), name=f"{self.identity} commands"
                )
            )
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                for backlog in backlogs.values():
                    while not backlog.empty():
                        await self._abort(backlog.get_nowait())

    def _writer(self, topic: TopicSchema) -> TopicWriter:
        return self._writers.writer(topic, identity=self.identity, sal_index=self.sal_index)

    async def _receive(
        self, samples: AsyncIterator[Sample], backlogs: Mapping[str, asyncio.Queue[Sample]]
    ) -> None:
        async for sample in samples:
            key = _key_of(sample)
            if key in self._answers:
                before = self._answers[key]
                if before is not None:
                    await self._answer(sample, before)
                continue
            self._remember(key, None)
            try:
                backlogs[sample.topic.sal_name].put_nowait(sample)
            except asyncio.QueueFull:
                await self._finish(sample, _failed("too many commands of this name are waiting"))

    async def _work_off(self, backlog: asyncio.Queue[Sample]) -> None:
        while True:
            await self._do(await backlog.get())

    async def _do(self, sample: Sample) -> None:
        async def reply(ack: Ack) -> None:
            await self._answer(sample, ack)

        command = Command(sample=sample, reply=reply)
        try:
            ack = await self._outcome(command)
        except asyncio.CancelledError:
            await self._abort(sample)
            raise
        await self._finish(sample, ack)
        command.answered.set()

    async def _outcome(self, command: Command) -> Ack:
        callback = self._callbacks.get(command.sample.topic.sal_name)
        if callback is None:
            return _failed(f"{command.name} is not supported")
        if command.sample.sequence <= 0:
            return _failed("the command has no number")
        try:
            check_sample_fields(command.sample.topic, command.fields)
            return await callback(command) or Ack(AckCode.COMPLETE, result="Done")
        except CommandRefusedError as error:
            text = f"Failed: {error}" if error.code is AckCode.FAILED else str(error)
            return Ack(error.code, error=error.error, result=text)
        except PlatevaultError as error:
            return _failed(str(error))
        except TimeoutError:
            return Ack(AckCode.TIMEOUT, error=1, result="Timeout")
        except Exception as error:  # noqa: BLE001 (outermost: one bad command must not stop the next)
            _log.error(
                "Command failed by a bug",
                component=self.identity,
                command=command.name,
                traceback=traceback.format_exc(),
            )
            return _failed(f"{type(error).__name__}: {error}")

    async def _abort(self, sample: Sample) -> None:
        try:
            async with asyncio.timeout(_LAST_WORD_S):
                await self._finish(sample, Ack(AckCode.ABORTED, error=1, result="Aborted"))
        except TimeoutError:
            _log.error("Reply not sent", component=self.identity, command=sample.topic.name)

    async def _finish(self, sample: Sample, ack: Ack) -> None:
        self._remember(_key_of(sample), ack)
        await self._answer(sample, ack)

    async def _answer(self, sample: Sample, ack: Ack) -> None:
        try:
            await self._writer(self.interface.ackcmd).write_numbered(
                sample.sequence,
                ack=int(ack.code),
                error=ack.error,
                result=ack.result,
                identity=sample.identity,
                origin=sample.origin,
                cmdtype=self.interface.command_types[sample.topic.sal_name],
                timeout=ack.timeout_s,
            )
        except BusUnavailableError as error:
            # The sender sees a time limit pass, and may send the same number again.
            _log.error(
                "Reply not sent",
                component=self.identity,
                command=sample.topic.name,
                ack=ack.code.name,
                reason=str(error),
            )

    def _remember(self, key: _CommandKey, ack: Ack | None) -> None:
        self._answers[key] = ack
        self._answers.move_to_end(key)
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)


def _backlog() -> asyncio.Queue[Sample]:
    return asyncio.Queue(maxsize=BACKLOG)


def _failed(text: str) -> Ack:
    return Ack(AckCode.FAILED, error=1, result=f"Failed: {text}")


def _key_of(sample: Sample) -> _CommandKey:
    return sample.topic.sal_name, sample.identity, sample.origin, sample.sequence
