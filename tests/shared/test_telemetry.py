"""Metrics of several processes of a host, and the format of log lines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

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


def test_a_forked_process_counts_in_a_separate_file(tmp_path: Path) -> None:
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _PARENT_AND_CHILD], check=True, env=env, capture_output=True, text=True, timeout=60
    )
    pids, _, metrics = done.stdout.partition("\n")
    written = {int(file.stem.rpartition("_")[2]) for file in tmp_path.glob("counter_*.db")}
    assert written == {int(pid) for pid in pids.split()}
    assert 'alerts_total{result="logged",severity="error"} 3.0' in metrics


_COUNT = """
from gateway.telemetry import ALERTS, metrics_text
ALERTS.labels("error", "logged").inc()
print(metrics_text().decode())
"""


def test_containers_with_the_same_process_ids_are_added_up(tmp_path: Path) -> None:
    metrics = ""
    for container in ("a", "b"):
        (tmp_path / container).mkdir()
        folders = {"METRICS_DIR": str(tmp_path), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / container)}
        done = subprocess.run(
            [sys.executable, "-c", _COUNT], check=True, env=os.environ | folders, capture_output=True, timeout=60
        )
        metrics = done.stdout.decode()
        [file] = (tmp_path / container).glob("counter_*.db")
        file.rename(file.with_name("counter_1.db"))
    assert 'alerts_total{result="logged",severity="error"} 2.0' in metrics


_LINES = """
from loguru import logger
from gateway.telemetry import configure_logging, log_context, log_frequent
configure_logging()
with log_context(request_id="req-1", task_id=None):
    logger.info("{} ://ada:hunter2@db", "a line")
    log_frequent("__main__", "a line ://ada:hunter2@db")
"""


def lines(log_format: str, level: str) -> list[str]:
    """Return the log of a process with these settings: the same line twice, first by loguru."""
    env = os.environ | {"LOG_FORMAT": log_format, "LOG_LEVEL": level}
    done = subprocess.run(
        [sys.executable, "-c", _LINES], check=True, env=env, capture_output=True, text=True, timeout=60
    )
    return done.stderr.splitlines()


def test_a_frequent_line_has_the_same_format_as_others() -> None:
    usual, frequent = (json.loads(line) for line in lines("json", "INFO"))

    assert frequent.pop("timestamp") >= usual.pop("timestamp")
    assert frequent == usual
    assert usual["message"] == "a line ://ada:[redacted]@db"
    assert usual["request_id"] == "req-1"
    assert [line.partition(" ")[2] for line in lines("console", "INFO")] == [
        "INFO     a line ://ada:[redacted]@db request_id=req-1"
    ] * 2


def test_a_frequent_line_has_a_level_like_others() -> None:
    assert lines("json", "WARNING") == lines("console", "WARNING") == []


_OF_A_LIBRARY = """
import logging
from gateway.telemetry import configure_logging
configure_logging()
library = logging.getLogger("library")
library.setLevel(logging.DEBUG)
library.info("too much")
library.warning("worth %s", "knowing")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_level_of_the_settings_limits_the_loggers_of_libraries(log_format: str) -> None:
    env = os.environ | {"LOG_FORMAT": log_format, "LOG_LEVEL": "WARNING"}
    done = subprocess.run(
        [sys.executable, "-c", _OF_A_LIBRARY], check=True, env=env, capture_output=True, text=True, timeout=60
    )
    [line] = done.stderr.splitlines()
    assert "worth knowing" in line
