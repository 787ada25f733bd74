"""Recording groups: samples go to disk whether or not a recorder is there."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from typing_extensions import override

from platevault.adapters.dds.qualities import reader_qualities
from platevault.adapters.dds.reception import Opened, Reception
from platevault.adapters.dds.settings import DdsSettings
from platevault.adapters.dds.spool import (
    DirectoryLock,
    Spool,
    TopicName,
    Writer,
    name_of,
    spooled_groups,
    writer_of,
)
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.domain.samples import Sample, TopicKind, TopicSchema
from platevault.ports.sample_bus import BusUnavailableError, Gap, History, Recording

_log = structlog.get_logger(__name__)

#: Kinds whose numbers count the samples of a topic; replies carry the number of their command.
_COUNTED = frozenset({TopicKind.EVENT, TopicKind.TELEMETRY, TopicKind.COMMAND})
#: Samples that may wait for the disk; more are lost and become a gap.
_INBOX = 20_000
#: Samples read from disk at once.
_WINDOW = 200


class Recordings:
    """The recording groups of a bus.

    A group that was joined once is received as long as a bus is open on its directory, also before
    anybody joins it again.

    Parameters
    ----------
    settings
        Where they are kept.
    reception
        Gives their samples.
    """

    def __init__(self, *, settings: DdsSettings, reception: Reception) -> None:
        self._settings = settings
        self._reception = reception
        self._groups: dict[str, _Group] = {}
        self._joining = asyncio.Lock()
        self._lock: DirectoryLock | None = None
        self._disk: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Go on with the groups that are there."""
        directory = self._settings.spool_directory
        if directory is None:
            return
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="dds-spool")
        # Known before it is taken: a start that is cancelled meanwhile must give it back too.
        self._lock = DirectoryLock(directory)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._disk, self._lock.take)
        for group in await loop.run_in_executor(self._disk, spooled_groups, directory):
            await self._open(group, directory, self._disk)

    @property
    def problem(self) -> str:
        """What is wrong with what is kept on disk; empty if nothing is."""
        found = {group.problem for group in self._groups.values() if group.problem}
        return ", ".join(sorted(found))

    async def stop(self) -> None:
        """Write what waits and close the spools; nothing comes any more."""
        disk, self._disk = self._disk, None
        if disk is None:
            return
        groups = [*self._groups.values()]
        self._groups.clear()
        lock, self._lock = self._lock, None

        def close() -> None:
            for group in groups:
                group.close()
            if lock is not None:
                lock.release()

        for group in groups:
            group.end()
        try:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(disk, close))
        finally:
            disk.shutdown(wait=False)

    @asynccontextmanager
    async def join(
        self, topics: Collection[TopicSchema], *, group: str
    ) -> AsyncIterator[Recording]:
        """Join a group, and make it if nobody has joined it before."""
        directory, disk = self._settings.spool_directory, self._disk
        if directory is None:
            raise UsageError("Recording over DDS needs a directory", field="spool_directory")
        if disk is None:
            raise BusUnavailableError("The bus is not open", domain_id=self._settings.domain_id)
        async with self._joining:
            known = self._groups.get(group) or await self._open(group, directory, disk)
            await known.widen(topics)
        member = _Member(known)
        known.enter(member)
        try:
            yield member
        finally:
            known.leave(member)

    async def _open(self, name: str, directory: Path, disk: ThreadPoolExecutor) -> _Group:
        spool = Spool(directory=directory, group=name, limit=self._settings.spool_limit)
        group = _Group(
            spool=spool, reception=self._reception, disk=disk, depth=self._settings.reader_depth
        )
        opened = False
        try:
            await group.open()
            opened = True
        finally:
            if not opened:
                group.abandon()
        self._groups[name] = group
        return group


class _Group:
    """What a group has not committed, and who reads it."""

    def __init__(
        self, *, spool: Spool, reception: Reception, disk: ThreadPoolExecutor, depth: int
    ) -> None:
        self._spool = spool
        self._reception = reception
        self._disk = disk
        self._depth = depth
        self._opened: dict[TopicName, Opened] = {}
        self._opened_ns = 0
        self._resumed: frozenset[TopicName] = frozenset()
        self._newest: dict[Writer, int] = {}
        self._inbox: deque[Sample] = deque()
        self._writing = False
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self.lost = 0
        #: Why the last samples could not be spooled; empty if they were.
        self.problem = ""
        self.window: deque[tuple[int, Sample]] = deque()
        self.given = 0
        self.seen: dict[Writer, int] = {}
        self.members: list[_Member] = []

    async def open(self) -> None:
        """Open the spool and receive its topics again."""
        await self._on_disk(self._spool.open)
        self._newest = dict(self._spool.newest)
        self._resumed = frozenset(self._spool.topics)
        await self._receive([*self._spool.topics.values()])

    def abandon(self) -> None:
        """Close what a cancelled or failed `open` has opened, or is about to open."""

        def close_readers() -> None:
            for opened in self._opened.values():
                self._reception.close_reader(opened)

        self._reception.post(close_readers)
        self._disk.submit(self._spool.close)

    async def widen(self, topics: Collection[TopicSchema]) -> None:
        """Receive these topics too."""
        new = [topic for topic in topics if self._spool.topics.get(name_of(topic)) != topic]
        if new:
            await self._on_disk(lambda: self._spool.add_topics(new))
            await self._receive(new)

    async def _receive(self, topics: Collection[TopicSchema]) -> None:
        def open_all() -> None:
            # DDS stamps samples with the machine's time.
            self._opened_ns = time.time_ns()
            for topic in topics:
                former = self._opened.pop(name_of(topic), None)
                if former is not None:
                    self._reception.close_reader(former)
                qualities = reader_qualities(topic.kind, History.LATEST, self._depth)
                self._opened[name_of(topic)] = self._reception.open_reader(topic, qualities, self)

        await self._reception.run(open_all)

    async def _on_disk(self, work: object) -> None:
        assert callable(work)
        await self._loop.run_in_executor(self._disk, work)

    # In the receiving thread

    def offer(self, sample: Sample, written_ns: int) -> None:
        """Take a sample."""
        writer = writer_of(sample)
        if written_ns < self._opened_ns:
            # The past of an event: news only to who was away when it happened.
            known = self._newest.get(writer, 0)
            if name_of(sample.topic) not in self._resumed or sample.sequence <= known:
                return
        self._newest[writer] = sample.sequence
        with self._lock:
            if len(self._inbox) >= _INBOX:
                self.lost += 1
                return
            self._inbox.append(sample)
            writing, self._writing = self._writing, True
        if not writing:
            self._disk.submit(self._write)

    # In the disk's thread

    def _write(self) -> None:
        while True:
            with self._lock:
                batch = [*self._inbox]
                self._inbox.clear()
                if not batch:
                    self._writing = False
                    return
            try:
                dropped = self._spool.add(batch)
            except sqlite3.Error as error:
                self.lost += len(batch)
                self.problem = f"samples are not spooled: {error}"
                _log.warning("Samples could not be spooled", count=len(batch), problem=str(error))
                continue
            self.problem = ""
            self._loop.call_soon_threadsafe(self._written, dropped)

    def close(self) -> None:
        """Write what waits, and close the spool."""
        self._write()
        self._spool.close()

    # On the event loop

    def wake(self) -> None:
        """Nothing to do: samples are told when they are on disk."""

    def fail(self, error: PlatevaultError) -> None:
        """Tell the recorder that reception has ended."""
        for member in self.members:
            member.failure = error
            member.news.set()

    def _written(self, dropped: Mapping[Writer, int]) -> None:
        for writer, number in dropped.items():
            self._spool.committed.setdefault(writer, number)
            self.seen.setdefault(writer, number)
        if self.members:
            self.members[0].news.set()

    def enter(self, member: _Member) -> None:
        """Let a member wait for its turn, or begin."""
        self.members.append(member)
        if len(self.members) == 1:
            self._begin()

    def leave(self, member: _Member) -> None:
        """Let the next member begin at the last commit."""
        was_first = bool(self.members) and self.members[0] is member
        if member in self.members:
            self.members.remove(member)
        member.end()
        if was_first:
            self._begin()

    def _begin(self) -> None:
        self.given = 0
        self.window.clear()
        self.seen = dict(self._spool.committed)
        if self.members:
            self.members[0].news.set()

    def end(self) -> None:
        """End every member."""
        for member in self.members:
            member.end()
        self.members.clear()

    async def look(self, member: _Member) -> bool:
        """Read on from disk for the first member; tell whether there was something."""
        after = self.window[-1][0] if self.window else self.given
        rows = await self._loop.run_in_executor(self._disk, self._spool.fetch, after, _WINDOW)
        if member is self.members[0] and not self.window and after == self.given:
            self.window.extend(rows)
        return bool(self.window)

    async def commit(self) -> None:
        """Remember that all that was given is durable."""
        upto, seen = self.given, dict(self.seen)
        try:
            await self._on_disk(lambda: self._spool.commit(upto, seen))
        except sqlite3.Error as error:
            raise BusUnavailableError("The commit was not stored", problem=str(error)) from error


class _Member(Recording):
    """One member of a group; the first has everything, the next takes over when it leaves."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self._ended = False
        self.failure: PlatevaultError | None = None
        self.news = asyncio.Event()

    def end(self) -> None:
        """Give nothing more."""
        self._ended = True
        self.news.set()

    @override
    def __aiter__(self) -> AsyncIterator[Sample | Gap]:
        return self

    async def __anext__(self) -> Sample | Gap:
        group = self._group
        while True:
            self.news.clear()
            if self._ended:
                raise StopAsyncIteration
            if group.members[0] is self:
                if group.window or await group.look(self):
                    item = self._next()
                    if item is not None:
                        return item
                    continue
                if self.failure is not None:
                    raise self.failure
            await self.news.wait()

    def _next(self) -> Sample | Gap | None:
        group = self._group
        if self._ended or group.members[0] is not self or not group.window:
            return None
        place, sample = group.window[0]
        gap = self._gap_before(sample)
        if gap is not None:
            return gap
        group.window.popleft()
        group.given = place
        return sample

    @override
    async def commit(self) -> None:
        if not self._ended and self._group.members[0] is self:
            await self._group.commit()

    def _gap_before(self, sample: Sample) -> Gap | None:
        if sample.topic.kind not in _COUNTED:
            return None
        seen = self._group.seen
        writer = writer_of(sample)
        last = seen.get(writer)
        seen[writer] = sample.sequence
        if last is None or sample.sequence <= last + 1:
            return None
        return Gap(sample.topic, sample.sal_index, sample.identity, last + 1, sample.sequence - 1)
