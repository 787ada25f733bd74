"""Files that are durable before they have their name.

A file is written under ``.<final name>.<unique>.tmp`` in the directory of its final name, synced,
and then hard-linked, which cannot overwrite. While a temporary file belongs to a living process
its descriptor stays open with a lock on it; the kernel drops the lock with the process, so
`DurableSink.sweep` can tell what a dead process left behind from what another one is writing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import xxhash

from platevault.domain.errors import PermanentError, PlatevaultError, TransientError, UsageError
from platevault.domain.headers import Card
from platevault.ports.image_writer import (
    DirectoryUnwritableError,
    DiskFullError,
    FileConflictError,
    StagedFile,
)

#: Pieces of one vectored write; IOV_MAX of Linux.
_VECTOR_LIMIT = 1024
#: Bytes hashed and then written while they are still in cache [byte].
_BATCH_BYTES = 1 << 20
#: Files from this size on get their space before they are written [byte].
_PREALLOCATE_FROM = 1 << 20
_READ_BYTES = 1 << 20
_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]+-[0-9a-f]+\.tmp$")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})

Piece = bytes | bytearray | memoryview


class StagedFileMissingError(PermanentError):
    """Neither the temporary nor the final name is there: stage the file again."""


class StorageError(TransientError):
    """The file system refused an operation for another reason: retry, then call an operator."""


class SyncPolicy(StrEnum):
    """When written bytes must have left the page cache."""

    DURABLE = "durable"
    """Data and directories are synced before a call returns."""
    RAMDISK = "ramdisk"
    """Nothing is synced: the destination does not outlive a power cut anyway."""


class DigestAlgorithm(StrEnum):
    """What stands before the colon of a digest."""

    XXH3 = "xxh3"
    """XXH3, 128 bits: finds accidents, not attacks; 20 GB/s."""
    SHA256 = "sha256"
    """For sites that must prove what they hold; about 1.7 GB/s."""
    MD5 = "md5"
    """What object stores and the Butler record."""


class Digest(Protocol):
    """A digest in the making."""

    def update(self, data: Piece, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Give the digest of what was added."""


def new_digest(algorithm: str) -> Digest:
    """Begin a digest; `UsageError` if the algorithm is none of `DigestAlgorithm`."""
    match algorithm:
        case DigestAlgorithm.XXH3:
            made: Digest = xxhash.xxh3_128()
        case DigestAlgorithm.SHA256:
            made = hashlib.sha256()
        case DigestAlgorithm.MD5:
            made = hashlib.md5(usedforsecurity=False)
        case _:
            raise UsageError("Unknown digest", value=algorithm, expected=list(DigestAlgorithm))
    return made


class FileLayer:
    """The system calls that a durable file needs; tests put faults between them."""

    def create(self, path: Path) -> int:
        """Open a new file for writing; ``FileExistsError`` if there is one."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)

    def preallocate(self, descriptor: int, size_bytes: int) -> None:
        """Reserve space, so that a full disk is known before the first byte."""
        os.posix_fallocate(descriptor, 0, size_bytes)

    def write(self, descriptor: int, pieces: Sequence[Piece]) -> int:
        """Append pieces; return how many bytes were taken."""
        return os.writev(descriptor, pieces)

    def sync(self, descriptor: int) -> None:
        """Return when the file's data and size are on stable storage."""
        os.fdatasync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a further name; ``FileExistsError`` if that is taken."""
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def make_directory(self, path: Path) -> None:
        """Make one directory; ``FileExistsError`` if it is there."""
        path.mkdir()

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory are on stable storage."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def translated(error: OSError, path: Path) -> PlatevaultError:
    """Turn an error of the file system into the class that says who acts."""
    facts = {"path": str(path), "reason": error.strerror or str(error)}
    if error.errno in _FULL:
        return DiskFullError("No space is left", **facts)
    if error.errno in _UNWRITABLE:
        return DirectoryUnwritableError("Directory cannot be written", **facts)
    return StorageError("File system operation failed", **facts)


class DurableSink:
    """Writes, names, links and digests files; every method blocks and is thread-safe.

    Parameters
    ----------
    sync
        Policy of the destination.
    algorithm
        Digest taken while writing.
    files
        System calls to use.
    """

    def __init__(
        self,
        *,
        sync: SyncPolicy = SyncPolicy.DURABLE,
        algorithm: DigestAlgorithm = DigestAlgorithm.XXH3,
        files: FileLayer | None = None,
    ) -> None:
        self._sync = sync
        self._algorithm = algorithm
        self._files = files if files is not None else FileLayer()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._open: dict[Path, int] = {}

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Digest taken while writing."""
        return self._algorithm

    def stage(
        self, final: Path, pieces: Iterable[Piece], *, primary: Sequence[Card] = ()
    ) -> StagedFile:
        """Write and sync pieces under a temporary name beside ``final``.

        Missing directories are made.

        Parameters
        ----------
        final
            Name the file is to get.
        pieces
            Contents in order; not copied.
        primary
            Carried into the answer.

        Raises
        ------
        DiskFullError, DirectoryUnwritableError, StorageError
            Nothing is left behind.
        """
        views = [view for view in map(_as_bytes, pieces) if view.nbytes]
        size_bytes = sum(view.nbytes for view in views)
        try:
            temporary, descriptor = self._create(final)
        except OSError as error:
            raise translated(error, final) from error
        try:
            digest = self._fill(descriptor, views, size_bytes)
        except BaseException as error:
            self._release(temporary)
            with suppress(PlatevaultError):  # the first error tells more
                self._remove(temporary)
            if isinstance(error, OSError):
                raise translated(error, final) from error
            raise
        return StagedFile(temporary, final, size_bytes, digest, primary)

    def commit(self, staged: Sequence[StagedFile]) -> None:
        """Give files their final names in order, without overwriting; doing it again is success.

        Stops at the first that fails; those before it are named and durable.

        Raises
        ------
        FileConflictError
            A final name holds other contents; that file keeps its temporary name.
        StagedFileMissingError
            Neither name is there. Stage again.
        DiskFullError, DirectoryUnwritableError, StorageError
            The directory took no further name. Retry when it is mended.
        """
        directories: dict[Path, None] = {}
        named: list[StagedFile] = []
        try:
            for file in staged:
                self._name(file)
                directories[file.final.parent] = None
                named.append(file)
        finally:
            for directory in directories:
                self._sync_directory(directory)
        for file in named:
            self._remove(file.temporary)
            self._release(file.temporary)

    def discard(self, staged: Iterable[StagedFile]) -> None:
        """Remove temporary names; nothing happens to those that are gone."""
        for file in staged:
            self._remove(file.temporary)
            self._release(file.temporary)

    def sweep(self, directory: Path, *, keep: Mapping[Path, str]) -> list[Path]:
        """Remove temporary files that no living process holds, but those in ``keep``.

        Returns
        -------
        list of Path
            What was removed, sorted; empty if there is no such directory.
        """
        removed = []
        try:
            names = sorted(entry.name for entry in os.scandir(directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise translated(error, directory) from error
        for name in names:
            path = directory / name
            if _TEMPORARY.match(name) and path not in keep and not self._is_held(path):
                self._remove(path)
                removed.append(path)
        return removed

    def link(self, source: Path, target: Path, *, digest: str) -> None:
        """Link ``source`` as ``target``, make its directories, sync them, verify the digest.

        Raises
        ------
        FileConflictError
            ``source`` or ``target`` does not have the digest. Nothing was changed.
        StagedFileMissingError
            There is no ``source``.
        DiskFullError, DirectoryUnwritableError, StorageError
            Nothing was linked.
        """
        algorithm = digest.partition(":")[0]
        found = self.digest_of(source, algorithm=algorithm)
        if found is None:
            raise StagedFileMissingError("Source of a link is missing", path=str(source))
        if found != digest:
            raise FileConflictError(
                "Contents disagree with their digest",
                path=str(source),
                value=found,
                expected=digest,
            )
        self.make_directory(target.parent)
        try:
            self._files.link(source, target)
        except FileExistsError:
            self._require_same(target, digest)
        except OSError as error:
            raise translated(error, target) from error
        self._sync_directory(target.parent)

    def digest_of(self, path: Path, *, algorithm: str) -> str | None:
        """Compute ``<algorithm>:<hex>`` of a file; ``None`` if there is none."""
        digest = new_digest(algorithm)
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        try:
            with path.open("rb", buffering=0) as stream:
                while count := stream.readinto(view):
                    digest.update(view[:count])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translated(error, path) from error
        return f"{algorithm}:{digest.hexdigest()}"

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents, durably."""
        try:
            self._make_directory(path)
        except OSError as error:
            raise translated(error, path) from error

    def close(self) -> None:
        """Let go of staged files that were neither committed nor discarded; they stay on disk."""
        with self._lock:
            descriptors = list(self._open.values())
            self._open.clear()
        for descriptor in descriptors:
            self._files.close(descriptor)

    def _create(self, final: Path) -> tuple[Path, int]:
        made = False
        while True:
            unique = f"{os.getpid():x}-{next(self._numbers):x}"
            temporary = final.parent / f".{final.name}.{unique}.tmp"
            try:
                descriptor = self._files.create(temporary)
            except FileExistsError:
                continue
            except FileNotFoundError:
                if made:
                    raise
                made = True
                self._make_directory(final.parent)
                continue
            with self._lock:
                self._open[temporary] = descriptor
            with suppress(OSError):  # a file system without locks cannot be swept across processes
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return temporary, descriptor

    def _fill(self, descriptor: int, views: list[memoryview], size_bytes: int) -> str:
        digest = new_digest(self._algorithm)
        if self._sync is SyncPolicy.DURABLE and size_bytes >= _PREALLOCATE_FROM:
            try:
                self._files.preallocate(descriptor, size_bytes)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                    raise
        for batch in _batches(views):
            for view in batch:
                digest.update(view)
            self._write(descriptor, batch)
        if self._sync is SyncPolicy.DURABLE:
            self._files.sync(descriptor)
        return f"{self._algorithm}:{digest.hexdigest()}"

    def _write(self, descriptor: int, batch: list[memoryview]) -> None:
        while batch:
            written = self._files.write(descriptor, batch)
            while batch and written >= batch[0].nbytes:
                written -= batch[0].nbytes
                batch.pop(0)
            if written:
                batch[0] = batch[0][written:]

    def _name(self, file: StagedFile) -> None:
        try:
            self._files.link(file.temporary, file.final)
        except FileExistsError:
            self._require_same(file.final, file.digest)
        except FileNotFoundError as error:
            found = self.digest_of(file.final, algorithm=file.digest.partition(":")[0])
            if found is None:
                raise StagedFileMissingError(
                    "Staged file is missing", path=str(file.temporary)
                ) from error
            self._require_same(file.final, file.digest)
        except OSError as error:
            raise translated(error, file.final) from error

    def _require_same(self, path: Path, digest: str) -> None:
        found = self.digest_of(path, algorithm=digest.partition(":")[0])
        if found != digest:
            raise FileConflictError(
                "Another file has the name", path=str(path), value=found, expected=digest
            )

    def _is_held(self, path: Path) -> bool:
        with self._lock:
            if path in self._open:
                return True
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        else:
            return False
        finally:
            os.close(descriptor)

    def _make_directory(self, path: Path) -> None:
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            with suppress(FileExistsError):
                self._files.make_directory(directory)
            if self._sync is SyncPolicy.DURABLE:
                self._files.sync_directory(directory.parent)

    def _sync_directory(self, path: Path) -> None:
        if self._sync is SyncPolicy.DURABLE:
            try:
                self._files.sync_directory(path)
            except OSError as error:
                raise translated(error, path) from error

    def _remove(self, path: Path) -> None:
        try:
            self._files.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise translated(error, path) from error

    def _release(self, path: Path) -> None:
        with self._lock:
            descriptor = self._open.pop(path, None)
        if descriptor is not None:
            self._files.close(descriptor)


def _as_bytes(piece: Piece) -> memoryview:
    view = memoryview(piece)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _batches(views: list[memoryview]) -> Iterable[list[memoryview]]:
    """Cut and group pieces, so that each batch is hashed and written while in cache."""
    batch: list[memoryview] = []
    room = _BATCH_BYTES
    for whole in views:
        view = whole
        while view.nbytes:
            part = view[:room]
            batch.append(part)
            view = view[part.nbytes :]
            room -= part.nbytes
            if not room or len(batch) == _VECTOR_LIMIT:
                yield batch
                batch, room = [], _BATCH_BYTES
    if batch:
        yield batch
