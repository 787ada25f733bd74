"""What a ledger's rows mean, in the order of these columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    ExposureRecord,
    FileRecord,
    HeaderReference,
)
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState, done_states

EXPOSURE_COLUMNS = (
    "image, camera, day_obs, exposure_id, sensors, facts, registered_tai, target_dir,"
    " end_readout_tai, header_url, header_version, header_size_bytes, header_md5"
)
FILE_COLUMNS = (
    "image, sensor, kind, destination, state, path, size_bytes, digest, degraded, attempt,"
    " fence, reason, changed_tai"
)
ATTEMPT_COLUMNS = (
    "image, sensor, kind, destination, number, worker, fence, started_tai, ended_tai,"
    " staged_path, staged_digest, outcome, error, staged_size_bytes"
)

#: Looked up, as calling an enumeration was a sixth of a Forwarder's time (measured).
_KINDS = {kind.value: kind for kind in FileKind}
_DESTINATIONS = {destination.value: destination for destination in Destination}
_STATES = {state.value: state for state in FileState}


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
        key=FileKey(row[0], row[1], _KINDS[row[2]]),
        destination=_DESTINATIONS[row[3]],
        state=_STATES[row[4]],
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
        key=FileKey(row[0], row[1], _KINDS[row[2]]),
        destination=_DESTINATIONS[row[3]],
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


def unfinished_combinations() -> list[tuple[str, str, str]]:
    """List (destination, state, kind) in which something is still to be done."""
    return [
        (destination, state, kind)
        for destination, state, kind in product(Destination, FileState, FileKind)
        if state not in SETTLED_STATES and state not in done_states(kind, destination)
    ]
