"""The same client without the bus: the least that a command and its reply can take."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.aio import AIOConsumer, AIOProducer
from confluent_kafka.cimpl import NewTopic

from platevault.adapters.kafka.errors import error_of, problem_of
from platevault.adapters.kafka.settings import KafkaSettings
from platevault.ports.sample_bus import BusUnavailableError

#: Longest wait for one message [s].
_PATIENCE_S = 10.0
_POLL_S = 0.1


def measure_bare_round_trips(
    settings: KafkaSettings, *, repeats: int, size_bytes: int, warm_up: int = 20
) -> Sequence[float]:
    """Time a message to another thread and its answer, with our options and nothing else.

    Blocking; makes two topics and removes them.

    Parameters
    ----------
    settings
        Where the brokers are.
    repeats
        Round trips that count.
    size_bytes
        Size of each message.
    warm_up
        Round trips before, which do not count.

    Returns
    -------
    Sequence
        Time of each round trip [s].

    Raises
    ------
    BusUnavailableError
        A message did not come. Retry.
    """
    with _two_topics(settings) as (there, back):
        stop = threading.Event()
        answering = threading.Thread(
            target=_answer, args=(settings, there, back, stop), name="bare-answer"
        )
        answering.start()
        try:
            return _ask(settings, there, back, warm_up + repeats, bytes(size_bytes))[warm_up:]
        finally:
            stop.set()
            answering.join()


async def measure_asyncio_round_trips(
    settings: KafkaSettings, *, repeats: int, size_bytes: int, warm_up: int = 20
) -> Sequence[float]:
    """Do the same with the library's own client for event loops, in this loop.

    Makes two topics and removes them; parameters and results as in `measure_bare_round_trips`.

    Raises
    ------
    BusUnavailableError
        A message did not come. Retry.
    """
    names = _two_topics(settings)
    there, back = await asyncio.to_thread(names.__enter__)
    try:
        return (await _ask_in_loop(settings, there, back, warm_up + repeats, bytes(size_bytes)))[
            warm_up:
        ]
    finally:
        await asyncio.to_thread(names.__exit__, None, None, None)


async def _ask_in_loop(
    settings: KafkaSettings, there: str, back: str, count: int, value: bytes
) -> list[float]:
    asker, answerer = (
        AIOProducer({**settings.producer()}, batch_size=1, max_workers=2) for _ in range(2)
    )
    asked, answered = (AIOConsumer(_alone(settings), max_workers=2) for _ in range(2))
    await asked.assign([TopicPartition(there, 0, 0)])
    await answered.assign([TopicPartition(back, 0, 0)])

    sent: list[asyncio.Future[object]] = []
    times: list[float] = []

    async def answer() -> None:
        for _ in range(count):
            received = await _next_in_loop(asked, there)
            sent.append(await answerer.produce(back, value=received, key=b"key"))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(answer(), name="bare-answer")
            for _ in range(count):
                begin = time.perf_counter()
                sent.append(await asker.produce(there, value=value, key=b"key"))
                await _next_in_loop(answered, back)
                times.append(time.perf_counter() - begin)
        for delivery in sent:
            await delivery
    finally:
        for client in (asker, answerer, asked, answered):
            await client.close()
    return times


async def _next_in_loop(consumer: AIOConsumer, name: str) -> bytes | None:
    deadline = time.perf_counter() + _PATIENCE_S
    while time.perf_counter() < deadline:
        message = await consumer.poll(_POLL_S)
        if message is not None and message.error() is None:
            return bytes(message.value() or b"")
    raise BusUnavailableError("A message did not come", topic=name)


@contextmanager
def _two_topics(settings: KafkaSettings) -> Iterator[tuple[str, str]]:
    admin = AdminClient({**settings.client()})
    there, back = (f"lsst.{settings.subname}.bare.{secrets.token_hex(4)}" for _ in range(2))
    try:
        made = admin.create_topics(
            [NewTopic(name, 1, settings.replication_factor) for name in (there, back)]
        )
        for future in made.values():
            future.result()
    except KafkaException as error:
        raise error_of(problem_of(error), "Topics for the measurement not made") from error
    try:
        yield there, back
    finally:
        for future in admin.delete_topics([there, back]).values():
            future.result()


def _ask(settings: KafkaSettings, there: str, back: str, count: int, value: bytes) -> list[float]:
    producer, consumer = Producer({**settings.producer()}), _consumer(settings, back)
    times = []
    try:
        for _ in range(count):
            begin = time.perf_counter()
            producer.produce(there, value, b"key", partition=0)
            producer.poll(0)
            if _next(consumer, _PATIENCE_S) is None:
                raise BusUnavailableError("A message did not come back", topic=back)
            times.append(time.perf_counter() - begin)
    finally:
        producer.flush(_PATIENCE_S)
        consumer.close()
    return times


def _answer(settings: KafkaSettings, there: str, back: str, stop: threading.Event) -> None:
    producer, consumer = Producer({**settings.producer()}), _consumer(settings, there)
    while not stop.is_set():
        value = _next(consumer, _POLL_S)
        if value is not None:
            producer.produce(back, value, b"key", partition=0)
            producer.poll(0)
    producer.flush(_PATIENCE_S)
    consumer.close()


def _next(consumer: Consumer, within_s: float) -> bytes | None:
    deadline = time.perf_counter() + within_s
    while time.perf_counter() < deadline:
        message = consumer.poll(min(_POLL_S, within_s))
        if message is not None and message.error() is None:
            return message.value()
    return None


def _consumer(settings: KafkaSettings, name: str) -> Consumer:
    consumer = Consumer(_alone(settings))
    consumer.assign([TopicPartition(name, 0, 0)])
    return consumer


def _alone(settings: KafkaSettings) -> dict[str, str]:
    return settings.consumer(settings.group(f"bare.{secrets.token_hex(4)}"))
