"""One detector's file: this path, its levels and fallbacks, and its peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from platevault.adapters.fits.codec import Encoding
from platevault.adapters.fits.codec_choice import CodecName, CodecUnavailableError, choose_codec
from platevault.adapters.fits.peers import (
    compress_with_fpack,
    has_fpack,
    verify_file,
    write_with_astropy,
    write_with_fitsio,
)
from platevault.adapters.fits.stripes import locate_words, separate
from platevault.compose.bench.frames import CONTENTS, Frames, exposure_cards, image_of, make_frames
from platevault.compose.bench.measuring import Case, measure
from platevault.compose.bench.report import Ratio, Report
from platevault.compose.bench.writing import WriterBench, emptied
from platevault.compose.cameras import load_camera
from platevault.ports.image_writer import SensorImage

_MB = 1e6
_BOARDS = 3
_COPY_BYTES = 75_000_000
_INTRO = (
    "From a board's words in DAQ order to a closed, linked file with full headers and checksums "
    "on a RAM disk: one detector of 16 amplifiers at a time. Peers take the same words apart "
    "with blocked NumPy, write the same HDUs and cards, and add checksums. Cases alternate; three "
    "boards (0.7 GB) rotate; files are removed outside the timed part."
)


class _Bench:
    """Cases over one set of frames."""

    def __init__(self, directory: Path, writers: WriterBench, empty: Callable[[], None]) -> None:
        self._camera = load_camera("lsstcam")
        self._directory = directory
        self._writers = writers
        self._empty = empty
        self._kind = next(item.type for item in self._camera.detectors if item.id == 0)
        self._cards = exposure_cards(self._camera)[:9]

    def frames(self, content: str) -> Frames:
        return make_frames(content, self._kind, boards=_BOARDS)

    def image(self, frames: Frames, number: int) -> SensorImage:
        return image_of(frames, number, self._kind, self._cards[number % len(self._cards)])

    def megabytes(self, count: int) -> float:
        kind = self._kind
        return count * 4 * kind.columns * kind.rows * len(kind.amplifiers) / _MB

    def ours(
        self,
        name: str,
        frames: Frames,
        *,
        workers: int,
        count: int,
        codec: str = "auto",
        encoding: Encoding = Encoding(),  # noqa: B008 - frozen
    ) -> Case:
        writer = self._writers.writer(workers=workers, codec=codec, encoding=encoding)

        def run() -> None:
            work = [
                (self.image(frames, number), self._directory / f"{number}.fits")
                for number in range(count)
            ]
            self._writers.write(writer, work, workers=workers)

        return Case(name, run, self.megabytes(count), self._empty)

    def peer(
        self,
        name: str,
        frames: Frames,
        write: Callable[..., None],
        *,
        workers: int,
        count: int,
        compressed: bool = True,
    ) -> Case:
        def one(number: int) -> None:
            path = self._directory / f"{number}.fits"
            write(self.image(frames, number), path, compressed=compressed)

        def run() -> None:
            with ThreadPoolExecutor(workers) as threads:
                list(threads.map(one, range(count)))

        return Case(name, run, self.megabytes(count), self._empty)

    def fpack(self, name: str, frames: Frames) -> Case:
        plain = self._directory.with_name(f"{self._directory.name}.plain.fits")
        write_with_fitsio(self.image(frames, 0), plain, compressed=False)

        def run() -> None:
            compress_with_fpack(plain, self._directory / "0.fits")

        return Case(name, run, self.megabytes(1), self._empty)

    def read_back(self, frames: Frames, encoding: Encoding, codec: str) -> list[str]:
        """Write one file and read it with every reader."""
        image = self.image(frames, 4)
        path = self._directory / "check.fits"
        writer = self._writers.writer(workers=1, codec=codec, encoding=encoding)
        self._writers.write(writer, [(image, path)], workers=1)
        readers = verify_file(path, separate(locate_words(image)))
        self._empty()
        return readers


def bench_pixels(
    directory: Path, *, repeats: int, count: int, progress: Callable[[str], None]
) -> Report:
    """Measure single files.

    Parameters
    ----------
    directory
        A directory that does not exist, on a RAM disk.
    repeats
        Measured rounds.
    count
        Detectors in a sample of the fast cases; slow ones take fewer.
    progress
        Told what is going on.
    """
    with ExitStack() as stack:
        empty = stack.enter_context(emptied(directory))
        plain = directory.with_name(f"{directory.name}.plain.fits")
        stack.callback(lambda: plain.unlink(missing_ok=True))
        writers = WriterBench()
        stack.callback(writers.close)
        return _bench(_Bench(directory, writers, empty), repeats, count, progress)


def _bench(bench: _Bench, repeats: int, count: int, progress: Callable[[str], None]) -> Report:
    progress("making pixels")
    sky = bench.frames("sky")
    copy = memcpy_case()
    slow = max(count // 6, 2)
    best = choose_codec().info.level
    native = best in {CodecName.AVX2, CodecName.PORTABLE}
    one = bench.ours(f"this path ({best}), 1 thread", sky, workers=1, count=count)
    two = bench.ours(f"this path ({best}), 2 threads", sky, workers=2, count=2 * count)
    fitsio_one = bench.peer(
        "NumPy + fitsio RICE, 1 thread", sky, write_with_fitsio, workers=1, count=slow
    )
    fitsio_two = bench.peer(
        "NumPy + fitsio RICE, 2 threads", sky, write_with_fitsio, workers=2, count=slow
    )
    astropy_one = bench.peer(
        "NumPy + astropy RICE, 1 thread", sky, write_with_astropy, workers=1, count=2
    )
    astropy_two = bench.peer(
        "NumPy + astropy RICE, 2 threads", sky, write_with_astropy, workers=2, count=2
    )
    cases = [copy, one, fitsio_one, two, fitsio_two, astropy_one, astropy_two]
    portable: tuple[Case, Case] | None = None
    if native:
        portable = (
            bench.ours(
                "this path (portable), 1 thread", sky, workers=1, count=count, codec="portable"
            ),
            bench.ours(
                "this path (portable), 2 threads", sky, workers=2, count=2 * count, codec="portable"
            ),
        )
        cases += portable
    for codec in (CodecName.NUMBA, CodecName.LIBRARY):
        if _runs(codec):
            cases.append(
                bench.ours(f"fallback {codec}, 1 thread", sky, workers=1, count=slow, codec=codec)
            )
    cases.append(
        bench.ours(
            "this path, 64-row tiles, 1 thread",
            sky,
            workers=1,
            count=count,
            encoding=Encoding(tile_rows=64),
        )
    )
    plain = bench.ours(
        "this path, not compressed, 1 thread",
        sky,
        workers=1,
        count=count,
        encoding=Encoding(compressed=False),
    )
    plain_peer = bench.peer(
        "NumPy + fitsio, not compressed, 1 thread",
        sky,
        write_with_fitsio,
        workers=1,
        count=slow,
        compressed=False,
    )
    cases += [plain, plain_peer]
    fpack = bench.fpack("fpack of a ready plain file", sky) if has_fpack() else None
    if fpack is not None:
        cases.append(fpack)
    measure(cases, repeats=repeats, progress=progress)

    report = Report("Pixels of one detector", _INTRO, cases=cases, yardstick=copy)
    report.ratios = [
        Ratio("1 thread / fitsio 1 thread", one.rate / fitsio_one.rate, 10),
        Ratio(
            "2 threads / best library result of 1 or 2 threads",
            two.rate
            / max(case.rate for case in (fitsio_one, fitsio_two, astropy_one, astropy_two)),
            10,
        ),
        Ratio("1 thread / astropy 1 thread", one.rate / astropy_one.rate),
        Ratio("not compressed / fitsio not compressed", plain.rate / plain_peer.rate),
    ]
    if portable is not None and best == CodecName.AVX2:
        report.ratios += [
            Ratio("portable / AVX2, 1 thread", portable[0].rate / one.rate, 0.45),
            Ratio("portable / AVX2, 2 threads", portable[1].rate / two.rate, 0.45),
        ]
    if fpack is not None:
        report.ratios.append(Ratio("1 thread / fpack of ready planes", one.rate / fpack.rate))
    _check(bench, sky, report)
    del sky
    _contents(bench, repeats, count, progress, report, cases)
    return report


def _contents(
    bench: _Bench,
    repeats: int,
    count: int,
    progress: Callable[[str], None],
    report: Report,
    cases: list[Case],
) -> None:
    """Measure each other content against fitsio, in rounds of its own."""
    slow = max(count // 6, 2)
    for content in CONTENTS:
        if content == "sky":
            continue
        progress(f"making pixels: {content}")
        frames = bench.frames(content)
        ours = bench.ours(f"{content}: this path, 1 thread", frames, workers=1, count=count)
        peer = bench.peer(
            f"{content}: NumPy + fitsio RICE, 1 thread",
            frames,
            write_with_fitsio,
            workers=1,
            count=slow,
        )
        measure([ours, peer], repeats=repeats, progress=progress)
        report.ratios.append(Ratio(f"{content}: 1 thread / fitsio 1 thread", ours.rate / peer.rate))
        cases += [ours, peer]
        _check(bench, frames, report)


def _check(bench: _Bench, frames: Frames, report: Report) -> None:
    encodings: Sequence[tuple[str, Encoding]] = (
        ("rows", Encoding()),
        ("64-row tiles", Encoding(tile_rows=64)),
        ("plain", Encoding(compressed=False)),
    )
    known = (CodecName.AVX2, CodecName.PORTABLE, CodecName.NUMBA)
    codecs = [name for name in known if _runs(name)]
    if frames.content != "sky":  # all codecs give the same bytes; the unit tests see to it
        codecs = codecs[:1]
    readers: list[str] = []
    for codec in codecs:
        for _, encoding in encodings:
            readers = bench.read_back(frames, encoding, codec)
    report.notes.append(
        f"{frames.content}: files of {', '.join(codecs)} ({', '.join(n for n, _ in encodings)}) "
        f"were read back with {', '.join(readers)}: every pixel and both checksums."
    )


def _runs(codec: CodecName) -> bool:
    try:
        choose_codec(codec)
    except CodecUnavailableError:
        return False
    return True


def memcpy_case() -> Case:
    """Measure what one thread can copy: the yardstick."""
    source = np.ones(_COPY_BYTES, dtype=np.uint8)
    target = np.zeros(_COPY_BYTES, dtype=np.uint8)

    def run() -> None:
        for _ in range(10):
            target[:] = source

    return Case("memcpy, 1 thread", run, 10 * _COPY_BYTES / _MB)
