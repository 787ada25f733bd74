"""Durable files under a full disk, short writes, lost page cache and foreign processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typing_extensions import override

from platevault.adapters.filesystem.durable import (
    DurableSink,
    FileLayer,
    Piece,
    StagedFileMissingError,
    StorageError,
    SyncPolicy,
)
from platevault.adapters.filesystem.links import FilesystemLinkStore
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.ports.image_writer import (
    DirectoryUnwritableError,
    DiskFullError,
    FileConflictError,
    StagedFile,
)
from platevault.testing.image_writer_contract import digest_by_hand, names_in


class FullDisk(FileLayer):
    """Takes ``room_bytes``, then says that the disk is full."""

    def __init__(self, room_bytes: int, code: int = errno.ENOSPC) -> None:
        self._room = room_bytes
        self._code = code

    @override
    def preallocate(self, descriptor: int, size_bytes: int) -> None:
        """Let the write find out."""

    @override
    def write(self, descriptor: int, pieces: Sequence[Piece]) -> int:
        if not self._room:
            raise OSError(self._code, os.strerror(self._code))
        taken = super().write(descriptor, [memoryview(b"".join(pieces))[: self._room]])
        self._room -= taken
        return taken


class ShortWrites(FileLayer):
    """Takes seven bytes at a time."""

    @override
    def write(self, descriptor: int, pieces: Sequence[Piece]) -> int:
        return super().write(descriptor, [memoryview(b"".join(pieces))[:7]])


class Refusing(FileLayer):
    """Refuses one kind of call."""

    def __init__(self, call: str, code: int) -> None:
        self._call = call
        self._code = code

    def _refuse(self, call: str) -> None:
        if call == self._call:
            raise OSError(self._code, os.strerror(self._code))

    @override
    def create(self, path: Path) -> int:
        self._refuse("create")
        return super().create(path)

    @override
    def preallocate(self, descriptor: int, size_bytes: int) -> None:
        self._refuse("preallocate")
        super().preallocate(descriptor, size_bytes)

    @override
    def sync(self, descriptor: int) -> None:
        self._refuse("sync")
        super().sync(descriptor)

    @override
    def link(self, source: Path, target: Path) -> None:
        self._refuse("link")
        super().link(source, target)


class PowerCut(FileLayer):
    """Remembers what was synced, so that a test can lose the rest."""

    def __init__(self) -> None:
        self._written: dict[int, bytes] = {}
        self._contents: dict[int, bytes] = {}
        self._inodes: dict[Path, int] = {}
        self._durable_names: dict[Path, int] = {}

    @override
    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._inodes[path] = descriptor
        self._written[descriptor] = b""
        return descriptor

    @override
    def write(self, descriptor: int, pieces: Sequence[Piece]) -> int:
        self._written[descriptor] += b"".join(pieces)
        return super().write(descriptor, pieces)

    @override
    def sync(self, descriptor: int) -> None:
        self._contents[descriptor] = self._written[descriptor]

    @override
    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self._inodes[target] = self._inodes[source]

    @override
    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._inodes.pop(path, None)

    @override
    def sync_directory(self, path: Path) -> None:
        for name in [name for name in self._durable_names if name.parent == path]:
            del self._durable_names[name]
        self._durable_names |= {
            name: inode for name, inode in self._inodes.items() if name.parent == path
        }

    def after_the_cut(self) -> dict[str, bytes]:
        """Give the names and contents that survive."""
        return {
            name.name: self._contents.get(inode, b"") for name, inode in self._durable_names.items()
        }


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("room_bytes", [0, 1, 2_999_999])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, room_bytes: int, code: int) -> None:
    sink = DurableSink(files=FullDisk(room_bytes, code))
    with pytest.raises(DiskFullError, match=r"a\.fits"):
        sink.stage(tmp_path / "a.fits", [bytes(1_500_000), b"x" * 1_500_000])
    assert names_in(tmp_path) == []


def test_space_is_asked_for_before_the_first_byte(tmp_path: Path) -> None:
    sink = DurableSink(files=Refusing("preallocate", errno.ENOSPC))
    with pytest.raises(DiskFullError):
        sink.stage(tmp_path / "a.fits", [bytes(2_000_000)])
    assert names_in(tmp_path) == []


def test_a_file_system_that_cannot_reserve_space_is_no_error(tmp_path: Path) -> None:
    sink = DurableSink(files=Refusing("preallocate", errno.EOPNOTSUPP))
    sink.discard([sink.stage(tmp_path / "a.fits", [bytes(2_000_000)])])


@pytest.mark.parametrize(
    ("call", "code", "expected"),
    [
        ("create", errno.EROFS, DirectoryUnwritableError),
        ("create", errno.EACCES, DirectoryUnwritableError),
        ("create", errno.ENOSPC, DiskFullError),
        ("sync", errno.EIO, StorageError),
        ("sync", errno.ENOSPC, DiskFullError),
    ],
)
def test_each_failure_names_who_acts_and_leaves_nothing(
    tmp_path: Path, call: str, code: int, expected: type[PlatevaultError]
) -> None:
    sink = DurableSink(files=Refusing(call, code))
    with pytest.raises(expected):
        sink.stage(tmp_path / "a.json", [b"one"])
    assert names_in(tmp_path) == []


def test_a_failed_link_keeps_the_staged_file(tmp_path: Path) -> None:
    sink = DurableSink(files=Refusing("link", errno.ENOSPC))
    staged = sink.stage(tmp_path / "a.json", [b"one"])
    with pytest.raises(DiskFullError):
        sink.commit([staged])
    assert names_in(tmp_path) == [staged.temporary.name]
    sink.discard([staged])


def test_short_writes_lose_nothing(tmp_path: Path) -> None:
    data: list[Piece] = [bytes(range(256)), b"", memoryview(b"abc" * 100), bytearray(b"z")]
    sink = DurableSink(files=ShortWrites())
    staged = sink.stage(tmp_path / "a", data)
    assert staged.temporary.read_bytes() == b"".join(data)
    assert staged.digest == digest_by_hand(staged.temporary, staged.digest)
    sink.discard([staged])


def test_more_pieces_than_one_vectored_write_takes_are_written_in_order(tmp_path: Path) -> None:
    pieces = [number.to_bytes(2, "big") for number in range(5000)]
    sink = DurableSink()
    staged = sink.stage(tmp_path / "a", pieces)
    assert staged.temporary.read_bytes() == b"".join(pieces)
    sink.discard([staged])


def test_a_committed_file_survives_a_power_cut(tmp_path: Path) -> None:
    layer = PowerCut()
    sink = DurableSink(files=layer)
    staged = sink.stage(tmp_path / "a.fits", [b"pixels"])
    assert layer.after_the_cut() == {}
    sink.commit([staged])
    assert layer.after_the_cut()["a.fits"] == b"pixels"


def test_a_ramdisk_is_never_synced(tmp_path: Path) -> None:
    layer = PowerCut()
    sink = DurableSink(files=layer, sync=SyncPolicy.RAMDISK)
    sink.commit([sink.stage(tmp_path / "a.fits", [b"pixels"])])
    assert layer.after_the_cut() == {}


def test_commit_stops_at_the_first_conflict_and_keeps_order(tmp_path: Path) -> None:
    sink = DurableSink()
    (tmp_path / "b").write_bytes(b"other")
    staged = [sink.stage(tmp_path / name, [name.encode()]) for name in ("a", "b", "c")]
    with pytest.raises(FileConflictError):
        sink.commit(staged)
    assert not (tmp_path / "c").exists()
    assert (tmp_path / "a").read_bytes() == b"a"
    sink.discard(staged)
    assert names_in(tmp_path) == ["a", "b"]


def test_a_lost_staged_file_is_told(tmp_path: Path) -> None:
    sink = DurableSink()
    lost = StagedFile(tmp_path / ".a.1-1.tmp", tmp_path / "a", 1, "xxh3:00")
    with pytest.raises(StagedFileMissingError):
        sink.commit([lost])


def test_a_file_staged_by_a_dead_process_can_be_committed(tmp_path: Path) -> None:
    first = DurableSink()
    staged = first.stage(tmp_path / "a", [b"one"])
    first.close()
    DurableSink().commit([staged])
    assert (tmp_path / "a").read_bytes() == b"one"


def test_missing_directories_are_made(tmp_path: Path) -> None:
    sink = DurableSink()
    sink.commit([sink.stage(tmp_path / "x" / "y" / "a", [b"one"])])
    assert (tmp_path / "x" / "y" / "a").read_bytes() == b"one"


_OTHER_PROCESS = """
import sys
from pathlib import Path
from platevault.adapters.filesystem.durable import DurableSink
sink = DurableSink()
print(sink.stage(Path(sys.argv[1]) / "a", [b"one"]).temporary, flush=True)
sys.stdin.read()
"""


def test_sweep_spares_a_living_process_and_takes_what_a_killed_one_left(tmp_path: Path) -> None:
    sink = DurableSink()
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        temporary = Path(other.stdout.readline().strip())
        assert sink.sweep(tmp_path, keep={}) == []
        other.kill()
    assert sink.sweep(tmp_path, keep={}) == [temporary]
    assert names_in(tmp_path) == []


def test_an_unknown_digest_is_a_bug(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    with pytest.raises(UsageError, match="crc"):
        DurableSink().digest_of(tmp_path / "a", algorithm="crc")


async def test_a_link_is_the_same_file_and_linking_again_is_success(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"one")
    target = tmp_path / "oods" / "day" / "a"
    async with FilesystemLinkStore() as links:
        digest = await links.digest_of(source, algorithm="xxh3")
        assert digest == digest_by_hand(source, "xxh3:")
        await links.link(source, target, digest=digest)
        await links.link(source, target, digest=digest)
        assert await links.digest_of(tmp_path / "none", algorithm="xxh3") is None
    assert source.stat().st_ino == target.stat().st_ino


async def test_a_link_over_other_contents_or_of_changed_contents_is_refused(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"one")
    target.write_bytes(b"two")
    async with FilesystemLinkStore() as links:
        digest = await links.digest_of(source, algorithm="sha256")
        assert digest is not None
        with pytest.raises(FileConflictError, match="Another file"):
            await links.link(source, target, digest=digest)
        source.write_bytes(b"spoilt")
        with pytest.raises(FileConflictError, match="disagree"):
            await links.link(source, tmp_path / "c", digest=digest)
    assert target.read_bytes() == b"two"
    assert names_in(tmp_path) == ["a", "b"]
