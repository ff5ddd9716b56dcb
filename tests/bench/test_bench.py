"""The load generator, the meter and the ratios of the benchmark."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from bench import usage
from bench.client import LoadPlan, Responses
from bench.report import ROWS, Measurements

pytestmark = pytest.mark.unit

BURNED_SECONDS = 0.3
PARENT = f"""
import subprocess, sys
burn = "import time\\nwhile time.process_time() < {BURNED_SECONDS}: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
print("burned", flush=True)
sys.stdin.read()
"""


class _Payments(BaseHTTPRequestHandler):
    """Accepts payments, but returns 429 for every tenth."""

    protocol_version = "HTTP/1.1"
    keys: list[str]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        reference = json.loads(self.rfile.read(length))["reference"]
        key = self.headers["Idempotency-Key"]
        self.keys.append(key)
        status = 429 if int(key[-9:]) % 10 == 0 else 201
        body = json.dumps({"id": str(uuid4()), "reference": reference}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def _receiver() -> Iterator[tuple[int, list[str]]]:
    keys: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Payments,), {"keys": keys}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, keys
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("rate", [None, 200.0])
def test_the_load_generator_sends_each_payment_once_and_records_the_responses(
    tmp_path: Path, rate: float | None
) -> None:
    file = tmp_path / "load.plan"
    with _receiver() as (port, keys):
        file.write_text(json.dumps(asdict(LoadPlan(port, "token", "test-", clients=4, payments=40, rate=rate))))
        subprocess.run([sys.executable, "-m", "bench.client", str(file)], check=True, timeout=30)
    responses = Responses(**json.loads(file.with_suffix(".responses").read_text()))
    assert sorted(keys) == [f"test-{number:09}" for number in range(40)]
    assert (len(set(responses.ids)), responses.refused, len(responses.milliseconds)) == (36, {"429": 4}, 40)


def test_the_processor_time_of_a_child_that_has_ended_is_counted() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == b"burned\n"
        assert usage.cpu_seconds(usage.tree(parent.pid)) >= BURNED_SECONDS
        parent.stdin.close()


def test_a_ratio_is_the_median_over_the_rounds() -> None:
    rows = {row.key: row for row in ROWS}
    result = Measurements({})
    for theirs, ours in ((100.0, 1000.0), (300.0, 900.0), (200.0, 1200.0)):
        result.rounds["baseline"].append({"post_per_second": theirs, "post_p99_ms": 60.0})
        result.rounds["gateway"].append({"post_per_second": ours, "post_p99_ms": 20.0})
    assert result.ratio(rows["post_per_second"]) == 6
    assert result.ratio(rows["post_p99_ms"]) == 3
    assert result.ratio(rows["drained_per_second"]) is None
