"""The ledger's changes; each function is one transaction's worth and may be done again."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from platevault.adapters.sql_ledger.rules import (
    GRANTS_PER_EPOCH,
    Ending,
    begun,
    changed,
    check_identity,
    check_staging,
    files_of_exposure,
    identity_of,
    never_registered,
    other_files,
)
from platevault.adapters.sqlite.rows import select_exposure, select_file
from platevault.domain.ids import FileKey
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    FileRecord,
    HeaderReference,
    ToldResult,
)
from platevault.domain.lifecycles import Destination
from platevault.ports.file_ledger import Change, Staged, UnknownExposureError


def register(
    connection: sqlite3.Connection,
    exposure: Exposure,
    files: Collection[FileKey],
    now_tai: float,
) -> bool:
    """Insert an exposure and its rows; ``False`` if it is there already."""
    keys = files_of_exposure(exposure, files)
    identity = identity_of(exposure, keys)
    stored = connection.execute(
        f"SELECT {', '.join(identity)} FROM exposure WHERE image = ?",  # noqa: S608 - our constant
        (exposure.image,),
    ).fetchone()
    if stored is not None:
        check_identity(exposure.image, stored, identity)
        _check_same_files(connection, keys)
        return False
    connection.execute(
        "INSERT INTO exposure (image, camera, day_obs, exposure_id, sensors, facts, file_count,"
        " registered_tai) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (exposure.image, *identity.values(), now_tai),
    )
    connection.executemany(
        "INSERT INTO file_state (image, sensor, kind, destination, state, changed_tai)"
        " VALUES (?, ?, ?, ?, 'expected', ?)",
        [
            (key.image, key.sensor, key.kind, destination, now_tai)
            for key in keys
            for destination in sorted(Destination)
        ],
    )
    return True


def _check_same_files(connection: sqlite3.Connection, keys: Sequence[FileKey]) -> None:
    for key in keys:
        if select_file(connection, key, Destination.ARCHIVE) is None:
            raise other_files(key)


def set_target(connection: sqlite3.Connection, image: str, target_dir: str) -> str:
    """Store the directory if none is stored; give the stored one."""
    connection.execute(
        "UPDATE exposure SET target_dir = ? WHERE image = ? AND target_dir = ''",
        (target_dir, image),
    )
    return _known(connection, image)


def _known(connection: sqlite3.Connection, image: str) -> str:
    record = select_exposure(connection, image)
    if record is None:
        raise UnknownExposureError("The exposure was never registered", image=image)
    return record.target_dir


def set_end_readout(connection: sqlite3.Connection, image: str, end_readout_tai: float) -> None:
    """Store the end of readout if none is stored."""
    connection.execute(
        "UPDATE exposure SET end_readout_tai = ? WHERE image = ? AND end_readout_tai IS NULL",
        (end_readout_tai, image),
    )
    _known(connection, image)


def set_header(connection: sqlite3.Connection, image: str, header: HeaderReference) -> None:
    """Store the header reference unless a newer one is stored."""
    connection.execute(
        "UPDATE exposure SET header_url = ?, header_version = ?, header_size_bytes = ?,"
        " header_md5 = ? WHERE image = ? AND coalesce(header_version, 0) <= ?",
        (header.url, header.version, header.size_bytes, header.md5, image, header.version),
    )
    _known(connection, image)


def set_told(
    connection: sqlite3.Connection, image: str, result: ToldResult, now_tai: float
) -> None:
    """Store that a result was published, the first time it is said."""
    _known(connection, image)
    connection.execute(
        "INSERT OR IGNORE INTO told_result (image, sensor, event, status_code, told_tai)"
        " VALUES (?, ?, ?, ?, ?)",
        (image, result.sensor, result.event, result.status_code, now_tai),
    )


def begin(
    connection: sqlite3.Connection,
    keys: Sequence[FileKey],
    destination: Destination,
    *,
    worker: str,
    fence: int,
    now_tai: float,
) -> list[AttemptRecord]:
    """Open attempts for files that are not done."""
    opened = []
    for key in dict.fromkeys(keys):
        row = _row(connection, key, destination)
        step = begun(row, worker=worker, fence=fence, now_tai=now_tai)
        if step is None:
            continue
        after, attempt, ending = step
        if ending is not None:
            _end(connection, ending, now_tai)
        connection.execute(
            "INSERT INTO attempt (image, sensor, kind, destination, number, worker, fence,"
            " started_tai) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*_place(row), attempt.number, worker, fence, now_tai),
        )
        _store(connection, after)
        opened.append(attempt)
    return opened


def stage(connection: sqlite3.Connection, staged: Sequence[Staged]) -> None:
    """Store what open attempts have staged."""
    condition = "image = ? AND sensor = ? AND kind = ? AND destination = ? AND number = ?"
    for one in staged:
        place = (one.key.image, one.key.sensor, one.key.kind, one.destination, one.number)
        row = connection.execute(
            f"SELECT outcome FROM attempt WHERE {condition}",  # noqa: S608 - our constant
            place,
        ).fetchone()
        check_staging(one, None if row is None else row[0])
        connection.execute(
            "UPDATE attempt SET staged_path = ?, staged_size_bytes = ?,"  # noqa: S608 - ours
            f" staged_digest = ? WHERE {condition}",
            (one.path, one.size_bytes, one.digest, *place),
        )


def apply(connection: sqlite3.Connection, changes: Sequence[Change], now_tai: float) -> None:
    """Make changes in order; an error leaves what came before to be rolled back."""
    for change in changes:
        step = changed(_row(connection, change.key, change.destination), change, now_tai=now_tai)
        if step is None:
            continue
        after, ending = step
        _store(connection, after)
        if ending is not None:
            _end(connection, ending, now_tai)


def first_fence(connection: sqlite3.Connection) -> int:
    """Count a start of an embedded lease store; give the number above all former ones."""
    epoch = connection.execute("UPDATE lease_epoch SET epoch = epoch + 1 RETURNING epoch")
    return int(epoch.fetchone()[0]) * GRANTS_PER_EPOCH


def _place(row: FileRecord) -> tuple[str, str, str, str]:
    return (row.key.image, row.key.sensor, row.key.kind, row.destination)


def _row(connection: sqlite3.Connection, key: FileKey, destination: Destination) -> FileRecord:
    row = select_file(connection, key, destination)
    if row is None:
        raise never_registered(key, destination)
    return row


def _store(connection: sqlite3.Connection, row: FileRecord) -> None:
    connection.execute(
        "UPDATE file_state SET state = ?, path = ?, size_bytes = ?, digest = ?, degraded = ?,"
        " attempt = ?, fence = ?, reason = ?, changed_tai = ?"
        " WHERE image = ? AND sensor = ? AND kind = ? AND destination = ?",
        (
            row.state,
            row.path,
            row.size_bytes,
            row.digest,
            row.degraded,
            row.attempt,
            row.fence,
            row.reason,
            row.changed_tai,
            *_place(row),
        ),
    )


def _end(connection: sqlite3.Connection, ending: Ending, now_tai: float) -> None:
    connection.execute(
        "UPDATE attempt SET ended_tai = ?, outcome = ?, error = ? WHERE image = ? AND sensor = ?"
        " AND kind = ? AND destination = ? AND number = ? AND ended_tai IS NULL",
        (now_tai, ending.outcome, ending.error, *_place(ending.row), ending.row.attempt),
    )
