"""How the ledger's rows are read from SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from platevault.adapters.sql_ledger.records import (
    ATTEMPT_COLUMNS,
    EXPOSURE_COLUMNS,
    FILE_COLUMNS,
    attempt_record,
    exposure_record,
    file_record,
    unfinished_combinations,
)
from platevault.domain.ids import FileKey
from platevault.domain.inventory import AttemptRecord, ExposureRecord, FileRecord, ToldResult
from platevault.domain.lifecycles import Destination, FileState


def select_exposure(connection: sqlite3.Connection, image: str) -> ExposureRecord | None:
    """Read one exposure."""
    row = connection.execute(
        f"SELECT {EXPOSURE_COLUMNS} FROM exposure WHERE image = ?",  # noqa: S608 - our constant
        (image,),
    ).fetchone()
    return None if row is None else exposure_record(row)


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
        combinations = unfinished_combinations()
        # CROSS JOIN keeps the order, so that the index leads straight to what is unfinished.
        conditions.append(
            "image IN (WITH todo (destination, state, kind) AS (VALUES "  # noqa: S608 - our marks
            + ", ".join(["(?, ?, ?)"] * len(combinations))
            + ") SELECT file_state.image FROM todo CROSS JOIN file_state"
            " USING (destination, state, kind))"
        )
        values.extend(value for combination in combinations for value in combination)
    rows = connection.execute(
        f"SELECT {EXPOSURE_COLUMNS} FROM exposure"  # noqa: S608 - our constants
        f" WHERE {' AND '.join(conditions)} ORDER BY image",
        values,
    )
    return [exposure_record(row) for row in rows]


def select_files(
    connection: sqlite3.Connection,
    *,
    image: str,
    sensors: Collection[str],
    destination: Destination | None,
    states: Collection[FileState],
) -> list[FileRecord]:
    """Read files by image, sensor, kind, destination."""
    conditions = ["1"]
    values: list[object] = []
    if image:
        conditions.append("image = ?")
        values.append(image)
    if sensors:
        conditions.append(f"sensor IN ({', '.join('?' * len(sensors))})")
        values.extend(sensors)
    if states:
        conditions.append(f"state IN ({', '.join('?' * len(states))})")
        values.extend(states)
    if destination is not None or (states and not image):
        # Every destination by name, so that the index by state serves all of them.
        places = [destination] if destination is not None else [*Destination]
        conditions.append(f"destination IN ({', '.join('?' * len(places))})")
        values.extend(places)
    rows = connection.execute(
        f"SELECT {FILE_COLUMNS} FROM file_state"  # noqa: S608 - our constants
        f" WHERE {' AND '.join(conditions)} ORDER BY image, sensor, kind, destination",
        values,
    )
    return [file_record(row) for row in rows]


def select_file(
    connection: sqlite3.Connection, key: FileKey, destination: Destination
) -> FileRecord | None:
    """Read one file at one destination."""
    row = connection.execute(
        f"SELECT {FILE_COLUMNS} FROM file_state"  # noqa: S608 - our constant
        " WHERE image = ? AND sensor = ? AND kind = ? AND destination = ?",
        (key.image, key.sensor, key.kind, destination),
    ).fetchone()
    return None if row is None else file_record(row)


def select_attempts(connection: sqlite3.Connection, image: str) -> list[AttemptRecord]:
    """Read the attempts of an image, oldest first."""
    rows = connection.execute(
        f"SELECT {ATTEMPT_COLUMNS} FROM attempt WHERE image = ? ORDER BY id",  # noqa: S608
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
