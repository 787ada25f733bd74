"""Metrics are served over HTTP and the server closes cleanly."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from platevault.runtime.metrics import Metrics
from platevault.runtime.metrics_server import MetricsPortError, MetricsServer
from platevault.runtime.service import StopToken


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
async def server(metrics: Metrics) -> AsyncIterator[MetricsServer]:
    server = MetricsServer(registry=metrics.registry, port=0)
    stop, ready = StopToken(), asyncio.Event()
    task = asyncio.get_running_loop().create_task(server.run(stop, ready.set))
    await ready.wait()
    yield server
    stop.request()
    async with asyncio.timeout(5.0):
        await task


def _get(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


async def test_a_scraper_reads_what_was_counted(metrics: Metrics, server: MetricsServer) -> None:
    metrics.exposures.labels("LATISS", "seen").inc(3)
    status, content_type, body = await asyncio.to_thread(_get, server.port)
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    samples = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert samples["platevault_archiver_exposures_total", "seen"] == 3.0
    assert samples["process_resident_memory_bytes", None] > 0


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/metrics?name=x", "GET", 200), ("/", "GET", 404), ("/metrics", "POST", 405)],
)
async def test_only_metrics_are_served(
    server: MetricsServer, path: str, method: str, status: int
) -> None:
    assert (await asyncio.to_thread(_get, server.port, path, method))[0] == status


async def test_head_gives_no_body(server: MetricsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5.0):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


async def test_too_many_scrapers_are_turned_away(server: MetricsServer) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(16)]
    await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(5.0):
        assert await _all_of(reader) == b""
    for one in (writer, *(each for _, each in silent)):
        one.close()


@pytest.mark.parametrize("sent", [b"", b"\x00" * 100, b"GET", b"x" * 100_000, b"\r\n\r\n"])
async def test_nonsense_disturbs_nobody(server: MetricsServer, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    if writer.can_write_eof():
        writer.write_eof()
    async with asyncio.timeout(5.0):
        answer = await _all_of(reader)
    writer.close()
    assert b"200 OK" not in answer
    assert (await asyncio.to_thread(_get, server.port))[0] == 200


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_silent_scrapers_do_not_delay_the_end(metrics: Metrics) -> None:
    server = MetricsServer(registry=metrics.registry, port=0)
    stop, ready = StopToken(), asyncio.Event()
    async with asyncio.TaskGroup() as group, asyncio.timeout(5.0):
        running = group.create_task(server.run(stop, ready.set))
        await ready.wait()
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
        await asyncio.to_thread(lambda: None)
        stop.request()
        await running
        for _, writer in silent:
            writer.close()


async def test_a_port_in_use_is_named(server: MetricsServer, metrics: Metrics) -> None:
    second = MetricsServer(registry=CollectorRegistry(), port=server.port)
    with pytest.raises(MetricsPortError) as caught:
        await second.run(StopToken(), lambda: None)
    assert caught.value.context["port"] == server.port


async def test_a_server_may_run_again_on_the_same_registry(metrics: Metrics) -> None:
    for _ in range(2):
        server = MetricsServer(registry=metrics.registry, port=0)
        stop, ready = StopToken(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(server.run(stop, ready.set))
            await ready.wait()
            _, _, body = await asyncio.to_thread(_get, server.port)
            stop.request()
        assert body.count("\nprocess_cpu_seconds_total ") == 1


async def test_a_cancelled_server_closes(metrics: Metrics) -> None:
    server = MetricsServer(registry=metrics.registry, port=0)
    ready = asyncio.Event()
    task = asyncio.get_running_loop().create_task(server.run(StopToken(), ready.set))
    await ready.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", server.port)
