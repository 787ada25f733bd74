"""What must hold at the end of every night, checked against the disk, not against claims."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platevault.adapters.fits.readback import UnreadableFileError, read_amplifier_planes
from platevault.compose.night.records import NightRecord, TakenImage
from platevault.compose.night.report import Invariant
from platevault.compose.settings import Settings
from platevault.domain.camera import Camera
from platevault.domain.header_formats import parse_header
from platevault.domain.headers import HeaderStatus
from platevault.domain.ids import FileKind
from platevault.domain.inventory import FileRecord
from platevault.domain.lifecycles import Destination
from platevault.domain.places import board_lease, exposure_directory, night_queues
from platevault.domain.whereabouts import is_done
from platevault.ports.file_ledger import FileLedger
from platevault.ports.image_writer import LinkStore
from platevault.ports.ingest import Ingest
from platevault.ports.leases import Leases
from platevault.ports.object_store import ObjectStore
from platevault.ports.work_queue import WorkQueue
from platevault.sim.daq import SimDaq
from platevault.sim.pixels import PixelRecipe, amplifier_planes

#: Names given in the detail of a broken invariant.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything the invariants look at.

    Attributes
    ----------
    settings
        Where the data are.
    record
        What the driver saw.
    ledger, links, ingest, leases, queue, annex
        The ports of the night.
    daqs
        The truth about pixels, by camera.
    """

    settings: Settings
    record: NightRecord
    ledger: FileLedger
    links: LinkStore
    ingest: Ingest
    leases: Leases
    queue: WorkQueue
    annex: ObjectStore
    daqs: Mapping[str, SimDaq]


async def check_invariants(evidence: Evidence) -> list[Invariant]:
    """Check every invariant of a night."""
    checks: Sequence[tuple[str, Callable[[Evidence], Awaitable[tuple[list[str], str]]]]] = (
        ("one file per expected sensor", _files),
        ("every file done at each destination", _done),
        ("digests in ledger, on disk and in the Butler agree", _digests),
        ("pixels are what the camera read out", _pixels),
        ("headers are complete", _headers),
        ("one event per detector", _events),
        ("nothing is left over", _leftovers),
    )
    results = []
    for name, check in checks:
        wrong, counted = await check(evidence)
        detail = counted
        if wrong:
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            detail = "; ".join(wrong[:_NAMED]) + more
        results.append(Invariant(name, not wrong, detail))
    return results


async def _files(evidence: Evidence) -> tuple[list[str], str]:
    wrong, count = [], 0
    for taken in evidence.record.images.values():
        record = await evidence.ledger.exposure(taken.image)
        if record is None:
            wrong.append(f"{taken.image} is not in the ledger")
            continue
        if set(record.exposure.sensors) != set(taken.sensors):
            wrong.append(f"{taken.image} expects other sensors than were read")
        directory = _directory(evidence.settings.archive_dir, taken)
        found = await asyncio.to_thread(_names, directory)
        expected = {
            f"{taken.image}_{sensor}{suffix}"
            for sensor in taken.sensors
            for suffix in (".fits", ".json")
        } | {f"{taken.image}_expectedSensors.json"}
        wrong += [f"{name} is missing" for name in sorted(expected - found)]
        wrong += [f"{name} was not expected" for name in sorted(found - expected)]
        count += len(found & expected)
    return wrong, f"{count} files of {len(evidence.record.images)} exposures"


async def _done(evidence: Evidence) -> tuple[list[str], str]:
    wrong, count = [], 0
    for image in evidence.record.images:
        for file in await evidence.ledger.files(image=image):
            count += 1
            if not is_done(file):
                wrong.append(
                    f"{file.key.file_name} is {file.state} at {file.destination} {file.reason}"
                )
    return wrong, f"{count} states"


async def _digests(evidence: Evidence) -> tuple[list[str], str]:
    wrong, count = [], 0
    for taken in evidence.record.images.values():
        catalogued = await evidence.ingest.catalogued(taken.camera, taken.image)
        files = await evidence.ledger.files(image=taken.image)
        raw_in_archive = {
            file.key: file for file in files if file.destination is Destination.ARCHIVE
        }
        for file in files:
            problem = await _digest_problem(evidence, file, raw_in_archive[file.key], catalogued)
            count += 1
            if problem:
                wrong.append(f"{file.key.file_name} at {file.destination}: {problem}")
    return wrong, f"{count} copies read"


async def _digest_problem(
    evidence: Evidence, file: FileRecord, original: FileRecord, catalogued: Mapping[str, str]
) -> str:
    if not file.digest or not file.path:
        return "no digest or path in the ledger"
    if file.digest != original.digest:
        return "another digest than in the archive"
    algorithm = file.digest.partition(":")[0]
    found = await evidence.links.digest_of(Path(file.path), algorithm=algorithm)
    if found != file.digest:
        return f"the disk has {found}"
    if file.destination is Destination.OODS and file.key.kind is FileKind.RAW:
        known = catalogued.get(file.key.sensor)
        if known is None:
            return "not in the Butler"
        in_butler = await evidence.links.digest_of(Path(known), algorithm=algorithm)
        if in_butler != file.digest:
            return f"the Butler has {in_butler} in {known}"
    return ""


async def _pixels(evidence: Evidence) -> tuple[list[str], str]:
    wrong: list[str] = []
    workers = len(os.sched_getaffinity(0))
    limit = asyncio.Semaphore(2 * workers)
    loop = asyncio.get_running_loop()

    async def compare(pool: ProcessPoolExecutor, taken: TakenImage, sensor: str) -> None:
        daq = evidence.daqs[taken.camera.name]
        path = _directory(evidence.settings.archive_dir, taken) / f"{taken.image}_{sensor}.fits"
        async with limit:
            recipe = daq.recipe(taken.image)
            truth = None if recipe is not None else daq.planes(taken.image, sensor)
            problem = await loop.run_in_executor(
                pool, pixel_problem, path, taken.camera, sensor, recipe, daq.seed, truth
            )
        if problem:
            wrong.append(f"{taken.image} {sensor}: {problem}")

    count = 0
    # Threads would take turns: the reading library keeps the interpreter lock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        async with asyncio.TaskGroup() as group:
            for taken in evidence.record.images.values():
                for sensor in taken.sensors:
                    group.create_task(
                        compare(pool, taken, sensor), name=f"read-{taken.image}-{sensor}"
                    )
                    count += 1
    return wrong, f"{count} files read back with another library"


def pixel_problem(
    path: Path,
    camera: Camera,
    sensor: str,
    recipe: PixelRecipe | None,
    seed: int,
    truth: NDArray[np.int32] | None,
) -> str:
    """Compare a raw file with what was read out; gives what is wrong, nothing if it is right.

    The truth is given, or made again from its recipe.
    """
    detector = camera.detector_by_name[sensor]
    try:
        found = read_amplifier_planes(path, len(detector.type.amplifiers))
    except UnreadableFileError as error:
        return str(error)
    if truth is None:
        assert recipe is not None
        image = path.name.removesuffix(f"_{sensor}.fits")
        truth = amplifier_planes(camera, detector, recipe, seed=seed, image=image)
    if found.shape != truth.shape:
        return f"shape {found.shape} instead of {truth.shape}"
    different = int(np.count_nonzero(found != truth))
    return f"{different} pixels differ" if different else ""


async def _headers(evidence: Evidence) -> tuple[list[str], str]:
    wrong, least = [], 1.0
    for image in evidence.record.images:
        record = await evidence.ledger.exposure(image)
        if record is None or record.header is None or not record.header.version:
            wrong.append(f"{image} has no header")
            continue
        document = parse_header(await evidence.annex.get(record.header.url))
        least = min(least, document.completeness)
        if document.status is not HeaderStatus.COMPLETE:
            missing = ", ".join(list(document.missing)[:_NAMED])
            wrong.append(f"{image} is {document.status}: {missing}")
        degraded = [file for file in await evidence.ledger.files(image=image) if file.degraded]
        if degraded:
            wrong.append(f"{image} has {len(degraded)} files without their full header")
    return wrong, f"{len(evidence.record.images)} headers, least completeness {least:.1%}"


async def _events(evidence: Evidence) -> tuple[list[str], str]:
    wrong, count = [], 0
    for taken in evidence.record.images.values():
        for event in ("imageRetrievalForArchiving", "imageInOODS"):
            for sensor in taken.sensors:
                told = evidence.record.events[event, taken.image, sensor, 0]
                count += told
                if told != 1:
                    wrong.append(f"{event} of {taken.image} {sensor} was told {told} times")
    return wrong, f"{count} events"


async def _leftovers(evidence: Evidence) -> tuple[list[str], str]:
    root = evidence.settings.root
    wrong = [
        f"temporary file {path}"
        for path in await asyncio.to_thread(lambda: sorted(root.rglob(".*.tmp")))
    ]
    queues = night_queues(evidence.daqs)
    for queue in queues:
        depth = await evidence.queue.depth(queue)
        if depth:
            wrong.append(f"{depth} messages in {queue}")
    wrong += [
        f"dead letter on {letter.queue}: {letter.reason}"
        for letter in await evidence.queue.dead_letters()
    ]
    for taken in evidence.record.images.values():
        for location in sorted(
            {taken.camera.board_of(sensor).location for sensor in taken.sensors}
        ):
            grant = await evidence.leases.current(board_lease(taken.image, location))
            if grant is not None:
                wrong.append(f"lease {grant.name} of {grant.holder}")
    return wrong, f"no temporary file, message or lease in {len(queues)} queues"


def _directory(area: Path, taken: TakenImage) -> Path:
    return area / exposure_directory(taken.camera.name, taken.image)


def _names(directory: Path) -> set[str]:
    if not directory.is_dir():
        return set()
    return {path.name for path in directory.iterdir()}
