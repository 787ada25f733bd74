"""Measure alternating cases, and say how quiet the machine was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

#: Samples during which others used more than this are left out if enough remain [core].
QUIET_CORES = 0.15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run of a case.

    Attributes
    ----------
    seconds
        Wall time [s].
    core_seconds
        Processor time of this process and of those that serve it [s].
    others_cores
        What other processes used meanwhile [core].
    """

    seconds: float
    core_seconds: float
    others_cores: float


@dataclass(slots=True)
class Case:
    """Something to be measured.

    Attributes
    ----------
    name
        Its name in the table.
    run
        The timed part.
    megabytes
        Raw pixels that one run takes [MB of 10**6 byte].
    tidy
        Removes what the run left; not timed.
    helpers
        Process ids whose time counts as its own.
    samples
        What was measured.
    """

    name: str
    run: Callable[[], None]
    megabytes: float
    tidy: Callable[[], None] = lambda: None
    helpers: Sequence[int] = ()
    samples: list[Sample] = field(default_factory=list)

    @property
    def kept(self) -> list[Sample]:
        """Quiet samples; all of them if fewer than three are quiet."""
        quiet = [sample for sample in self.samples if sample.others_cores <= QUIET_CORES]
        return quiet if len(quiet) >= min(3, len(self.samples)) else self.samples

    @property
    def quiet(self) -> int:
        """How many samples were quiet."""
        return sum(sample.others_cores <= QUIET_CORES for sample in self.samples)

    @property
    def rates(self) -> list[float]:
        """Rates of the samples that count, ascending [MB/s]."""
        return sorted(self.megabytes / sample.seconds for sample in self.kept)

    @property
    def rate(self) -> float:
        """Median rate [MB/s]."""
        return median(self.rates)

    @property
    def core_s_per_gb(self) -> float:
        """Median processor time per raw pixels [core-s/GB]."""
        return median(1000 * sample.core_seconds / self.megabytes for sample in self.kept)


def measure(cases: Sequence[Case], *, repeats: int, progress: Callable[[str], None]) -> None:
    """Run all cases in turn, ``repeats`` times, after one unmeasured round."""
    for number in range(repeats + 1):
        progress(f"round {number} of {repeats}" if number else "warming up")
        for case in cases:
            sample = _timed(case)
            case.tidy()
            if number:
                case.samples.append(sample)


def _timed(case: Case) -> Sample:
    busy, own = _machine_seconds(), _own_seconds(case.helpers)
    start = time.perf_counter()
    case.run()
    seconds = time.perf_counter() - start
    core_seconds = _own_seconds(case.helpers) - own
    others = max(_machine_seconds() - busy - core_seconds, 0.0)
    return Sample(seconds, core_seconds, others / seconds)


def _machine_seconds() -> float:
    """Give the time all processors were busy since boot [s], from /proc/stat."""
    cells = [int(cell) for cell in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft, steal = cells
    return (user + nice + system + irq + soft + steal) / _TICKS_PER_S


def _own_seconds(helpers: Sequence[int]) -> float:
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for pid in helpers:
        cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(cells[11]) + int(cells[12])) / _TICKS_PER_S
    return total
