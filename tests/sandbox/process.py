"""A process of the sandbox acquirer, and the fixtures that start it."""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.config import settings
from gateway.providers import registry

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 20
STOP_SECONDS = 10
CALL_SECONDS = 10

Configure = Callable[..., None]


class AcquirerProcess:
    """`python -m gateway.sandbox` on a port that the system chooses. A restart uses the same port."""

    def __init__(self, file: Path, *options: str) -> None:
        self._file, self._options = file, options
        self._port = "0"
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> "AcquirerProcess":
        command = [sys.executable, "-m", "gateway.sandbox", "--file", str(self._file), *self._options]
        self._process = subprocess.Popen([*command, "--port", self._port], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        output = self._process.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            assert selector.select(START_SECONDS), "the acquirer did not start"
        line = output.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1]
        self._port = self.url.rpartition(":")[2]
        return self

    def kill(self) -> None:
        """Send SIGKILL."""
        self._end(lambda process: process.kill())

    def stop(self) -> None:
        """Send SIGTERM."""
        self._end(lambda process: process.terminate())

    def _end(self, how: Callable[[subprocess.Popen[str]], None]) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        how(process)
        process.wait(STOP_SECONDS)
        assert process.stdout is not None
        process.stdout.close()

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=CALL_SECONDS, **options)

    def post_charge(self, key: str, token: str = "tok_approve", amount: int = 1_000) -> requests.Response:
        body = {"idempotency_key": key, "amount": amount, "currency": "USD", "payment_method": token}
        return self.call("POST", "/charges", json=body)

    def control(self, mode: str, **values: object) -> None:
        response = self.call("PUT", "/control", json={"mode": mode, **values})
        assert response.status_code == 200, response.text

    def charges(self, key: str | None = None) -> list[dict[str, Any]]:
        """Return the approved charges of all keys or of one."""
        response = self.call("GET", "/charges")
        charges = [json.loads(line) for line in response.text.splitlines()]
        approved = [charge for charge in charges if charge["status"] == "approved"]
        return [charge for charge in approved if key in {None, charge["idempotency_key"]}]

    def refunds(self) -> list[dict[str, Any]]:
        """Return the refunds."""
        return [json.loads(line) for line in self.call("GET", "/refunds").text.splitlines()]


@pytest.fixture(scope="module")
def running_acquirer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AcquirerProcess]:
    """Start an acquirer for all tests of a module."""
    acquirer = AcquirerProcess(tmp_path_factory.mktemp("acquirer") / "acquirer.db").start()
    yield acquirer
    acquirer.stop()


@pytest.fixture
def acquirer(running_acquirer: AcquirerProcess) -> AcquirerProcess:
    """Return the acquirer of the module, without faults."""
    running_acquirer.control("normal")
    return running_acquirer


@pytest.fixture
def own_acquirer(tmp_path: Path) -> Iterator[AcquirerProcess]:
    """Start an acquirer for one test, which may kill it."""
    acquirer = AcquirerProcess(tmp_path / "acquirer.db").start()
    yield acquirer
    acquirer.kill()


def _forget_settings() -> None:
    for cached in (settings, registry.configured, registry.preferred):
        cached.cache_clear()


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Return a function that sets environment variables (None unsets one) and reloads the settings."""
    before = dict(os.environ)

    def set_variables(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _forget_settings()

    yield set_variables
    os.environ.clear()
    os.environ.update(before)
    _forget_settings()
