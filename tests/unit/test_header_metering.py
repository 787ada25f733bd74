"""Metrics tell what the Header Service did."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry

from platevault.compose.cameras import load_camera
from platevault.domain.header_fallback import fallback_document
from platevault.services.header_service.metering import MeteredHeaders

NAME = "platevault_header_service"


def test_each_version_is_counted_with_its_latency_and_completeness() -> None:
    registry = CollectorRegistry()
    meter = MeteredHeaders(registry)
    document = fallback_document("CC_O_20250415_000060", load_camera("comcam"), {})
    meter.header_built(document, duration_s=0.03)
    meter.header_stored(document, size_bytes=1000, duration_s=0.02)
    meter.header_published(document, latency_s=0.15)
    meter.header_published(replace(document, version=2), latency_s=3.0)

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"{NAME}_{name}", {"camera": "LSSTComCam", **labels})

    assert sample("versions_total", status="minimal", which="first") == 1.0
    assert sample("versions_total", status="minimal", which="later") == 1.0
    assert sample("publish_latency_seconds_bucket", le="0.2") == 1.0
    assert sample("publish_latency_seconds_count") == 2.0
    assert sample("stored_bytes_total") == 1000.0
    assert sample("completeness_ratio_count") == 1.0
    assert sample("completeness_ratio_sum") == document.completeness
    assert sample("problem_values_total", outcome="missing") == len(document.records)


def test_failures_are_counted_by_where_the_header_waits() -> None:
    registry = CollectorRegistry()
    meter = MeteredHeaders(registry)
    meter.store_failed(held_back=True)
    meter.store_failed(held_back=False)
    meter.store_failed(held_back=False)
    meter.image_failed("CC_O_20250415_000060")
    assert registry.get_sample_value(f"{NAME}_store_failures_total", {"waits": "disk"}) == 1.0
    assert registry.get_sample_value(f"{NAME}_store_failures_total", {"waits": "memory"}) == 2.0
    assert registry.get_sample_value(f"{NAME}_failed_images_total") == 1.0
