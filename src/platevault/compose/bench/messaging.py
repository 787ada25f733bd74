"""What the messages of one file cost in processor time."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from platevault.domain.capture import PRIORITY_LIVE
from platevault.domain.errors import UsageError
from platevault.domain.messages import (
    EndReadout,
    FileTransferCompleted,
    ImageInOods,
    ImageRetrieval,
    IngestRequest,
    Message,
    SingleMessage,
    in_envelopes,
)
from platevault.ports.work_queue import WorkQueue

#: Sensors of a board of the main camera; their files share one order.
SENSORS_PER_BOARD = 3
#: Boards of science sensors of the main camera.
_BOARDS = 63
#: As many at once as services of a night: Forwarders that send, and messages in hand.
_SENDERS = 4
_PREFETCH = 8


@dataclass(frozen=True, slots=True)
class MessagingCost:
    """What was measured.

    Attributes
    ----------
    files
        Files whose messages went through.
    messages
        Messages that were sent, taken and acknowledged.
    seconds
        Wall time [s].
    client_core_ms
        Processor time of this process, which is both ends, per file [ms].
    broker_core_ms
        Processor time of the broker per file [ms]; 0 if its processes are not known.
    """

    files: int
    messages: int
    seconds: float
    client_core_ms: float
    broker_core_ms: float

    @property
    def core_ms(self) -> float:
        """Processor time per file, all told [ms]."""
        return self.client_core_ms + self.broker_core_ms


async def measure_messaging(
    queue: WorkQueue, *, files: int, broker: Sequence[int] = ()
) -> MessagingCost:
    """Send, take and acknowledge every message that ``files`` files cause between services.

    For each board the order to read it, and envelopes with the completion of each file, its result,
    the request to catalogue it and the answer. Queues with names of their own are used, and left
    empty.

    Parameters
    ----------
    queue
        The work queue, open.
    files
        How many; a multiple of `SENSORS_PER_BOARD`.
    broker
        Process ids of the broker, if it runs here (`process_group`).

    Raises
    ------
    QueueUnavailableError
        The broker went away: measure again.
    """
    if files < 1 or files % SENSORS_PER_BOARD:
        raise UsageError("Files must fill their boards", value=files, expected=SENSORS_PER_BOARD)
    run = uuid.uuid4().hex[:8]
    plan: dict[str, list[tuple[Message, int]]] = {}
    for board in range(files // SENSORS_PER_BOARD):
        for name, message, priority in _messages_of(board):
            plan.setdefault(f"bench.{run}.{name}", []).append((message, priority))
    for name in plan:
        await queue.depth(name)  # makes the queue, which costs once and not per file
    began, client, server = time.perf_counter(), time.process_time(), _seconds_of(broker)
    async with asyncio.TaskGroup() as group:
        for name, messages in plan.items():
            group.create_task(_take(queue, name, len(messages)), name=f"take-{name}")
        work = iter([(name, *one) for name, messages in plan.items() for one in messages])
        for number in range(_SENDERS):
            group.create_task(_send(queue, work), name=f"send-{number}")
    seconds = time.perf_counter() - began
    return MessagingCost(
        files=files,
        messages=sum(map(len, plan.values())),
        seconds=seconds,
        client_core_ms=(time.process_time() - client) * 1000 / files,
        broker_core_ms=(_seconds_of(broker) - server) * 1000 / files,
    )


def process_group(leader: int) -> list[int]:
    """List the processes of a group, such as all of a broker's."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if os.getpgid(int(folder.name)) == leader:
                    found.append(int(folder.name))
            except ProcessLookupError:
                continue
    return sorted(found)


def _messages_of(board: int) -> list[tuple[str, Message, int]]:
    """Give queue, message and priority of what the files of a board cause."""
    camera, image = "LSSTCam", f"MC_O_20330517_{board // _BOARDS + 1:06d}"
    raft, row = divmod(board % _BOARDS, SENSORS_PER_BOARD)
    sensors = [f"R{raft:02d}_S{row}{column}" for column in range(SENSORS_PER_BOARD)]
    folder = f"{camera}/20330517/{image}"
    order = EndReadout(
        camera=camera,
        image=image,
        board=f"{raft:02d}/{row}",
        sensors=tuple(sensors),
        target_dir=folder,
        reply_queue=f"archiver.{camera}",
        end_readout_tai=2_000_000_037.0,
        header_due_tai=2_000_000_067.0,
    )
    written = [
        ImageRetrieval(
            camera=camera, image=image, sensor=one, status_code=0, description="file written"
        )
        for one in sensors
    ]
    done = [FileTransferCompleted(camera=camera, image=image, sensor=one) for one in sensors]
    asked = [
        IngestRequest(camera=camera, image=image, sensor=one, path=f"{folder}/{image}_{one}.fits")
        for one in sensors
    ]
    catalogued = [
        ImageInOods(camera=camera, image=image, sensor=one, status_code=0, description="ingested")
        for one in sensors
    ]
    together: list[tuple[str, Sequence[SingleMessage]]] = [
        ("archive_controller", done),
        ("archiver", written),
        ("oods", asked),
        ("archiver", catalogued),
    ]
    return [("work", order, PRIORITY_LIVE)] + [
        (queue, message, 0) for queue, several in together for message in in_envelopes(several)
    ]


async def _send(queue: WorkQueue, work: Iterator[tuple[str, Message, int]]) -> None:
    for name, message, priority in work:
        await queue.send(name, message, priority=priority)


async def _take(queue: WorkQueue, name: str, count: int) -> None:
    async with queue.consume(name, prefetch=_PREFETCH) as deliveries:
        for _ in range(count):
            await (await anext(deliveries)).ack()


def _seconds_of(processes: Sequence[int]) -> float:
    """Give the processor time of processes so far [s]."""
    ticks = 0
    for pid in processes:
        cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(cells[11]) + int(cells[12])
    return ticks / os.sysconf("SC_CLK_TCK")
