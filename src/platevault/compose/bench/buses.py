"""What commands and messages cost between processes, over real servers."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from platevault.adapters.kafka import KafkaSettings
from platevault.adapters.schema_registry import SchemaRegistryServer, SchemaStore
from platevault.adapters.system_clock import SystemClock
from platevault.compose.bench.capture_load import FORWARDERS, CaptureLoad, measure_capture_load
from platevault.compose.bench.command_round_trip import (
    CommandRoundTrip,
    measure_command_round_trip,
)
from platevault.compose.bench.dds_command import measure_dds_commands
from platevault.compose.bench.frames import exposure_cards, image_of, make_frames
from platevault.compose.bench.report import Ratio, Report
from platevault.compose.bench.writing import WriterBench
from platevault.compose.cameras import load_camera
from platevault.compose.local_servers import KafkaServer

#: Floors: command over Kafka by the bare client, over DDS [ms], messages of a file [core ms].
_FLOOR_KAFKA, _FLOOR_DDS_MS, _FLOOR_MESSAGING_MS = 1.5, 1.0, 2.0
_COMMANDS = 300
_PIXEL_FILES = 9
_INTRO = (
    "Commands go from a remote to a component and come back with their final reply. Messages are "
    "those that the files of a camera cause between Archiver, Forwarders, Archive Controller and "
    "OODS. Every server runs on this host, and shares its cores with what is measured. Processor "
    "times are those of the kernel's accounts, of a process and of all that descend from it."
)


def bench_buses(directory: Path, *, exposures: int, progress: Callable[[str], None]) -> Report:
    """Measure commands over Kafka and DDS, and messages over RabbitMQ.

    Parameters
    ----------
    directory
        A directory that does not exist, on a RAM disk; it is removed.
    exposures
        Exposures of 205 small frames.
    progress
        Told what is going on.

    Raises
    ------
    ServerMissingError
        A server is not installed: ``make services``.
    """
    report = Report("Commands and messages over real servers", _INTRO)
    try:
        progress("commands over Kafka")
        _tell_kafka(report, asyncio.run(_kafka(directory / "kafka")))
        progress("commands over DDS")
        _tell_dds(report)
        load = asyncio.run(
            measure_capture_load(directory / "site", exposures=exposures, progress=progress)
        )
        progress("the pixels of a file of full size")
        _tell_load(report, load, exposures, _pixel_core_ms(directory / "pixels"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return report


async def _kafka(directory: Path) -> CommandRoundTrip:
    with KafkaServer(directory) as broker:
        registry = SchemaRegistryServer(store=SchemaStore())
        async with registry.serving():
            settings = KafkaSettings(
                brokers=broker.address, registry_url=registry.url, subname="bench"
            )
            return await measure_command_round_trip(
                settings, clock=SystemClock(), repeats=_COMMANDS
            )


def _tell_kafka(report: Report, found: CommandRoundTrip) -> None:
    report.ratios += [
        Ratio(
            "command over Kafka / bare confluent-kafka in an event loop, p50",
            found.ratio,
            ceiling=_FLOOR_KAFKA,
        ),
        Ratio(
            "command over Kafka / bare blocking client in two threads, p50", found.ratio_to_blocking
        ),
    ]
    rows = [("over Kafka", "p50, ms", "p95, ms")]
    for name, trips in (
        ("command to final reply", found.commands),
        ("bare, event loop: produce, consume, produce, consume", found.bare),
        ("bare, two blocking threads, not asking for delivery", found.blocking),
    ):
        rows.append((name, f"{1e3 * trips.p50_s:.2f}", f"{1e3 * trips.p95_s:.2f}"))
    _table(report, "Commands over Kafka", rows)


def _tell_dds(report: Report) -> None:
    found = asyncio.run(measure_dds_commands(repeats=_COMMANDS))
    report.ratios.append(
        Ratio(
            "command over DDS to another process, p50, ms", 1e3 * found.p50_s, ceiling=_FLOOR_DDS_MS
        )
    )
    _table(
        report,
        "Commands over DDS",
        [
            ("commands", "p50, ms", "p95, ms", "longest, ms"),
            (
                str(found.count),
                f"{1e3 * found.p50_s:.2f}",
                f"{1e3 * found.p95_s:.2f}",
                f"{1e3 * found.longest_s:.2f}",
            ),
        ],
    )


def _tell_load(report: Report, load: CaptureLoad, exposures: int, pixel_core_ms: float) -> None:
    alone = load.alone
    report.ratios += [
        Ratio("messages of a file, alone, core ms", alone.core_ms, ceiling=_FLOOR_MESSAGING_MS),
        Ratio(
            f"messages of a file, {exposures} exposures through {FORWARDERS} Forwarders, core ms",
            load.messaging_core_ms,
            ceiling=_FLOOR_MESSAGING_MS,
        ),
        Ratio(
            "messages / pixels of a file of full size, core time",
            load.messaging_core_ms / pixel_core_ms,
        ),
        Ratio("small files per second, end to end", load.files / load.seconds),
    ]
    _table(
        report,
        "Messages of a file",
        [
            ("", "clients, core ms", "broker, core ms", "messages"),
            (
                "alone, one process sends and takes",
                f"{alone.client_core_ms:.2f}",
                f"{alone.broker_core_ms:.2f}",
                f"{alone.messages / alone.files:.2f}",
            ),
            (
                "in the services",
                f"{load.client_core_ms:.2f}",
                f"{load.core_ms['rabbitmq']:.2f}",
                f"{load.messages:.2f}",
            ),
        ],
    )
    rows = [("process", "core ms per file")]
    rows += [(name, f"{value:.2f}") for name, value in load.core_ms.items()]
    rows.append(("all but the emulated camera", f"{load.total_core_ms:.2f}"))
    _table(report, f"{exposures} exposures of 205 files of {load.pixels} pixels", rows)
    report.notes += [
        (
            f"{load.files} files and their sidecars in {load.seconds:.1f} s; an exposure before "
            "them does not count."
        ),
        (
            "Clients in the services: as many messages as their counters say, at the price of one "
            "that is measured alone over the same broker right after. The broker is what its "
            "process used, idle time included."
        ),
        (
            "Pixels of a file of full size (4k x 4k), compressed, with digest and checksums: "
            f"{pixel_core_ms:.0f} ms of core time."
        ),
        (
            "Archiver and OODS run in the measuring process; the catalogue takes everything, as "
            "its cost is measured elsewhere. Archive Controller, Forwarders, DAQ and servers are "
            "processes of their own."
        ),
    ]


def _pixel_core_ms(directory: Path) -> float:
    """Measure the processor time of writing a file of full size [ms]."""
    camera = load_camera("lsstcam")
    kind = camera.detectors[-1].type
    frames, cards = make_frames("bias", kind, boards=1), exposure_cards(camera)[-1]
    directory.mkdir(parents=True)
    writers = WriterBench()
    try:
        writer = writers.writer(workers=2)
        work = [
            (image_of(frames, number, kind, cards), directory / f"{number}.fits")
            for number in range(_PIXEL_FILES)
        ]
        writers.write(writer, work[:1], workers=2, remove=True)
        begun = time.process_time()
        writers.write(writer, work[1:], workers=2, remove=True)
        return (time.process_time() - begun) * 1000 / (_PIXEL_FILES - 1)
    finally:
        writers.close()


def _table(report: Report, title: str, rows: Sequence[Sequence[str]]) -> None:
    report.facts.setdefault("tables", {})[title] = [list(row) for row in rows]
