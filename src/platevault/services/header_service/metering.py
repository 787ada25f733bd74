"""Metrics of header services, by camera.

References
----------
Header contract, section B5.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from typing_extensions import override

from platevault.domain.headers import Collected, HeaderDocument
from platevault.services.header_service.observing import HeaderObserver

#: Limits of latency classes [s]; 0.2 s is the median wanted, 0.5 s the 99th percentile.
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_PARTS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0)


class MeteredHeaders(HeaderObserver):
    """Counts what header services do; one serves all of a process.

    Parameters
    ----------
    registry
        Where the instruments are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "platevault_header_service"
        self._versions = Counter(
            f"{name}_versions",
            "Headers published, by status; the first version or a later one",
            ["camera", "status", "which"],
            registry=registry,
        )
        self._latency = Histogram(
            f"{name}_publish_latency_seconds",
            "Last camera event of the exposure to the header's event",
            ["camera"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._build = Histogram(
            f"{name}_build_seconds",
            "Evaluation of all keywords",
            ["camera"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._store = Histogram(
            f"{name}_store_seconds",
            "Writing and sending to the annex",
            ["camera"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._completeness = Histogram(
            f"{name}_completeness_ratio",
            "Part of the needed keywords that came out well",
            ["camera"],
            buckets=_PARTS,
            registry=registry,
        )
        self._bytes = Counter(
            f"{name}_stored_bytes", "Bytes of headers in the annex", ["camera"], registry=registry
        )
        self._problems = Counter(
            f"{name}_problem_values",
            "Values of the exposure that were missing, stale, rejected or defaulted",
            ["camera", "outcome"],
            registry=registry,
        )
        self._refused = Counter(
            f"{name}_store_failures",
            "Attempts that the annex did not take, and where the header waits",
            ["waits"],
            registry=registry,
        )
        self._past = Counter(
            f"{name}_pasts",
            "Starts after which the past of the bus was taken in, or given up",
            ["outcome"],
            registry=registry,
        )
        self._past_wait = Histogram(
            f"{name}_past_wait_seconds",
            "Start of the component to the past of the bus being taken in, or given up",
            buckets=_SECONDS,
            registry=registry,
        )
        self._failed = Counter(
            f"{name}_failed_images", "Exposures whose header failed by a fault", registry=registry
        )

    @override
    def header_built(self, document: HeaderDocument, *, duration_s: float) -> None:
        self._build.labels(document.camera).observe(duration_s)

    @override
    def header_stored(
        self, document: HeaderDocument, *, size_bytes: int, duration_s: float
    ) -> None:
        self._store.labels(document.camera).observe(duration_s)
        self._bytes.labels(document.camera).inc(size_bytes)

    @override
    def header_published(self, document: HeaderDocument, *, latency_s: float) -> None:
        which = "first" if document.version == 1 else "later"
        self._versions.labels(document.camera, str(document.status), which).inc()
        self._latency.labels(document.camera).observe(latency_s)
        if document.version > 1:
            return
        self._completeness.labels(document.camera).observe(document.completeness)
        for record in document.records:
            if record.collected is not Collected.OK and record.section == "PRIMARY":
                self._problems.labels(document.camera, str(record.collected)).inc()

    @override
    def store_failed(self, *, held_back: bool) -> None:
        self._refused.labels("disk" if held_back else "memory").inc()

    @override
    def past_taken(self, *, taken: bool, after_s: float) -> None:
        self._past.labels("taken" if taken else "given up").inc()
        self._past_wait.observe(after_s)

    @override
    def image_failed(self, image: str) -> None:
        self._failed.inc()
