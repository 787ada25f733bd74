"""Processes that the tests of the files of one host kill; each says what it has done.

Arguments: what to be, directory, name, number.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from itertools import count
from pathlib import Path

from platevault.adapters.one_host import (
    LeasesFullError,
    LeaseStore,
    QueueSpaceError,
    SqliteLeases,
    SqliteWorkQueue,
)
from platevault.adapters.system_clock import SystemClock
from platevault.domain.messages import FileTransferCompleted
from platevault.ports.work_queue import Delivery
from platevault.testing.work_queue_contract import a_message

#: Senders of one process at once, so that kills meet transactions of several messages.
_SENDERS = 4


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def _image(delivery: Delivery) -> str:
    message = delivery.message
    assert isinstance(message, FileTransferCompleted)
    return message.image


async def _send(directory: Path, name: str, number: int) -> None:
    images = iter(range(number))

    async def send() -> None:
        for which in images:
            image = f"{name}-{which}"
            message = FileTransferCompleted(camera="LATISS", image=image, sensor="R00_S00")
            await queue.send("q", message)
            _say(f"sent {image}")

    async with (
        SqliteWorkQueue(directory / "queue.sqlite", clock=SystemClock()) as queue,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(_SENDERS):
            group.create_task(send())


async def _work(directory: Path, _name: str, _number: int) -> None:
    async with (
        SqliteWorkQueue(
            directory / "queue.sqlite", clock=SystemClock(), delivery_limit=1000
        ) as queue,
        queue.consume("q", prefetch=4) as deliveries,
    ):
        async for delivery in deliveries:
            image = _image(delivery)
            _say(f"took {image}")
            await delivery.ack()
            _say(f"done {image}")


async def _hold(directory: Path, _name: str, number: int) -> None:
    async with (
        SqliteWorkQueue(directory / "queue.sqlite", clock=SystemClock(), delivery_limit=3) as queue,
        queue.consume("q", prefetch=number) as deliveries,
    ):
        for _ in range(number):
            delivery = await anext(deliveries)
            _say(f"took {_image(delivery)} {delivery.attempt}")
        await asyncio.Event().wait()


async def _contend(directory: Path, name: str, number: int) -> None:
    """Take one lease again and again; the file that only its holder makes shows who overlaps."""
    held = directory / "held"
    async with LeaseStore(directory / "leases.sqlite") as store:
        leases = SqliteLeases(store=store, clock=SystemClock())
        rounds = 0
        while rounds < number:
            grant = await leases.acquire("w", holder=name, ttl_s=30.0)
            if grant is None:
                continue
            os.close(os.open(held, os.O_CREAT | os.O_EXCL))
            _say(f"fence {grant.fence}")
            held.unlink()
            await leases.release(grant)
            rounds += 1


async def _keep(directory: Path, name: str, number: int) -> None:
    async with LeaseStore(directory / "leases.sqlite") as store:
        grant = await SqliteLeases(store=store, clock=SystemClock()).acquire(
            "w", holder=name, ttl_s=float(number)
        )
        assert grant is not None
        _say(f"fence {grant.fence}")
        await asyncio.Event().wait()


async def _fill(directory: Path, _name: str, number: int) -> None:
    """Send until there is no room; then get more room and go on."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    async with (
        SqliteWorkQueue(directory / "queue.sqlite", clock=SystemClock()) as queue,
        LeaseStore(directory / "leases.sqlite") as store,
    ):
        leases = SqliteLeases(store=store, clock=SystemClock())
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, hard))
        sent = 0
        try:
            for sent in count(1):
                await queue.send("q", a_message(sent))
        except QueueSpaceError:
            _say(f"full {queue.problem != ''}")
        try:
            for lease in count():
                await leases.acquire(f"{lease}" * 50, holder="f1", ttl_s=100.0)
        except LeasesFullError:
            _say("leases full")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await queue.send("q", a_message(sent))
        assert await leases.acquire("w", holder="f1", ttl_s=9.0) is not None
        _say(f"sent {sent} {await queue.depth('q')} {queue.problem!r}")


def main() -> None:
    """Run as the arguments say."""
    roles = {
        "send": _send, "work": _work, "hold": _hold, "contend": _contend, "keep": _keep,
        "fill": _fill,
    }  # fmt: skip
    role, directory, name, number = sys.argv[1:]
    asyncio.run(roles[role](Path(directory), name, int(number)))


if __name__ == "__main__":
    main()
