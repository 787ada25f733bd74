"""What an operator sees of a process: counters, gauges and latencies.

Names are ``platevault_<service>_<noun>_<unit>``. Nothing here is global: a `Metrics` object is
made by who composes the process and handed to who counts.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from platevault.domain.errors import TransientError

#: Limits of latency classes [s]. 7 s is the requirement for a file at the data facility.
_LATENCY_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 60, 120, 300, 600)


class Metrics:
    """The instruments of one process.

    Parameters
    ----------
    registry
        Where they are registered; one registry takes one `Metrics`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.exposures = Counter(
            "platevault_archiver_exposures",
            "Exposures by outcome: seen, complete, degraded (without full header), incomplete",
            ["camera", "outcome"],
            registry=registry,
        )
        self.unfinished = Gauge(
            "platevault_ledger_unfinished_exposures",
            "Exposures with a file that is not done",
            ["camera"],
            registry=registry,
        )
        self.oldest_unfinished = Gauge(
            "platevault_ledger_oldest_unfinished_seconds",
            "Age of the oldest exposure with a file that is not done; 0 if there is none",
            registry=registry,
        )
        self.files = Gauge(
            "platevault_ledger_files",
            "Files of unfinished exposures by destination and state",
            ["destination", "state"],
            registry=registry,
        )
        self.changes = Counter(
            "platevault_ledger_changes",
            "Changes of state that were stored",
            ["destination", "state"],
            registry=registry,
        )
        self.attempts = Counter(
            "platevault_ledger_attempts",
            "Attempts that were begun; a file's first, or a further one",
            ["destination", "which"],
            registry=registry,
        )
        self.ledger_seconds = Histogram(
            "platevault_ledger_call_seconds",
            "Duration of calls that write the ledger",
            ["call"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
            registry=registry,
        )
        self.written_bytes = Counter(
            "platevault_forwarder_written_bytes",
            "Bytes of files that became durable in the archive",
            ["camera"],
            registry=registry,
        )
        self.degraded = Counter(
            "platevault_forwarder_degraded_files",
            "Files written without their full header",
            ["camera"],
            registry=registry,
        )
        self.durable_seconds = Histogram(
            "platevault_forwarder_durable_latency_seconds",
            "End of readout to raw file durable in the archive",
            ["camera"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.ingested_seconds = Histogram(
            "platevault_oods_ingest_latency_seconds",
            "End of readout to raw file catalogued",
            ["camera"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.replicated_seconds = Histogram(
            "platevault_backbone_latency_seconds",
            "End of readout to raw file verified in the backbone area",
            ["camera"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.header_seconds = Histogram(
            "platevault_header_latency_seconds",
            "End of readout to the header's address in the ledger",
            ["camera"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "platevault_queue_depth_messages",
            "Messages that wait or are in hand",
            ["queue"],
            registry=registry,
        )
        self.dead_letters = Gauge(
            "platevault_queue_dead_letter_messages",
            "Messages that were set aside and are not dismissed",
            ["queue"],
            registry=registry,
        )
        self.deliveries = Counter(
            "platevault_queue_deliveries",
            "Deliveries by how they ended: ack, retry, set_aside",
            ["queue", "ending"],
            registry=registry,
        )
        self.faults = Counter(
            "platevault_csc_faults",
            "Faults of components by error code",
            ["component", "code"],
            registry=registry,
        )
        self.retries = Counter(
            "platevault_process_retries",
            "Calls that failed and were tried again",
            ["what"],
            registry=registry,
        )
        self.log_lines = Counter(
            "platevault_process_log_lines",
            "Lines logged by level",
            ["level"],
            registry=registry,
        )

    def count_line(self, level: str) -> None:
        """Count a log line; for `platevault.runtime.observe.configure_logging`."""
        self.log_lines.labels(level).inc()

    def count_retries(self, what: str) -> Callable[[TransientError, int, float], None]:
        """Give an ``on_retry`` for `platevault.runtime.retry.retry` that counts."""
        counter = self.retries.labels(what)

        def count(_error: TransientError, _failures: int, _pause_s: float) -> None:
            counter.inc()

        return count
