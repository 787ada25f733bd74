"""What the ledger's rows mean, and how they are read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    ExposureRecord,
    FileRecord,
    HeaderReference,
    ToldResult,
)
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState, done_states

_EXPOSURE_COLUMNS = (
    "image, camera, day_obs, exposure_id, sensors, facts, registered_tai, target_dir,"
    " end_readout_tai, header_url, header_version, header_size_bytes, header_md5"
)
_FILE_COLUMNS = (
    "image, sensor, kind, destination, state, path, size_bytes, digest, degraded, attempt,"
    " fence, reason, changed_tai"
)
_ATTEMPT_COLUMNS = (
    "image, sensor, kind, destination, number, worker, fence, started_tai, ended_tai,"
    " staged_path, staged_digest, outcome, error, staged_size_bytes"
)


def json_text(values: Mapping[str, object]) -> str:
    """Give the one JSON text of a mapping, so that equal texts are equal contents."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def exposure_record(row: Sequence[Any]) -> ExposureRecord:
    """Make a record of a row of exposure columns."""
    exposure = Exposure(
        image=row[0],
        camera=row[1],
        day_obs=row[2],
        exposure_id=row[3],
        sensors=json.loads(row[4]),
        facts=json.loads(row[5]),
    )
    header = None
    if row[9] is not None:
        header = HeaderReference(url=row[9], version=row[10], size_bytes=row[11], md5=row[12])
    return ExposureRecord(
        exposure=exposure,
        registered_tai=row[6],
        target_dir=row[7],
        end_readout_tai=row[8],
        header=header,
    )


def file_record(row: Sequence[Any]) -> FileRecord:
    """Make a record of a row of file columns."""
    return FileRecord(
        key=FileKey(row[0], row[1], FileKind(row[2])),
        destination=Destination(row[3]),
        state=FileState(row[4]),
        path=row[5],
        size_bytes=row[6],
        digest=row[7],
        degraded=bool(row[8]),
        attempt=row[9],
        fence=row[10],
        reason=row[11],
        changed_tai=row[12],
    )


def attempt_record(row: Sequence[Any]) -> AttemptRecord:
    """Make a record of a row of attempt columns."""
    return AttemptRecord(
        key=FileKey(row[0], row[1], FileKind(row[2])),
        destination=Destination(row[3]),
        number=row[4],
        worker=row[5],
        fence=row[6],
        started_tai=row[7],
        ended_tai=row[8],
        staged_path=row[9],
        staged_digest=row[10],
        outcome=row[11],
        error=row[12],
        staged_size_bytes=row[13],
    )


def select_exposure(connection: sqlite3.Connection, image: str) -> ExposureRecord | None:
    """Read one exposure."""
    row = connection.execute(
        f"SELECT {_EXPOSURE_COLUMNS} FROM exposure WHERE image = ?",  # noqa: S608 - our constant
        (image,),
    ).fetchone()
    return None if row is None else exposure_record(row)


def _unfinished_combinations() -> list[tuple[str, str, str]]:
    """List (destination, state, kind) in which something is still to be done."""
    return [
        (destination, state, kind)
        for destination, state, kind in product(Destination, FileState, FileKind)
        if state not in SETTLED_STATES and state not in done_states(kind, destination)
    ]


def select_exposures(
    connection: sqlite3.Connection, *, camera: str, day_obs: int, unfinished: bool
) -> list[ExposureRecord]:
    """Read exposures by name."""
    conditions = ["1"]
    values: list[object] = []
    if camera:
        conditions.append("camera = ?")
        values.append(camera)
    if day_obs:
        conditions.append("day_obs = ?")
        values.append(day_obs)
    if unfinished:
        combinations = _unfinished_combinations()
        # CROSS JOIN keeps the order, so that the index leads straight to what is unfinished.
        conditions.append(
            "image IN (WITH todo (destination, state, kind) AS (VALUES "  # noqa: S608 - our marks
            + ", ".join(["(?, ?, ?)"] * len(combinations))
            + ") SELECT file_state.image FROM todo CROSS JOIN file_state"
            " USING (destination, state, kind))"
        )
        values.extend(value for combination in combinations for value in combination)
    rows = connection.execute(
        f"SELECT {_EXPOSURE_COLUMNS} FROM exposure"  # noqa: S608 - our constants
        f" WHERE {' AND '.join(conditions)} ORDER BY image",
        values,
    )
    return [exposure_record(row) for row in rows]


def select_files(
    connection: sqlite3.Connection,
    *,
    image: str,
    destination: Destination | None,
    states: Collection[FileState],
) -> list[FileRecord]:
    """Read files by image, sensor, kind, destination."""
    conditions = ["1"]
    values: list[object] = []
    if image:
        conditions.append("image = ?")
        values.append(image)
    if states:
        conditions.append(f"state IN ({', '.join('?' * len(states))})")
        values.extend(states)
    if destination is not None or (states and not image):
        # Every destination by name, so that the index by state serves all of them.
        places = [destination] if destination is not None else [*Destination]
        conditions.append(f"destination IN ({', '.join('?' * len(places))})")
        values.extend(places)
    rows = connection.execute(
        f"SELECT {_FILE_COLUMNS} FROM file_state"  # noqa: S608 - our constants
        f" WHERE {' AND '.join(conditions)} ORDER BY image, sensor, kind, destination",
        values,
    )
    return [file_record(row) for row in rows]


def select_file(
    connection: sqlite3.Connection, key: FileKey, destination: Destination
) -> FileRecord | None:
    """Read one file at one destination."""
    row = connection.execute(
        f"SELECT {_FILE_COLUMNS} FROM file_state"  # noqa: S608 - our constant
        " WHERE image = ? AND sensor = ? AND kind = ? AND destination = ?",
        (key.image, key.sensor, key.kind, destination),
    ).fetchone()
    return None if row is None else file_record(row)


def select_attempts(connection: sqlite3.Connection, image: str) -> list[AttemptRecord]:
    """Read the attempts of an image, oldest first."""
    rows = connection.execute(
        f"SELECT {_ATTEMPT_COLUMNS} FROM attempt WHERE image = ? ORDER BY id",  # noqa: S608
        (image,),
    )
    return [attempt_record(row) for row in rows]


def select_told(connection: sqlite3.Connection, image: str) -> list[ToldResult]:
    """List the published results of an image."""
    found = connection.execute(
        "SELECT sensor, event, status_code FROM told_result WHERE image = ? ORDER BY 1, 2, 3",
        (image,),
    )
    return [ToldResult(*row) for row in found]
