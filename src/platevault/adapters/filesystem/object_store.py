"""Objects as files below one directory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from platevault.adapters.filesystem.durable import (
    DigestAlgorithm,
    DurableSink,
    FileLayer,
    SyncPolicy,
    translated,
)
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.ports.image_writer import FileConflictError
from platevault.ports.object_store import (
    ObjectConflictError,
    ObjectMissingError,
    ObjectStore,
    StoredObject,
    StoreUnavailableError,
)

#: Calls at once; further ones wait.
_CALLS = 4
_KEY = re.compile(r"^[\w.:@+=-][\w.:@+= -]*(/[\w.:@+=-][\w.:@+= -]*)*$", re.ASCII)
_KEY_LIMIT = 512

Keys = list[str]
P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class InvalidKeyError(UsageError):
    """A key or address from outside does not name an object of this store: refuse the input."""


class FilesystemObjectStore(ObjectStore):
    """`ObjectStore` on a mounted file system; addresses are ``file://`` URLs.

    Parameters
    ----------
    root
        Directory of the store; made when the first object comes.
    sync
        Policy of the file system.
    files
        System calls to use.

    Notes
    -----
    An object is written under a temporary name in its own directory, synced, then linked, which
    cannot overwrite; then the directory is synced. What a process that was killed left under such
    a name is removed by the next listing. A call that is cancelled may still take effect;
    doing it again is success.
    """

    def __init__(
        self,
        root: Path,
        *,
        sync: SyncPolicy = SyncPolicy.DURABLE,
        files: FileLayer | None = None,
    ) -> None:
        self._root = root
        self._sink = DurableSink(sync=sync, algorithm=DigestAlgorithm.MD5, files=files)
        self._calls = asyncio.Semaphore(_CALLS)

    @override
    async def put_if_absent(self, key: str, data: bytes) -> StoredObject:
        return await self._run(self._put, key, data)

    @override
    async def get(self, url: str) -> bytes:
        return await self._run(self._get, url)

    @override
    async def stat(self, key: str) -> StoredObject | None:
        return await self._run(self._stat, key)

    @override
    async def list(self, prefix: str = "") -> Keys:
        return await self._run(self._list, prefix)

    @override
    async def delete(self, key: str) -> None:
        await self._run(self._delete, key)

    async def _run(
        self, function: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResultT:
        async with self._calls:
            return await asyncio.to_thread(function, *args, **kwargs)

    def _put(self, key: str, data: bytes) -> StoredObject:
        path = self._path(key)
        try:
            staged = self._sink.stage(path, [data])
            try:
                self._sink.commit([staged])
            except PlatevaultError:
                with suppress(PlatevaultError):  # the first error tells more
                    self._sink.discard([staged])
                raise
        except FileConflictError as error:
            raise ObjectConflictError("Another object has the key", **error.context) from error
        except PlatevaultError as error:
            raise StoreUnavailableError(
                "The store did not take the object", key=key, problem=str(error)
            ) from error
        return self._described(key, path, data)

    def _get(self, url: str) -> bytes:
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        root = self._root.absolute()
        if parts.scheme != "file" or parts.netloc or not path.is_relative_to(root):
            raise InvalidKeyError("Address is not of this store", url=url, expected=root.as_uri())
        return self._read(self._path(path.relative_to(root).as_posix()))

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectMissingError("There is no such object", path=str(path)) from error
        except OSError as error:
            raise StoreUnavailableError(
                "The store cannot be read", path=str(path), problem=str(translated(error, path))
            ) from error

    def _stat(self, key: str) -> StoredObject | None:
        path = self._path(key)
        try:
            return self._described(key, path, self._read(path))
        except ObjectMissingError:
            return None

    def _list(self, prefix: str) -> Keys:
        keys = []
        try:
            for directory, _, names in os.walk(self._root, onerror=_raise):
                if any(name.startswith(".") for name in names):
                    self._sink.sweep(Path(directory), keep={})
                below = Path(directory).relative_to(self._root)
                keys += [(below / name).as_posix() for name in names if not name.startswith(".")]
        except FileNotFoundError:
            return []
        except (OSError, PlatevaultError) as error:
            raise StoreUnavailableError(
                "The store cannot be listed", path=str(self._root), problem=str(error)
            ) from error
        return sorted(key for key in keys if key.startswith(prefix))

    def _delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise StoreUnavailableError(
                "The object cannot be removed", key=key, problem=str(error)
            ) from error

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if len(key) > _KEY_LIMIT or not _KEY.match(key) or any(p.startswith(".") for p in parts):
            raise InvalidKeyError("Not a key of an object", key=key, expected="name/name/name.ext")
        return self._root.absolute().joinpath(*parts)

    @staticmethod
    def _described(key: str, path: Path, data: bytes) -> StoredObject:
        return StoredObject(
            key=key,
            url=path.as_uri(),
            size_bytes=len(data),
            md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        )


def _raise(error: OSError) -> None:
    raise error
