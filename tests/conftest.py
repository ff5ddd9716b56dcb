"""Fixtures for every test.

Tests run against the PostgreSQL and the RabbitMQ of a running stack (`make test` brings one up and names its
stack.json in GATEWAY_STACK). Those of `end_to_end/` drive the stack itself. All others get a database and a vhost
of their own on the same servers, so that the stack's relay and workers never see their rows.

`make test` runs those of `end_to_end/` and all others in two processes at once. A test that takes a server away from
everybody has the mark `stops_a_server` and runs alone.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
import requests

NAME = "_".join([os.environ.get("GATEWAY_TEST_NAME", "unit"), *filter(None, [os.environ.get("PYTEST_XDIST_WORKER")])])
"""Database and vhost; another name lets two runs share the servers."""
MANAGEMENT_TIMEOUT_SECONDS = 10
_NOT_FOR_TESTS = (
    "BROKER_URL",
    "DATABASE_DIRECT_URL",
    "PROMETHEUS_MULTIPROC_DIR",
    "ALERT_WEBHOOK_URL",
    "WEBHOOK_ALLOW_LOOPBACK",
)


def _stack() -> dict[str, Any]:
    path = os.environ.get("GATEWAY_STACK")
    if not path:
        pytest.exit("GATEWAY_STACK is not set; run the suite with `make test`, or `make test ARGS='-k name'`", 2)
    stack: dict[str, Any] = json.loads(Path(path).read_text())
    return stack


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))


def _make_vhost(stack: dict[str, Any]) -> None:
    user, password = stack["management"]["user"], stack["management"]["password"]
    api = f"{stack['management_url']}/api"
    for call, body in (
        (f"vhosts/{NAME}", {}),
        (f"permissions/{NAME}/{quote(user)}", {"configure": ".*", "write": ".*", "read": ".*"}),
    ):
        answer = requests.put(f"{api}/{call}", json=body, auth=(user, password), timeout=MANAGEMENT_TIMEOUT_SECONDS)
        answer.raise_for_status()


def _use_own_database_and_vhost() -> None:
    """Point this process at them before anything of the gateway, even another conftest, is imported."""
    stack = _stack()
    server = stack["database_url"].replace("postgresql+psycopg://", "postgresql://")
    os.environ.update(
        DATABASE_URL=_with_path(server, NAME),
        RABBITMQ_URL=_with_path(stack["broker_url"], NAME),
        KEYS_DIR=tempfile.mkdtemp(prefix="gateway-keys-"),
        RETRY_BACKOFF_SECONDS="1",
        RETRY_BACKOFF_MAX_SECONDS="1",
    )
    for name in _NOT_FOR_TESTS:
        os.environ.pop(name, None)
    admin = stack["database_admin_url"].replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        connection.execute(f'CREATE DATABASE {NAME} OWNER "{urlsplit(server).username}"')
    _make_vhost(stack)


_use_own_database_and_vhost()


def pytest_configure() -> None:
    """Give the fresh database its schema."""
    from alembic import command
    from alembic.config import Config

    command.upgrade(Config(str(Path(__file__).parent.parent / "alembic.ini")), "head")


@pytest.fixture(autouse=True)
def _servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test that stops a server exclusively, by a lock that the other tests share."""
    alone = request.node.get_closest_marker("stops_a_server") is not None
    with (Path(os.environ["GATEWAY_STACK"]).parent / "servers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@pytest.fixture(scope="session")
def stack() -> dict[str, Any]:
    """stack.json of the running gateway."""
    return _stack()


@pytest.fixture
def database() -> Iterator[None]:
    """An empty database of the test's own; whatever the test committed is gone afterwards.

    DELETE, not TRUNCATE: that makes new files for every table and index, which the next checkpoint has to sync.
    """
    from gateway.db import begin
    from gateway.models import all_tables

    yield
    with begin() as connection:
        for table in reversed(all_tables().sorted_tables):
            connection.execute(table.delete())
