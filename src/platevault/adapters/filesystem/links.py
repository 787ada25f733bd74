"""Hard links between areas of one file system."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from typing_extensions import override

from platevault.adapters.filesystem.durable import DurableSink, FileLayer, SyncPolicy
from platevault.domain.errors import UsageError
from platevault.ports.image_writer import LinkStore


class FilesystemLinkStore(LinkStore, AbstractAsyncContextManager["FilesystemLinkStore", None]):
    """`LinkStore` on a mounted file system; open it with ``async with``.

    Parameters
    ----------
    sync
        Policy of the file system.
    workers
        Threads for blocking calls.
    files
        System calls to use.

    Notes
    -----
    A call that is cancelled may still take effect; doing it again is success.
    """

    def __init__(
        self,
        *,
        sync: SyncPolicy = SyncPolicy.DURABLE,
        workers: int = 2,
        files: FileLayer | None = None,
    ) -> None:
        self._sink = DurableSink(sync=sync, files=files)
        self._workers = workers
        self._executor: ThreadPoolExecutor | None = None

    @override
    async def __aenter__(self) -> Self:
        self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="links")
        return self

    @override
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)
        self._sink.close()

    @override
    async def link(self, source: Path, target: Path, *, digest: str) -> None:
        work = partial(self._sink.link, source, target, digest=digest)
        await asyncio.get_running_loop().run_in_executor(self._threads(), work)

    @override
    async def digest_of(self, path: Path, *, algorithm: str) -> str | None:
        work = partial(self._sink.digest_of, path, algorithm=algorithm)
        return await asyncio.get_running_loop().run_in_executor(self._threads(), work)

    @override
    async def make_directory(self, path: Path) -> None:
        work = partial(self._sink.make_directory, path)
        await asyncio.get_running_loop().run_in_executor(self._threads(), work)

    def _threads(self) -> ThreadPoolExecutor:
        if self._executor is None:
            raise UsageError("Link store is not open", expected="async with")
        return self._executor
