"""The API while its database is unavailable, and with invalid settings."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests

from gateway.config import settings
from tests.api.conftest import Caller
from tests.api.process import ROOT, api_process
from tests.helpers.waiting import eventually, free_port

TIMEOUT_SECONDS = 15
PAYMENT = {"amount": 1000, "currency": "USD"}


class Gate:
    """A port that is forwarded to the test database while it is open."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        with psycopg.connect(settings().database_url.replace("+psycopg", "")) as connection:
            target = f"{connection.info.host}:{connection.info.port}"
        self._process = subprocess.Popen([sys.executable, "-c", FORWARDER, str(self.port), target])

        def accepts() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(accepts, what="the gate")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def url(self) -> str:
        with psycopg.connect(settings().database_url.replace("+psycopg", "")) as connection:
            info = connection.info
            return f"postgresql://{info.user}:{info.password}@127.0.0.1:{self.port}/{info.dbname}"


FORWARDER = """
import socket, sys, threading
host, port = sys.argv[2].rsplit(":", 1)
def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        near, _ = server.accept()
        far = socket.create_connection((host, int(port)))
        for ends in ((near, far), (far, near)):
            threading.Thread(target=pump, args=ends, daemon=True).start()
"""


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Provide a port to the database that the test can close."""
    made = Gate()
    yield made
    made.close()


def expect_unavailable(response: requests.Response) -> None:
    assert response.status_code == 503, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "database_unavailable"
    assert int(response.headers["Retry-After"]) >= 1
    assert "psycopg" not in response.text
    assert "127.0.0.1" not in response.text


def test_without_its_database_the_api_responds_with_503_and_recovers(
    merchant: Caller, gate: Gate, tmp_path: Path
) -> None:
    headers = {"Authorization": f"Bearer {merchant.token}"}
    gate.open()
    with api_process(tmp_path / "api.log", DATABASE_URL=gate.url()) as api:

        def pay() -> requests.Response:
            return requests.post(f"{api.url}/v1/transactions", json=PAYMENT, headers=headers, timeout=TIMEOUT_SECONDS)

        assert pay().status_code == 201
        gate.close()

        expect_unavailable(pay())
        expect_unavailable(requests.get(f"{api.url}/v1/transactions", headers=headers, timeout=TIMEOUT_SECONDS))
        login = {"email": "a@example.com", "password": "x"}
        expect_unavailable(requests.post(f"{api.url}/auth/login", json=login, timeout=TIMEOUT_SECONDS))
        form = {"grant_type": "client_credentials", **merchant.facts["client"]}
        expect_unavailable(requests.post(f"{api.url}/oauth/token", data=form, timeout=TIMEOUT_SECONDS))
        started = time.monotonic()
        expect_unavailable(requests.get(f"{api.url}/health/ready", timeout=TIMEOUT_SECONDS))
        assert time.monotonic() - started < 2
        assert requests.get(f"{api.url}/health/live", timeout=TIMEOUT_SECONDS).status_code == 200
        metrics = requests.get(f"{api.url}/metrics", timeout=TIMEOUT_SECONDS).text
        assert "database_up 0.0" in metrics
        assert "outbox_depth" not in metrics

        gate.open()
        eventually(lambda: pay().status_code == 201, what="the recovery")
        assert requests.get(f"{api.url}/health/ready", timeout=TIMEOUT_SECONDS).status_code == 200


@pytest.mark.usefixtures("database")
def test_a_hanging_database_does_not_delay_the_readiness_check(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and sends nothing
        url = f"postgresql://pay@127.0.0.1:{silent.getsockname()[1]}/x"
        with api_process(tmp_path / "api.log", DATABASE_URL=url) as api:
            started = time.monotonic()
            expect_unavailable(requests.get(f"{api.url}/health/ready", timeout=TIMEOUT_SECONDS))
            assert time.monotonic() - started < 2.1


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"RABBITMQ_URL": "redis://localhost"}, "RABBITMQ_URL"),
        ({"PORT": "eighty"}, "PORT"),
        ({"KEYS_DIR": "/dev/null/keys"}, "KEYS_DIR"),
    ],
)
def test_a_process_with_an_invalid_setting_ends_and_names_it(environment: dict[str, str], named: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from gateway.app import app"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr
