"""Benchmark results as table, JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fitsio
from rich.console import Console
from rich.table import Table

from platevault.adapters.fits.codec_choice import active_codec
from platevault.compose.bench.measuring import QUIET_CORES, Case

_LIBRARIES = ("platevault", "numpy", "astropy", "fitsio", "numba", "xxhash")


@dataclass(frozen=True, slots=True)
class Ratio:
    """A result: how one case compares with another, and what it must reach.

    Attributes
    ----------
    name
        What is compared.
    value
        The ratio.
    floor, ceiling
        What it must reach, or may be at most; ``None`` if there is no such limit.
    """

    name: str
    value: float
    floor: float | None = None
    ceiling: float | None = None

    @property
    def limit(self) -> str:
        """The limit as text."""
        if self.ceiling is not None:
            return f"at most {self.ceiling:g}"
        return "" if self.floor is None else f"{self.floor:g}"

    @property
    def verdict(self) -> str:
        """Say in a word whether the limit is kept."""
        if self.ceiling is not None:
            return "reached" if self.value <= self.ceiling else "MISSED"
        if self.floor is None:
            return ""
        return "reached" if self.value >= self.floor else "MISSED"


@dataclass(slots=True)
class Report:
    """Everything a benchmark found.

    Attributes
    ----------
    title, intro
        For the page.
    ratios
        The result.
    cases
        What was measured.
    yardstick
        Case whose rate others are given as a part of; one-thread memcpy.
    notes
        One sentence each.
    facts
        Further figures for the JSON.
    """

    title: str
    intro: str
    ratios: list[Ratio] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    yardstick: Case | None = None
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def machine_facts(directory: Path) -> dict[str, str]:
    """Describe processor, software and the file system under ``directory``."""
    codec = active_codec()
    facts = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "compiler of python": platform.python_compiler(),
        "flags of python": str(sysconfig.get_config_var("OPT") or ""),
        "flags of the kernel": "-std=c11 -O3, AVX2 chosen at run time",
        "codec": f"{codec.name} {codec.level}",
        "cfitsio in fitsio": str(fitsio.cfitsio_version()),
        "sink": _mount(directory),
        "load at the end": Path("/proc/loadavg").read_text().strip(),
    }
    for name in _LIBRARIES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            family = _cpuinfo("cpu family")
            model = _cpuinfo("model")
            return f"{line.partition(':')[2].strip()} (family {family}, model {model})"
    return platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def _mount(directory: Path) -> str:
    answer = subprocess.run(  # noqa: S603 - arguments are ours
        ["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", str(directory)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join(answer.stdout.split()) or "unknown"


def show(report: Report, console: Console) -> None:
    """Print ratios first, then the cases."""
    ratios = Table(title=report.title)
    for heading in ("result", "value", "floor", ""):
        ratios.add_column(heading)
    for ratio in report.ratios:
        ratios.add_row(*_ratio_cells(ratio))
    console.print(ratios)
    if report.cases:
        table = Table()
        for heading in _HEADINGS:
            table.add_column(heading)
        for case in report.cases:
            table.add_row(*_case_cells(case, report.yardstick))
        console.print(table)
    for title, rows in report.facts.get("tables", {}).items():
        table = Table(*rows[0], title=title)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    for note in report.notes:
        console.print(f"- {note}")


_HEADINGS = ("case", "MB/s median", "min", "max", "of memcpy", "core-s/GB", "quiet samples")


def _ratio_cells(ratio: Ratio) -> list[str]:
    return [ratio.name, f"{ratio.value:.3g}", ratio.limit, ratio.verdict]


def _case_cells(case: Case, yardstick: Case | None) -> list[str]:
    part = "" if yardstick is None else f"{case.rate / yardstick.rate:.2f}"
    return [
        case.name,
        f"{case.rate:.0f}",
        f"{case.rates[0]:.0f}",
        f"{case.rates[-1]:.0f}",
        part,
        f"{case.core_s_per_gb:.2f}",
        f"{case.quiet} of {len(case.samples)}",
    ]


def write(report: Report, name: str, directory: Path, facts: dict[str, str]) -> None:
    """Write ``<name>.json`` and ``<name>.md`` into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "title": report.title,
        "machine": facts,
        "ratios": [
            {
                "name": item.name,
                "value": item.value,
                "floor": item.floor,
                "ceiling": item.ceiling,
            }
            for item in report.ratios
        ],
        "cases": [
            {
                "name": case.name,
                "megabytes": case.megabytes,
                "rate_mb_per_s": case.rate,
                "samples": [
                    {
                        "seconds": sample.seconds,
                        "core_seconds": sample.core_seconds,
                        "others_cores": sample.others_cores,
                    }
                    for sample in case.samples
                ],
            }
            for case in report.cases
        ],
        "notes": report.notes,
        **report.facts,
    }
    (directory / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / f"{name}.md").write_text(_markdown(report, facts))


def _markdown(report: Report, facts: dict[str, str]) -> str:
    lines = [f"# {report.title}", "", report.intro, ""]
    lines += _table(("result", "value", "floor", ""), map(_ratio_cells, report.ratios))
    if report.cases:
        rows = [_case_cells(case, report.yardstick) for case in report.cases]
        lines += ["## Rates", "", "MB of raw int32 pixels (10^6 byte) per second.", ""]
        lines += _table(_HEADINGS, rows)
    for title, rows in report.facts.get("tables", {}).items():
        lines += [f"## {title}", "", *_table(tuple(rows[0]), [list(row) for row in rows[1:]])]
    lines += ["## Notes", ""]
    lines += [f"- {note}" for note in [*report.notes, *([_QUIET_NOTE] if report.cases else [])]]
    lines += ["", "## Machine", ""]
    lines += _table(("", ""), [[key, value] for key, value in facts.items()])
    return "\n".join(lines).rstrip() + "\n"


_QUIET_NOTE = (
    f"A sample is quiet if other processes used at most {QUIET_CORES} core during it; only quiet "
    "samples count, unless fewer than three are."
)


def _table(headings: Sequence[str], rows: Any) -> list[str]:
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [*lines, ""]
