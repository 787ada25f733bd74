"""The ledger's changes; each function is one transaction's worth and may be done again."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import replace

from platevault.adapters.sqlite.rows import json_text, select_exposure, select_file
from platevault.domain.errors import UsageError
from platevault.domain.ids import FileKey
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    FileRecord,
    HeaderReference,
    ToldResult,
)
from platevault.domain.lifecycles import FILE_TRANSITIONS, Destination, FileState, done_states
from platevault.ports.file_ledger import (
    Change,
    ConflictingExposureError,
    StaleFenceError,
    StateConflictError,
    UnknownExposureError,
)

_FAILED = frozenset({FileState.RETRY, FileState.DEAD, FileState.READY})
#: In these states the digest says what is there, and another one would be another file.
_HELD_CONTENTS = frozenset(
    {FileState.WRITTEN, FileState.SENT, FileState.VERIFIED, FileState.CATALOGUED}
)
#: Runs of an embedded lease store are so many fencing numbers apart.
_GRANTS_PER_EPOCH = 1_000_000_000


def register(
    connection: sqlite3.Connection,
    exposure: Exposure,
    files: Collection[FileKey],
    now_tai: float,
) -> bool:
    """Insert an exposure and its rows; ``False`` if it is there already."""
    keys = sorted(set(files))
    strangers = [key for key in keys if key.image != exposure.image]
    if strangers:
        raise UsageError(
            "Files of another image were registered",
            file=strangers[0].file_name,
            image=exposure.image,
        )
    identity = (
        exposure.camera,
        exposure.day_obs,
        exposure.exposure_id,
        json_text(exposure.sensors),
        json_text(exposure.facts),
        len(keys),
    )
    names = ("camera", "day_obs", "exposure_id", "sensors", "facts", "file_count")
    stored = connection.execute(
        f"SELECT {', '.join(names)} FROM exposure WHERE image = ?",  # noqa: S608 - our constant
        (exposure.image,),
    ).fetchone()
    if stored is not None:
        for name, old, new in zip(names, stored, identity, strict=True):
            if old != new:
                raise ConflictingExposureError(
                    "The image name is taken by another exposure",
                    image=exposure.image,
                    field=name,
                    value=new,
                    expected=old,
                )
        _check_same_files(connection, keys)
        return False
    connection.execute(
        "INSERT INTO exposure (image, camera, day_obs, exposure_id, sensors, facts, file_count,"
        " registered_tai) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (exposure.image, *identity, now_tai),
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
            raise ConflictingExposureError(
                "The exposure was registered with other files",
                image=key.image,
                file=key.file_name,
            )


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
        _check_fence(row, fence)
        if row.state in done_states(key.kind, destination):
            continue
        if row.state is FileState.SENDING:
            _close(connection, row, outcome="lost", error="", now_tai=now_tai)
        elif FileState.SENDING not in FILE_TRANSITIONS[row.state]:
            raise StateConflictError(
                "The file's state allows no work",
                file=key.file_name,
                destination=destination.value,
                state=row.state.value,
            )
        attempt = AttemptRecord(
            key=key,
            destination=destination,
            number=row.attempt + 1,
            worker=worker,
            fence=fence,
            started_tai=now_tai,
        )
        connection.execute(
            "INSERT INTO attempt (image, sensor, kind, destination, number, worker, fence,"
            " started_tai) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*_place(row), attempt.number, worker, fence, now_tai),
        )
        _store(
            connection,
            replace(
                row,
                state=FileState.SENDING,
                attempt=attempt.number,
                fence=max(row.fence, fence),
                reason="",
                changed_tai=now_tai,
            ),
        )
        opened.append(attempt)
    return opened


def stage(
    connection: sqlite3.Connection,
    key: FileKey,
    destination: Destination,
    *,
    number: int,
    path: str,
    size_bytes: int,
    digest: str,
) -> None:
    """Store what an open attempt has staged."""
    place = (key.image, key.sensor, key.kind, destination, number)
    condition = "image = ? AND sensor = ? AND kind = ? AND destination = ? AND number = ?"
    row = connection.execute(
        f"SELECT outcome FROM attempt WHERE {condition}",  # noqa: S608 - our constant
        place,
    ).fetchone()
    facts = {"file": key.file_name, "destination": destination.value, "attempt": number}
    if row is None:
        raise StateConflictError("There is no such attempt", **facts)
    if row[0] == "lost":
        raise StaleFenceError("A newer attempt took the file over", **facts)
    if row[0]:
        raise StateConflictError("The attempt has ended", outcome=row[0], **facts)
    connection.execute(
        "UPDATE attempt SET staged_path = ?, staged_size_bytes = ?,"  # noqa: S608 - our constant
        f" staged_digest = ? WHERE {condition}",
        (path, size_bytes, digest, *place),
    )


def apply(connection: sqlite3.Connection, changes: Sequence[Change], now_tai: float) -> None:
    """Make changes in order; an error leaves what came before to be rolled back."""
    for change in changes:
        _apply_one(connection, change, now_tai)


def _apply_one(connection: sqlite3.Connection, change: Change, now_tai: float) -> None:
    row = _row(connection, change.key, change.destination)
    in_place = row.state is change.to and bool(row.digest) and row.digest == change.digest
    if in_place and 0 < change.fence < row.fence:
        return
    _check_fence(row, change.fence)
    facts = {
        "file": change.key.file_name,
        "destination": change.destination.value,
        "state": row.state.value,
        "wanted": change.to.value,
    }
    if row.state is not change.to and change.to not in FILE_TRANSITIONS[row.state]:
        raise StateConflictError("The file may not go to this state", **facts)
    if (
        {row.state, change.to} <= _HELD_CONTENTS
        and change.digest
        and row.digest
        and change.digest != row.digest
    ):
        raise StateConflictError(
            "The file is in place with another digest",
            value=change.digest,
            expected=row.digest,
            **facts,
        )
    _store(
        connection,
        replace(
            row,
            state=change.to,
            path=row.path if change.path is None else change.path,
            size_bytes=row.size_bytes if change.size_bytes is None else change.size_bytes,
            digest=row.digest if change.digest is None else change.digest,
            degraded=row.degraded if change.degraded is None else change.degraded,
            fence=max(row.fence, change.fence),
            reason=change.reason,
            changed_tai=row.changed_tai if row.state is change.to else now_tai,
        ),
    )
    if row.state is FileState.SENDING and change.to is not FileState.SENDING:
        failed = change.to in _FAILED
        _close(
            connection,
            row,
            outcome="failed" if failed else "done",
            error=change.reason if failed else "",
            now_tai=now_tai,
        )


def first_fence(connection: sqlite3.Connection) -> int:
    """Count a start of an embedded lease store; give the number above all former ones."""
    epoch = connection.execute("UPDATE lease_epoch SET epoch = epoch + 1 RETURNING epoch")
    return int(epoch.fetchone()[0]) * _GRANTS_PER_EPOCH


def _place(row: FileRecord) -> tuple[str, str, str, str]:
    return (row.key.image, row.key.sensor, row.key.kind, row.destination)


def _row(connection: sqlite3.Connection, key: FileKey, destination: Destination) -> FileRecord:
    row = select_file(connection, key, destination)
    if row is None:
        raise StateConflictError(
            "The file was never registered", file=key.file_name, destination=destination.value
        )
    return row


def _check_fence(row: FileRecord, fence: int) -> None:
    if 0 < fence < row.fence:
        raise StaleFenceError(
            "Somebody with a newer fencing number has the file",
            file=row.key.file_name,
            destination=row.destination.value,
            value=fence,
            expected=row.fence,
        )


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


def _close(
    connection: sqlite3.Connection, row: FileRecord, *, outcome: str, error: str, now_tai: float
) -> None:
    connection.execute(
        "UPDATE attempt SET ended_tai = ?, outcome = ?, error = ? WHERE image = ? AND sensor = ?"
        " AND kind = ? AND destination = ? AND number = ? AND ended_tai IS NULL",
        (now_tai, outcome, error, *_place(row), row.attempt),
    )
