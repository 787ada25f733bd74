"""Pixels and header in, durable file and digest out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from platevault.domain.camera import DetectorType
from platevault.domain.errors import IntegrityError, PermanentError, TransientError
from platevault.domain.headers import Card
from platevault.domain.wire import BoardPixels


class DiskFullError(TransientError):
    """No space is left: nothing has a final name; pause, alarm, retry when there is space."""


class DirectoryUnwritableError(PermanentError):
    """The directory is read-only or forbidden: nothing was written; an operator must mend it."""


class FileConflictError(IntegrityError):
    """Another file has the final name: nothing was overwritten; keep both, tell a person."""


@dataclass(frozen=True, slots=True)
class SensorImage:
    """What one raw file is made of.

    Attributes
    ----------
    pixels
        Words of the sensor's board.
    group
        Which detector of the board, counted in stripe order.
    detector_type
        Amplifiers, mask and geometry.
    primary
        Cards of HDU 0 without structure (SIMPLE ... EXTEND) and checksums.
    segments
        Cards of each amplifier's HDU in HDU order, without structure and checksums.
    """

    pixels: BoardPixels
    group: int
    detector_type: DetectorType
    primary: Sequence[Card]
    segments: Sequence[Sequence[Card]]


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A complete, synced file that has a temporary name only.

    Attributes
    ----------
    temporary, final
        Names in the same directory.
    size_bytes, digest
        Of the contents; ``digest`` is ``<algorithm>:<hex>``.
    primary
        The cards of HDU 0 as written, checksums included, for the sidecar; empty for other files.
    """

    temporary: Path
    final: Path
    size_bytes: int
    digest: str
    primary: Sequence[Card] = ()


class ImageWriter(Protocol):
    """Writes files in two steps, so that the digest is recorded before a file has its name."""

    async def stage_image(self, image: SensorImage, final: Path) -> StagedFile:
        """Write and sync a raw image under a temporary name beside ``final``.

        The same input gives the same bytes.

        Raises
        ------
        MalformedPixelsError
            Too few words, or geometry that does not fit. Nothing is left behind.
        DiskFullError, DirectoryUnwritableError
            Nothing is left behind.
        """

    async def stage_bytes(self, data: bytes, final: Path) -> StagedFile:
        """Write and sync a small file (sidecar, manifest) under a temporary name."""

    async def commit(self, staged: Sequence[StagedFile]) -> None:
        """Give files their final names without overwriting, and sync the directory.

        A final name that already holds the same digest is success.

        Raises
        ------
        FileConflictError
            A final name holds other contents. That file keeps its temporary name.
        """

    async def discard(self, staged: Sequence[StagedFile]) -> None:
        """Remove temporary names; nothing happens to those that are gone."""

    async def sweep(self, directory: Path, *, keep: Mapping[Path, str]) -> list[Path]:
        """Remove temporary files of former runs from a directory, but those in ``keep``."""


class LinkStore(Protocol):
    """Places files of one file system in further areas, by hard link."""

    async def link(self, source: Path, target: Path, *, digest: str) -> None:
        """Link ``source`` as ``target``, make its directories, sync them, verify the digest.

        The same contents under ``target`` is success.

        Raises
        ------
        FileConflictError
            ``target`` holds other contents. Nothing was changed.
        DiskFullError, DirectoryUnwritableError
            Nothing was linked.
        """

    async def digest_of(self, path: Path, *, algorithm: str) -> str | None:
        """Compute ``<algorithm>:<hex>`` of a file; ``None`` if there is none."""

    async def make_directory(self, path: Path) -> None:
        """Make a directory and its parents, durably."""
