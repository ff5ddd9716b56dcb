"""A real nginx and a real HAProxy with the project's files, in front of a running API."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from devstack import unpack
from devstack.console import DevstackError
from devstack.settings import layout
from tests.api.process import ApiProcess, api_process
from tests.support import eventually

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
    """The proxy's executable; the test is skipped where it cannot be had, but never in CI."""
    try:
        return unpack.program(layout().cache, dict(os.environ), name)
    except DevstackError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is neither installed nor to be had from an archive: {error}")


def replaced(text: str, changes: dict[str, str]) -> str:
    """`text` with each place that an operator changes changed, which must be there."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, new)
    return text


def configured(name: str, folder: Path, port: int, api: ApiProcess) -> list[str]:
    """Write the proxy's configuration, with the addresses of a test; the command that starts it."""
    upstream = f"127.0.0.1:{api.port}"
    if name == "nginx":
        temporary = {" /tmp/": f" {folder}/"}
        own = {"listen 8080": f"listen 127.0.0.1:{port}", "api:8000": upstream, **temporary}
        file = folder / "nginx.conf"
        file.write_text(replaced((OPS / "nginx.conf").read_text(), own))
        user = " user root;" if os.geteuid() == 0 else ""  # another user could not reach the test's folder
        return ["-p", str(folder), "-c", str(file), "-g", f"daemon off;{user}"]
    file = folder / "haproxy.cfg"
    own = {"bind :8080": f"bind 127.0.0.1:{port}", "api:8000": upstream, "maxconn 16384": "maxconn 2000"}
    file.write_text(replaced((OPS / "haproxy.cfg").read_text(), own))
    return ["-W", "-db", "-f", str(file)]


@contextmanager
def proxy_process(name: str, folder: Path, api: ApiProcess) -> Iterator[Proxy]:
    """The proxy in front of `api`."""
    executable = program(name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
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
    """An API that knows of one proxy in front, with a strict limit per address where people sign in."""
    folder = Path(tmp_path_factory.mktemp("api"))
    with api_process(
        folder / "api.log", TRUSTED_PROXIES="1", AUTH_RATE_LIMIT_PER_SECOND="1", AUTH_RATE_LIMIT_BURST="5"
    ) as started:
        yield started


@pytest.fixture(scope="module", params=NAMES)
def proxy(request: pytest.FixtureRequest, api: ApiProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Each of the proxies."""
    with proxy_process(request.param, Path(tmp_path_factory.mktemp(request.param)), api) as started:
        yield started
