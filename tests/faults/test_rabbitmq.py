"""RabbitMQ restarts, crashes, hangs; consumers are killed; no message is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NoReturn

import pytest

from platevault.adapters.rabbitmq import RabbitSettings, RabbitWorkQueue
from platevault.adapters.rabbitmq.connection import QueueMismatchError, RabbitRefusedError
from platevault.adapters.system_clock import SystemClock
from platevault.domain.errors import UsageError
from platevault.domain.messages import FileTransferCompleted, Message
from platevault.ports.work_queue import (
    DeadLetter,
    DeliveryLostError,
    QueueFullError,
    QueueUnavailableError,
    WorkQueue,
)
from platevault.runtime.retry import Backoff
from platevault.runtime.service import StopToken
from platevault.runtime.work import work_off
from platevault.testing.message_servers import rabbitmqctl
from platevault.testing.servers import RabbitServer, ServerMissingError
from platevault.testing.work_queue_contract import a_message

pytestmark = pytest.mark.servers

CLOCK = SystemClock()
QUICK = Backoff(first_s=0.05, ceiling_s=0.2, seed=1)
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, service_missing: Callable[[str], NoReturn]
) -> Iterator[RabbitServer]:
    """Run a broker that these tests may mistreat; each leaves it running."""
    try:
        with RabbitServer(tmp_path_factory.mktemp("rabbitmq-faults")) as server:
            yield server
    except ServerMissingError:
        service_missing("rabbitmq-server")


@pytest.fixture
def settings(server: RabbitServer) -> RabbitSettings:
    return RabbitSettings(
        user="guest",
        password="guest",
        hosts=(server.host,),
        port=server.port,
        delivery_limit=5,
        heartbeat_s=1,
        connect_timeout_s=2.0,
        answer_timeout_s=3.0,
        roll_call_s=0.5,
    )


@asynccontextmanager
async def opened(settings: RabbitSettings) -> AsyncIterator[RabbitWorkQueue]:
    async with RabbitWorkQueue(settings=settings, clock=CLOCK, backoff=QUICK) as queue:
        yield queue


@pytest.fixture
async def queue(settings: RabbitSettings) -> AsyncIterator[RabbitWorkQueue]:
    async with opened(settings) as queue:
        yield queue


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"faults-{request.node.name[:100].translate({ord('['): '-', ord(']'): None})}"


async def _send(queue: WorkQueue, name: str, message: Message) -> None:
    """Send as services do: again, until it is taken."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await queue.send(name, message)
            except QueueUnavailableError:
                await asyncio.sleep(0.05)
            else:
                return


async def _depth(queue: WorkQueue, name: str) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await queue.depth(name)
            except QueueUnavailableError:
                await asyncio.sleep(0.05)


async def _until_empty(queue: WorkQueue, name: str) -> None:
    """Wait for those that come twice: sent again, or not acknowledged when the broker went."""
    async with asyncio.timeout(PATIENCE_S):
        while await _depth(queue, name):  # noqa: ASYNC110 - other tasks work it off
            await asyncio.sleep(0.05)


async def _letters(queue: WorkQueue, name: str) -> list[DeadLetter]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await queue.dead_letters(name)
            except QueueUnavailableError:
                await asyncio.sleep(0.05)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - other tasks do the work that is waited for
            await asyncio.sleep(0.01)


def _number(message: Message) -> int:
    assert isinstance(message, FileTransferCompleted)
    return int(message.image.removeprefix("image-"))


@asynccontextmanager
async def working(queue: WorkQueue, name: str, done: list[int]) -> AsyncIterator[None]:
    """Work the queue off as services do, noting what was acknowledged or nearly so."""
    stop = StopToken()

    async def handle(message: Message, _: int) -> None:
        await asyncio.sleep(0.002)
        done.append(_number(message))

    async with asyncio.TaskGroup() as group:
        group.create_task(
            work_off(queue, name, handle, prefetch=4, stop=stop, clock=CLOCK), name="work"
        )
        try:
            yield
        finally:
            stop.request()


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_no_message_is_lost_when_the_broker_goes_in_mid_stream(
    server: RabbitServer, queue: RabbitWorkQueue, name: str, how: str
) -> None:
    """Confirmed messages come, through a stop in good order and through a crash."""
    done: list[int] = []
    sent: list[int] = []

    async def stream() -> None:
        for number in range(300):
            await _send(queue, name, a_message(number))
            sent.append(number)

    async with working(queue, name, done), asyncio.TaskGroup() as group:
        group.create_task(stream(), name="stream")
        await _until(lambda: len(done) >= 50)
        if how == "restart":
            await asyncio.to_thread(server.restart)
        else:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await _until(lambda: len(sent) == 300)
        await _until(lambda: set(done) == set(range(300)))
        await _until_empty(queue, name)
    assert await _depth(queue, name) == 0
    assert await _letters(queue, name) == []


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_delayed_messages_and_dead_letters_outlive_the_broker(
    server: RabbitServer, queue: RabbitWorkQueue, name: str, how: str
) -> None:
    for number in range(3):
        await queue.send(name, a_message(number), priority=9 - number)
    async with queue.consume(name, prefetch=3) as deliveries:
        in_hand = [await anext(deliveries) for _ in range(3)]
        assert [_number(one.message) for one in in_hand] == [0, 1, 2]
        await in_hand[0].set_aside(reason="no such camera")
        await in_hand[1].retry(delay_s=1.0, reason="later")
        if how == "restart":
            await asyncio.to_thread(server.restart)
        else:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        with pytest.raises(DeliveryLostError):
            await in_hand[2].ack()
        with pytest.raises(QueueUnavailableError):
            await anext(deliveries)
    (letter,) = await _letters(queue, name)
    assert (letter.queue, letter.reason) == (name, "no such camera")
    depth = await _depth(queue, name)
    # A broker that crashed may have forgotten the last acknowledgements, but no message.
    assert depth == 2 if how == "restart" else depth >= 2
    async with queue.consume(name, prefetch=3) as deliveries, asyncio.timeout(PATIENCE_S):
        attempts: dict[int, int] = {}
        for _ in range(depth):
            delivery = await anext(deliveries)
            attempts[_number(delivery.message)] = delivery.attempt
            await delivery.ack()
    assert set(attempts) >= {1, 2}
    assert min(attempts.values()) >= 2
    await queue.redrive(letter.letter_id)
    async with queue.consume(name, prefetch=3) as deliveries, asyncio.timeout(PATIENCE_S):
        await (await anext(deliveries)).ack()
    assert await queue.depth(name) == 0


async def test_a_broker_that_is_away_is_said_and_found_again(
    server: RabbitServer, queue: RabbitWorkQueue, name: str
) -> None:
    await queue.send(name, a_message(1))
    assert all(state.connected for state in queue.states.values())
    await asyncio.to_thread(server.stop)
    try:
        for call in (
            lambda: queue.send(name, a_message(2)),
            lambda: queue.depth(name),
            lambda: queue.dead_letters(name),
        ):
            with pytest.raises(QueueUnavailableError):
                await call()
        with pytest.raises(QueueUnavailableError):
            async with queue.consume(name, prefetch=1):
                pytest.fail("a consumer was opened without a broker")
        states = queue.states.values()
        assert not any(state.connected for state in states)
        assert all(state.problem and state.since_tai > 0 for state in states)
    finally:
        await asyncio.to_thread(server.start)
    await _send(queue, name, a_message(3))
    assert await _depth(queue, name) == 2
    states = queue.states.values()
    assert all(
        (state.connected, state.problem, state.failures) == (True, "", 0) for state in states
    )


async def test_a_process_may_start_before_the_broker(
    server: RabbitServer, settings: RabbitSettings, name: str
) -> None:
    await asyncio.to_thread(server.stop)
    try:
        async with opened(settings) as queue:
            assert not any(state.connected for state in queue.states.values())
            with pytest.raises(QueueUnavailableError):
                await queue.send(name, a_message(1))
            await asyncio.to_thread(server.start)
            await _send(queue, name, a_message(1))
    finally:
        if not server.running:
            await asyncio.to_thread(server.start)


async def test_calls_between_attempts_fail_at_once(settings: RabbitSettings, name: str) -> None:
    nowhere = replace(settings, port=1)
    slow = Backoff(first_s=60.0, ceiling_s=60.0)
    async with RabbitWorkQueue(settings=nowhere, clock=CLOCK, backoff=slow) as queue:
        for _ in range(50):
            with pytest.raises(QueueUnavailableError):
                await queue.send(name, a_message(1))
        assert queue.states["sending"].failures == 1


async def test_a_second_node_is_taken_if_the_first_is_away(
    server: RabbitServer, settings: RabbitSettings, name: str
) -> None:
    async with opened(replace(settings, hosts=("127.0.0.2", server.host))) as queue:
        await queue.send(name, a_message(1))
        assert await queue.depth(name) == 1


async def test_a_broker_that_hangs_counts_as_gone_and_nothing_is_lost(
    server: RabbitServer, queue: RabbitWorkQueue, name: str
) -> None:
    done: list[int] = []
    async with working(queue, name, done):
        for number in range(10):
            await queue.send(name, a_message(number))
        await _until(lambda: len(done) == 10)
        server.pause()
        try:
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(QueueUnavailableError):
                    await queue.send(name, a_message(10))
                assert not queue.states["sending"].connected
                while queue.states["taking"].connected:  # noqa: ASYNC110 - heartbeats end it
                    await asyncio.sleep(0.05)
        finally:
            server.resume()
        for number in range(10, 20):
            await _send(queue, name, a_message(number))
        await _until(lambda: set(done) == set(range(20)))
        # The message that was refused was on its way, so it is there twice.
        await _until_empty(queue, name)
    assert await _depth(queue, name) == 0


CONSUMER = """
import asyncio, sys
from platevault.adapters.rabbitmq import RabbitSettings, RabbitWorkQueue
from platevault.adapters.system_clock import SystemClock

async def main():
    settings = RabbitSettings(
        user="guest", password="guest", hosts=("127.0.0.1",), port=int(sys.argv[1]),
        delivery_limit=5,
    )
    async with RabbitWorkQueue(settings=settings, clock=SystemClock()) as queue:
        async with queue.consume(sys.argv[2], prefetch=int(sys.argv[3])) as deliveries:
            async for delivery in deliveries:
                print(delivery.message.image, delivery.attempt, flush=True)

asyncio.run(main())
"""


@asynccontextmanager
async def another_process(
    server: RabbitServer, name: str, *, prefetch: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a consumer that takes messages and never ends a delivery."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONSUMER, str(server.port), name, str(prefetch),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _printed(process: asyncio.subprocess.Process) -> tuple[str, int]:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while (line := (await process.stdout.readline()).decode().split())[:1] != ["image-1"]:
            assert line
    return line[0], int(line[1])


async def test_what_a_killed_consumer_had_in_hand_comes_again(
    server: RabbitServer, queue: RabbitWorkQueue, name: str
) -> None:
    await queue.send(name, a_message(1))
    async with another_process(server, name, prefetch=1) as process:
        assert await _printed(process) == ("image-1", 1)
        assert await queue.depth(name) == 1
        process.kill()
        await process.wait()
        async with queue.consume(name, prefetch=1) as deliveries, asyncio.timeout(PATIENCE_S):
            delivery = await anext(deliveries)
            assert (delivery.message, delivery.attempt) == (a_message(1), 2)
            await delivery.ack()
    assert await _depth(queue, name) == 0


async def test_a_message_that_kills_its_consumers_is_set_aside(
    server: RabbitServer, queue: RabbitWorkQueue, name: str
) -> None:
    await queue.send(name, a_message(1))
    for attempt in range(1, 6):
        async with another_process(server, name, prefetch=1) as process:
            assert await _printed(process) == ("image-1", attempt)
            process.kill()
            await process.wait()
    # Only now the broker knows of the last death; before, the next message could overtake.
    assert await _depth(queue, name) == 1
    await queue.send(name, a_message(2))
    async with queue.consume(name, prefetch=1) as deliveries, asyncio.timeout(PATIENCE_S):
        delivery = await anext(deliveries)
        assert delivery.message == a_message(2)
        await delivery.ack()
    (letter,) = await _letters(queue, name)
    assert "5 times" in letter.reason
    assert await _depth(queue, name) == 0


async def test_depth_does_not_guess_what_a_hanging_consumer_has_in_hand(
    server: RabbitServer, queue: RabbitWorkQueue, name: str
) -> None:
    await queue.send(name, a_message(1))
    async with another_process(server, name, prefetch=1) as process:
        await _printed(process)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(QueueUnavailableError):
            await queue.depth(name)
        os.kill(process.pid, signal.SIGCONT)
        assert await _depth(queue, name) == 1


async def test_a_delayed_message_finds_another_keeper(
    server: RabbitServer, queue: RabbitWorkQueue, name: str
) -> None:
    """The process that watched over the delay is killed; a consumer of another takes it on."""
    async with another_process(server, name, prefetch=1) as keeper:
        await queue.send(name, a_message(1))
        await _printed(keeper)
        async with queue.consume(name, prefetch=1) as deliveries, asyncio.timeout(PATIENCE_S):
            await queue.send(name, a_message(2))
            await (await anext(deliveries)).retry(delay_s=1.5, reason="later")
            keeper.kill()
            await keeper.wait()
            came = {}
            for _ in range(2):
                delivery = await anext(deliveries)
                came[_number(delivery.message)] = delivery.attempt
                await delivery.ack()
    assert came == {1: 2, 2: 2}
    assert await _depth(queue, name) == 0


async def test_a_full_queue_refuses_and_loses_nothing(settings: RabbitSettings, name: str) -> None:
    async with opened(replace(settings, max_depth=2)) as queue:
        for number in range(2):
            await queue.send(name, a_message(number))
        with pytest.raises(QueueFullError):
            await queue.send(name, a_message(2))
        async with queue.consume(name, prefetch=1) as deliveries, asyncio.timeout(PATIENCE_S):
            first = await anext(deliveries)
            await queue.send(name, a_message(3))
            # No place is free for it, yet it must go somewhere.
            await first.retry(delay_s=0.0, reason="again")
            came: set[int] = set()
            while len(came) < 3:
                delivery = await anext(deliveries)
                came.add(_number(delivery.message))
                await delivery.ack()
        assert came == {0, 1, 3}
        assert await queue.depth(name) == 0


async def test_a_queue_that_was_deleted_is_made_again(
    server: RabbitServer, queue: RabbitWorkQueue, name: str
) -> None:
    async with queue.consume(name, prefetch=1) as deliveries:
        await queue.send(name, a_message(1))
        await (await anext(deliveries)).ack()
        await asyncio.to_thread(rabbitmqctl, server, "delete_queue", name)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(QueueUnavailableError):
                await anext(deliveries)
    await _send(queue, name, a_message(2))
    async with asyncio.timeout(PATIENCE_S), queue.consume(name, prefetch=1) as deliveries:
        await (await anext(deliveries)).ack()


async def test_wrong_accounts_and_virtual_hosts_are_told_at_the_start(
    settings: RabbitSettings,
) -> None:
    for changes in ({"password": "wrong"}, {"virtual_host": "nowhere"}):
        with pytest.raises(RabbitRefusedError):
            async with opened(replace(settings, **changes)):  # type: ignore[arg-type]
                pytest.fail(f"{changes} was let in")


async def test_a_name_that_the_broker_cannot_take_is_refused(queue: RabbitWorkQueue) -> None:
    for bad in ("", "a b", "a" * 250):
        with pytest.raises(UsageError):
            await queue.send(bad, a_message(1))
    assert queue.states["sending"].connected


async def test_a_queue_of_other_properties_is_told(
    settings: RabbitSettings, queue: RabbitWorkQueue, name: str
) -> None:
    await queue.send(name, a_message(1))
    async with opened(replace(settings, max_depth=7)) as other:
        with pytest.raises(QueueMismatchError):
            await other.send(name, a_message(2))
        assert await queue.depth(name) == 1


async def test_an_account_is_held_to_its_permissions(
    server: RabbitServer, settings: RabbitSettings
) -> None:
    await asyncio.to_thread(rabbitmqctl, server, "add_user", "forwarder", "right")
    own = r"^(forwarder\..*|platevault\..*|amq\.gen.*|amq\.rabbitmq\.reply-to.*|amq\.default)$"
    await asyncio.to_thread(rabbitmqctl, server, "set_permissions", "forwarder", own, own, own)
    async with opened(replace(settings, user="forwarder", password="right")) as queue:
        await queue.send("forwarder.f1", a_message(1))
        async with queue.consume("forwarder.f1", prefetch=1) as deliveries:
            delivery = await anext(deliveries)
            assert await queue.depth("forwarder.f1") == 1
            await delivery.set_aside(reason="x")
        (letter,) = await queue.dead_letters("forwarder.f1")
        await queue.dismiss(letter.letter_id, reason="x")
        with pytest.raises(QueueUnavailableError, match="only its consumer may make it"):
            await queue.send("archive_controller", a_message(1))
        with pytest.raises(RabbitRefusedError):
            async with queue.consume("archive_controller", prefetch=1):
                pytest.fail("a queue of others was taken from")


async def test_two_operators_look_at_the_dead_letters_without_hiding_them_from_each_other(
    settings: RabbitSettings, queue: RabbitWorkQueue, name: str
) -> None:
    for number in range(10):
        await queue.send(name, a_message(number))
    async with queue.consume(name, prefetch=10) as deliveries:
        for _ in range(10):
            await (await anext(deliveries)).set_aside(reason="x")
    async with opened(settings) as other, asyncio.TaskGroup() as group:
        looks = [group.create_task(one.dead_letters(name)) for one in (queue, other) * 4]
    assert [len(look.result()) for look in looks] == [10] * 8
