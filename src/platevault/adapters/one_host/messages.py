"""The table of messages; each function is one transaction's worth and may be done again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass

from platevault.domain.messages import MalformedMessageError, Message, decode_message
from platevault.ports.work_queue import (
    DeadLetter,
    DeadLetterMissingError,
    DeliveryLostError,
    QueueFullError,
)

APPLICATION = 0x50565751
SCHEMA = (
    # consumer: who has it in hand, or '' due_tai: 0 for at once; place: order in its queue.
    """
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL, priority INTEGER NOT NULL, place INTEGER NOT NULL,
        deliveries INTEGER NOT NULL DEFAULT 0, due_tai REAL NOT NULL DEFAULT 0,
        consumer TEXT NOT NULL DEFAULT '', body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX message_place ON message (queue, place)",
    """
    CREATE INDEX message_ready ON message (queue, priority DESC, place)
    WHERE consumer = '' AND due_tai = 0
    """,
    "CREATE INDEX message_due ON message (queue, due_tai) WHERE due_tai > 0",
    "CREATE INDEX message_in_hand ON message (queue, consumer) WHERE consumer <> ''",
    """
    CREATE TABLE letter (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL, priority INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL,
        set_aside_tai REAL NOT NULL
    ) STRICT
    """,
)


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that a consumer took.

    Attributes
    ----------
    row_id
        Its row.
    message
        What it says.
    deliveries
        How often it was delivered, this time included.
    """

    row_id: int
    message: Message
    deliveries: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a consumer was given.

    Attributes
    ----------
    taken
        Messages, in order.
    due_tai
        When the next delayed message may be taken [s, TAI]; ``None`` if there is none.
    """

    taken: list[Taken]
    due_tai: float | None


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of all queues.

    Attributes
    ----------
    max_depth
        Messages that a queue holds.
    delivery_limit
        Deliveries after which a message is set aside.
    is_alive
        Says whether a consumer of a queue lives.
    tell
        Told of each queue that has something new.
    """

    max_depth: int
    delivery_limit: int
    is_alive: Callable[[str, str], bool]
    tell: Callable[[str], None]


def put(
    connection: sqlite3.Connection, rules: Rules, *, queue: str, body: bytes, priority: int
) -> None:
    """Put a message behind all others of its priority.

    Raises
    ------
    QueueFullError
        There is no place.
    """
    last = _last_place(connection, queue)
    first = connection.execute(
        "SELECT min(place) FROM message WHERE queue = ?", (queue,)
    ).fetchone()[0]
    # Counted only when there may be so many: places in between may be free.
    if first is not None and last - first + 1 >= rules.max_depth:
        depth = count(connection, queue=queue)
        if depth >= rules.max_depth:
            raise QueueFullError("The queue is full", queue=queue, limit=rules.max_depth)
    connection.execute(
        "INSERT INTO message (queue, priority, place, body) VALUES (?, ?, ?, ?)",
        (queue, priority, last + 1, body),
    )
    rules.tell(queue)


def claim(
    connection: sqlite3.Connection,
    rules: Rules,
    *,
    queue: str,
    consumer: str,
    limit: int,
    take_back: bool,
    now_tai: float,
) -> Claim:
    """Take messages in hand; set aside what is none.

    With ``take_back`` what dead consumers of the queue had in hand is taken from them first.
    """
    if take_back:
        _take_back(connection, rules, queue, now_tai)
    connection.execute(
        "UPDATE message SET due_tai = 0 WHERE queue = ? AND due_tai > 0 AND due_tai <= ?",
        (queue, now_tai),
    )
    taken: list[Taken] = []
    while len(taken) < limit:
        rows = connection.execute(
            "SELECT id, body, deliveries, priority FROM message"
            " WHERE queue = ? AND consumer = '' AND due_tai = 0"
            " ORDER BY priority DESC, place LIMIT ?",
            (queue, limit - len(taken)),
        ).fetchall()
        if not rows:
            break
        for row_id, body, deliveries, _ in rows:
            try:
                message = decode_message(body)
            except MalformedMessageError as error:
                _set_aside(connection, row_id, str(error), now_tai)
                continue
            connection.execute(
                "UPDATE message SET consumer = ?, deliveries = ? WHERE id = ?",
                (consumer, deliveries + 1, row_id),
            )
            taken.append(Taken(row_id, message, deliveries + 1))
    due_tai = connection.execute(
        "SELECT min(due_tai) FROM message WHERE queue = ? AND due_tai > 0", (queue,)
    ).fetchone()[0]
    return Claim(taken, due_tai)


def acknowledge(connection: sqlite3.Connection, *, consumer: str, row_id: int) -> None:
    """Let go of a message that needs nothing more.

    Raises
    ------
    DeliveryLostError
        It is not the consumer's. So for the other endings.
    """
    gone = connection.execute(
        "DELETE FROM message WHERE id = ? AND consumer = ?", (row_id, consumer)
    )
    if not gone.rowcount:
        raise _lost(consumer)


def put_back(
    connection: sqlite3.Connection,
    rules: Rules,
    *,
    consumer: str,
    row_id: int,
    delay_s: float,
    reason: str,
    now_tai: float,
) -> None:
    """Put a message in hand behind all others, or set it aside if that was often enough."""
    queue, deliveries = _in_hand(connection, consumer, row_id)
    if not _worn_out(connection, rules, row_id, deliveries, reason, now_tai):
        connection.execute(
            "UPDATE message SET consumer = '', place = ?, due_tai = ? WHERE id = ?",
            (
                _last_place(connection, queue) + 1,
                now_tai + delay_s if delay_s > 0 else 0.0,
                row_id,
            ),
        )
    rules.tell(queue)


def set_aside(
    connection: sqlite3.Connection, *, consumer: str, row_id: int, reason: str, now_tai: float
) -> None:
    """Move a message in hand to the dead letters."""
    _in_hand(connection, consumer, row_id)
    _set_aside(connection, row_id, reason, now_tai)


def give_back(
    connection: sqlite3.Connection,
    rules: Rules,
    *,
    queue: str,
    consumer: str,
    handed: Collection[int],
    now_tai: float,
) -> None:
    """Put what a consumer has in its place again; what it was not ``handed`` was not delivered."""
    rows = connection.execute(
        "SELECT id, deliveries FROM message WHERE queue = ? AND consumer = ? AND consumer <> ''",
        (queue, consumer),
    ).fetchall()
    for row_id, deliveries in rows:
        if row_id not in handed:
            connection.execute(
                "UPDATE message SET consumer = '', deliveries = ? WHERE id = ?",
                (deliveries - 1, row_id),
            )
        elif not _worn_out(connection, rules, row_id, deliveries, "its consumer closed", now_tai):
            connection.execute("UPDATE message SET consumer = '' WHERE id = ?", (row_id,))
    if rows:
        rules.tell(queue)


def count(connection: sqlite3.Connection, *, queue: str) -> int:
    """Count messages that wait or are in hand."""
    rows = connection.execute("SELECT count(*) FROM message WHERE queue = ?", (queue,))
    return int(rows.fetchone()[0])


def letters(connection: sqlite3.Connection, *, queue: str) -> list[DeadLetter]:
    """List what was set aside, of one queue or of all."""
    rows = connection.execute(
        "SELECT id, queue, body, reason, set_aside_tai FROM letter WHERE ? IN ('', queue)"
        " ORDER BY id",
        (queue,),
    )
    return [
        DeadLetter(
            letter_id=f"{row[1]}-{row[0]}",
            queue=row[1],
            body=row[2].decode("utf-8", errors="replace"),
            reason=row[3],
            set_aside_tai=row[4],
        )
        for row in rows
    ]


def redrive(connection: sqlite3.Connection, rules: Rules, *, letter_id: str) -> tuple[str, str]:
    """Put a dead letter back on its queue; give the queue, and why the letter was set aside.

    Raises
    ------
    DeadLetterMissingError
        There is none of this name.
    """
    queue, priority, body, reason = _take_letter(connection, letter_id)
    connection.execute(
        "INSERT INTO message (queue, priority, place, body) VALUES (?, ?, ?, ?)",
        (queue, priority, _last_place(connection, queue) + 1, body),
    )
    rules.tell(queue)
    return queue, reason


def dismiss(connection: sqlite3.Connection, *, letter_id: str) -> str:
    """Drop a dead letter; give its queue."""
    return _take_letter(connection, letter_id)[0]


def _take_back(connection: sqlite3.Connection, rules: Rules, queue: str, now_tai: float) -> None:
    holders = connection.execute(
        "SELECT DISTINCT consumer FROM message WHERE queue = ? AND consumer <> ''", (queue,)
    ).fetchall()
    for (consumer,) in holders:
        if rules.is_alive(queue, consumer):
            continue
        rows = connection.execute(
            "SELECT id, deliveries FROM message"
            " WHERE queue = ? AND consumer = ? AND consumer <> ''",
            (queue, consumer),
        ).fetchall()
        for row_id, deliveries in rows:
            if not _worn_out(connection, rules, row_id, deliveries, "its consumer died", now_tai):
                connection.execute("UPDATE message SET consumer = '' WHERE id = ?", (row_id,))
        rules.tell(queue)


def _worn_out(
    connection: sqlite3.Connection,
    rules: Rules,
    row_id: int,
    deliveries: int,
    reason: str,
    now_tai: float,
) -> bool:
    if deliveries < rules.delivery_limit:
        return False
    _set_aside(connection, row_id, f"Delivered {deliveries} times; {reason}", now_tai)
    return True


def _set_aside(connection: sqlite3.Connection, row_id: int, reason: str, now_tai: float) -> None:
    connection.execute(
        "INSERT INTO letter (queue, priority, body, reason, set_aside_tai)"
        " SELECT queue, priority, body, ?, ? FROM message WHERE id = ?",
        (reason, now_tai, row_id),
    )
    connection.execute("DELETE FROM message WHERE id = ?", (row_id,))


def _in_hand(connection: sqlite3.Connection, consumer: str, row_id: int) -> tuple[str, int]:
    row = connection.execute(
        "SELECT queue, deliveries FROM message WHERE id = ? AND consumer = ?", (row_id, consumer)
    ).fetchone()
    if row is None:
        raise _lost(consumer)
    return row[0], row[1]


def _lost(consumer: str) -> DeliveryLostError:
    return DeliveryLostError("The delivery is not this consumer's", consumer=consumer)


def _last_place(connection: sqlite3.Connection, queue: str) -> int:
    rows = connection.execute("SELECT max(place) FROM message WHERE queue = ?", (queue,))
    return int(rows.fetchone()[0] or 0)


def _take_letter(connection: sqlite3.Connection, letter_id: str) -> tuple[str, int, bytes, str]:
    queue, _, number = letter_id.rpartition("-")
    row = connection.execute(
        "DELETE FROM letter WHERE id = ? AND queue = ? RETURNING queue, priority, body, reason",
        (int(number) if number.isdecimal() else 0, queue),
    ).fetchone()
    if row is None:
        raise DeadLetterMissingError("There is no such dead letter", letter=letter_id)
    return row[0], row[1], row[2], row[3]
