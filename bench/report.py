"""The report of a benchmark: a table in the terminal, and a JSON file."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.phases import Figures
from devstack.terminal import info, print_line

GROWN = "grown"
"""Rounds of the gateway with many settled payments in the tables."""

Rounds = dict[str, list[Figures]]
"""The figures of each round, by side."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure of both sides. `aim` is the wanted ratio; if `more`, a higher figure is better.

    A line that is not `compared` describes the run itself.
    """

    key: str
    title: str
    unit: str
    more: bool
    aim: str
    compared: bool = True


ROWS = (
    Row("post_per_second", "POST /v1/transactions, 16 clients", "/s", more=True, aim="4.5x"),
    Row("post_p50_ms", "  p50", "ms", more=False, aim=""),
    Row("post_p99_ms", "  p99", "ms", more=False, aim="3x"),
    Row("post_per_second_workers_held", "POST while the workers are paused", "/s", more=True, aim=""),
    Row("settled_per_second_under_load", "settled during the load", "/s", more=True, aim="15x"),
    Row("cpu_ms_per_settled", "CPU per settled payment, all processes", "ms", more=False, aim="10x"),
    Row("drained_per_second", "backlog drained", "/s", more=True, aim="20x"),
    Row("settle_p50_ms", "accepted -> settled at 20/s, p50", "ms", more=False, aim="1x"),
    Row("settle_p99_ms", "  p99", "ms", more=False, aim="1x"),
    Row("provider_settled_per_second", "settled, provider over HTTP, 100 ms", "/s", more=True, aim="8x"),
    Row("client_cpu_percent", "CPU of the load generator (one processor)", "%", more=False, aim="", compared=False),
    Row("foreign_cpu_percent", "CPU of other programs (one processor)", "%", more=False, aim="", compared=False),
    Row("memory_mib", "memory during the load, all processes", "MiB", more=False, aim=""),
)


@dataclass
class Measurements:
    """All figures of a run."""

    options: dict[str, Any]
    rounds: Rounds = field(default_factory=lambda: {"baseline": [], "gateway": [], GROWN: []})
    extra: dict[str, Any] = field(default_factory=dict)

    def values(self, side: str, key: str) -> list[float]:
        """Return a figure of every round that measured it."""
        return [figures[key] for figures in self.rounds[side] if key in figures]

    def median(self, side: str, key: str) -> float | None:
        """Return the median of a figure over the rounds."""
        values = self.values(side, key)
        return statistics.median(values) if values else None

    def ratios(self, row: Row) -> list[float]:
        """Return how many times better the gateway is in each round; the machine's speed may differ between rounds."""
        rounds = zip(self.rounds["gateway"], self.rounds["baseline"], strict=False)
        pairs = [(ours.get(row.key), theirs.get(row.key)) for ours, theirs in rounds]
        return [ours / theirs if row.more else theirs / ours for ours, theirs in pairs if ours and theirs]

    def ratio(self, row: Row) -> float | None:
        """Return the median of the ratios of the rounds."""
        found = self.ratios(row)
        return statistics.median(found) if found else None

    def save(self, file: Path) -> None:
        """Write all figures as JSON."""
        machine = {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        contents = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine,
            "options": self.options,
            "ratios": {row.key: {"median": self.ratio(row), "rounds": self.ratios(row)} for row in ROWS},
            "rounds": self.rounds,
            **self.extra,
        }
        file.write_text(json.dumps(contents, indent=2) + "\n")
        info(f"all figures: {file}")

    def show(self) -> None:
        """Print the tables."""
        print_line("")
        _table(
            ("", "unit", "plain Celery", "spread", "gateway", "spread", "better", "spread", "aim"),
            [self._line(row) for row in ROWS if self.values("gateway", row.key)],
        )
        for side in ("baseline", "gateway"):
            self._show_roles(side)
        for title, figures in self.extra.items():
            print_line(f"\n{title}")
            _table(("", ""), [(name, _number(value)) for name, value in figures.items() if not isinstance(value, dict)])

    def _line(self, row: Row) -> tuple[str, ...]:
        cells = [row.title, row.unit]
        for side in ("baseline", "gateway"):
            cells += [_number(self.median(side, row.key)), _spread(self.values(side, row.key))]
        ratio = self.ratio(row)
        if not ratio or not row.compared:
            return (*cells, "", "", row.aim)
        return (*cells, f"{ratio:.1f}x", _spread(self.ratios(row), "{:.1f}".format), row.aim)

    def _show_roles(self, side: str) -> None:
        """Print processor time and memory by process."""
        rounds = self.rounds[side]
        if not rounds:
            return
        print_line(f"\n{side}, by process")
        lines = []
        for role in sorted(rounds[0]["cpu_ms_by_role"], key=lambda role: -rounds[0]["cpu_ms_by_role"][role]):
            cpu = statistics.median(figures["cpu_ms_by_role"][role] for figures in rounds)
            memory = statistics.median(figures["memory_mib_by_role"][role] for figures in rounds)
            lines.append((role, f"{cpu:.3f}", f"{memory:.0f}"))
        _table(("", "CPU ms per settled", "memory MiB"), lines)


def _number(value: Any) -> str:
    if not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _spread(values: list[float], shown: Callable[[float], str] = _number) -> str:
    return f"{shown(min(values))} - {shown(max(values))}" if len(values) > 1 else ""


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    for line in [head, *lines]:
        first, *others = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print_line("  ".join((first, *others)).rstrip())
