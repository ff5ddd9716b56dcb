"""The stack under test: its processes, its servers and its database."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import requests
from psycopg.rows import TupleRow

from devstack.servers import rabbitmq
from devstack.settings import CHAOS_DIR, CHAOS_PORT_BASE, layout

TIMEOUT_SECONDS = 10


class ChaosStack:
    """A running stack, found by its stack.json, whose supervisor restarts processes that end."""

    def __init__(self, stack_file: Path) -> None:
        self._file = stack_file
        self.home = stack_file.parent
        found = self.found()
        self.api_url: str = found["api_url"]
        self.acquirer_url: str = found["acquirer_url"]

    def found(self) -> dict[str, Any]:
        """Return the current contents of stack.json."""
        contents: dict[str, Any] = json.loads(self._file.read_text())
        return contents

    def leader(self, role: str) -> int:
        """Return the pid of the leading process of a role or server."""
        pid: int = self.found()["processes"][role][0]
        return pid

    def children(self, role: str) -> list[int]:
        """Return the pids of its descendants."""
        try:
            return [child.pid for child in psutil.Process(self.leader(role)).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def dead(self) -> list[str]:
        """Return the roles whose leading process is not running."""
        return [role for role in self.found()["processes"] if not psutil.pid_exists(self.leader(role))]

    @contextmanager
    def held(self, role: str) -> Iterator[None]:
        """Keep the supervisor from restarting the role within the block."""
        hold = self.home / "hold" / role
        hold.parent.mkdir(exist_ok=True)
        hold.touch()
        try:
            yield
        finally:
            hold.unlink(missing_ok=True)  # two faults at once may hold the same role

    def database(self) -> psycopg.Connection[TupleRow]:
        """Open a connection to the gateway's database."""
        url = self.found()["database_url"].replace("postgresql+psycopg://", "postgresql://")
        return psycopg.connect(url, autocommit=True, connect_timeout=5)

    def management(self, method: str, path: str) -> requests.Response:
        """Call RabbitMQ's management API."""
        found = self.found()
        auth = (found["management"]["user"], found["management"]["password"])
        return requests.request(method, f"{found['management_url']}/api/{path}", auth=auth, timeout=TIMEOUT_SECONDS)

    def rabbitmqctl(self, *arguments: str) -> None:
        """Run rabbitmqctl against the stack's broker."""
        own = layout(CHAOS_DIR, CHAOS_PORT_BASE)
        rabbitmq.control(own, self.found()["management"]["password"], dict(os.environ), *arguments)

    def control_acquirer(self, behaviour: dict[str, Any]) -> None:
        """Set the behaviour of the acquirer."""
        requests.put(f"{self.acquirer_url}/control", json=behaviour, timeout=TIMEOUT_SECONDS).raise_for_status()
