"""Servers of ours that find their port taken name the setting, and leave no trace of a bug."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from platevault.adapters.schema_registry import SchemaRegistryServer, SchemaStore
from platevault.adapters.schema_registry.server import RegistryPortError
from platevault.runtime.service import StopToken
from platevault.sim.daq_server import DaqPortError, DaqServer


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


async def test_a_schema_registry_names_its_setting(tmp_path: Path, taken: int) -> None:
    registry = SchemaRegistryServer(
        store=SchemaStore(tmp_path / "schemas.jsonl"), host="127.0.0.1", port=taken
    )
    with pytest.raises(RegistryPortError) as caught:
        await registry.run(StopToken(), lambda: None)
    assert caught.value.context["field"] == "serve.registry_port"
    assert caught.value.context["value"] == taken


@pytest.mark.parametrize("field", ["daq.port", "daq.control_port"])
async def test_a_daq_emulator_names_its_setting(taken: int, field: str) -> None:
    server = DaqServer(
        devices={},
        port=taken if field == "daq.port" else 0,
        control_port=taken if field == "daq.control_port" else 0,
    )
    with pytest.raises(DaqPortError) as caught:
        await asyncio.wait_for(server.run(StopToken(), lambda: None), 10.0)
    assert caught.value.context["field"] == field
    assert caught.value.context["value"] == taken
