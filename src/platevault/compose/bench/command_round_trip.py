"""What a command costs over Kafka, beside what the bare client needs for there and back."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from platevault.adapters.kafka import KafkaSampleBus, KafkaSettings
from platevault.adapters.kafka.bare import measure_asyncio_round_trips, measure_bare_round_trips
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import SampleBus
from platevault.sal.avro import avro_schema
from platevault.sal.controller import Command, Controller
from platevault.sal.remote import Remote
from platevault.sal.schema import load_interfaces

#: Component and command that are measured; the command has one field, as most do.
_COMPONENT = "CCHeaderService"
_COMMAND = "start"
#: Size of a command of that kind with its private fields [byte].
_SIZE_BYTES = 120


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Times of equal errands.

    Attributes
    ----------
    times_s
        Each [s].
    """

    times_s: Sequence[float]

    @property
    def p50_s(self) -> float:
        """Median [s]."""
        return statistics.median(self.times_s)

    @property
    def p95_s(self) -> float:
        """95th percentile [s]."""
        return sorted(self.times_s)[int(0.95 * len(self.times_s))]


@dataclass(frozen=True, slots=True)
class CommandRoundTrip:
    """Commands beside the bare client, taken in turns within one run.

    Attributes
    ----------
    commands
        From the call of the remote to the final reply in its hands.
    bare
        Produce, consume, produce, consume with the library's own client for event loops.
    blocking
        The same in two threads that block, without an event loop and without asking whether the
        broker has the message: the least that the library can take.
    """

    commands: RoundTrips
    bare: RoundTrips
    blocking: RoundTrips

    @property
    def ratio(self) -> float:
        """Median of the commands over that of the bare client in an event loop."""
        return self.commands.p50_s / self.bare.p50_s

    @property
    def ratio_to_blocking(self) -> float:
        """Median of the commands over that of the blocking client."""
        return self.commands.p50_s / self.blocking.p50_s


async def measure_command_round_trip(
    settings: KafkaSettings, *, clock: Clock, repeats: int = 300, rounds: int = 10
) -> CommandRoundTrip:
    """Time commands to their final reply over Kafka, remote and component in this process.

    Parameters
    ----------
    settings
        Brokers and registry; a subname of its own keeps real readers undisturbed.
    clock
        Time of the samples.
    repeats
        Errands of each kind.
    rounds
        Turns in which they are taken, so that a busy host disturbs both alike.

    Raises
    ------
    BusUnavailableError
        The brokers or the registry do not serve. Retry.
    """
    commands: list[float] = []
    bare: list[float] = []
    blocking: list[float] = []
    each = max(1, repeats // rounds)
    async with KafkaSampleBus(settings=settings, clock=clock, avro_schema=avro_schema) as bus:
        for _ in range(rounds):
            blocking += await asyncio.to_thread(
                measure_bare_round_trips, settings, repeats=each, size_bytes=_SIZE_BYTES
            )
            bare += await measure_asyncio_round_trips(
                settings, repeats=each, size_bytes=_SIZE_BYTES
            )
            commands += await time_commands(bus, clock=clock, repeats=each)
    return CommandRoundTrip(RoundTrips(commands), RoundTrips(bare), RoundTrips(blocking))


async def time_commands(
    bus: SampleBus, *, clock: Clock, repeats: int, warm_up: int = 20
) -> list[float]:
    """Time commands to their final reply over any bus [s]."""
    interfaces = load_interfaces()
    controller = Controller(component=_COMPONENT, bus=bus, interfaces=interfaces, clock=clock)

    async def done(_: Command) -> None:
        return None

    controller.on_command(_COMMAND, done)
    times = []
    async with (
        asyncio.TaskGroup() as group,
        controller.serving(group),
        Remote(
            component=_COMPONENT, bus=bus, interfaces=interfaces, clock=clock, watch=()
        ) as remote,
    ):
        for _ in range(warm_up + repeats):
            begin = time.perf_counter()
            await remote.command(_COMMAND, configurationOverride="night.yaml")
            times.append(time.perf_counter() - begin)
    return times[warm_up:]
