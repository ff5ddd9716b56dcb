"""The stack under test: its processes, its servers' controls, its database."""

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
    """A running stack, found by its stack.json, whose supervisor starts again what ends."""

    def __init__(self, stack_file: Path) -> None:
        self._file = stack_file
        self.home = stack_file.parent
        found = self.found()
        self.api_url: str = found["api_url"]
        self.acquirer_url: str = found["acquirer_url"]

    def found(self) -> dict[str, Any]:
        """What stack.json says now."""
        contents: dict[str, Any] = json.loads(self._file.read_text())
        return contents

    def leader(self, role: str) -> int:
        """The leading process of a role or server."""
        pid: int = self.found()["processes"][role][0]
        return pid

    def children(self, role: str) -> list[int]:
        """The processes below it."""
        try:
            return [child.pid for child in psutil.Process(self.leader(role)).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def dead(self) -> list[str]:
        """The roles whose leading process does not run."""
        return [role for role in self.found()["processes"] if not psutil.pid_exists(self.leader(role))]

    @contextmanager
    def held(self, role: str) -> Iterator[None]:
        """The supervisor does not start the role again within the block."""
        hold = self.home / "hold" / role
        hold.parent.mkdir(exist_ok=True)
        hold.touch()
        try:
            yield
        finally:
            hold.unlink(missing_ok=True)  # two faults at once may hold the same role

    def database(self) -> psycopg.Connection[TupleRow]:
        """A new connection to the gateway's database."""
        url = self.found()["database_url"].replace("postgresql+psycopg://", "postgresql://")
        return psycopg.connect(url, autocommit=True, connect_timeout=5)

    def management(self, method: str, path: str) -> requests.Response:
        """A call of RabbitMQ's management API."""
        found = self.found()
        auth = (found["management"]["user"], found["management"]["password"])
        return requests.request(method, f"{found['management_url']}/api/{path}", auth=auth, timeout=TIMEOUT_SECONDS)

    def rabbitmqctl(self, *arguments: str) -> None:
        """Run rabbitmqctl against the stack's broker."""
        own = layout(CHAOS_DIR, CHAOS_PORT_BASE)
        rabbitmq.control(own, self.found()["management"]["password"], dict(os.environ), *arguments)

    def control_acquirer(self, how: dict[str, Any]) -> None:
        """Tell the acquirer how to behave from now on."""
        requests.put(f"{self.acquirer_url}/control", json=how, timeout=TIMEOUT_SECONDS).raise_for_status()
