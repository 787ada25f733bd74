"""The figures of a night, from the ledger and from what its driver saw."""

from __future__ import annotations

from platevault.compose.context import ProcessContext
from platevault.compose.night.records import NightRecord, TakenImage
from platevault.compose.night.report import CameraFigures, latency_of
from platevault.domain.camera import Camera
from platevault.domain.header_formats import parse_header
from platevault.domain.ids import FileKind
from platevault.domain.inventory import FileRecord
from platevault.domain.lifecycles import Destination
from platevault.domain.whereabouts import is_done
from platevault.domain.wire import registers_of

_WORD_BYTES = 4


async def camera_figures(
    context: ProcessContext, record: NightRecord, camera: Camera
) -> CameraFigures:
    """Sum up the night of one camera."""
    taken = [one for one in record.images.values() if one.camera is camera]
    durable: list[float] = []
    ingested: list[float] = []
    header: list[float] = []
    completeness: list[float] = []
    files = file_bytes = degraded = 0
    for one in taken:
        rows = await context.ledger.files(image=one.image)
        archived = [row for row in rows if row.destination is Destination.ARCHIVE]
        files += sum(is_done(row) for row in archived)
        file_bytes += sum(row.size_bytes for row in archived if is_done(row))
        degraded += any(row.degraded for row in archived)
        durable += _finished_after(one, archived)
        ingested += _finished_after(
            one,
            [
                row
                for row in rows
                if row.destination is Destination.OODS and row.key.kind is FileKind.RAW
            ],
        )
        if one.header_tai and one.end_telemetry_tai:
            header.append(one.header_tai - one.end_telemetry_tai)
        completeness.append(await _completeness(context, one.image))
    return CameraFigures(
        camera=camera.name,
        exposures=len(taken),
        sensors=sum(len(one.sensors) for one in taken),
        files=files,
        file_bytes=file_bytes,
        pixel_bytes=sum(_sensor_bytes(camera, name) for one in taken for name in one.sensors),
        header_completeness=min(completeness, default=0.0),
        durable=latency_of(durable),
        ingested=latency_of(ingested),
        header=latency_of(header),
        degraded=degraded,
    )


def _finished_after(taken: TakenImage, rows: list[FileRecord]) -> list[float]:
    if not rows or not taken.end_readout_tai or not all(is_done(row) for row in rows):
        return []
    return [max(row.changed_tai for row in rows) - taken.end_readout_tai]


async def _completeness(context: ProcessContext, image: str) -> float:
    known = await context.ledger.exposure(image)
    if known is None or known.header is None or not known.header.version:
        return 0.0
    return parse_header(await context.annex.get(known.header.url)).completeness


def _sensor_bytes(camera: Camera, sensor: str) -> int:
    kind = camera.detector_by_name[sensor].type
    return registers_of(kind).samples * len(kind.amplifiers) * _WORD_BYTES
