"""The one answer to "where is my image?", from what the ledger knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import AttemptRecord, ExposureRecord, FileRecord
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState, done_state


class Verdict(StrEnum):
    """State of a whole image."""

    COMPLETE = "complete"
    """Every file is where it must be."""
    DEGRADED = "degraded"
    """Every file is where it must be; at least one lacks its full header."""
    IN_PROGRESS = "in progress"
    """Something is still expected and nothing failed."""
    TROUBLED = "troubled"
    """Something failed and is being tried again, or is overdue."""
    BROKEN = "broken"
    """Something failed for good: a person must look."""


#: Sensors named in a summary line; more are counted.
_NAMED = 4
_TROUBLE = frozenset({FileState.RETRY, FileState.LATE, FileState.CORRUPT})


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """Where every file of an image is.

    Attributes
    ----------
    record
        The exposure.
    verdict
        State of the whole image.
    summary
        The verdict as one line for people.
    files
        State of each file at each destination, by sensor, kind and destination.
    attempts
        Every attempt, oldest first.
    expected
        Files that are not done at a destination and may still get there.
    """

    record: ExposureRecord
    verdict: Verdict
    summary: str
    files: Sequence[FileRecord]
    attempts: Sequence[AttemptRecord]
    expected: Sequence[tuple[FileKey, Destination]]


def is_done(file: FileRecord) -> bool:
    """Say whether a file is what and where it must be."""
    return file.state is done_state(file.key.kind, file.destination)


def image_status(
    record: ExposureRecord, files: Sequence[FileRecord], attempts: Sequence[AttemptRecord]
) -> ImageStatus:
    """Judge an image by the states of its files."""
    open_files = [
        (file.key, file.destination)
        for file in files
        if not is_done(file) and file.state not in SETTLED_STATES
    ]
    verdict = _verdict(files)
    return ImageStatus(
        record, verdict, _summary(record, verdict, files, len(open_files)), files, attempts,
        open_files,
    )  # fmt: skip


def _verdict(files: Sequence[FileRecord]) -> Verdict:
    states = {file.state for file in files if not is_done(file)}
    if states & {FileState.DEAD}:
        return Verdict.BROKEN
    if states & _TROUBLE:
        return Verdict.TROUBLED
    if states - {FileState.ABANDONED, FileState.REMOVED}:
        return Verdict.IN_PROGRESS
    degraded = any(file.degraded for file in files)
    return Verdict.DEGRADED if degraded or FileState.ABANDONED in states else Verdict.COMPLETE


def _summary(
    record: ExposureRecord, verdict: Verdict, files: Sequence[FileRecord], still_open: int
) -> str:
    sensors = len(record.exposure.sensors)
    parts = []
    for destination, word in (
        (Destination.ARCHIVE, "in the archive"),
        (Destination.OODS, "in the Butler"),
        (Destination.BACKBONE, "in the Data Backbone"),
    ):
        done = sum(
            1
            for file in files
            if file.key.kind is FileKind.RAW and file.destination is destination and is_done(file)
        )
        parts.append(f"{done} of {sensors} {word}")
    text = f"{record.exposure.image}: {verdict} - " + ", ".join(parts)
    bad = sorted(
        {
            file.key.sensor or "whole image"
            for file in files
            if file.state in _TROUBLE or file.state is FileState.DEAD
        }
    )
    if bad:
        text += f"; look at {', '.join(bad[:_NAMED])}"
    if len(bad) > _NAMED:
        text += f" and {len(bad) - _NAMED} more"
    degraded = sum(1 for file in files if file.degraded and file.destination is Destination.ARCHIVE)
    if degraded:
        text += f"; {degraded} files without their full header"
    if still_open and verdict is not Verdict.BROKEN:
        text += f"; {still_open} steps still expected"
    return text
