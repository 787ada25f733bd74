"""What a ledger allows, decided on a row that the caller has locked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from platevault.adapters.sql_ledger.records import json_text
from platevault.domain.errors import UsageError
from platevault.domain.ids import FileKey
from platevault.domain.inventory import AttemptRecord, Exposure, FileRecord
from platevault.domain.lifecycles import FILE_TRANSITIONS, Destination, FileState, done_states
from platevault.ports.file_ledger import (
    Change,
    ConflictingExposureError,
    Staged,
    StaleFenceError,
    StateConflictError,
)

#: Runs of an embedded lease store are so many fencing numbers apart.
GRANTS_PER_EPOCH = 1_000_000_000
_FAILED = frozenset({FileState.RETRY, FileState.DEAD, FileState.READY})
#: In these states the digest says what is there, and another one would be another file.
_HELD_CONTENTS = frozenset(
    {FileState.WRITTEN, FileState.SENT, FileState.VERIFIED, FileState.CATALOGUED}
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the open attempt of a file ends, if it has one.

    Attributes
    ----------
    row
        The file before the change; ``row.attempt`` is the attempt.
    outcome
        ``done``, ``failed`` or ``lost``.
    error
        Why it failed.
    """

    row: FileRecord
    outcome: str
    error: str = ""


def files_of_exposure(exposure: Exposure, files: Collection[FileKey]) -> list[FileKey]:
    """Give each file once, in order; `UsageError` if one belongs to another image."""
    keys = sorted(set(files))
    strangers = [key for key in keys if key.image != exposure.image]
    if strangers:
        raise UsageError(
            "Files of another image were registered",
            file=strangers[0].file_name,
            image=exposure.image,
        )
    return keys


def identity_of(exposure: Exposure, keys: Sequence[FileKey]) -> Mapping[str, object]:
    """Give the columns in which two registrations of one exposure must agree."""
    return {
        "camera": exposure.camera,
        "day_obs": exposure.day_obs,
        "exposure_id": exposure.exposure_id,
        "sensors": json_text(exposure.sensors),
        "facts": json_text(exposure.facts),
        "file_count": len(keys),
    }


def check_identity(image: str, stored: Sequence[Any], identity: Mapping[str, object]) -> None:
    """Refuse another exposure of the same name."""
    for (name, new), old in zip(identity.items(), stored, strict=True):
        if old != new:
            raise ConflictingExposureError(
                "The image name is taken by another exposure",
                image=image,
                field=name,
                value=new,
                expected=old,
            )


def other_files(key: FileKey) -> ConflictingExposureError:
    """Say that an exposure is there, but without this file."""
    return ConflictingExposureError(
        "The exposure was registered with other files", image=key.image, file=key.file_name
    )


def never_registered(key: FileKey, destination: Destination) -> StateConflictError:
    """Say that a file has no row."""
    return StateConflictError(
        "The file was never registered", file=key.file_name, destination=destination.value
    )


def check_fence(row: FileRecord, fence: int) -> None:
    """Refuse a fencing number that is older than the file's."""
    if 0 < fence < row.fence:
        raise StaleFenceError(
            "Somebody with a newer fencing number has the file",
            file=row.key.file_name,
            destination=row.destination.value,
            value=fence,
            expected=row.fence,
        )


def begun(
    row: FileRecord, *, worker: str, fence: int, now_tai: float
) -> tuple[FileRecord, AttemptRecord, Ending | None] | None:
    """Give the row, its new attempt and the end of the former; ``None`` if the file is done."""
    check_fence(row, fence)
    if row.state in done_states(row.key.kind, row.destination):
        return None
    ending = None
    if row.state is FileState.SENDING:
        ending = Ending(row, "lost")
    elif FileState.SENDING not in FILE_TRANSITIONS[row.state]:
        raise StateConflictError(
            "The file's state allows no work",
            file=row.key.file_name,
            destination=row.destination.value,
            state=row.state.value,
        )
    attempt = AttemptRecord(
        key=row.key,
        destination=row.destination,
        number=row.attempt + 1,
        worker=worker,
        fence=fence,
        started_tai=now_tai,
    )
    after = replace(
        row,
        state=FileState.SENDING,
        attempt=attempt.number,
        fence=max(row.fence, fence),
        reason="",
        changed_tai=now_tai,
    )
    return after, attempt, ending


def check_staging(staged: Staged, outcome: str | None) -> None:
    """Refuse to stage for an attempt that has ended, or that never was (``None``)."""
    facts = {
        "file": staged.key.file_name,
        "destination": staged.destination.value,
        "attempt": staged.number,
    }
    if outcome is None:
        raise StateConflictError("There is no such attempt", **facts)
    if outcome == "lost":
        raise StaleFenceError("A newer attempt took the file over", **facts)
    if outcome:
        raise StateConflictError("The attempt has ended", outcome=outcome, **facts)


def changed(
    row: FileRecord, change: Change, *, now_tai: float
) -> tuple[FileRecord, Ending | None] | None:
    """Give the row after a change, and how its attempt ends; ``None`` if nothing is to be done."""
    in_place = row.state is change.to and bool(row.digest) and row.digest == change.digest
    if in_place and 0 < change.fence < row.fence:
        return None
    check_fence(row, change.fence)
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
    after = replace(
        row,
        state=change.to,
        path=row.path if change.path is None else change.path,
        size_bytes=row.size_bytes if change.size_bytes is None else change.size_bytes,
        digest=row.digest if change.digest is None else change.digest,
        degraded=row.degraded if change.degraded is None else change.degraded,
        fence=max(row.fence, change.fence),
        reason=change.reason,
        changed_tai=row.changed_tai if row.state is change.to else now_tai,
    )
    ending = None
    if row.state is FileState.SENDING and change.to is not FileState.SENDING:
        failed = change.to in _FAILED
        ending = Ending(row, "failed" if failed else "done", change.reason if failed else "")
    return after, ending
