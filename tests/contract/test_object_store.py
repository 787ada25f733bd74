from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from typing_extensions import override

from platevault.adapters.filesystem.durable import (
    DigestAlgorithm,
    DurableSink,
    FileLayer,
    Piece,
    SyncPolicy,
)
from platevault.adapters.filesystem.object_store import FilesystemObjectStore
from platevault.ports.object_store import ObjectStore, StoreUnavailableError
from platevault.testing.object_store_contract import KEY, ObjectStoreContract


class TestFilesystemObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        self.root = tmp_path / "annex"
        return FilesystemObjectStore(self.root)

    @override
    async def raw_get(self, key: str) -> bytes | None:
        path = self.root / key
        return path.read_bytes() if path.exists() else None

    @override
    async def raw_put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True)
        path.write_bytes(data)


class FullDisk(FileLayer):
    """Takes no more bytes; or no more names."""

    def __init__(self, *, names: bool = False) -> None:
        self.names = names
        self.full = True

    @override
    def write(self, descriptor: int, pieces: Sequence[Piece]) -> int:
        if self.full and not self.names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(descriptor, pieces)

    @override
    def link(self, source: Path, target: Path) -> None:
        if self.full and self.names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().link(source, target)


@pytest.mark.parametrize("names", [False, True])
async def test_a_full_disk_leaves_nothing_and_is_tried_again(tmp_path: Path, names: bool) -> None:
    disk = FullDisk(names=names)
    objects = FilesystemObjectStore(tmp_path / "annex", files=disk)
    with pytest.raises(StoreUnavailableError):
        await objects.put_if_absent(KEY, b"data")
    assert [path for path in (tmp_path / "annex").rglob("*") if path.is_file()] == []
    disk.full = False
    stored = await objects.put_if_absent(KEY, b"data")
    assert await objects.get(stored.url) == b"data"


async def test_a_file_in_place_of_the_directory_is_no_loss(tmp_path: Path) -> None:
    (tmp_path / "annex").write_bytes(b"in the way")
    objects = FilesystemObjectStore(tmp_path / "annex")
    with pytest.raises(StoreUnavailableError):
        await objects.put_if_absent(KEY, b"data")
    assert (tmp_path / "annex").read_bytes() == b"in the way"


async def test_a_half_written_file_of_a_dead_process_is_no_object(tmp_path: Path) -> None:
    objects = FilesystemObjectStore(tmp_path)
    await objects.put_if_absent(KEY, b"data")
    temporary = (tmp_path / KEY).parent / ".other.yaml.1f-0.tmp"
    temporary.write_bytes(b"half")
    assert await objects.list() == [KEY]
    assert not temporary.exists()


async def test_a_file_that_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    sink = DurableSink(sync=SyncPolicy.DURABLE, algorithm=DigestAlgorithm.MD5)
    staged = sink.stage(tmp_path / KEY, [b"data"])
    assert await FilesystemObjectStore(tmp_path).list() == []
    sink.commit([staged])
    assert await FilesystemObjectStore(tmp_path).list() == [KEY]
