"""The cost of messages is that of all messages of a file."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.compose.bench.messaging import measure_messaging, process_group
from platevault.domain.errors import UsageError
from platevault.domain.messages import Message, Together
from platevault.testing.clocks import SteppedClock


async def test_every_message_of_every_file_is_sent_and_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = MemoryWorkQueue(clock=SteppedClock())
    send, sent = queue.send, []
    held: Counter[str] = Counter()

    async def noted(name: str, message: Message, *, priority: int = 0) -> None:
        sent.append((name, message.type))
        if isinstance(message, Together):
            held.update(one.type for one in message.messages)
        await send(name, message, priority=priority)

    monkeypatch.setattr(queue, "send", noted)
    cost = await measure_messaging(queue, files=6)
    types = [kind for _, kind in sent]
    assert {kind: types.count(kind) for kind in types} == {
        "end_readout": 2,
        "together": 8,
    }
    assert held == {
        "image_retrieval": 6,
        "file_transfer_completed": 6,
        "ingest_request": 6,
        "image_in_oods": 6,
    }
    assert (cost.files, cost.messages) == (6, 10)
    assert cost.client_core_ms > 0
    assert cost.broker_core_ms == 0
    assert {await queue.depth(name) for name, _ in sent} == {0}


async def test_the_brokers_time_is_added() -> None:
    queue = MemoryWorkQueue(clock=SteppedClock())
    cost = await measure_messaging(queue, files=600, broker=[os.getpid()])
    assert cost.broker_core_ms > 0
    assert cost.core_ms == cost.client_core_ms + cost.broker_core_ms


@pytest.mark.parametrize("files", [0, -3, 4])
async def test_boards_are_whole(files: int) -> None:
    with pytest.raises(UsageError):
        await measure_messaging(MemoryWorkQueue(clock=SteppedClock()), files=files)


def test_a_process_is_in_its_group() -> None:
    assert os.getpid() in process_group(os.getpgid(0))
