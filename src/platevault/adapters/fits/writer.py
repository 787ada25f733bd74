"""The image writer: words and cards in, durable raw file and digest out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import structlog
from typing_extensions import override

from platevault.adapters.filesystem.durable import (
    DigestAlgorithm,
    DurableSink,
    FileLayer,
    Piece,
    SyncPolicy,
)
from platevault.adapters.fits.buffers import BufferPool
from platevault.adapters.fits.cards import BLOCK_BYTES
from platevault.adapters.fits.codec import Codec, DetectorData, Encoding
from platevault.adapters.fits.codec_choice import choose_codec
from platevault.adapters.fits.headers import CardFormatter, primary_header, segment_header
from platevault.adapters.fits.stripes import DetectorWords, locate_words
from platevault.domain.errors import UsageError
from platevault.domain.headers import Card
from platevault.domain.wire import MalformedPixelsError
from platevault.ports.image_writer import ImageWriter, SensorImage, StagedFile

_log = structlog.get_logger(__name__)
ResultT = TypeVar("ResultT")
_PADDING = bytes(BLOCK_BYTES)


class FitsImageWriter(ImageWriter, AbstractAsyncContextManager["FitsImageWriter", None]):
    """`ImageWriter` of FITS raw files; open it with ``async with``.

    Parameters
    ----------
    sync
        Policy of the destination.
    algorithm
        Digest taken while writing.
    encoding
        Form of the pixels in the files.
    codec
        What encodes them; the fastest there is if not given.
    word_bits
        Refuse counts of more bits; ``None`` takes all.
    workers
        Threads, one sensor each; the number of cores if not given.
    files
        System calls to use.

    Notes
    -----
    A staging call that is cancelled goes on in its thread; what it made is removed there. Nothing
    is retried here.
    """

    def __init__(
        self,
        *,
        sync: SyncPolicy = SyncPolicy.DURABLE,
        algorithm: DigestAlgorithm = DigestAlgorithm.XXH3,
        encoding: Encoding = Encoding(),  # noqa: B008 - frozen
        codec: Codec | None = None,
        word_bits: int | None = None,
        workers: int | None = None,
        files: FileLayer | None = None,
    ) -> None:
        self._sink = DurableSink(sync=sync, algorithm=algorithm, files=files)
        self._encoding = encoding
        self._codec = codec
        self._word_bits = word_bits
        self._workers = workers
        self._formatter = CardFormatter()
        self._open: _Workshop | None = None

    @override
    async def __aenter__(self) -> Self:
        workers = self._workers or len(os.sched_getaffinity(0))
        self._open = _Workshop(
            threads=ThreadPoolExecutor(workers, thread_name_prefix="image-writer"),
            buffers=BufferPool(count=workers),
            codec=self._codec if self._codec is not None else await asyncio.to_thread(choose_codec),
        )
        info = self._open.codec.info
        _log.info("Pixel codec at work", codec=info.name, codec_level=info.level, workers=workers)
        return self

    @override
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        workshop, self._open = self._open, None
        if workshop is not None:
            await asyncio.to_thread(workshop.threads.shutdown)
        self._sink.close()

    @override
    async def stage_image(self, image: SensorImage, final: Path) -> StagedFile:
        return await self._staged(partial(self._stage_image, self._workshop(), image, final))

    @override
    async def stage_bytes(self, data: bytes, final: Path) -> StagedFile:
        return await self._staged(partial(self._sink.stage, final, [data]))

    @override
    async def commit(self, staged: Sequence[StagedFile]) -> None:
        await self._in_thread(partial(self._sink.commit, staged))

    @override
    async def discard(self, staged: Sequence[StagedFile]) -> None:
        await self._in_thread(partial(self._sink.discard, staged))

    @override
    async def sweep(self, directory: Path, *, keep: Mapping[Path, str]) -> list[Path]:
        return await self._in_thread(partial(self._sink.sweep, directory, keep=keep))

    async def _staged(self, work: Callable[[], StagedFile]) -> StagedFile:
        working = self._workshop().threads.submit(work)
        try:
            return await asyncio.wrap_future(working)
        except asyncio.CancelledError:
            working.add_done_callback(self._discard_late)
            raise

    def _discard_late(self, working: Future[StagedFile]) -> None:
        """Remove, in its thread, what nobody waits for any more."""
        if not working.cancelled() and working.exception() is None:
            self._sink.discard([working.result()])

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._workshop().threads, work)

    def _workshop(self) -> _Workshop:
        if self._open is None:
            raise UsageError("Image writer is not open", expected="async with")
        return self._open

    def _stage_image(self, workshop: _Workshop, image: SensorImage, final: Path) -> StagedFile:
        try:
            words = locate_words(image)
            with workshop.buffers.lease(
                workshop.codec.buffer_bytes(words, self._encoding)
            ) as buffer:
                encoded = workshop.codec.encode(words, self._encoding, buffer)
                self._check_width(encoded)
                pieces, primary = self._assemble(image, words, encoded)
                return self._sink.stage(final, pieces, primary=primary)
        except MalformedPixelsError as error:
            raise MalformedPixelsError(error.message, file=final.name, **error.context) from error

    def _check_width(self, encoded: DetectorData) -> None:
        if self._word_bits is not None and encoded.used_bits >> self._word_bits:
            raise MalformedPixelsError(
                "Words are wider than the converter",
                value=f"{encoded.used_bits:#x}",
                expected=f"{self._word_bits} bits",
            )

    def _assemble(
        self, image: SensorImage, words: DetectorWords, encoded: DetectorData
    ) -> tuple[list[Piece], list[Card]]:
        kind = image.detector_type.name
        header, primary = primary_header(
            self._formatter.format(image.primary, detector_type=kind, hdu=0)
        )
        pieces: list[Piece] = [header.data]
        for hdu, (cards, segment) in enumerate(
            zip(image.segments, encoded.segments, strict=True), start=1
        ):
            extension = segment_header(
                self._formatter.format(cards, detector_type=kind, hdu=hdu),
                segment,
                columns=words.columns,
                rows=words.rows,
                encoding=self._encoding,
            )
            padding = _PADDING[: -segment.data.nbytes % BLOCK_BYTES]
            pieces += [extension.data, segment.data, padding]
        return pieces, primary


@dataclass(frozen=True, slots=True)
class _Workshop:
    """What an open writer works with."""

    threads: ThreadPoolExecutor
    buffers: BufferPool
    codec: Codec
