"""Start the acquirer: its options and its errors."""

import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tests.sandbox.process import ROOT, START_SECONDS, AcquirerProcess

pytestmark = pytest.mark.unit


def test_the_start_option_sets_the_latency(tmp_path: Path) -> None:
    acquirer = AcquirerProcess(tmp_path / "acquirer.db", "--latency-ms", "200").start()
    try:
        started = time.monotonic()
        assert acquirer.post_charge(str(uuid4())).status_code == 201
        assert time.monotonic() - started >= 0.2
        acquirer.control("normal", latency_ms=0)
        assert acquirer.call("GET", "/control").json()["latency_ms"] == 0
        acquirer.control("normal")
        assert acquirer.call("GET", "/control").json()["latency_ms"] == 200
    finally:
        acquirer.stop()


def test_a_port_in_use_is_reported(own_acquirer: AcquirerProcess, tmp_path: Path) -> None:
    port = own_acquirer.url.rpartition(":")[2]
    command = [sys.executable, "-m", "gateway.sandbox", "--port", port, "--file", str(tmp_path / "other.db")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert ended.returncode == 1
    assert port in ended.stderr
