"""What a recording group has not committed, in one SQLite file; for one thread."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from platevault.domain.errors import UsageError
from platevault.domain.samples import FieldSchema, Sample, TopicKind, TopicSchema

TopicName = tuple[str, str]
#: A process that counts its samples of a topic: topic, index, identity, process id.
Writer = tuple[str, str, int, str, int]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topic (
    component TEXT NOT NULL, sal_name TEXT NOT NULL, schema TEXT NOT NULL,
    PRIMARY KEY (component, sal_name)
);
CREATE TABLE IF NOT EXISTS sample (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    component TEXT NOT NULL, sal_name TEXT NOT NULL, sal_index INTEGER NOT NULL,
    identity TEXT NOT NULL, origin INTEGER NOT NULL, number INTEGER NOT NULL,
    sent_tai REAL NOT NULL, received_tai REAL NOT NULL, rev_code TEXT NOT NULL,
    fields TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS committed (
    component TEXT NOT NULL, sal_name TEXT NOT NULL, sal_index INTEGER NOT NULL,
    identity TEXT NOT NULL, origin INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (component, sal_name, sal_index, identity, origin)
) WITHOUT ROWID;
"""
_SUFFIX = ".spool.sqlite"


class SpoolInUseError(UsageError):
    """Another process records in this directory: give each process one of its own."""


def name_of(topic: TopicSchema) -> TopicName:
    """Give the name of a topic."""
    return topic.component, topic.sal_name


def writer_of(sample: Sample) -> Writer:
    """Give who counts."""
    return (*name_of(sample.topic), sample.sal_index, sample.identity, sample.origin)


def spooled_groups(directory: Path) -> list[str]:
    """List the groups that have a spool, so that they go on without their recorder."""
    found = directory.glob(f"*{_SUFFIX}")
    names = []
    for path in found:
        with sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True) as connection:
            row = connection.execute("SELECT value FROM spool_group").fetchone()
        connection.close()
        names.append(str(row[0]))
    return sorted(names)


class DirectoryLock:
    """Keeps other processes from a directory of spools.

    Parameters
    ----------
    directory
        Made if it is absent.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1

    def take(self) -> None:
        """Take it; `SpoolInUseError` if another process has it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise SpoolInUseError(
                "Another process records here", directory=str(self._directory)
            ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Spool:
    """The file of one group.

    Samples are kept for a crash of the process; in a crash of the host the last ones may be lost,
    and are a gap then. What was committed stays committed.

    Parameters
    ----------
    directory
        Where.
    group
        Name of the group.
    limit
        Samples that it holds.
    """

    def __init__(self, *, directory: Path, group: str, limit: int) -> None:
        self._path = directory / f"{quote(group, safe='')}{_SUFFIX}"
        self._group = group
        self._limit = limit
        self._count = 0
        self.topics: dict[TopicName, TopicSchema] = {}
        self.committed: dict[Writer, int] = {}
        self.newest: dict[Writer, int] = {}

    def open(self) -> None:
        """Open the file, or make it."""
        self._file = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode=WAL").fetchone()
        self._file.execute("PRAGMA synchronous=NORMAL")
        self._file.executescript(_SCHEMA)
        self._file.execute("CREATE TABLE IF NOT EXISTS spool_group (value TEXT PRIMARY KEY)")
        self._file.execute("INSERT OR IGNORE INTO spool_group VALUES (?)", (self._group,))
        for component, sal_name, schema in self._file.execute("SELECT * FROM topic"):
            self.topics[component, sal_name] = _topic_of(json.loads(schema))
        for *writer, number in self._file.execute("SELECT * FROM committed"):
            self.committed[_writer(writer)] = number
        self.newest = dict(self.committed)
        for *writer, number in self._file.execute(
            "SELECT component, sal_name, sal_index, identity, origin, number FROM sample"
            " ORDER BY id"
        ):
            self.newest[_writer(writer)] = number
        (self._count,) = self._file.execute("SELECT count(*) FROM sample").fetchone()

    def close(self) -> None:
        """Close the file; again, or before it was opened, is harmless."""
        if hasattr(self, "_file"):
            self._file.close()

    def add_topics(self, topics: Collection[TopicSchema]) -> None:
        """Remember topics of the group; a new schema replaces an older one."""
        self._file.executemany(
            "INSERT OR REPLACE INTO topic VALUES (?, ?, ?)",
            [(*name_of(topic), json.dumps(asdict(topic))) for topic in topics],
        )
        self.topics |= {name_of(topic): topic for topic in topics}

    def add(self, samples: Sequence[Sample]) -> dict[Writer, int]:
        """Append samples; give the last number before those that were dropped, by writer."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._file.executemany(
                "INSERT INTO sample (component, sal_name, sal_index, identity, origin, number,"
                " sent_tai, received_tai, rev_code, fields) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *writer_of(sample),
                        sample.sequence,
                        sample.sent_tai,
                        sample.received_tai,
                        sample.rev_code,
                        json.dumps(sample.fields),
                    )
                    for sample in samples
                ],
            )
            dropped = self._drop_oldest(self._count + len(samples) - self._limit)
            self._file.execute("COMMIT")
        except sqlite3.Error:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise
        self._count = min(self._limit, self._count + len(samples))
        return dropped

    def _drop_oldest(self, number: int) -> dict[Writer, int]:
        before: dict[Writer, int] = {}
        if number <= 0:
            return before
        last = 0
        for identifier, *writer, sequence in self._file.execute(
            "SELECT id, component, sal_name, sal_index, identity, origin, number FROM sample"
            " ORDER BY id LIMIT ?",
            (number,),
        ):
            # A writer that nobody has seen yet would otherwise lose its first samples in silence.
            before.setdefault(_writer(writer), sequence - 1)
            last = identifier
        self._file.execute("DELETE FROM sample WHERE id <= ?", (last,))
        self._file.executemany(
            "INSERT OR IGNORE INTO committed VALUES (?, ?, ?, ?, ?, ?)",
            [(*writer, sequence) for writer, sequence in before.items()],
        )
        return before

    def fetch(self, after: int, count: int) -> list[tuple[int, Sample]]:
        """Read what follows a sample, with its place in the file."""
        rows = self._file.execute(
            "SELECT id, component, sal_name, sal_index, identity, origin, number, sent_tai,"
            " received_tai, rev_code, fields FROM sample WHERE id > ? ORDER BY id LIMIT ?",
            (after, count),
        ).fetchall()
        return [
            (
                row[0],
                Sample(
                    topic=self.topics[row[1], row[2]],
                    sal_index=row[3],
                    identity=row[4],
                    origin=row[5],
                    sequence=row[6],
                    sent_tai=row[7],
                    received_tai=row[8],
                    rev_code=row[9],
                    fields=json.loads(row[10]),
                ),
            )
            for row in rows
        ]

    def commit(self, upto: int, seen: Mapping[Writer, int]) -> None:
        """Forget what was given, and remember how far each writer was; survives power loss."""
        changed = [
            (*writer, number)
            for writer, number in seen.items()
            if self.committed.get(writer) != number
        ]
        self._file.execute("PRAGMA synchronous=FULL")
        self._file.execute("BEGIN IMMEDIATE")
        try:
            gone = self._file.execute("DELETE FROM sample WHERE id <= ?", (upto,)).rowcount
            self._file.executemany(
                "INSERT OR REPLACE INTO committed VALUES (?, ?, ?, ?, ?, ?)", changed
            )
            self._file.execute("COMMIT")
        except sqlite3.Error:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise
        finally:
            self._file.execute("PRAGMA synchronous=NORMAL")
        self._count -= gone
        self.committed = dict(seen)


def _writer(values: Iterable[Any]) -> Writer:
    component, sal_name, sal_index, identity, origin = values
    return component, sal_name, sal_index, identity, origin


def _topic_of(plain: dict[str, Any]) -> TopicSchema:
    fields = tuple(FieldSchema(**field) for field in plain.pop("fields"))
    return TopicSchema(kind=TopicKind(plain.pop("kind")), fields=fields, **plain)
