"""A whole LSSTCam exposure, boards over TCP, and the latency of one LATISS exposure."""

from __future__ import annotations

import asyncio
import mmap
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from platevault.adapters.daq.readout import DaqReadout
from platevault.adapters.filesystem.durable import DigestAlgorithm, DurableSink, SyncPolicy
from platevault.adapters.fits.codec import Encoding
from platevault.adapters.fits.codec_choice import CodecName, choose_codec
from platevault.adapters.fits.headers import CardFormatter, primary_header, segment_header
from platevault.adapters.fits.peers import verify_file, verify_pixels
from platevault.adapters.fits.stripes import locate_words, separate
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.compose.bench.emulator import IMAGE, PARTITION, Emulator, emulated
from platevault.compose.bench.frames import Frames, exposure_cards, image_of, make_frames
from platevault.compose.bench.measuring import Case, measure
from platevault.compose.bench.pixels import memcpy_case
from platevault.compose.bench.report import Ratio, Report
from platevault.compose.bench.writing import WriterBench, emptied
from platevault.compose.cameras import load_camera
from platevault.domain.camera import Camera
from platevault.ports.image_writer import SensorImage

_MB = 1e6
_BOARDS = 3
_PAGE = mmap.PAGESIZE
_LATENCIES = 60
_TCP_BOARDS = 21
_FLOOR_LATENCY_S = 0.25
#: astropy and funpack take a second for each file.
_ALL_READERS_EVERY = 8
_INTRO = (
    "All 205 files of an LSSTCam exposure with full headers and checksums, two workers, to a RAM "
    "disk. Three boards of the realistic sky rotate as source; wavefront halves and guiders take "
    "their words from boards of their own. Files are removed outside the timed part, except where "
    "a line says otherwise. Over TCP, an emulated DAQ in another process shares the cores and the "
    "reader receives into page-aligned buffers while the last board is being written."
)


class _Exposure:
    """Images of all detectors of a camera."""

    def __init__(self, camera: Camera, progress: Callable[[str], None]) -> None:
        self.camera = camera
        self.cards = exposure_cards(camera)
        self._frames: dict[str, Frames] = {}
        for detector in camera.detectors:
            kind = detector.type
            if kind.name not in self._frames:
                progress(f"making pixels: {kind.name}")
                boards = _BOARDS if len(self._frames) == 0 else 1
                self._frames[kind.name] = make_frames("sky", kind, boards=boards)

    def images(self) -> Iterator[SensorImage]:
        """Give the image of each detector."""
        for number, (detector, cards) in enumerate(
            zip(self.camera.detectors, self.cards, strict=True)
        ):
            kind = detector.type
            yield image_of(self._frames[kind.name], number, kind, cards)

    @property
    def megabytes(self) -> float:
        """Raw pixels of the exposure [MB]."""
        return (
            sum(
                4 * item.type.columns * item.type.rows * len(item.type.amplifiers)
                for item in self.camera.detectors
            )
            / _MB
        )


def bench_exposure(directory: Path, *, repeats: int, progress: Callable[[str], None]) -> Report:
    """Measure exposures.

    Parameters
    ----------
    directory
        A directory that does not exist, on a RAM disk with room for 4 GB.
    repeats
        Measured rounds.
    progress
        Told what is going on.
    """
    with ExitStack() as stack:
        empty = stack.enter_context(emptied(directory))
        writers = WriterBench()
        stack.callback(writers.close)
        report = Report("A whole exposure", _INTRO)
        exposure = _Exposure(load_camera("lsstcam"), progress)
        _whole(exposure, writers, directory, empty, repeats, progress, report)
        del exposure
        with emulated("lsstcam") as emulator:
            _over_tcp(emulator, writers, directory, empty, repeats, progress, report)
        with emulated("latiss") as emulator:
            _latency(emulator, directory, empty, progress, report)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report.notes.append(f"Memory peak of the process, all sources included: {peak:.0f} MB.")
    return report


def _whole(
    exposure: _Exposure,
    writers: WriterBench,
    directory: Path,
    empty: Callable[[], None],
    repeats: int,
    progress: Callable[[str], None],
    report: Report,
) -> None:
    def case(
        name: str,
        *,
        codec: str = "auto",
        encoding: Encoding = Encoding(),  # noqa: B008 - frozen
        algorithm: DigestAlgorithm = DigestAlgorithm.XXH3,
        remove: bool = False,
    ) -> Case:
        writer = writers.writer(workers=2, codec=codec, encoding=encoding, algorithm=algorithm)

        def run() -> None:
            work = (
                (image, directory / f"{number}.fits")
                for number, image in enumerate(exposure.images())
            )
            writers.write(writer, work, workers=2, remove=remove)

        return Case(name, run, exposure.megabytes, empty)

    copy = memcpy_case()
    best = choose_codec().info.level
    usual = case(f"compressed ({best}), xxh3")
    sha = case(f"compressed ({best}), sha256", algorithm=DigestAlgorithm.SHA256)
    plain = case(
        "not compressed, xxh3, each file removed within the timed part",
        encoding=Encoding(compressed=False),
        remove=True,
    )
    cases = [copy, usual, sha, plain]
    portable = None
    if best == CodecName.AVX2:
        portable = case("compressed (portable), xxh3", codec="portable")
        cases.append(portable)
    measure(cases, repeats=repeats, progress=progress)
    report.cases += cases
    report.yardstick = copy
    report.ratios += [
        Ratio("compressed, GB/s", usual.rate / 1000, 2),
        Ratio("compressed / memcpy", usual.rate / copy.rate, 0.20),
        Ratio("compressed with sha256, GB/s", sha.rate / 1000, 1.5),
        Ratio("compressed with sha256 / memcpy", sha.rate / copy.rate),
        Ratio("not compressed, GB/s", plain.rate / 1000, 1),
        Ratio("not compressed / memcpy", plain.rate / copy.rate),
    ]
    if portable is not None:
        report.ratios.append(Ratio("portable / AVX2", portable.rate / usual.rate, 0.45))
    writer = writers.writer(workers=2)
    images = list(exposure.images())
    staged = writers.write(
        writer, ((image, directory / f"{n}.fits") for n, image in enumerate(images)), workers=2
    )
    size = sum(file.size_bytes for file in staged) / _MB
    progress("reading back")
    readers: list[str] = []
    for number, image in enumerate(images):
        path = directory / f"{number}.fits"
        planes = separate(locate_words(image))
        if number % _ALL_READERS_EVERY == 0:
            readers = verify_file(path, planes)
        else:
            verify_pixels(path, planes)
    empty()
    raw = exposure.megabytes
    report.notes.append(
        f"{len(images)} files, {raw:.0f} MB of raw pixels, {size:.0f} MB written, out/in "
        f"{size / raw:.3f}."
    )
    report.notes.append(
        "Every file of the exposure was read back with fitsio, every pixel, and every "
        f"{_ALL_READERS_EVERY}th with {', '.join(readers)}, every pixel and every checksum."
    )


def _aligned(size: int) -> NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(-1, -(-size // _PAGE) * _PAGE), dtype=np.uint8)


def _over_tcp(
    emulator: Emulator,
    writers: WriterBench,
    directory: Path,
    empty: Callable[[], None],
    repeats: int,
    progress: Callable[[str], None],
    report: Report,
) -> None:
    camera = load_camera("lsstcam")
    boards = [camera.board_by_location[f"22/{number}"] for number in range(_BOARDS)]
    kind = camera.detector_by_name[boards[0].detectors[0]].type
    size = 4 * kind.columns * kind.rows * len(kind.amplifiers) * len(boards[0].detectors)
    cards = exposure_cards(camera)[0]
    writer = writers.writer(workers=2)
    buffers = [_aligned(size) for _ in range(2)]

    async def board(number: int, readout: DaqReadout, buffer: NDArray[np.uint8]) -> None:
        pixels = await readout.read_board(IMAGE, boards[number % _BOARDS].location, into=buffer)
        async with asyncio.TaskGroup() as group:
            for place in range(len(boards[0].detectors)):
                image = SensorImage(pixels, place, kind, cards[0], cards[1])
                path = directory / f"{number}-{place}.fits"
                group.create_task(_write(writer, image, path), name=path.name)

    async def all_boards() -> None:
        todo = iter(range(_TCP_BOARDS))

        async def take(buffer: NDArray[np.uint8]) -> None:
            for number in todo:
                await board(number, readout, buffer)

        async with (
            DaqReadout(
                host="127.0.0.1", port=emulator.port, partition=PARTITION, shared_memory=False
            ) as readout,
            asyncio.TaskGroup() as group,
        ):
            for number, buffer in enumerate(buffers):
                group.create_task(take(buffer), name=f"board-{number}")

    case = Case(
        "boards from the emulator over TCP, compressed, xxh3",
        lambda: writers.run(all_boards()),
        _TCP_BOARDS * size / _MB,
        empty,
        helpers=[emulator.pid],
    )
    measure([case], repeats=repeats, progress=progress)
    report.cases.append(case)
    report.ratios.append(Ratio("from the emulator over TCP, GB/s", case.rate / 1000, 1.2))


async def _write(writer: FitsImageWriter, image: SensorImage, path: Path) -> None:
    await writer.commit([await writer.stage_image(image, path)])


def _latency(
    emulator: Emulator,
    directory: Path,
    empty: Callable[[], None],
    progress: Callable[[str], None],
    report: Report,
) -> None:
    progress("latency of LATISS")
    camera = load_camera("latiss")
    detector = camera.detectors[0]
    board = camera.board_of(detector.name)
    cards = exposure_cards(camera)[0]
    kind = detector.type
    buffer = _aligned(4 * kind.columns * kind.rows * len(kind.amplifiers))
    totals: list[float] = []
    steps = _StepTimes(2 * len(buffer))

    async def expose() -> None:
        async with (
            DaqReadout(
                host="127.0.0.1", port=emulator.port, partition=PARTITION, shared_memory=False
            ) as readout,
            FitsImageWriter(sync=SyncPolicy.RAMDISK) as writer,
        ):
            for number in range(_LATENCIES):
                path = directory / f"{number}.fits"
                start = time.perf_counter()
                pixels = await readout.read_board(IMAGE, board.location, into=buffer)
                fetched = time.perf_counter()
                image = SensorImage(pixels, 0, kind, cards[0], cards[1])
                await _write(writer, image, path)
                totals.append(time.perf_counter() - start)
                await asyncio.to_thread(empty)
                steps.add("fetch from the DAQ", fetched - start)
                await asyncio.to_thread(steps.write, image, path)
                await asyncio.to_thread(empty)

    asyncio.run(expose())
    totals.sort()
    p50, p95 = totals[len(totals) // 2], totals[int(0.95 * len(totals))]
    report.ratios.append(Ratio("0.25 s / p95 latency of LATISS", _FLOOR_LATENCY_S / p95, 1))
    whole = sum(median(found) for found in steps.found.values())
    report.facts["tables"] = {
        "Latency of one LATISS exposure": [
            ("step", "ms median", "share"),
            *(
                (name, f"{1000 * median(found):.1f}", f"{median(found) / whole:.0%}")
                for name, found in steps.found.items()
            ),
        ]
    }
    report.facts["latency_s"] = totals
    report.notes.append(
        f"LATISS, complete image in the DAQ and header present to durable file on a RAM disk: p50 "
        f"{1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms, {len(totals)} exposures; steps were timed "
        "one by one on further files."
    )


class _StepTimes:
    """Times each step of a file by itself."""

    def __init__(self, size_bytes: int) -> None:
        self.found: dict[str, list[float]] = {}
        self._codec = choose_codec()
        self._sink = DurableSink(sync=SyncPolicy.RAMDISK)
        self._formatter = CardFormatter()
        self._buffer = _aligned(size_bytes)

    def add(self, step: str, seconds: float) -> None:
        """Note a time [s]."""
        self.found.setdefault(step, []).append(seconds)

    def write(self, image: SensorImage, path: Path) -> None:
        """Write a file, and note what each step took."""
        words = locate_words(image)
        encoding = Encoding()
        kind = image.detector_type.name
        start = time.perf_counter()
        encoded = self._codec.encode(words, encoding, self._buffer.data)
        done = time.perf_counter()
        self.add("separate, compress, sum", done - start)
        header, _ = primary_header(self._formatter.format(image.primary, detector_type=kind, hdu=0))
        pieces: list[bytes | bytearray | memoryview] = [header.data]
        for hdu, (cards, unit) in enumerate(
            zip(image.segments, encoded.segments, strict=True), start=1
        ):
            body = self._formatter.format(cards, detector_type=kind, hdu=hdu)
            extension = segment_header(
                body, unit, columns=words.columns, rows=words.rows, encoding=encoding
            )
            pieces += [extension.data, unit.data]
        formatted = time.perf_counter()
        self.add("headers", formatted - done)
        staged = self._sink.stage(path, pieces)
        written = time.perf_counter()
        self.add("digest and write", written - formatted)
        self._sink.commit([staged])
        self.add("link", time.perf_counter() - written)
