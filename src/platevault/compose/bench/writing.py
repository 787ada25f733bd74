"""The product's side of a benchmark: writers that stay open between samples."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from platevault.adapters.filesystem.durable import DigestAlgorithm, SyncPolicy
from platevault.adapters.fits.codec import Encoding
from platevault.adapters.fits.codec_choice import choose_codec
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.ports.image_writer import SensorImage, StagedFile

Work = Iterable[tuple[SensorImage, Path]]


class WriterBench:
    """Opens writers once and lets them write many images."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()

    def close(self) -> None:
        """Close the writers and the loop."""
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def writer(
        self,
        *,
        workers: int,
        codec: str = "auto",
        encoding: Encoding = Encoding(),  # noqa: B008 - frozen
        algorithm: DigestAlgorithm = DigestAlgorithm.XXH3,
        sync: SyncPolicy = SyncPolicy.RAMDISK,
    ) -> FitsImageWriter:
        """Open a writer until `close`."""
        writer = FitsImageWriter(
            sync=sync,
            algorithm=algorithm,
            encoding=encoding,
            codec=choose_codec(codec),
            workers=workers,
        )
        self._runner.run(self._stack.enter_async_context(writer))
        return writer

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run something in the writers' loop."""
        self._runner.run(work)

    def write(
        self, writer: FitsImageWriter, work: Work, *, workers: int, remove: bool = False
    ) -> list[StagedFile]:
        """Write images to their final names, ``workers`` at a time; remove each if asked to."""
        return self._runner.run(_write(writer, iter(work), workers, remove=remove))


async def _write(
    writer: FitsImageWriter, work: Iterator[tuple[SensorImage, Path]], workers: int, *, remove: bool
) -> list[StagedFile]:
    done: list[StagedFile] = []

    async def take() -> None:
        for image, path in work:
            staged = await writer.stage_image(image, path)
            await writer.commit([staged])
            if remove:
                await asyncio.to_thread(path.unlink)
            done.append(staged)

    async with asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(take(), name=f"bench-{number}")
    return done


@contextmanager
def emptied(directory: Path) -> Iterator[Callable[[], None]]:
    """Make a directory, give a function that empties it, and remove it at the end."""
    directory.mkdir(parents=True, exist_ok=False)

    def empty() -> None:
        for path in directory.iterdir():
            path.unlink()

    try:
        yield empty
    finally:
        shutil.rmtree(directory)
