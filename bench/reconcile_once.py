"""Reconcile once in a separate process, like `flask reconcile`: `python -m bench.reconcile_once` prints JSON."""

import json
import sys
import time
from pathlib import Path

from gateway import db
from gateway.flows.reconciliation import reconcile

_STATUS, _RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kib(name: str) -> int:
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))


def main() -> None:
    """Connect, measure the idle memory, reconcile, and print the duration and the additional memory."""
    with db.begin() as connection:
        connection.exec_driver_sql("SELECT 1")
    _RESET_PEAK.write_text("5")
    idle = _kib("VmRSS")
    began = time.monotonic()
    run = reconcile()
    found = {
        "seconds": time.monotonic() - began,
        "counts": dict(run.counts),
        "memory_above_idle_mib": (_kib("VmHWM") - idle) / 1024,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
