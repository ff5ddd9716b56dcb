"""Processor time and memory of process trees, from /proc (proc(5))."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: list[int]) -> float:
    """What these processes have used, with the children that ended and were waited for."""
    ticks = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # the name, in parentheses, may hold anything; utime is the 14th field, then stime, cutime, cstime
            ticks += sum(map(int, stat.read().rpartition(")")[2].split()[11:15]))
    return ticks / _TICKS


def machine_seconds() -> float:
    """What all processors together have worked, for whomever; time that a hypervisor took away is counted too."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def memory_mib(pids: list[int]) -> float:
    """Resident memory in MiB; a page that several processes share counts in part for each (PSS)."""
    kib = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            kib += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return kib / 1024


def tree(leader: int) -> list[int]:
    """The process and everything below it."""
    with suppress(psutil.Error):
        return [leader, *(child.pid for child in psutil.Process(leader).children(recursive=True))]
    return []


@dataclass(frozen=True)
class Meter:
    """Processor time by role. `excluded` are processes that only measure, such as this one's database session."""

    leaders: Mapping[str, int]
    excluded: frozenset[int] = frozenset()

    def read(self) -> dict[str, float]:
        """Seconds so far, by role."""
        return {role: cpu_seconds(self._pids(leader)) for role, leader in self.leaders.items()}

    def memory(self) -> dict[str, float]:
        """MiB now, by role."""
        return {role: memory_mib(self._pids(leader)) for role, leader in self.leaders.items()}

    def _pids(self, leader: int) -> list[int]:
        return [pid for pid in tree(leader) if pid not in self.excluded]


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The difference of two readings, by role."""
    return {role: after[role] - before.get(role, 0.0) for role in after}
