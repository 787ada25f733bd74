from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from platevault.adapters.daq import DaqReadout
from platevault.sim.daq import SimDaq
from platevault.sim.daq_readout import SimReadout
from platevault.sim.daq_server import DaqServer
from platevault.testing.daq_servers import serving
from platevault.testing.readout_contract import ReadoutContract, ReadoutRig


class TestSimReadout(ReadoutContract):
    @pytest.fixture
    @override
    async def rig(self, daq: SimDaq) -> AsyncIterator[ReadoutRig]:
        yield ReadoutRig(SimReadout(daq), daq)  # noqa: PT022 - as the contract has it


class TestDaqReadout(ReadoutContract):
    @pytest.fixture
    @override
    async def rig(self, daq: SimDaq) -> AsyncIterator[ReadoutRig]:
        server = DaqServer(devices={"tiny": daq})
        async with (
            serving(server),
            DaqReadout(
                host="127.0.0.1", port=server.port, partition="tiny", shared_memory=False
            ) as readout,
        ):
            yield ReadoutRig(readout, daq)


class TestDaqReadoutInSharedMemory(ReadoutContract):
    @pytest.fixture
    @override
    async def rig(self, daq: SimDaq) -> AsyncIterator[ReadoutRig]:
        server = DaqServer(devices={"tiny": daq})
        async with (
            serving(server),
            DaqReadout(host="127.0.0.1", port=server.port, partition="tiny") as readout,
        ):
            yield ReadoutRig(readout, daq)
