"""The Butler behind the `Ingest` port: one thread, one Butler, one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from typing_extensions import override

from platevault.adapters.butler.configuration import (
    CataloguedFile,
    Compatibility,
    RepositorySettings,
)
from platevault.domain.camera import Camera
from platevault.domain.errors import UsageError
from platevault.ports.ingest import CatalogueUnavailableError, Ingest, IngestFile, IngestResult

if TYPE_CHECKING:
    from platevault.adapters.butler.catalogue import Catalogue

ResultT = TypeVar("ResultT")
#: Longest wait for the thread when closing [s]; a database that hangs must not hold a process.
CLOSE_WITHIN_S = 10.0


class ButlerIngest(Ingest, AbstractAsyncContextManager["ButlerIngest", None]):
    """`Ingest` into a Butler repository; open it with ``async with``.

    Opening costs nothing: the first call imports lsst-daf-butler (more than a second), makes the
    repository if there is none, and opens it. After a `CatalogueUnavailableError` the next call
    opens it anew.

    Parameters
    ----------
    repository
        Directory of the repository, or its settings in full.
    compatibility
        Whose names to record, when ``repository`` is a directory.

    Notes
    -----
    A call that is cancelled goes on in its thread and may take effect; doing it again is success.
    Calls wait for each other in the order in which they came.
    """

    def __init__(
        self,
        *,
        repository: Path | RepositorySettings,
        compatibility: Compatibility | str = Compatibility.PLATEVAULT,
    ) -> None:
        if isinstance(repository, Path):
            repository = RepositorySettings(
                root=repository, compatibility=Compatibility(compatibility)
            )
        self._settings = repository
        self._turn = asyncio.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._catalogue: Catalogue | None = None

    @override
    async def __aenter__(self) -> Self:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="butler")
        return self

    @override
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        closing = asyncio.get_running_loop().run_in_executor(executor, self._close)
        try:
            await asyncio.wait_for(asyncio.shield(closing), CLOSE_WITHIN_S)
        finally:
            executor.shutdown(wait=closing.done(), cancel_futures=True)

    @override
    async def register_camera(self, camera: Camera) -> None:
        await self._call(lambda catalogue: catalogue.register_camera(camera))

    @override
    async def ingest(
        self, camera: Camera, image: str, files: Sequence[IngestFile]
    ) -> list[IngestResult]:
        return await self._call(lambda catalogue: catalogue.ingest(camera, image, files))

    @override
    async def catalogued(self, camera: Camera, image: str) -> Mapping[str, str]:
        found = await self.datasets(camera, image)
        return {sensor: str(file.path) for sensor, file in found.items()}

    async def datasets(self, camera: Camera, image: str) -> Mapping[str, CataloguedFile]:
        """Tell what the Butler recorded of the files of an image: sensor -> file.

        Raises
        ------
        CatalogueUnavailableError
            Retry.
        """
        return await self._call(lambda catalogue: catalogue.datasets(camera, image))

    async def _call(self, work: Callable[[Catalogue], ResultT]) -> ResultT:
        executor = self._executor
        if executor is None:
            raise UsageError("Butler ingest is not open", expected="async with")
        # The executor's own queue has no bound; callers wait here instead.
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(
                executor, partial(self._work, work)
            )

    def _work(self, work: Callable[[Catalogue], ResultT]) -> ResultT:
        from platevault.adapters.butler.catalogue import Catalogue

        if self._catalogue is None:
            self._catalogue = Catalogue.open(self._settings)
        try:
            return work(self._catalogue)
        except CatalogueUnavailableError:
            self._close()
            raise

    def _close(self) -> None:
        catalogue, self._catalogue = self._catalogue, None
        if catalogue is not None:
            catalogue.close()
