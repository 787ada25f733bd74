"""What every work queue must do; subclass `WorkQueueContract` in a test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar

import pytest
from structlog.testing import capture_logs

from platevault.domain.errors import UsageError
from platevault.domain.messages import FileTransferCompleted, decode_message
from platevault.ports.work_queue import (
    DeadLetterMissingError,
    Delivery,
    DeliveryLostError,
    DeliverySettledError,
    WorkQueue,
)

#: Lets time pass for the queue under test [s].
Advance = Callable[[float], Awaitable[None]]
#: Puts bytes on a named queue without the adapter under test.
Inject = Callable[[str, bytes], Awaitable[None]]

#: A test that waits longer than this has failed [s].
_PATIENCE_S = 10.0


def a_message(number: int) -> FileTransferCompleted:
    """Make a message that can be told from others."""
    return FileTransferCompleted(camera="LATISS", image=f"image-{number}", sensor="R00_S00")


def _number(delivery: Delivery) -> int:
    message = delivery.message
    assert isinstance(message, FileTransferCompleted)
    return int(message.image.removeprefix("image-"))


async def _next(deliveries: AsyncIterator[Delivery]) -> Delivery:
    async with asyncio.timeout(_PATIENCE_S):
        return await anext(deliveries)


async def _take(deliveries: AsyncIterator[Delivery], count: int) -> list[int]:
    """Take and acknowledge ``count`` messages; give their numbers."""
    numbers = []
    for _ in range(count):
        delivery = await _next(deliveries)
        numbers.append(_number(delivery))
        await delivery.ack()
    return numbers


@asynccontextmanager
async def _waiting(deliveries: AsyncIterator[Delivery]) -> AsyncIterator[asyncio.Task[Delivery]]:
    """Wait for a delivery in a task, which is cancelled at the end if it still waits."""

    async def wait() -> Delivery:
        return await anext(deliveries)

    task = asyncio.get_running_loop().create_task(wait())
    try:
        await asyncio.sleep(0)
        yield task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class WorkQueueContract:
    """Give the fixtures ``queue``, ``advance`` and ``inject``.

    ``queue`` is a `WorkQueue` that sets a message aside after `delivery_limit` deliveries;
    ``advance`` lets time pass for it (`Advance`); ``inject`` puts raw bytes on a queue by another
    way than `WorkQueue.send` (`Inject`).
    """

    delivery_limit: ClassVar[int] = 3
    #: A delay long enough to tell it from none [s]; small where time is real.
    delay_s: ClassVar[float] = 30.0

    @pytest.fixture
    def name(self) -> str:
        """Name a queue that no other test uses."""
        return f"contract-{uuid.uuid4().hex[:12]}"

    async def test_a_message_arrives_as_it_was_sent(self, queue: WorkQueue, name: str) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            delivery = await _next(deliveries)
            assert delivery.message == a_message(1)
            assert delivery.attempt == 1
            await delivery.ack()

    async def test_a_waiting_consumer_hears_of_a_message(self, queue: WorkQueue, name: str) -> None:
        async with queue.consume(name, prefetch=1) as deliveries, _waiting(deliveries) as waiting:
            await queue.send(name, a_message(1))
            async with asyncio.timeout(_PATIENCE_S):
                delivery = await waiting
            await delivery.ack()

    async def test_what_was_acknowledged_never_comes_again(
        self, queue: WorkQueue, name: str, advance: Advance
    ) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            assert await _take(deliveries, 1) == [1]
        async with queue.consume(name, prefetch=1) as deliveries, _waiting(deliveries) as waiting:
            await advance(self.delay_s)
            assert not waiting.done()
        assert await queue.depth(name) == 0

    async def test_messages_come_in_the_order_of_sending(self, queue: WorkQueue, name: str) -> None:
        for number in range(20):
            await queue.send(name, a_message(number))
        async with queue.consume(name, prefetch=3) as deliveries:
            assert await _take(deliveries, 20) == [*range(20)]

    async def test_a_higher_priority_goes_first(self, queue: WorkQueue, name: str) -> None:
        for number, priority in enumerate((0, 9, 5, 0, 9)):
            await queue.send(name, a_message(number), priority=priority)
        async with queue.consume(name, prefetch=1) as deliveries:
            assert await _take(deliveries, 5) == [1, 4, 2, 0, 3]

    @pytest.mark.parametrize("priority", [-1, 10])
    async def test_a_priority_out_of_range_is_refused(
        self, queue: WorkQueue, name: str, priority: int
    ) -> None:
        with pytest.raises(UsageError):
            await queue.send(name, a_message(1), priority=priority)
        assert await queue.depth(name) == 0

    async def test_no_more_than_the_prefetch_is_unfinished(
        self, queue: WorkQueue, name: str, advance: Advance
    ) -> None:
        for number in range(4):
            await queue.send(name, a_message(number))
        async with queue.consume(name, prefetch=2) as deliveries:
            first, _second = await _next(deliveries), await _next(deliveries)
            async with _waiting(deliveries) as waiting:
                await advance(self.delay_s)
                assert not waiting.done()
                await first.ack()
                async with asyncio.timeout(_PATIENCE_S):
                    assert _number(await waiting) == 2

    async def test_a_consumer_that_takes_nothing_is_refused(
        self, queue: WorkQueue, name: str
    ) -> None:
        with pytest.raises(UsageError):
            async with queue.consume(name, prefetch=0):
                pytest.fail("a consumer without a place was let in")

    async def test_what_a_closed_consumer_left_comes_again_in_order(
        self, queue: WorkQueue, name: str
    ) -> None:
        for number in range(4):
            await queue.send(name, a_message(number))
        async with queue.consume(name, prefetch=4) as deliveries:
            in_hand = [await _next(deliveries) for _ in range(4)]
            await in_hand[1].ack()
        async with queue.consume(name, prefetch=4) as deliveries:
            again = [await _next(deliveries) for _ in range(3)]
            assert [_number(one) for one in again] == [0, 2, 3]
            assert [one.attempt for one in again] == [2, 2, 2]
            for one in again:
                await one.ack()

    async def test_what_a_failed_consumer_left_comes_again(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))

        async def fail() -> None:
            async with queue.consume(name, prefetch=1) as deliveries:
                await _next(deliveries)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        async with queue.consume(name, prefetch=1) as deliveries:
            assert await _take(deliveries, 1) == [1]

    async def test_what_a_cancelled_consumer_left_comes_again(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))
        in_hand = asyncio.Event()

        async def work() -> None:
            async with queue.consume(name, prefetch=1) as deliveries:
                await _next(deliveries)
                in_hand.set()
                await asyncio.Event().wait()

        task = asyncio.get_running_loop().create_task(work())
        async with asyncio.timeout(_PATIENCE_S):
            await in_hand.wait()
        task.cancel()
        await asyncio.wait({task})
        async with queue.consume(name, prefetch=1) as deliveries:
            delivery = await _next(deliveries)
            assert (_number(delivery), delivery.attempt) == (1, 2)
            await delivery.ack()

    async def test_a_cancelled_wait_takes_nothing(self, queue: WorkQueue, name: str) -> None:
        async with queue.consume(name, prefetch=1) as deliveries:
            async with _waiting(deliveries) as waiting:
                pass
            assert waiting.cancelled()
            await queue.send(name, a_message(1))
            assert await _take(deliveries, 1) == [1]

    async def test_a_consumer_cancelled_at_any_step_of_its_start_takes_nothing(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))

        async def open_only() -> None:
            async with queue.consume(name, prefetch=1):
                pass

        for steps in range(12):
            task = asyncio.get_running_loop().create_task(open_only())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        async with queue.consume(name, prefetch=1) as deliveries:
            assert await _take(deliveries, 1) == [1]

    async def test_a_delayed_message_comes_after_its_delay_and_holds_up_no_other(
        self, queue: WorkQueue, name: str, advance: Advance
    ) -> None:
        await queue.send(name, a_message(1))
        await queue.send(name, a_message(2))
        async with queue.consume(name, prefetch=2) as deliveries:
            first = await _next(deliveries)
            await first.retry(delay_s=self.delay_s, reason="not yet")
            assert await _take(deliveries, 1) == [2]
            async with _waiting(deliveries) as waiting:
                await advance(self.delay_s * 0.5)
                assert not waiting.done()
                await advance(self.delay_s * 0.6)
                async with asyncio.timeout(_PATIENCE_S):
                    again = await waiting
            assert (_number(again), again.attempt) == (1, 2)
            await again.ack()

    async def test_a_new_message_does_not_wait_for_a_delayed_one(
        self, queue: WorkQueue, name: str, advance: Advance
    ) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            await (await _next(deliveries)).retry(delay_s=self.delay_s, reason="later")
            async with _waiting(deliveries) as waiting:
                await advance(self.delay_s * 0.1)
                await queue.send(name, a_message(2))
                async with asyncio.timeout(_PATIENCE_S):
                    delivery = await waiting
                assert _number(delivery) == 2
                await delivery.ack()

    async def test_a_message_put_back_without_delay_comes_again(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            await (await _next(deliveries)).retry(delay_s=0.0, reason="again")
            again = await _next(deliveries)
            assert again.attempt == 2
            await again.ack()

    async def test_a_message_put_back_too_often_is_set_aside(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            for attempt in range(1, self.delivery_limit + 1):
                delivery = await _next(deliveries)
                assert delivery.attempt == attempt
                await delivery.retry(delay_s=0.0, reason="the disk is on fire")
        (letter,) = await queue.dead_letters(name)
        assert "the disk is on fire" in letter.reason
        assert await queue.depth(name) == 0

    async def test_a_message_that_ends_its_consumers_is_set_aside(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))
        for _ in range(self.delivery_limit):
            async with queue.consume(name, prefetch=1) as deliveries:
                await _next(deliveries)
        (letter,) = await queue.dead_letters(name)
        assert decode_message(letter.body.encode()) == a_message(1)
        assert await queue.depth(name) == 0

    async def test_what_is_set_aside_is_listed_and_not_delivered(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))
        await queue.send(name, a_message(2))
        async with queue.consume(name, prefetch=1) as deliveries:
            await (await _next(deliveries)).set_aside(reason="no such camera")
            assert await _take(deliveries, 1) == [2]
        (letter,) = await queue.dead_letters(name)
        assert letter.queue == name
        assert letter.reason == "no such camera"
        assert decode_message(letter.body.encode()) == a_message(1)
        assert letter.set_aside_tai > 0
        assert await queue.depth(name) == 0

    async def test_dead_letters_of_every_queue_are_listed_together(
        self, queue: WorkQueue, name: str
    ) -> None:
        for each in (name, f"{name}-other"):
            await queue.send(each, a_message(1))
            async with queue.consume(each, prefetch=1) as deliveries:
                await (await _next(deliveries)).set_aside(reason="x")
        assert [letter.queue for letter in await queue.dead_letters(name)] == [name]
        assert {letter.queue for letter in await queue.dead_letters()} >= {name, f"{name}-other"}

    async def test_a_dead_letter_driven_again_is_as_new(self, queue: WorkQueue, name: str) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            await (await _next(deliveries)).retry(delay_s=0.0, reason="x")
            await (await _next(deliveries)).set_aside(reason="x")
            (letter,) = await queue.dead_letters(name)
            await queue.redrive(letter.letter_id)
            again = await _next(deliveries)
            assert (again.message, again.attempt) == (a_message(1), 1)
            await again.ack()
        assert await queue.dead_letters(name) == []
        with pytest.raises(DeadLetterMissingError):
            await queue.redrive(letter.letter_id)

    async def test_a_dismissed_letter_is_gone(self, queue: WorkQueue, name: str) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            await (await _next(deliveries)).set_aside(reason="x")
        (letter,) = await queue.dead_letters(name)
        await queue.dismiss(letter.letter_id, reason="a test image")
        assert await queue.dead_letters(name) == []
        assert await queue.depth(name) == 0
        with pytest.raises(DeadLetterMissingError):
            await queue.dismiss(letter.letter_id, reason="again")

    async def test_what_was_done_with_a_letter_is_in_the_log(
        self, queue: WorkQueue, name: str
    ) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            await (await _next(deliveries)).set_aside(reason="no space")
            (first,) = await queue.dead_letters(name)
            with capture_logs() as lines:
                await queue.redrive(first.letter_id)
            line = {"queue": name, "letter": first.letter_id, "reason": "no space"}
            assert {"event": "Dead letter was driven again", "log_level": "info", **line} in lines
            await (await _next(deliveries)).set_aside(reason="no space")
        (second,) = await queue.dead_letters(name)
        with capture_logs() as lines:
            await queue.dismiss(second.letter_id, reason="a test image")
        line = {"queue": name, "letter": second.letter_id, "reason": "a test image"}
        assert {"event": "Dead letter was dismissed", "log_level": "info", **line} in lines

    @pytest.mark.parametrize(
        "body",
        [b"", b"\xff\xfe", b"{", b"[]", b'{"type": "unheard_of"}', b'{"type": "health_check"}'],
    )
    async def test_a_malformed_body_is_set_aside_and_the_rest_goes_on(
        self, queue: WorkQueue, name: str, inject: Inject, body: bytes
    ) -> None:
        await inject(name, body)
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            assert await _take(deliveries, 1) == [1]
        (letter,) = await queue.dead_letters(name)
        assert letter.body == body.decode("utf-8", errors="replace")
        assert letter.reason
        assert await queue.depth(name) == 0

    async def test_two_consumers_share_the_work(self, queue: WorkQueue, name: str) -> None:
        for number in range(6):
            await queue.send(name, a_message(number))
        async with (
            queue.consume(name, prefetch=3) as some,
            queue.consume(name, prefetch=3) as others,
        ):
            mine = [await _next(some) for _ in range(3)]
            theirs = [await _next(others) for _ in range(3)]
            assert sorted(map(_number, (*mine, *theirs))) == [*range(6)]
            for delivery in (*mine, *theirs):
                await delivery.ack()
        assert await queue.depth(name) == 0

    async def test_another_consumer_takes_over_what_a_closed_one_left(
        self, queue: WorkQueue, name: str, advance: Advance
    ) -> None:
        await queue.send(name, a_message(1))
        async with AsyncExitStack() as one:
            await _next(await one.enter_async_context(queue.consume(name, prefetch=1)))
            async with queue.consume(name, prefetch=1) as others, _waiting(others) as waiting:
                await advance(self.delay_s)
                assert not waiting.done()
                await one.aclose()
                async with asyncio.timeout(_PATIENCE_S):
                    delivery = await waiting
                assert delivery.attempt == 2
                await delivery.ack()

    @pytest.mark.parametrize("ending", ["ack", "retry", "set_aside"])
    async def test_a_delivery_ends_once(self, queue: WorkQueue, name: str, ending: str) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=2) as deliveries:
            delivery = await _next(deliveries)
            await _end(delivery, ending)
            for second in ("ack", "retry", "set_aside"):
                with pytest.raises(DeliverySettledError):
                    await _end(delivery, second)

    @pytest.mark.parametrize("ending", ["ack", "retry", "set_aside"])
    async def test_a_delivery_is_lost_with_its_consumer(
        self, queue: WorkQueue, name: str, ending: str
    ) -> None:
        await queue.send(name, a_message(1))
        async with queue.consume(name, prefetch=1) as deliveries:
            delivery = await _next(deliveries)
        with pytest.raises(DeliveryLostError):
            await _end(delivery, ending)
        async with queue.consume(name, prefetch=1) as deliveries:
            assert await _take(deliveries, 1) == [1]

    async def test_depth_counts_what_waits_is_delayed_or_in_hand(
        self, queue: WorkQueue, name: str
    ) -> None:
        for number in range(3):
            await queue.send(name, a_message(number))
        assert await queue.depth(name) == 3
        async with queue.consume(name, prefetch=2) as deliveries:
            await (await _next(deliveries)).retry(delay_s=self.delay_s, reason="later")
            in_hand = await _next(deliveries)
            assert await queue.depth(name) == 3
            await in_hand.ack()
            assert await queue.depth(name) == 2

    async def test_queues_do_not_know_each_other(self, queue: WorkQueue, name: str) -> None:
        await queue.send(name, a_message(1))
        await queue.send(f"{name}-other", a_message(2))
        async with queue.consume(f"{name}-other", prefetch=5) as deliveries:
            assert await _take(deliveries, 1) == [2]
        assert (await queue.depth(name), await queue.depth(f"{name}-other")) == (1, 0)


async def _end(delivery: Delivery, ending: str) -> None:
    match ending:
        case "ack":
            await delivery.ack()
        case "retry":
            await delivery.retry(delay_s=0.0, reason="x")
        case _:
            await delivery.set_aside(reason="x")
