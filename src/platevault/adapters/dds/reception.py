"""The one thread of a bus that makes, reads and deletes what DDS has."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import structlog
from cyclonedds.core import (
    DDSException,
    GuardCondition,
    InstanceState,
    ReadCondition,
    SampleState,
    ViewState,
    WaitSet,
)
from cyclonedds.domain import DomainParticipant
from cyclonedds.internal import InvalidSample, dds_infinity
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

from platevault.adapters.dds.codec import TopicCodec, topic_name
from platevault.adapters.dds.domains import delete, join_domain, leave_domain
from platevault.adapters.dds.settings import DdsSettings
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import BusUnavailableError

ResultT = TypeVar("ResultT")
_log = structlog.get_logger(__name__)

#: Samples taken from a reader before the next has its turn.
_TURN = 256


class Target(Protocol):
    """Takes the samples of some readers."""

    def offer(self, sample: Sample, written_ns: int) -> None:
        """Take a sample that was written then [ns, the writer's clock]; in the thread."""

    def wake(self) -> None:
        """Look at what was taken; on the event loop."""

    def fail(self, error: PlatevaultError) -> None:
        """Let ``error`` follow what is in hand; on the event loop."""


class Opened:
    """A reader and where its samples go."""

    def __init__(
        self, reader: DataReader[Any], condition: ReadCondition, codec: TopicCodec, target: Target
    ) -> None:
        self.reader = reader
        self.condition = condition
        self.codec = codec
        self.target = target


class Reception:
    """Owns the entities of a bus within DDS.

    All of them are made, read and deleted by one thread, so none is deleted under a reader's
    hands; only `DataWriter.write` is called elsewhere. Samples go from here into bounded queues,
    and the event loop is told once, however many they are.

    Parameters
    ----------
    settings
        Domain and network.
    clock
        Gives the moment of reception.
    """

    def __init__(self, *, settings: DdsSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._work: deque[Callable[[], None]] = deque()
        self._opened: list[Opened] = []
        self._topics: dict[str, tuple[Topic[Any], TopicCodec]] = {}
        self._writers: dict[str, DataWriter[Any]] = {}
        self._touched: set[Target] = set()
        self._told = False
        self._lock = threading.Lock()
        self._stopping = False
        self._ended = True
        self._failure = ""
        self._started: Future[None] = Future()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Join the domain and start the thread."""
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._started = Future()
        self._thread = threading.Thread(
            target=self._run, args=(self._started,), name="dds-reception", daemon=True
        )
        self._thread.start()
        await asyncio.shield(asyncio.wrap_future(self._started))

    async def stop(self) -> None:
        """Do what was asked for, delete all entities and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return

        def stop() -> None:
            self._stopping = True

        def stop_and_join() -> None:
            # A start that was cancelled, or failed, is still under way in the thread.
            if self._started.exception() is None:
                self._post(stop)
            thread.join()

        await asyncio.shield(asyncio.to_thread(stop_and_join))

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """Run ``work`` in the thread."""
        answer: Future[ResultT] = Future()

        def answered() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                if self._ended:
                    raise self._not_open()
                answer.set_result(work())
            except Exception as error:  # noqa: BLE001 - handed to the caller
                answer.set_exception(error)

        if not self._post(answered):
            raise self._not_open()
        return await asyncio.wrap_future(answer)

    def post(self, work: Callable[[], None]) -> None:
        """Let the thread run ``work``, which raises nothing, after what was asked before."""
        self._post(work)

    async def catch_up(self) -> None:
        """Return when what readers hold at this moment was given to their targets."""
        if self._opened:
            await self.run(lambda: None)

    @property
    def problem(self) -> str:
        """What is wrong: reception has ended, or failed and was not taken up again."""
        return "the domain is not joined" if self._ended else self._failure

    def _post(self, work: Callable[[], None]) -> bool:
        with self._lock:  # the thread may do the work, and end, before it is woken for it
            if self._ended:
                return False
            self._work.append(work)
            self._guard.set(True)
            return True

    def _not_open(self) -> BusUnavailableError:
        return BusUnavailableError("The bus is not open", domain_id=self._settings.domain_id)

    # In the thread

    def open_reader(self, topic: TopicSchema, qualities: Qos, target: Target) -> Opened:
        """Make a reader; what it holds at once goes to the target before this returns."""
        entity, codec = self._topic(topic)
        reader: DataReader[Any] = DataReader(self._participant, entity, qos=qualities)
        condition = ReadCondition(reader, ViewState.Any | InstanceState.Any | SampleState.Any)
        opened = Opened(reader, condition, codec, target)
        self._opened.append(opened)
        self._waitset.attach(condition)
        self._take(opened)
        self._failure = ""
        return opened

    def close_reader(self, opened: Opened) -> None:
        """Delete a reader; again is harmless."""
        if opened in self._opened:
            self._opened.remove(opened)
            self._waitset.detach(opened.condition)
            delete(opened.condition)
            delete(opened.reader)

    def open_writer(self, topic: TopicSchema, qualities: Qos) -> tuple[DataWriter[Any], TopicCodec]:
        """Make the writer of a topic, once."""
        entity, codec = self._topic(topic)
        name = topic_name(topic)
        if name not in self._writers:
            self._writers[name] = DataWriter(self._participant, entity, qos=qualities)
        return self._writers[name], codec

    def meets_others(self, entity: DataReader[Any] | DataWriter[Any]) -> bool:
        """Tell whether a reader or writer has a counterpart in another process."""
        if isinstance(entity, DataReader):
            ends = map(entity.get_matched_publication_data, entity.get_matched_publications())
        else:
            ends = map(entity.get_matched_subscription_data, entity.get_matched_subscriptions())
        mine = self._participant.guid
        return any(end is not None and end.participant_key != mine for end in ends)

    def _topic(self, topic: TopicSchema) -> tuple[Topic[Any], TopicCodec]:
        name = topic_name(topic)
        known = self._topics.get(name)
        if known is None:
            codec = TopicCodec(topic)
            known = self._topics[name] = Topic(self._participant, name, codec.type), codec
        elif known[1].topic != topic:
            raise UsageError("A topic has two schemas", topic=name)
        return known

    def _run(self, started: Future[None]) -> None:
        settings = self._settings
        try:
            join_domain(settings.domain_id, settings.configuration())
        except Exception as error:  # noqa: BLE001 - told to who opens the bus
            started.set_exception(error)
            return
        try:
            try:
                self._participant = DomainParticipant(settings.domain_id)
                self._guard = GuardCondition(self._participant)
                self._waitset = WaitSet(self._participant)
                self._waitset.attach(self._guard)
                self._ended = False
            except DDSException as error:
                problem = BusUnavailableError(
                    "The DDS domain cannot be joined",
                    domain_id=settings.domain_id,
                    problem=str(error),
                )
                started.set_exception(problem)
                return
            started.set_result(None)
            self._serve()
        finally:
            self._delete_all()
            leave_domain(settings.domain_id)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._waitset.wait(dds_infinity)
                self._guard.set(False)
                work = [self._work.popleft() for _ in range(len(self._work))]
                for opened in tuple(self._opened):
                    self._take(opened)
                for each in work:
                    each()
            except Exception as error:  # noqa: BLE001 - the outermost loop of the thread
                _log.exception("Reception of samples failed")
                self._tell_failure(error)

    def _take(self, opened: Opened) -> None:
        wholes: list[Any] = opened.reader.take(_TURN)
        if not wholes:
            return
        now_tai = self._clock.now_tai()
        for whole in wholes:
            # The end of a writer is told as a sample without contents.
            if not isinstance(whole, InvalidSample):
                sample = opened.codec.decode(whole, now_tai)
                opened.target.offer(sample, whole.sample_info.source_timestamp)
        with self._lock:
            self._touched.add(opened.target)
            told, self._told = self._told, True
        if not told:
            self._loop.call_soon_threadsafe(self._wake)

    def _tell_failure(self, error: Exception) -> None:
        problem = BusUnavailableError(
            "Reception failed", problem=f"{type(error).__name__}: {error}"
        )
        self._failure = str(problem)
        for opened in tuple(self._opened):
            self._loop.call_soon_threadsafe(opened.target.fail, problem)
            self.close_reader(opened)

    def _delete_all(self) -> None:
        for opened in tuple(self._opened):
            self.close_reader(opened)
            with suppress(RuntimeError):  # the loop of a process that failed is closed
                self._loop.call_soon_threadsafe(opened.target.fail, self._not_open())
        for writer in self._writers.values():
            delete(writer)
        for topic, _ in self._topics.values():
            delete(topic)
        self._writers.clear()
        self._topics.clear()
        with self._lock:
            self._ended = True
            for name in ("_waitset", "_guard", "_participant"):
                if hasattr(self, name):
                    delete(getattr(self, name))
        while self._work:
            self._work.popleft()()

    # On the event loop

    def _wake(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, set()
            self._told = False
        for target in touched:
            target.wake()
