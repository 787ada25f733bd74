"""The Butler: register, ingest, ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from platevault.domain.camera import Camera
from platevault.domain.errors import PermanentError, TransientError


class CatalogueUnavailableError(TransientError):
    """The registry does not answer or is busy: retry; nothing was written."""


class BadFileError(PermanentError):
    """A file cannot be catalogued (unreadable, wrong metadata): set it aside, go on."""


@dataclass(frozen=True, slots=True)
class IngestFile:
    """One file to be catalogued in place.

    Attributes
    ----------
    path
        Where it is, below the OODS area.
    sensor
        ``R22_S01``.
    sidecar
        Its sidecar; metadata are read from it if it is there.
    """

    path: Path
    sensor: str
    sidecar: Path | None = None


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of a file.

    Attributes
    ----------
    sensor
        ``R22_S01``.
    dataset_id
        UUID in the Butler; empty if it was not catalogued.
    problem
        Why it was not; empty if it was.
    bad_metadata
        The problem is what its header says, not the file.
    """

    sensor: str
    dataset_id: str = ""
    problem: str = ""
    bad_metadata: bool = False


class Ingest(Protocol):
    """A catalogue of raw images."""

    async def register_camera(self, camera: Camera) -> None:
        """Register instrument, detectors and filters; again is success."""

    async def ingest(
        self, camera: Camera, image: str, files: Sequence[IngestFile]
    ) -> list[IngestResult]:
        """Catalogue files of one exposure in one batch, with exposure and visit records.

        A bad file does not stop the others: each file has its result. Again is success.

        Raises
        ------
        CatalogueUnavailableError
            Nothing was written. Retry.
        """

    async def catalogued(self, camera: Camera, image: str) -> Mapping[str, str]:
        """Tell which sensors of an image are in the catalogue: sensor -> path."""
