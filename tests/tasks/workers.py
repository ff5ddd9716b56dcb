"""Workers for tests: in a thread of this process, and as separate processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery.contrib.testing.worker import start_worker

from tasks import app as gateway_app

STOP_SECONDS = 60
START_SECONDS = 60.0


@contextmanager
def worker_thread(*queues: str) -> Iterator[None]:
    """Run a worker of `queues` in a thread within the block."""
    untyped: Any = gateway_app  # the stubs know only workers of apps with Celery's own task class
    with start_worker(untyped, pool="solo", queues=list(queues), perform_ping_check=False, shutdown_timeout=30):
        yield


@contextmanager
def worker_process(
    log: Path,
    queues: str,
    *options: str,
    name: str | None = None,
    app: str = "tasks",
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of `queues` in a process within the block; it writes to `log`."""
    node = f"{name or uuid4()}@%h"
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", queues, "-n", node, *options]
    with log.open("wb") as output:
        worker = subprocess.Popen(
            command, env=os.environ | dict(environment or {}), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(STOP_SECONDS)
