"""Processor time of processes and of those that they started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessTime:
    """One process.

    Attributes
    ----------
    pid, parent
        Process ids.
    own_s
        Processor time so far, with that of children that have ended [s].
    """

    pid: int
    parent: int
    own_s: float


def processes() -> dict[int, ProcessTime]:
    """List the processes of this host by id.

    References
    ----------
    proc_pid_stat(5): fields 4 (ppid) and 14 to 17 (utime, stime, cutime, cstime).
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name, in parentheses, may hold anything.
            cells = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pid = int(entry.parent.name)
            ticks = sum(int(cell) for cell in cells[11:15])
            found[pid] = ProcessTime(pid, int(cells[1]), ticks / _TICKS_PER_S)
    return found


def tree_seconds(root: int, *, without: Collection[int] = ()) -> float:
    """Give the processor time of a process and of all that descend from it [s].

    Parameters
    ----------
    root
        Process id.
    without
        Processes below it that are left out, with what descends from them.
    """
    known = processes()
    return sum(known[pid].own_s for pid in _tree(root, known, frozenset(without)))


def tree(root: int) -> list[int]:
    """List a process and all that descend from it."""
    return sorted(_tree(root, processes(), frozenset()))


def child_named(name: str) -> int | None:
    """Find the process below this one whose command line has a word; ``None`` if there is none."""
    for pid in tree(os.getpid()):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if pid != os.getpid() and name.encode() in words:
                return pid
    return None


def _tree(root: int, known: dict[int, ProcessTime], without: frozenset[int]) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for one in known.values():
        children.setdefault(one.parent, []).append(one.pid)
    waiting = [root] if root in known else []
    while waiting:
        pid = waiting.pop()
        if pid not in without:
            yield pid
            waiting += children.get(pid, [])
