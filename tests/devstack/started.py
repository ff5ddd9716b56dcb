"""A supervisor of PostgreSQL only, in a separate folder."""

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

from devstack import processes
from devstack.bootstrap import ROOT
from devstack.servers import postgres
from devstack.settings import Layout, Ports
from devstack.waiting import wait_until

LIMIT_SECONDS = 60


def free_ports() -> Ports:
    """Return consecutive ports on which nothing listens."""
    for _ in range(50):
        ports = Ports.counted_from(random.randrange(20000, 30000, 20))  # noqa: S311 - no secret
        with suppress(OSError), socket.create_server(("127.0.0.1", ports.postgresql)):
            return ports
    raise AssertionError("no free ports")


class Started:
    """A supervisor in a separate folder."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.layout = Layout(home, home / "cache", free_ports())
        self.env = os.environ | {
            "DEV_DIR": str(home),
            "DEV_PORT_BASE": str(self.layout.ports.api),
            "RABBITMQ_URL": "amqp://elsewhere.invalid/v",  # so that no broker is started
            "WAIT_SECONDS": "1",
            **variables,
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

    def server(self) -> psutil.Process:
        return processes.leftovers(self.layout)["postgresql"].process

    def connect(self, role: str = postgres.USER) -> psycopg.Connection:
        """Connect as a role, with the stack's password."""
        return psycopg.connect(postgres.url(self.layout, role).replace("+psycopg", ""), connect_timeout=10)

    def make_table(self) -> None:
        """Create a table with one row, as the owner."""
        with self.connect(postgres.OWNER) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")

    def expect_table(self) -> None:
        """Assert that the table of `make_table` still has its row."""
        with self.connect() as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)

    def end(self) -> None:
        """Stop the supervisor and its servers if they are running."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(LIMIT_SECONDS)
