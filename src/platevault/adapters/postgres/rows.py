"""How the ledger's rows are read from PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from platevault.adapters.postgres.pool import Connection
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

#: A file at a destination: image, sensor, kind, destination.
Place = tuple[str, str, str, str]


def place_of(key: FileKey, destination: Destination) -> Place:
    """Give the key of a file's row."""
    return (key.image, key.sensor, key.kind.value, destination.value)


async def select_exposure(connection: Connection, image: str) -> ExposureRecord | None:
    """Read one exposure."""
    found = await connection.execute(
        f"SELECT {EXPOSURE_COLUMNS} FROM exposure WHERE image = %s",  # noqa: S608 - our constant
        (image,),
    )
    row = await found.fetchone()
    return None if row is None else exposure_record(row)


async def select_exposures(
    connection: Connection, *, camera: str, day_obs: int, unfinished: bool
) -> list[ExposureRecord]:
    """Read exposures by name."""
    conditions = ["TRUE"]
    values: list[object] = []
    if camera:
        conditions.append("camera = %s")
        values.append(camera)
    if day_obs:
        conditions.append("day_obs = %s")
        values.append(day_obs)
    if unfinished:
        conditions.append(
            "image IN (SELECT file_state.image"
            " FROM unnest(%s::text[], %s::text[], %s::text[]) AS todo (destination, state, kind)"
            " JOIN file_state USING (destination, state, kind))"
        )
        values.extend([*column] for column in zip(*unfinished_combinations(), strict=True))
    rows = await connection.execute(
        f"SELECT {EXPOSURE_COLUMNS} FROM exposure"  # noqa: S608 - our constants
        f" WHERE {' AND '.join(conditions)} ORDER BY image",
        values,
    )
    return [exposure_record(row) for row in await rows.fetchall()]


async def select_files(
    connection: Connection,
    *,
    image: str,
    sensors: Collection[str],
    destination: Destination | None,
    states: Collection[FileState],
) -> list[FileRecord]:
    """Read files by image, sensor, kind, destination."""
    conditions = ["TRUE"]
    values: list[object] = []
    if image:
        conditions.append("image = %s")
        values.append(image)
    if sensors:
        conditions.append("sensor = ANY (%s::text[])")
        values.append([*sensors])
    if states:
        conditions.append("state = ANY (%s::text[])")
        values.append([state.value for state in states])
    if destination is not None or (states and not image):
        # Every destination by name, so that the index by state serves all of them.
        places = [destination] if destination is not None else [*Destination]
        conditions.append("destination = ANY (%s::text[])")
        values.append([place.value for place in places])
    rows = await connection.execute(
        f"SELECT {FILE_COLUMNS} FROM file_state"  # noqa: S608 - our constants
        f" WHERE {' AND '.join(conditions)} ORDER BY image, sensor, kind, destination",
        values,
    )
    return [file_record(row) for row in await rows.fetchall()]


async def lock_files(connection: Connection, places: Sequence[Place]) -> dict[Place, FileRecord]:
    """Read rows and keep others from changing them, always in one order: no two may entwine."""
    images, sensors, kinds, destinations = zip(*places, strict=True)
    columns = ", ".join(f"file_state.{name}" for name in FILE_COLUMNS.split(", "))
    rows = await connection.execute(
        f"SELECT {columns} FROM file_state"  # noqa: S608 - our constant
        " JOIN unnest(%s::text[], %s::text[], %s::text[], %s::text[])"
        " AS wanted (image, sensor, kind, destination) USING (image, sensor, kind, destination)"
        " ORDER BY image, sensor, kind, destination FOR NO KEY UPDATE OF file_state",
        ([*images], [*sensors], [*kinds], [*destinations]),
    )
    records = [file_record(row) for row in await rows.fetchall()]
    return {place_of(record.key, record.destination): record for record in records}


async def select_attempts(connection: Connection, image: str) -> list[AttemptRecord]:
    """Read the attempts of an image, oldest first."""
    rows = await connection.execute(
        f"SELECT {ATTEMPT_COLUMNS} FROM attempt WHERE image = %s ORDER BY id",  # noqa: S608
        (image,),
    )
    return [attempt_record(row) for row in await rows.fetchall()]


async def select_told(connection: Connection, image: str) -> list[ToldResult]:
    """List the published results of an image."""
    found = await connection.execute(
        "SELECT sensor, event, status_code FROM told_result WHERE image = %s ORDER BY 1, 2, 3",
        (image,),
    )
    return [ToldResult(*row) for row in await found.fetchall()]
