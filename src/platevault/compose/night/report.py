"""What a night came to: every figure of the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Invariant:
    """One thing that must hold at the end of every night.

    Attributes
    ----------
    name
        What must hold.
    held
        It does.
    detail
        What was counted, or where it does not hold.
    """

    name: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took over the images of a camera.

    Attributes
    ----------
    count
        Images measured.
    p50_s, p95_s, longest_s
        Median, 95th percentile and maximum [s].
    """

    count: int
    p50_s: float
    p95_s: float
    longest_s: float


def latency_of(durations_s: Sequence[float]) -> Latency | None:
    """Summarise durations [s]; ``None`` if there are none."""
    if not durations_s:
        return None
    p50, p95 = np.percentile(np.asarray(durations_s), [50.0, 95.0])
    return Latency(len(durations_s), float(p50), float(p95), float(max(durations_s)))


@dataclass(frozen=True, slots=True)
class CameraFigures:
    """Figures of one camera's night.

    Attributes
    ----------
    camera
        Its name.
    exposures, sensors
        Exposures taken, and sensor images expected of them.
    files
        Files in the archive: raw images, sidecars, manifests.
    file_bytes, pixel_bytes
        Size of the files, and of the pixels read [byte].
    header_completeness
        Least part of required and visit keywords found, over its headers.
    durable, ingested, header
        From endReadout to the last file durable in the archive; to the last file in the Butler;
        from endOfImageTelemetry to the header published.
    degraded
        Exposures with a file that lacks its full header.
    """

    camera: str
    exposures: int
    sensors: int
    files: int
    file_bytes: int
    pixel_bytes: int
    header_completeness: float
    durable: Latency | None
    ingested: Latency | None
    header: Latency | None
    degraded: int


@dataclass(frozen=True, slots=True)
class NightReport:
    """A whole night.

    Attributes
    ----------
    root
        Where its data are.
    images
        Names of its exposures, in the order taken.
    cameras
        Figures by camera.
    invariants
        What must hold, and whether it does.
    faults
        Faults that were injected.
    observing_s, verifying_s
        Wall time from first to last file, and of the invariants [s].
    peak_memory_bytes
        Largest resident size of the process [byte].
    settings
        Versions and settings worth knowing with the figures.
    """

    root: str
    images: Sequence[str]
    cameras: Sequence[CameraFigures]
    invariants: Sequence[Invariant]
    faults: Sequence[str]
    observing_s: float
    verifying_s: float
    peak_memory_bytes: int
    settings: Mapping[str, str]

    @property
    def good(self) -> bool:
        """Every invariant holds."""
        return all(invariant.held for invariant in self.invariants)

    def as_json(self) -> dict[str, Any]:
        """Give every figure as plain data."""
        return {"good": self.good, **asdict(self)}
