"""What every object store must do; subclass `ObjectStoreContract` in a test."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod

import pytest

from platevault.domain.errors import UsageError
from platevault.ports.object_store import ObjectConflictError, ObjectMissingError, ObjectStore

#: A key of the large file annex.
KEY = "CCHeaderService/header/2025/04/15/CCHeaderService_header_CC_O_20250415_000060.yaml"


class ObjectStoreContract(ABC):
    """Subclass it in a test, give an ``objects`` fixture and the two raw accessors.

    The accessors bypass the store, so that it cannot vouch for itself.
    """

    @abstractmethod
    async def raw_get(self, key: str) -> bytes | None:
        """Read what really stands under a key; ``None`` if nothing does."""

    @abstractmethod
    async def raw_put(self, key: str, data: bytes) -> None:
        """Put something under a key behind the store's back."""

    async def test_an_object_can_be_read_by_its_address(self, objects: ObjectStore) -> None:
        stored = await objects.put_if_absent(KEY, b"header")
        assert await objects.get(stored.url) == b"header"
        assert await self.raw_get(KEY) == b"header"

    async def test_it_tells_size_and_md5_of_the_exact_bytes(self, objects: ObjectStore) -> None:
        data = bytes(range(256)) * 33
        stored = await objects.put_if_absent(KEY, data)
        assert stored.key == KEY
        assert stored.size_bytes == len(data)
        assert stored.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert await objects.stat(KEY) == stored

    async def test_the_same_contents_again_is_success(self, objects: ObjectStore) -> None:
        first = await objects.put_if_absent(KEY, b"same")
        assert await objects.put_if_absent(KEY, b"same") == first

    async def test_other_contents_conflict_and_change_nothing(self, objects: ObjectStore) -> None:
        await objects.put_if_absent(KEY, b"first")
        with pytest.raises(ObjectConflictError):
            await objects.put_if_absent(KEY, b"second")
        assert await self.raw_get(KEY) == b"first"
        assert await objects.list() == [KEY]

    async def test_of_many_writers_of_one_key_one_wins(self, objects: ObjectStore) -> None:
        won: list[bytes] = []

        async def put(data: bytes) -> None:
            try:
                await objects.put_if_absent(KEY, data)
            except ObjectConflictError:
                return
            won.append(data)

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(put(b"%d" % number), name=f"put {number}")
        assert len(won) == 1
        assert await self.raw_get(KEY) == won[0]

    async def test_what_is_not_there_has_no_description(self, objects: ObjectStore) -> None:
        assert await objects.stat(KEY) is None

    async def test_reading_what_was_deleted_is_an_error(self, objects: ObjectStore) -> None:
        stored = await objects.put_if_absent(KEY, b"gone")
        await objects.delete(KEY)
        with pytest.raises(ObjectMissingError):
            await objects.get(stored.url)
        assert await self.raw_get(KEY) is None

    async def test_deleting_what_is_not_there_does_nothing(self, objects: ObjectStore) -> None:
        await objects.put_if_absent(f"{KEY}.json", b"{}")
        await objects.delete(KEY)
        assert await objects.list() == [f"{KEY}.json"]

    async def test_keys_are_listed_by_prefix_and_sorted(self, objects: ObjectStore) -> None:
        for key in ("b/2", "a/1", "b/1", "bc"):
            await objects.put_if_absent(key, b"x")
        assert await objects.list() == ["a/1", "b/1", "b/2", "bc"]
        assert await objects.list("b/") == ["b/1", "b/2"]
        assert await objects.list("b") == ["b/1", "b/2", "bc"]
        assert await objects.list("z") == []

    async def test_an_empty_store_lists_nothing(self, objects: ObjectStore) -> None:
        assert await objects.list() == []

    async def test_an_empty_object_is_an_object(self, objects: ObjectStore) -> None:
        stored = await objects.put_if_absent(KEY, b"")
        assert await objects.get(stored.url) == b""

    async def test_an_indexed_component_is_a_good_key(self, objects: ObjectStore) -> None:
        stored = await objects.put_if_absent("GCHeaderService:101/header/x.yaml", b"indexed")
        assert await objects.get(stored.url) == b"indexed"

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/etc/passwd",
            "../up",
            "a/../../up",
            "a//b",
            "a/",
            ".hidden",
            "a/./b",
            "a\\b",
            "a\0b",
        ],
    )
    async def test_a_key_that_leads_outside_is_refused(
        self, objects: ObjectStore, key: str
    ) -> None:
        for call in (objects.put_if_absent(key, b"evil"), objects.stat(key), objects.delete(key)):
            with pytest.raises(UsageError):
                await call

    async def test_an_address_of_another_place_is_refused(self, objects: ObjectStore) -> None:
        stored = await objects.put_if_absent(KEY, b"mine")
        for url in (
            "file:///etc/passwd",
            "http://elsewhere/x",
            stored.url + "/../../../../../../x",
        ):
            with pytest.raises((UsageError, ObjectMissingError)):
                await objects.get(url)

    async def test_what_somebody_else_put_is_not_overwritten(self, objects: ObjectStore) -> None:
        await self.raw_put(KEY, b"theirs")
        with pytest.raises(ObjectConflictError):
            await objects.put_if_absent(KEY, b"ours")
        assert await self.raw_get(KEY) == b"theirs"
