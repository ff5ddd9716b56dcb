"""Processor time and memory of process trees, from /proc (proc(5))."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time of these processes and of their children that ended and were reaped."""
    ticks = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # the name, in parentheses, may contain anything; utime is the 14th field, then stime, cutime, cstime
            ticks += sum(map(int, stat.read().rpartition(")")[2].split()[11:15]))
    return ticks / _TICKS


def machine_seconds() -> float:
    """Return the busy time of all processors, including time that a hypervisor took."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def memory_mib(pids: list[int]) -> float:
    """Return the resident memory in MiB; a page that processes share is divided among them (PSS)."""
    kib = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            kib += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return kib / 1024


def tree(leader: int) -> list[int]:
    """Return the pids of a process and of its descendants."""
    with suppress(psutil.Error):
        return [leader, *(child.pid for child in psutil.Process(leader).children(recursive=True))]
    return []


@dataclass(frozen=True)
class Meter:
    """Reads processor time and memory by role, without the `excluded` processes, which only measure."""

    leaders: Mapping[str, int]
    excluded: frozenset[int] = frozenset()

    def read(self) -> dict[str, float]:
        """Return the processor time of each role, in seconds."""
        return {role: cpu_seconds(self._pids(leader)) for role, leader in self.leaders.items()}

    def memory(self) -> dict[str, float]:
        """Return the memory of each role, in MiB."""
        return {role: memory_mib(self._pids(leader)) for role, leader in self.leaders.items()}

    def _pids(self, leader: int) -> list[int]:
        return [pid for pid in tree(leader) if pid not in self.excluded]


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the difference of two readings, by role."""
    return {role: after[role] - before.get(role, 0.0) for role in after}
