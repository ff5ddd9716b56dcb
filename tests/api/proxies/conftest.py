"""Run real nginx and HAProxy servers with the project's files in front of an API."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from devstack.servers import debian_packages
from devstack.settings import layout
from devstack.terminal import DevstackError
from tests.api.process import ApiProcess, api_process
from tests.helpers.waiting import eventually, free_port

OPS = Path(__file__).parents[3] / "ops"
STOP_SECONDS = 10
NAMES = ("nginx", "haproxy")


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    name: str
    port: int
    api: ApiProcess

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def program(name: str) -> Path:
    """Return the proxy's executable; skip the test if it is not available, except in CI."""
    try:
        return debian_packages.program(layout().cache, dict(os.environ), name)
    except DevstackError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is neither installed nor to be had from an archive: {error}")


def replaced(text: str, changes: dict[str, str]) -> str:
    """Return `text` with the replacements; each old text must be present."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, new)
    return text


def configured(name: str, folder: Path, port: int, api: ApiProcess) -> list[str]:
    """Write the proxy's configuration with the addresses of a test; return the command that starts it."""
    upstream = f"127.0.0.1:{api.port}"
    if name == "nginx":
        temporary = {" /tmp/": f" {folder}/"}
        own = {"listen 8080": f"listen 127.0.0.1:{port}", "api:8000": upstream, **temporary}
        file = folder / "nginx.conf"
        file.write_text(replaced((OPS / "nginx.conf").read_text(), own))
        user = " user root;" if os.geteuid() == 0 else ""  # another user has no access to the test's folder
        return ["-p", str(folder), "-c", str(file), "-g", f"daemon off;{user}"]
    file = folder / "haproxy.cfg"
    own = {"bind :8080": f"bind 127.0.0.1:{port}", "api:8000": upstream, "maxconn 16384": "maxconn 2000"}
    file.write_text(replaced((OPS / "haproxy.cfg").read_text(), own))
    return ["-W", "-db", "-f", str(file)]


@contextmanager
def proxy_process(name: str, folder: Path, api: ApiProcess) -> Iterator[Proxy]:
    """Run the proxy in front of `api`."""
    executable = program(name)
    port = free_port()
    command = [str(executable), *configured(name, folder, port, api)]
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        eventually(lambda: process.poll() is not None or _accepts(port), what=f"{name} on {port}")
        assert process.poll() is None, log.read_text()
        yield Proxy(name, port, api)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Run an API behind one trusted proxy, with a strict limit of log-in requests per address."""
    folder = Path(tmp_path_factory.mktemp("api"))
    with api_process(
        folder / "api.log", TRUSTED_PROXIES="1", AUTH_RATE_LIMIT_PER_SECOND="1", AUTH_RATE_LIMIT_BURST="5"
    ) as started:
        yield started


@pytest.fixture(scope="module", params=NAMES)
def proxy(request: pytest.FixtureRequest, api: ApiProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run each of the proxies."""
    with proxy_process(request.param, Path(tmp_path_factory.mktemp(request.param)), api) as started:
        yield started
