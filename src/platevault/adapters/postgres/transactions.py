"""The ledger's changes; each function is one transaction's worth and may be done again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product

from platevault.adapters.postgres.pool import Connection
from platevault.adapters.postgres.rows import Place, lock_files, place_of, select_exposure
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
from platevault.ports.file_ledger import Change, Staged, UnknownExposureError

#: Rows of files and how their attempts end, as they come from arrays.
_NEW = (
    "WITH new AS (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[],"
    " %s::text[], %s::bigint[], %s::text[], %s::boolean[], %s::int[], %s::bigint[], %s::text[],"
    " %s::double precision[], %s::text[], %s::text[]) WITH ORDINALITY"
    " AS new (image, sensor, kind, destination, state, path, size_bytes, digest, degraded,"
    " attempt, fence, reason, changed_tai, outcome, error, place))"
)
_STORE = (
    " UPDATE file_state SET state = new.state, path = new.path, size_bytes = new.size_bytes,"
    " digest = new.digest, degraded = new.degraded, attempt = new.attempt, fence = new.fence,"
    " reason = new.reason, changed_tai = new.changed_tai FROM new"
    " WHERE (file_state.image, file_state.sensor, file_state.kind, file_state.destination)"
    " = (new.image, new.sensor, new.kind, new.destination)"
)
_OPEN = (
    " INSERT INTO attempt (image, sensor, kind, destination, number, worker, fence, started_tai)"
    " SELECT image, sensor, kind, destination, attempt, %s, %s, %s FROM new ORDER BY place"
)
_END = (
    " UPDATE attempt SET ended_tai = %s, outcome = new.outcome, error = new.error FROM new"
    " WHERE (attempt.image, attempt.sensor, attempt.kind, attempt.destination, attempt.number)"
    " = (new.image, new.sensor, new.kind, new.destination, new.attempt)"
    " AND new.outcome <> '' AND attempt.ended_tai IS NULL"
)


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
    inserted = await connection.execute(
        "INSERT INTO told_result (image, sensor, event, status_code, told_tai)"
        " SELECT image, %s, %s, %s, %s FROM exposure WHERE image = %s ON CONFLICT DO NOTHING",
        (result.sensor, result.event, result.status_code, now_tai, image),
    )
    if not inserted.rowcount:
        await _known(connection, image)


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
    endings: dict[Place, Ending] = {}
    for key in wanted:
        place = place_of(key, destination)
        row = rows.get(place)
        if row is None:
            raise never_registered(key, destination)
        step = begun(row, worker=worker, fence=fence, now_tai=now_tai)
        if step is None:
            continue
        after.append(step[0])
        opened.append(step[1])
        if step[2] is not None:
            endings[place] = step[2]
    # By itself: of a file's attempts one at the most may be open, at each moment of a statement.
    await _end(connection, endings, now_tai)
    if after:
        await connection.execute(
            f"{_NEW}, opened AS ({_OPEN}) {_STORE}",
            (*_columns(after, {}), worker, fence, now_tai),
        )
    return opened


async def stage(connection: Connection, staged: Sequence[Staged]) -> None:
    """Store what open attempts have staged."""
    by_attempt = {(*place_of(one.key, one.destination), one.number): one for one in staged}
    if not by_attempt:
        return
    images, sensors, kinds, destinations, numbers = map(list, zip(*by_attempt, strict=True))
    stored = await connection.execute(
        # The files' rows are locked first and in order, as by everybody: no two may entwine.
        "WITH held AS MATERIALIZED ("
        " SELECT new.* FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::int[],"
        " %s::text[], %s::bigint[], %s::text[])"
        " AS new (image, sensor, kind, destination, number, path, size_bytes, digest)"
        " JOIN file_state USING (image, sensor, kind, destination)"
        " ORDER BY image, sensor, kind, destination FOR NO KEY UPDATE OF file_state)"
        " UPDATE attempt SET staged_path = held.path, staged_size_bytes = held.size_bytes,"
        " staged_digest = held.digest FROM held"
        " WHERE (attempt.image, attempt.sensor, attempt.kind, attempt.destination, attempt.number)"
        " = (held.image, held.sensor, held.kind, held.destination, held.number)"
        " AND attempt.ended_tai IS NULL",
        (
            images,
            sensors,
            kinds,
            destinations,
            numbers,
            [one.path for one in by_attempt.values()],
            [one.size_bytes for one in by_attempt.values()],
            [one.digest for one in by_attempt.values()],
        ),
    )
    if stored.rowcount == len(by_attempt):
        return
    for attempt, one in by_attempt.items():
        found = await connection.execute(
            "SELECT outcome FROM attempt WHERE image = %s AND sensor = %s AND kind = %s"
            " AND destination = %s AND number = %s",
            attempt,
        )
        row = await found.fetchone()
        check_staging(one, None if row is None else row[0])


async def apply(connection: Connection, changes: Sequence[Change], now_tai: float) -> None:
    """Make changes in order; an error leaves what came before to be rolled back."""
    if not changes:
        return
    places = [place_of(change.key, change.destination) for change in changes]
    rows = await lock_files(connection, [*dict.fromkeys(places)])
    after: dict[Place, FileRecord] = {}
    endings: dict[Place, Ending] = {}
    for place, change in zip(places, changes, strict=True):
        row = after.get(place) or rows.get(place)
        if row is None:
            raise never_registered(change.key, change.destination)
        step = changed(row, change, now_tai=now_tai)
        if step is None:
            continue
        after[place], ending = step
        if ending is not None:
            endings[place] = ending
    if after:
        await connection.execute(
            f"{_NEW}, ended AS ({_END}) {_STORE}",
            (*_columns([*after.values()], endings), now_tai),
        )


async def first_fence(connection: Connection) -> int:
    """Count a start of an embedded lease store; give the number above all former ones."""
    epoch = await connection.execute("UPDATE lease_epoch SET epoch = epoch + 1 RETURNING epoch")
    row = await epoch.fetchone()
    assert row is not None, "the schema holds one row"
    return int(row[0]) * GRANTS_PER_EPOCH


async def _end(connection: Connection, endings: Mapping[Place, Ending], now_tai: float) -> None:
    if endings:
        rows = [ending.row for ending in endings.values()]
        await connection.execute(_NEW + _END, (*_columns(rows, endings), now_tai))


def _columns(rows: Sequence[FileRecord], endings: Mapping[Place, Ending]) -> list[list[object]]:
    """Give the arrays of `_NEW`."""
    ends = [endings.get(place_of(row.key, row.destination)) for row in rows]
    return [
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
        ["" if end is None else end.outcome for end in ends],
        ["" if end is None else end.error for end in ends],
    ]
