"""An outbox whose producer fails for good says why, to all who wait, and makes another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs
from typing_extensions import override

from platevault.adapters.kafka import BusAccessError, BusState, outbox
from platevault.adapters.kafka.health import HealthBoard
from platevault.adapters.kafka.outbox import Outbox
from platevault.domain.errors import PlatevaultError
from platevault.ports.sample_bus import BusUnavailableError
from platevault.testing.clocks import SteppedClock

REFUSED = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "No right to write", fatal=True)
CONFUSED = KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "Sequence is broken", fatal=True)
FATAL = KafkaError(KafkaError._FATAL, "Fatal error")
PATIENCE_S = 10.0


class FakeProducer:
    """Fails for good in the way of the client, or delivers at once."""

    made: list[FakeProducer]
    failures: list[KafkaError]

    def __init__(self, *_: object, **__: object) -> None:
        self.failure = self.failures.pop(0) if self.failures else None
        self.told = False
        self.reports: list[Callable[[], None]] = []
        self.called = threading.Event()
        self.made.append(self)

    def produce(self, *_: object, on_delivery: Callable[..., None], **__: object) -> None:
        self.called.set()
        if self.told:
            raise KafkaException(FATAL)
        purged = KafkaError(KafkaError._PURGE_QUEUE, "Purged")
        problem = purged if self.failure else None
        self.reports.append(lambda: on_delivery(problem, None))

    def poll(self, within_s: float) -> int:
        if self.failure is not None and not self.told and self.called.wait(within_s):
            self.told = True
            raise KafkaException(self.failure)
        while self.reports:
            self.reports.pop(0)()
        self.called.wait(0.01)
        return 0

    def flush(self, _: float) -> int:
        return 0


class FailedUnheard(FakeProducer):
    """Has failed before anybody polled it."""

    @override
    def produce(self, *_: object, **__: object) -> None:
        self.called.set()
        raise KafkaException(FATAL)


@pytest.fixture(autouse=True)
def producers() -> Iterator[list[FakeProducer]]:
    FakeProducer.made, FakeProducer.failures = [], []
    yield FakeProducer.made
    del FakeProducer.made, FakeProducer.failures


@pytest.fixture
def board() -> HealthBoard:
    return HealthBoard(clock=SteppedClock())


def an_outbox(board: HealthBoard) -> Outbox:
    return Outbox(options={}, within_s=PATIENCE_S, health=board)


async def send(box: Outbox, number: int) -> None:
    await box.send((number,), topic="t", key=b"k", value=b"v")


async def outcome(box: Outbox, number: int) -> PlatevaultError | None:
    try:
        await send(box, number)
    except PlatevaultError as error:
        return error
    return None


@pytest.mark.parametrize("kind", [FakeProducer, FailedUnheard])
async def test_all_who_wait_hear_the_refusal_and_the_state_says_it_once(
    monkeypatch: pytest.MonkeyPatch, board: HealthBoard, kind: Any
) -> None:
    monkeypatch.setattr(outbox, "Producer", kind)
    FakeProducer.failures = [REFUSED, REFUSED]
    with capture_logs() as logs:
        async with asyncio.timeout(PATIENCE_S), an_outbox(board) as box:
            for _ in range(2):
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(outcome(box, number)) for number in range(3)]
                errors = [task.result() for task in tasks]
                assert {type(error) for error in errors} == {BusAccessError}
                assert "No right to write" in str(errors[0])
    assert [log["event"] for log in logs] == ["Bus is degraded"]
    assert board.health.state is BusState.DEGRADED


async def test_rights_that_are_given_later_are_used(
    monkeypatch: pytest.MonkeyPatch, board: HealthBoard, producers: list[FakeProducer]
) -> None:
    monkeypatch.setattr(outbox, "Producer", FakeProducer)
    FakeProducer.failures = [REFUSED]
    async with asyncio.timeout(PATIENCE_S), an_outbox(board) as box:
        with pytest.raises(BusAccessError):
            await send(box, 1)
        await send(box, 1)
        assert board.health.state is BusState.CONNECTED
        await send(box, 2)
    assert len(producers) == 2


async def test_another_failure_for_good_is_worth_a_retry(
    monkeypatch: pytest.MonkeyPatch, board: HealthBoard, producers: list[FakeProducer]
) -> None:
    monkeypatch.setattr(outbox, "Producer", FakeProducer)
    FakeProducer.failures = [CONFUSED]
    async with asyncio.timeout(PATIENCE_S), an_outbox(board) as box:
        with pytest.raises(BusUnavailableError, match="Sequence is broken"):
            await send(box, 1)
        await send(box, 1)
    assert board.health.state is BusState.CONNECTED
    assert len(producers) == 2


async def test_who_sends_nothing_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, board: HealthBoard, producers: list[FakeProducer]
) -> None:
    monkeypatch.setattr(outbox, "Producer", FakeProducer)
    FakeProducer.failures = [REFUSED]
    with capture_logs() as logs:
        async with asyncio.timeout(PATIENCE_S), an_outbox(board) as box:
            producers[0].called.set()
            while box._producer is not None:  # noqa: ASYNC110 - a thread polls it
                await asyncio.sleep(0.01)
            assert board.health.state is BusState.CONNECTED
            await send(box, 1)
    assert logs == []
    assert len(producers) == 2
