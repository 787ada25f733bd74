"""The side of whoever commands and watches a component."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self

from platevault.domain.errors import PlatevaultError, TransientError
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import History, SampleBus
from platevault.runtime.service import Deadline
from platevault.sal.acks import Ack, AckCode, CommandFailedError, CommandTimeoutError
from platevault.sal.following import Follower
from platevault.sal.schema import ComponentInterface, Interfaces, UnknownTopicError
from platevault.sal.timing import TimeLimit, time_limit
from platevault.sal.topics import TopicWriters

#: Limit of a command unless the caller gives another [s] (SAL over Kafka, section 9).
DEFAULT_TIMEOUT_S = 3600.0
#: Largest sequence number (SAL over Kafka, section 9).
_LARGEST_NUMBER = 2**31 - 1
#: Replies that may wait to be looked at; of more, the oldest is not shown.
_UNREAD_ACKS = 100


class EventTimeoutError(TransientError):
    """The awaited sample did not come in time: look at the component's state."""


class Remote:
    """Commands one component and reads what it says; an asynchronous context manager.

    Parameters
    ----------
    component
        SAL component.
    sal_index
        Instance; 0 reads every instance of an indexed component.
    bus, interfaces, clock
        What it works with.
    identity
        ``private_identity``; ``user@host`` unless given. A remote within a CSC has the CSC's.
    origin
        Process id; that of this process unless given.
    watch
        Events and telemetry of which `latest` keeps the newest sample; every event unless given.

    Notes
    -----
    On entering, the newest sample of each watched event is in hand. When reception fails, the next
    use of the remote raises the reason.
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
        watch: Collection[str] | None = None,
    ) -> None:
        self.interface: ComponentInterface = interfaces.component(component)
        self.sal_index = sal_index
        self._bus = bus
        self._clock = clock
        self._identity = identity
        self._origin = origin or os.getpid()
        self._watch = watch
        self._latest: dict[tuple[str, int], Sample] = {}
        self._newest: dict[str, Sample] = {}
        self._writers = TopicWriters(bus=bus, clock=clock, origin=self._origin)
        self._numbers: dict[str, Iterator[int]] = {}
        self._pending: dict[int, _Pending] = {}
        self._failure: PlatevaultError | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._identity = self._identity or _user_at_host()
        async with AsyncExitStack() as stack:
            await self._follow(stack, [self.interface.ackcmd], History.NONE, self._take_ack)
            watched = self._watched()
            if watched:
                await self._follow(stack, watched, History.LATEST, self._take_sample)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def command(
        self,
        name: str,
        /,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_progress: Callable[[Ack], None] | None = None,
        **fields: Any,
    ) -> Ack:
        """Send a command and wait for its final reply.

        Parameters
        ----------
        name
            Short name, such as ``start``.
        timeout_s
            Longest wait [s]; each in-progress reply adds the time it asks for.
        on_progress
            Told each reply that is not final.
        **fields
            Fields of the command by SAL name; the others have their defaults.

        Raises
        ------
        UnknownTopicError, UnknownFieldError, FieldValueError
            Nothing was sent. A bug.
        CommandFailedError
            The component did not do it. Do not retry before the reason is gone.
        CommandTimeoutError
            Whether it was done is unknown. Look at the state, then decide.
        BusUnavailableError
            It may have gone out. Look at the state, then decide.
        """
        self._check()
        topic = self.interface.command(name)
        facts = {"component": self.interface.name, "sal_index": self.sal_index, "command": name}
        number = next(self._numbers_of(topic))
        last: Ack | None = None
        try:
            async with time_limit(self._clock, timeout_s) as limit:
                pending = self._pending[number] = _Pending(limit)
                writer = self._writers.writer(
                    topic, identity=self._identity, sal_index=self.sal_index
                )
                await writer.write_numbered(number, **fields)
                while last is None or not last.code.is_final:
                    last = await pending.next_ack()
                    self._check()
                    if on_progress is not None and not last.code.is_final:
                        on_progress(last)
        except TimeoutError as error:
            said = "No reply" if last is None else last.result
            raise CommandTimeoutError(
                Ack(AckCode.NO_ACK, result=said), **facts, timeout_s=timeout_s
            ) from error
        finally:
            self._pending.pop(number, None)
        if last.code is not AckCode.COMPLETE:
            raise CommandFailedError(last, **facts)
        return last

    def latest(self, name: str, *, sal_index: int | None = None) -> Sample | None:
        """Give the newest sample of a watched event or telemetry topic; ``None`` is "unknown".

        Parameters
        ----------
        name
            Short name of the event or telemetry topic.
        sal_index
            Instance; that of the remote unless given, where 0 is any.

        Raises
        ------
        UnknownTopicError
            The component has no such topic, or it is not watched. A bug.
        """
        self._check()
        topic = self._topic(name)
        if topic.sal_name not in {watched.sal_name for watched in self._watched()}:
            raise UnknownTopicError(
                "The topic is not watched", component=self.interface.name, topic=topic.sal_name
            )
        wanted = self.sal_index if sal_index is None else sal_index
        if wanted == 0:
            return self._newest.get(topic.sal_name)
        return self._latest.get((topic.sal_name, wanted))

    def events(
        self, *names: str, history: History = History.LATEST
    ) -> AbstractAsyncContextManager[AsyncIterator[Sample]]:
        """Subscribe to events or telemetry topics by short name; see `SampleBus.subscribe`."""
        topics = [self._topic(name) for name in names]
        return self._bus.subscribe(topics, history=history, sal_index=self.sal_index)

    async def wait_for(
        self, event: str, predicate: Callable[[Sample], bool], deadline: Deadline
    ) -> Sample:
        """Give the first sample, the newest of the past included, for which ``predicate`` holds.

        Raises
        ------
        EventTimeoutError
            None came before the deadline. Look at the component's state.
        """
        newest: Sample | None = None
        try:
            async with (
                time_limit(self._clock, deadline.remaining_s),
                self.events(event) as samples,
            ):
                async for newest in samples:
                    if predicate(newest):
                        return newest
        except TimeoutError as error:
            raise EventTimeoutError(
                "The awaited sample did not come in time",
                component=self.interface.name,
                topic=event,
                newest=None if newest is None else dict(newest.fields),
            ) from error
        raise EventTimeoutError("The subscription ended", component=self.interface.name)

    def _topic(self, name: str) -> TopicSchema:
        for sal_name in (f"logevent_{name}", name):
            if self.interface.has(sal_name):
                return self.interface.topic(sal_name)
        return self.interface.event(name)

    def _watched(self) -> list[TopicSchema]:
        if self._watch is None:
            return list(self.interface.events)
        return [self._topic(name) for name in self._watch]

    async def _follow(
        self,
        stack: AsyncExitStack,
        topics: list[TopicSchema],
        history: History,
        take: Callable[[Sample], None],
    ) -> None:
        samples = await stack.enter_async_context(
            self._bus.subscribe(topics, history=history, sal_index=self.sal_index)
        )
        follower = Follower(
            samples=samples,
            take=take,
            failed=self._fail,
            name=f"remote {self.interface.name} {history.name.lower()}",
        )
        stack.push_async_callback(follower.stop)
        await follower.start()

    def _take_sample(self, sample: Sample) -> None:
        name = sample.topic.sal_name
        self._latest[name, sample.sal_index] = sample
        newest = self._newest.get(name)
        if (
            newest is None
            or newest.sent_tai <= sample.sent_tai
            or (newest.sal_index == sample.sal_index)
        ):
            self._newest[name] = sample

    def _take_ack(self, sample: Sample) -> None:
        pending = self._pending.get(sample.sequence)
        if (
            pending is not None
            and sample.fields.get("identity") == self._identity
            and sample.fields.get("origin") == self._origin
            and sample.fields.get("ack") in set(AckCode)
        ):
            pending.take(Ack.from_sample(sample))

    def _fail(self, error: PlatevaultError) -> None:
        self._failure = error
        for pending in self._pending.values():
            pending.wake()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _numbers_of(self, topic: TopicSchema) -> Iterator[int]:
        numbers = self._numbers.get(topic.sal_name)
        if numbers is None:
            commands = [command.sal_name for command in self.interface.commands]
            numbers = self._numbers[topic.sal_name] = _command_numbers(
                sorted(commands).index(topic.sal_name), len(commands)
            )
        return numbers


class _Pending:
    """Replies to one command that were not yet looked at."""

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        self._acks: deque[Ack] = deque(maxlen=_UNREAD_ACKS)
        self._news = asyncio.Event()

    def take(self, ack: Ack) -> None:
        if ack.code is AckCode.IN_PROGRESS:
            self._limit.extend(ack.timeout_s)
        self._acks.append(ack)
        self._news.set()

    def wake(self) -> None:
        self.take(Ack(AckCode.NO_ACK, result="Reception failed"))

    async def next_ack(self) -> Ack:
        while not self._acks:
            self._news.clear()
            await self._news.wait()
        return self._acks.popleft()


def _command_numbers(place: int, count: int) -> Iterator[int]:
    """Count through the range of one command, from a random start.

    A command's range does not meet another's, so a reply is told by its number alone; the start is
    random, so that two remotes of one person rarely share numbers.

    References
    ----------
    SAL over Kafka, section 9.
    """
    size = _LARGEST_NUMBER // count
    offset = secrets.randbelow(size)
    while True:
        yield place * size + offset + 1
        offset = (offset + 1) % size


def _user_at_host() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        user = "user"
    return f"{user}@{socket.gethostname()}"
