"""RabbitMQ as the stack starts it lets each account do its work, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import aio_pika
import pytest
from pydantic import SecretStr

from platevault.adapters.rabbitmq import RabbitSettings, RabbitWorkQueue
from platevault.adapters.rabbitmq.connection import RabbitRefusedError
from platevault.adapters.system_clock import SystemClock
from platevault.compose.dead_letters import list_letters, redrive_letters
from platevault.compose.server_settings import RabbitPart
from platevault.compose.settings import Settings
from platevault.domain.messages import FileTransferCompleted
from platevault.domain.places import (
    ARCHIVE_CONTROLLER_QUEUE,
    archiver_queue,
    forwarder_queue,
    oods_queue,
    work_queue,
)
from platevault.ports.work_queue import QueueUnavailableError
from platevault.testing.stack_servers import StackRabbit, password_of, readable_secrets, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
CAMERA = "LATISS"
PATIENCE_S = 60.0
#: Queues by who takes from them.
OWN = {
    "archiver": (archiver_queue(CAMERA),),
    "archive-controller": (ARCHIVE_CONTROLLER_QUEUE,),
    "forwarder": (forwarder_queue("forwarder-1"), work_queue(CAMERA)),
    "oods": (oods_queue(CAMERA),),
}
#: Who sends to whom.
SENDS = {
    "archiver": (ARCHIVE_CONTROLLER_QUEUE, work_queue(CAMERA), forwarder_queue("forwarder-1")),
    "archive-controller": (oods_queue(CAMERA), archiver_queue(CAMERA)),
    "forwarder": (ARCHIVE_CONTROLLER_QUEUE, archiver_queue(CAMERA)),
    "oods": (archiver_queue(CAMERA),),
}


@pytest.fixture(scope="module")
def rabbit(
    tmp_path_factory: pytest.TempPathFactory,
    scripts: Path,
    secrets: Path,
    accounts: ModuleType,
    service_missing: Callable[[str], NoReturn],
) -> Iterator[StackRabbit]:
    server = StackRabbit(tmp_path_factory.mktemp("rabbitmq"), secrets, scripts)
    with running(server, service_missing):
        for _ in range(2):
            accounts.make_rabbitmq(f"http://{server.host}:{server.management_port}", secrets)
        yield server


@asynccontextmanager
async def queue_of(
    rabbit: StackRabbit, account: str, secret: str, **more: str
) -> AsyncIterator[RabbitWorkQueue]:
    settings = RabbitSettings(
        user=account,
        password=secret,
        hosts=(rabbit.host,),
        port=rabbit.port,
        virtual_host=more.get("virtual_host", "platevault"),
    )
    async with (
        asyncio.timeout(PATIENCE_S),
        RabbitWorkQueue(settings=settings, clock=SystemClock()) as queue,
    ):
        yield queue


def message(number: int = 1) -> FileTransferCompleted:
    return FileTransferCompleted(camera=CAMERA, image=f"i{number}", sensor="R00_S00")


async def own_queues(rabbit: StackRabbit, secrets: Path, account: str) -> None:
    """Consume as the service does, so that its queues are there."""
    async with queue_of(rabbit, account, password_of(secrets, "rabbitmq", account)) as queue:
        for name in OWN[account]:
            async with queue.consume(name, prefetch=4) as deliveries:
                await queue.send(name, message())
                delivery = await anext(deliveries)
                assert await queue.depth(name) == 1
                await delivery.retry(delay_s=0.05, reason="once more")
                again = await anext(deliveries)
                assert again.attempt == 2
                await again.set_aside(reason="tried")


@pytest.mark.parametrize("account", OWN)
async def test_an_account_takes_retries_and_sets_aside_on_its_own_queues(
    rabbit: StackRabbit, secrets: Path, account: str
) -> None:
    await own_queues(rabbit, secrets, account)


@pytest.mark.parametrize("account", OWN)
async def test_an_account_sends_to_those_it_talks_to_and_takes_nothing_of_theirs(
    rabbit: StackRabbit, secrets: Path, account: str
) -> None:
    for owner in OWN:
        await own_queues(rabbit, secrets, owner)
    strange = [name for owner, names in OWN.items() if owner != account for name in names]
    async with queue_of(rabbit, account, password_of(secrets, "rabbitmq", account)) as queue:
        for name in SENDS[account]:
            await queue.send(name, message())
            assert await queue.depth(name) >= 1
        for name in strange:
            with pytest.raises(RabbitRefusedError):
                async with queue.consume(name, prefetch=1) as deliveries:
                    await anext(deliveries)
    for name in SENDS[account]:
        owner = next(one for one, names in OWN.items() if name in names)
        async with (
            queue_of(rabbit, owner, password_of(secrets, "rabbitmq", owner)) as queue,
            queue.consume(name, prefetch=1) as deliveries,
        ):
            await (await anext(deliveries)).ack()


async def test_the_archive_controller_alone_looks_through_the_dead_letters(
    rabbit: StackRabbit, secrets: Path
) -> None:
    for account in OWN:
        await own_queues(rabbit, secrets, account)
        async with queue_of(rabbit, account, password_of(secrets, "rabbitmq", account)) as queue:
            if account == "archive-controller":
                assert "tried" in {letter.reason for letter in await queue.dead_letters()}
            else:
                with pytest.raises(RabbitRefusedError):
                    await queue.dead_letters()


async def test_the_archive_controller_puts_back_what_others_set_aside(
    rabbit: StackRabbit, secrets: Path
) -> None:
    own, gone = oods_queue("Back"), oods_queue("Gone")
    oods_secret = password_of(secrets, "rabbitmq", "oods")
    async with queue_of(rabbit, "oods", oods_secret) as queue:
        for name in (own, gone):
            async with queue.consume(name, prefetch=1) as deliveries:
                await queue.send(name, message())
                await (await anext(deliveries)).set_aside(reason="tried")
    address = RabbitSettings(
        user="oods", password=oods_secret, hosts=(rabbit.host,), port=rabbit.port,
        virtual_host="platevault",
    ).url(rabbit.host, name="delete")  # fmt: skip
    async with await aio_pika.connect(address) as connection:
        channel = await connection.channel()
        await channel.queue_delete(gone)
    settings = Settings(
        queue="rabbitmq",
        rabbitmq=RabbitPart(
            user="archive-controller",
            password=SecretStr(password_of(secrets, "rabbitmq", "archive-controller")),
            hosts=(rabbit.host,),
            port=rabbit.port,
            virtual_host="platevault",
        ),
    )
    (lost,) = await list_letters(settings, queue=gone)
    (letter,) = await list_letters(settings, queue=own)
    back: list[str] = []
    (problem,) = await redrive_letters(
        settings, [lost.letter_id, letter.letter_id], on_letter=back.append
    )
    assert problem.context == {"letter": lost.letter_id, "queue": gone}
    assert back == [letter.letter_id]
    assert await list_letters(settings, queue=gone) == [lost]
    assert await list_letters(settings, queue=own) == []
    async with queue_of(rabbit, "oods", oods_secret) as queue:
        assert await queue.depth(own) == 1


async def test_a_sender_waits_for_a_queue_that_its_owner_has_not_made(
    rabbit: StackRabbit, secrets: Path
) -> None:
    late = oods_queue("Later")
    secret = password_of(secrets, "rabbitmq", "archive-controller")
    async with queue_of(rabbit, "archive-controller", secret) as queue:
        with pytest.raises(QueueUnavailableError):
            await queue.send(late, message())
        async with queue_of(rabbit, "oods", password_of(secrets, "rabbitmq", "oods")) as owner:
            assert await owner.depth(late) == 0
        await queue.send(late, message())
        assert await queue.depth(late) == 1


async def test_rabbitmq_has_no_account_of_its_own_making(
    rabbit: StackRabbit, secrets: Path
) -> None:
    for account, secret in (("guest", "guest"), ("oods", "guessed")):
        with pytest.raises(RabbitRefusedError):
            async with queue_of(rabbit, account, secret):
                pass
    with pytest.raises(RabbitRefusedError):
        async with queue_of(
            rabbit, "oods", password_of(secrets, "rabbitmq", "oods"), virtual_host="/"
        ):
            pass


def test_nobody_else_reads_what_the_script_leaves_on_disk(
    rabbit: StackRabbit, secrets: Path
) -> None:
    assert (rabbit.directory / "accounts.conf").exists()
    assert readable_secrets(rabbit.directory, secrets) == []
