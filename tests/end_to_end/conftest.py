"""Fixtures of the tests that use the running stack through its public interfaces."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.end_to_end.client import Client, log_in, register


@pytest.fixture
def merchant(stack: dict[str, Any]) -> Client:
    """Return a new merchant."""
    return register(stack["api_url"], f"{uuid4().hex}@example.com")


@pytest.fixture(scope="session")
def operator(stack: dict[str, Any]) -> Client:
    """Return the stack's operator."""
    return log_in(stack["api_url"], stack["operator"]["email"], stack["operator"]["password"])


@pytest.fixture
def truth(stack: dict[str, Any]) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """Connect to the stack's database, with which the API's responses are compared."""
    url = stack["database_url"].replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        yield connection


class Processes:
    """Stops and restarts the stack's processes. The supervisor restarts processes that ended."""

    def __init__(self, stack_file: Path) -> None:
        self._home = stack_file.parent
        self._stack_file = stack_file

    def leader(self, role: str) -> int:
        """Return the main process of a role, as stack.json has it now."""
        leader: int = json.loads(self._stack_file.read_text())["processes"][role][0]
        return leader

    @contextmanager
    def down(self, role: str, number: signal.Signals = signal.SIGKILL) -> Iterator[None]:
        """End a role with the signal `number`, and keep it down within the block."""
        hold = self._home / "hold" / role
        hold.parent.mkdir(exist_ok=True)
        hold.touch()
        try:
            os.kill(self.leader(role), number)
            yield
        finally:
            hold.unlink()


@pytest.fixture
def processes() -> Processes:
    """Return the stack's processes."""
    return Processes(Path(os.environ["GATEWAY_STACK"]))
