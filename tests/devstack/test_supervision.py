"""`python -m devstack services`, `stop` and `wait` as processes, with a real PostgreSQL and no broker of their own."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from devstack import processes
from devstack.bootstrap import ROOT
from devstack.settings import Layout, Ports
from devstack.waiting import wait_until

LIMIT_SECONDS = 60


def free_ports() -> Ports:
    """Return a row of ports that nobody listens on."""
    for _ in range(50):
        ports = Ports.counted_from(random.randrange(20000, 30000, 20))  # noqa: S311 - no secret
        with suppress(OSError), socket.create_server(("127.0.0.1", ports.postgresql)):
            return ports
    raise AssertionError("no free ports")


class Started:
    """A supervisor in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.layout = Layout(home, home / "cache", free_ports())
        self.env = os.environ | {
            "DEV_DIR": str(home),
            "DEV_PORT_BASE": str(self.layout.ports.api),
            "RABBITMQ_URL": "amqp://elsewhere.invalid/v",  # so that no broker is started
            "WAIT_SECONDS": "1",
        }
        self.env.pop("DATABASE_URL", None)
        self.log = home.with_suffix(".log")
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "devstack", "services"],
                cwd=ROOT, env=self.env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        wait_until(self.layout.env_file.exists, LIMIT_SECONDS, self.log.read_text)

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "devstack", name],
            check=False, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=LIMIT_SECONDS,
        )  # fmt: skip

    def postgres(self) -> psutil.Process:
        return processes.leftovers(self.layout)["postgresql"].process

    def connect(self) -> psycopg.Connection:
        port = self.layout.ports.postgresql
        return psycopg.connect(host="127.0.0.1", port=port, user="payments", dbname="payments", connect_timeout=10)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path / "dev")
    try:
        started.wait_until_ready()
        yield started
    finally:
        if started.process.poll() is None:
            started.process.terminate()
            started.process.wait(LIMIT_SECONDS)
        assert started.command("stop").returncode == 0


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_database_is_durable_local_and_owned_by_a_role_that_is_no_superuser(stack: Started) -> None:
    with stack.connect() as connection:
        names = ("fsync", "synchronous_commit", "listen_addresses", "unix_socket_directories", "max_connections")
        shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in names}
        superuser = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    assert shown == {
        "fsync": ("on",),
        "synchronous_commit": ("on",),
        "listen_addresses": ("127.0.0.1",),
        "unix_socket_directories": ("",),
        "max_connections": ("200",),
    }
    assert superuser == (False,)


def test_sigint_stops_everything_and_data_survives_a_restart(stack: Started) -> None:
    with stack.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    postgres = stack.postgres()
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(LIMIT_SECONDS) == 0, stack.log.read_text()
    assert gone(postgres)
    assert not stack.layout.env_file.exists()
    again = Started(stack.layout.home)
    try:
        again.wait_until_ready()
        with again.connect() as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
    finally:
        again.process.terminate()
        assert again.process.wait(LIMIT_SECONDS) == 0


def test_stop_ends_what_a_killed_supervisor_left_running(stack: Started) -> None:
    postgres = stack.postgres()
    stack.process.kill()
    stack.process.wait(LIMIT_SECONDS)
    assert not gone(postgres)
    assert stack.command("stop").returncode == 0
    assert gone(postgres)


def test_the_next_start_ends_what_a_killed_supervisor_left_running(stack: Started) -> None:
    postgres = stack.postgres()
    stack.process.kill()
    stack.process.wait(LIMIT_SECONDS)
    stack.layout.env_file.unlink()
    again = Started(stack.layout.home)
    again.layout = stack.layout
    try:
        again.wait_until_ready()
        assert gone(postgres)
    finally:
        again.process.terminate()
        assert again.process.wait(LIMIT_SECONDS) == 0


def test_a_second_start_in_the_same_folder_is_refused(stack: Started) -> None:
    second = stack.command("services")
    assert second.returncode == 1
    assert "a stack runs already" in second.stderr
    assert not gone(stack.postgres())


def test_stop_asks_the_living_supervisor(stack: Started) -> None:
    postgres = stack.postgres()
    assert stack.command("stop").returncode == 0
    assert stack.process.wait(LIMIT_SECONDS) == 0
    assert gone(postgres)


def test_wait_says_that_no_stack_is_up(stack: Started) -> None:
    waited = stack.command("wait")  # only servers run here: there is no stack.json
    assert waited.returncode == 1
    assert "no stack is up" in waited.stderr


def test_clean_forgets_the_data(stack: Started) -> None:
    assert stack.command("clean").returncode == 0
    assert not stack.layout.postgres_data.exists()
    assert not stack.layout.secrets_file.exists()
