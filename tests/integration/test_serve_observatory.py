"""Simulated devices as processes: commanded over Kafka, read over TCP."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from platevault.adapters.daq.readout import DaqReadout
from platevault.compose.cameras import load_camera
from platevault.compose.local_servers import KafkaServer, RedisServer, free_port
from platevault.testing.command_line import ask_service, run_platevault, serving

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]
_START_S = 60.0


def output_of(*arguments: str) -> str:
    done = run_platevault(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def ready(*arguments: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    port, log = free_port(), config.with_name(f"{arguments[0]}.log")
    more = ("--config", str(config), "--metrics-port", str(port))
    with serving(*arguments, *more, log=log) as child:
        deadline = time.monotonic() + _START_S
        while ask_service(port, "/readyz")[0] != 200:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield child


@pytest.fixture
def config(tmp_path: Path, kafka_server: KafkaServer, redis_server: RedisServer) -> Path:
    registry_port, daq_port = free_port(), free_port()
    file = tmp_path / "site.yaml"
    content = {
        "root": str(tmp_path / "data"),
        "bus": "kafka",
        "leases": "redis",
        "kafka": {
            "brokers": kafka_server.address,
            "registry_url": f"http://127.0.0.1:{registry_port}",
            "subname": f"observatory{daq_port}",
        },
        "redis": {"port": redis_server.port, "namespace": f"observatory{daq_port}"},
        "daq": {"host": "127.0.0.1", "port": daq_port},
        "serve": {"registry_port": registry_port},
    }
    file.write_text(yaml.safe_dump(content))
    return file


def daq_port(config: Path) -> int:
    return int(yaml.safe_load(config.read_text())["daq"]["port"])


async def test_an_observatory_takes_images_by_command(config: Path) -> None:
    options = ("--config", str(config))
    with ExitStack() as stack:
        registry = stack.enter_context(ready("schema-registry", config=config))
        observatory = stack.enter_context(ready("observatory", "--camera", "latiss", config=config))
        for command in ("start", "enable"):
            output_of("csc", "command", "ATCamera", command, *options)
        output_of(
            "csc", "command", "ATCamera", "takeImages", "numImages=2", "expTime=1", "shutter=true",
            "keyValueMap=imageType: OBJECT", *options,
        )  # fmt: skip
        port = daq_port(config)
        camera = load_camera("latiss")
        async with DaqReadout(host="127.0.0.1", port=port, partition=camera.partition) as readout:
            images = await readout.images()
            assert [(one.complete, one.image[:5]) for one in images] == [(True, "AT_O_")] * 2
            board = camera.boards[0].location
            pixels = await readout.read_board(images[0].image, board)
            assert len(pixels.data) > 0
        for child in (observatory, registry):
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0


async def test_a_daq_emulator_answers_alone(config: Path) -> None:
    with ready("daq-emulator", "--camera", "latiss", config=config) as child:
        port = daq_port(config)
        async with DaqReadout(
            host="127.0.0.1", port=port, partition=load_camera("latiss").partition
        ) as readout:
            assert await readout.images() == []
        child.send_signal(signal.SIGTERM)
        assert child.wait(40) == 0
