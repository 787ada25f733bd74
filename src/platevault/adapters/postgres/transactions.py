"""The ledger's changes; each function is one transaction's worth and may be done again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product

from platevault.adapters.postgres.pool import Connection
from platevault.adapters.postgres.rows import lock_files, place_of, select_exposure
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
from platevault.domain.ids import FileKey
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    FileRecord,
    HeaderReference,
    ToldResult,
)
from platevault.domain.lifecycles import Destination
from platevault.ports.file_ledger import Change, UnknownExposureError


async def register(
    connection: Connection, exposure: Exposure, files: Collection[FileKey], now_tai: float
) -> bool:
    """Insert an exposure and its rows; ``False`` if it is there already."""
    keys = files_of_exposure(exposure, files)
    identity = identity_of(exposure, keys)
    names = ", ".join(identity)
    # Of several at once the others wait here until the first has committed, or given up.
    inserted = await connection.execute(
        f"INSERT INTO exposure (image, {names}, registered_tai)"  # noqa: S608 - our constant
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (image) DO NOTHING",
        (exposure.image, *identity.values(), now_tai),
    )
    if not inserted.rowcount:
        await _check_same(connection, exposure, keys)
        return False
    rows = [place_of(*row) for row in product(keys, sorted(Destination))]
    if rows:
        _, sensors, kinds, destinations = zip(*rows, strict=True)
        await connection.execute(
            "INSERT INTO file_state (image, sensor, kind, destination, state, changed_tai)"
            " SELECT %s, new.sensor, new.kind, new.destination, 'expected', %s"
            " FROM unnest(%s::text[], %s::text[], %s::text[]) AS new (sensor, kind, destination)",
            (exposure.image, now_tai, [*sensors], [*kinds], [*destinations]),
        )
    return True


async def _check_same(connection: Connection, exposure: Exposure, keys: Sequence[FileKey]) -> None:
    identity = identity_of(exposure, keys)
    found = await connection.execute(
        f"SELECT {', '.join(identity)} FROM exposure WHERE image = %s",  # noqa: S608 - our constant
        (exposure.image,),
    )
    stored = await found.fetchone()
    assert stored is not None, "exposures are never deleted"
    check_identity(exposure.image, stored, identity)
    rows = await connection.execute(
        "SELECT sensor, kind FROM file_state WHERE image = %s AND destination = %s",
        (exposure.image, Destination.ARCHIVE.value),
    )
    known = {*await rows.fetchall()}
    for key in keys:
        if (key.sensor, key.kind.value) not in known:
            raise other_files(key)


async def set_target(connection: Connection, image: str, target_dir: str) -> str:
    """Store the directory if none is stored; give the stored one."""
    await connection.execute(
        "UPDATE exposure SET target_dir = %s WHERE image = %s AND target_dir = ''",
        (target_dir, image),
    )
    return await _known(connection, image)


async def _known(connection: Connection, image: str) -> str:
    record = await select_exposure(connection, image)
    if record is None:
        raise UnknownExposureError("The exposure was never registered", image=image)
    return record.target_dir


async def set_end_readout(connection: Connection, image: str, end_readout_tai: float) -> None:
    """Store the end of readout if none is stored."""
    await connection.execute(
        "UPDATE exposure SET end_readout_tai = %s WHERE image = %s AND end_readout_tai IS NULL",
        (end_readout_tai, image),
    )
    await _known(connection, image)


async def set_header(connection: Connection, image: str, header: HeaderReference) -> None:
    """Store the header reference unless a newer one is stored."""
    await connection.execute(
        "UPDATE exposure SET header_url = %s, header_version = %s, header_size_bytes = %s,"
        " header_md5 = %s WHERE image = %s AND coalesce(header_version, 0) <= %s",
        (header.url, header.version, header.size_bytes, header.md5, image, header.version),
    )
    await _known(connection, image)


async def set_told(connection: Connection, image: str, result: ToldResult, now_tai: float) -> None:
    """Store that a result was published, the first time it is said."""
    await _known(connection, image)
    await connection.execute(
        "INSERT INTO told_result (image, sensor, event, status_code, told_tai)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (image, result.sensor, result.event, result.status_code, now_tai),
    )


async def begin(
    connection: Connection,
    keys: Sequence[FileKey],
    destination: Destination,
    *,
    worker: str,
    fence: int,
    now_tai: float,
) -> list[AttemptRecord]:
    """Open attempts for files that are not done."""
    wanted = [*dict.fromkeys(keys)]
    if not wanted:
        return []
    rows = await lock_files(connection, [place_of(key, destination) for key in wanted])
    opened: list[AttemptRecord] = []
    after: list[FileRecord] = []
    endings: list[Ending] = []
    for key in wanted:
        row = rows.get(place_of(key, destination))
        if row is None:
            raise never_registered(key, destination)
        step = begun(row, worker=worker, fence=fence, now_tai=now_tai)
        if step is None:
            continue
        after.append(step[0])
        opened.append(step[1])
        if step[2] is not None:
            endings.append(step[2])
    await _end(connection, endings, now_tai)
    await _store(connection, after)
    await _open(connection, opened)
    return opened


async def _open(connection: Connection, attempts: Sequence[AttemptRecord]) -> None:
    if not attempts:
        return
    first = attempts[0]
    await connection.execute(
        "INSERT INTO attempt (image, sensor, kind, destination, number, worker, fence, started_tai)"
        " SELECT new.image, new.sensor, new.kind, %s, new.number, %s, %s, %s"
        " FROM unnest(%s::text[], %s::text[], %s::text[], %s::int[]) WITH ORDINALITY"
        " AS new (image, sensor, kind, number, place) ORDER BY new.place",
        (
            first.destination.value,
            first.worker,
            first.fence,
            first.started_tai,
            [one.key.image for one in attempts],
            [one.key.sensor for one in attempts],
            [one.key.kind.value for one in attempts],
            [one.number for one in attempts],
        ),
    )


async def stage(
    connection: Connection,
    key: FileKey,
    destination: Destination,
    *,
    number: int,
    path: str,
    size_bytes: int,
    digest: str,
) -> None:
    """Store what an open attempt has staged."""
    place = (*place_of(key, destination), number)
    condition = "image = %s AND sensor = %s AND kind = %s AND destination = %s AND number = %s"
    found = await connection.execute(
        f"SELECT outcome FROM attempt WHERE {condition}"  # noqa: S608 - our constant
        " FOR NO KEY UPDATE",
        place,
    )
    row = await found.fetchone()
    check_staging(
        None if row is None else row[0],
        file=key.file_name,
        destination=destination.value,
        attempt=number,
    )
    await connection.execute(
        "UPDATE attempt SET staged_path = %s, staged_size_bytes = %s,"  # noqa: S608 - our constant
        f" staged_digest = %s WHERE {condition}",
        (path, size_bytes, digest, *place),
    )


async def apply(connection: Connection, changes: Sequence[Change], now_tai: float) -> None:
    """Make changes in order; an error leaves what came before to be rolled back."""
    if not changes:
        return
    places = [place_of(change.key, change.destination) for change in changes]
    rows = await lock_files(connection, [*dict.fromkeys(places)])
    after: dict[tuple[str, str, str, str], FileRecord] = {}
    endings: list[Ending] = []
    for place, change in zip(places, changes, strict=True):
        row = after.get(place) or rows.get(place)
        if row is None:
            raise never_registered(change.key, change.destination)
        step = changed(row, change, now_tai=now_tai)
        if step is None:
            continue
        after[place], ending = step
        if ending is not None:
            endings.append(ending)
    await _store(connection, [*after.values()])
    await _end(connection, endings, now_tai)


async def first_fence(connection: Connection) -> int:
    """Count a start of an embedded lease store; give the number above all former ones."""
    epoch = await connection.execute("UPDATE lease_epoch SET epoch = epoch + 1 RETURNING epoch")
    row = await epoch.fetchone()
    assert row is not None, "the schema holds one row"
    return int(row[0]) * GRANTS_PER_EPOCH


async def _store(connection: Connection, rows: Sequence[FileRecord]) -> None:
    if not rows:
        return
    await connection.execute(
        "UPDATE file_state SET state = new.state, path = new.path, size_bytes = new.size_bytes,"
        " digest = new.digest, degraded = new.degraded, attempt = new.attempt, fence = new.fence,"
        " reason = new.reason, changed_tai = new.changed_tai"
        " FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],"
        " %s::bigint[], %s::text[], %s::boolean[], %s::int[], %s::bigint[], %s::text[],"
        " %s::double precision[])"
        " AS new (image, sensor, kind, destination, state, path, size_bytes, digest, degraded,"
        " attempt, fence, reason, changed_tai)"
        " WHERE (file_state.image, file_state.sensor, file_state.kind, file_state.destination)"
        " = (new.image, new.sensor, new.kind, new.destination)",
        (
            [row.key.image for row in rows],
            [row.key.sensor for row in rows],
            [row.key.kind.value for row in rows],
            [row.destination.value for row in rows],
            [row.state.value for row in rows],
            [row.path for row in rows],
            [row.size_bytes for row in rows],
            [row.digest for row in rows],
            [row.degraded for row in rows],
            [row.attempt for row in rows],
            [row.fence for row in rows],
            [row.reason for row in rows],
            [row.changed_tai for row in rows],
        ),
    )


async def _end(connection: Connection, endings: Sequence[Ending], now_tai: float) -> None:
    if not endings:
        return
    await connection.execute(
        "UPDATE attempt SET ended_tai = %s, outcome = new.outcome, error = new.error"
        " FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[],"
        " %s::text[]) AS new (image, sensor, kind, destination, number, outcome, error)"
        " WHERE (attempt.image, attempt.sensor, attempt.kind, attempt.destination, attempt.number)"
        " = (new.image, new.sensor, new.kind, new.destination, new.number)"
        " AND attempt.ended_tai IS NULL",
        (
            now_tai,
            [ending.row.key.image for ending in endings],
            [ending.row.key.sensor for ending in endings],
            [ending.row.key.kind.value for ending in endings],
            [ending.row.destination.value for ending in endings],
            [ending.row.attempt for ending in endings],
            [ending.outcome for ending in endings],
            [ending.error for ending in endings],
        ),
    )
