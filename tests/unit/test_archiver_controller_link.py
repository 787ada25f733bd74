"""Answers of the Archive Controller are matched to questions, in time or not at all."""

from __future__ import annotations

import asyncio

import pytest

from platevault.adapters.memory.work_queue import MemoryWorkQueue
from platevault.domain.messages import (
    HealthCheck,
    HealthCheckAck,
    Message,
    NewArchiveItem,
    NewArchiveItemAck,
)
from platevault.domain.places import ARCHIVE_CONTROLLER_QUEUE
from platevault.services.archiver.controller_link import ControllerLink, ControllerSilentError
from platevault.testing.clocks import SteppedClock

IMAGE = "TC_O_20330517_000001"


class Bench:
    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.queue = MemoryWorkQueue(clock=self.clock)
        self.link = ControllerLink(
            sender="CCArchiver", reply_queue="replies", queue=self.queue, clock=self.clock
        )

    async def question(self) -> Message:
        async with self.queue.consume(ARCHIVE_CONTROLLER_QUEUE, prefetch=1) as deliveries:
            delivery = await anext(deliveries)
            await delivery.ack()
            return delivery.message


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_answer_ends_the_wait_at_once(bench: Bench) -> None:
    async with asyncio.TaskGroup() as tasks:
        checking = tasks.create_task(bench.link.check(limit_s=10.0))
        question = await bench.question()
        assert isinstance(question, HealthCheck)
        assert question.reply_queue == "replies"
        assert bench.link.heard(HealthCheckAck(sender="ac", ack_id=question.ack_id))
        await bench.clock.settle()
        assert checking.done()
    assert bench.clock.sleepers == 0


async def test_only_the_answer_to_this_question_counts(bench: Bench) -> None:
    async with asyncio.TaskGroup() as tasks:

        async def expect_silence() -> None:
            with pytest.raises(ControllerSilentError):
                await bench.link.check(limit_s=10.0)

        checking = tasks.create_task(expect_silence())
        await bench.question()
        assert not bench.link.heard(HealthCheckAck(sender="ac", ack_id="another"))
        await bench.clock.advance(9.9)
        assert not checking.done()
        await bench.clock.advance(0.2)
    assert bench.link.is_silent


async def test_questions_have_names_of_their_own(bench: Bench) -> None:
    names = set()
    for _ in range(3):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.link.check(limit_s=10.0))
            question = await bench.question()
            assert isinstance(question, HealthCheck)
            names.add(question.ack_id)
            bench.link.heard(HealthCheckAck(sender="ac", ack_id=question.ack_id))
    assert len(names) == 3


async def test_a_place_is_told_for_its_image(bench: Bench) -> None:
    async with asyncio.TaskGroup() as tasks:
        placing = tasks.create_task(bench.link.place("TinyCam", IMAGE, limit_s=10.0))
        question = await bench.question()
        assert question == NewArchiveItem(camera="TinyCam", image=IMAGE, reply_queue="replies")
        other = NewArchiveItemAck(camera="TinyCam", image="other", target_dir="/x")
        assert not bench.link.heard(other)
        bench.link.heard(NewArchiveItemAck(camera="TinyCam", image=IMAGE, target_dir="/a/b"))
    assert placing.result() == "/a/b"


async def test_a_silent_controller_is_asked_and_not_waited_for(bench: Bench) -> None:
    bench.link.is_silent = True
    with pytest.raises(ControllerSilentError):
        await bench.link.place("TinyCam", IMAGE, limit_s=10.0)
    assert await bench.queue.depth(ARCHIVE_CONTROLLER_QUEUE) == 1


async def test_an_answer_makes_it_be_waited_for_again(bench: Bench) -> None:
    bench.link.is_silent = True
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.link.check(limit_s=10.0))
        question = await bench.question()
        assert isinstance(question, HealthCheck)
        bench.link.heard(HealthCheckAck(sender="ac", ack_id=question.ack_id))
    assert not bench.link.is_silent


async def test_an_answer_that_nobody_waits_for_does_no_harm(bench: Bench) -> None:
    assert not bench.link.heard(HealthCheckAck(sender="ac", ack_id="x"))
    assert not bench.link.heard(NewArchiveItemAck(camera="C", image=IMAGE, target_dir="/"))
