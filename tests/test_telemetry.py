"""Metrics of several processes on one host."""

import os
import subprocess
import sys
from pathlib import Path

_PARENT_AND_CHILD = """
import os
from gateway.telemetry import ALERTS, metrics_text
ALERTS.labels("error", "logged").inc()
child = os.fork()
ALERTS.labels("error", "logged").inc()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(os.getpid(), child)
print(metrics_text().decode())
"""


def test_a_forked_process_counts_in_a_file_of_its_own(tmp_path: Path) -> None:
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _PARENT_AND_CHILD], check=True, env=env, capture_output=True, text=True, timeout=60
    )
    pids, _, metrics = done.stdout.partition("\n")
    written = {int(file.stem.rpartition("-")[2]) for file in tmp_path.glob("counter_*.db")}
    assert written == {int(pid) for pid in pids.split()}
    assert 'alerts_total{result="logged",severity="error"} 3.0' in metrics
