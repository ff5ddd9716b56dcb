"""Run the API of the Procfile in separate processes, with the test database."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from honcho.environ import parse_procfile

from tests.helpers.waiting import eventually, free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 30
STOP_SECONDS = 20


@dataclass(frozen=True)
class ApiProcess:
    """A running API, with its URL and its log file."""

    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def api_process(log: Path, workers: int = 1, **environment: str) -> Iterator[ApiProcess]:
    """Run the Procfile's `api` with `workers` processes on a free port until the block ends."""
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PORT": str(port), "API_WORKERS": str(workers)} | environment
    command = ["/bin/sh", "-c", f"exec {parse_procfile((ROOT / 'Procfile').read_text()).processes['api']}"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: process.poll() is not None or _lives(url), within=START_SECONDS, what=f"{url}/health/live")
        assert process.poll() is None, log.read_text()
        yield ApiProcess(url, log)
    finally:
        if "LD_PRELOAD" in environment:  # libfaketime makes the server's shutdown fail now and then
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        else:
            process.terminate()
        process.wait(STOP_SECONDS)


def _lives(url: str) -> bool:
    try:
        return requests.get(f"{url}/health/live", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False
