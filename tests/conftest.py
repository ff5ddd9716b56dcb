"""Fixtures for every test.

Tests with the mark `unit` use no server; `make unit` runs them alone, where none is. All others run against the
PostgreSQL and the RabbitMQ of a running stack: `make test` starts one and names its stack.json in GATEWAY_STACK. Those
of `end_to_end/` drive that stack itself. The others get a separate database and virtual host on its servers, so
that the stack's relay and workers never see their rows.

`make test` runs several processes of pytest at once. Those of `end_to_end/faults/` stop servers and roles, so they have
a stack to themselves.
"""

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

STACK_FILE = os.environ.get("GATEWAY_STACK")
NAME = "_".join(filter(None, [os.environ.get("GATEWAY_TEST_NAME", "tests"), os.environ.get("PYTEST_XDIST_WORKER")]))
"""Name of the database and of the virtual host: each process has its own."""
MANAGEMENT_TIMEOUT_SECONDS = 10
NO_SERVERS = {
    "DATABASE_URL": "postgresql://nobody@localhost/none?host=/a-unit-test-has-no-database",
    "RABBITMQ_URL": "amqp://nobody:nothing@127.0.0.1:1/a-unit-test-has-no-broker",
}
"""Addresses where nothing answers."""
RUN_FIRST = (
    "tests/pooler/",
    "tests/devstack/",
    "tests/api/access/test_key_rotation",
    "tests/api/http/test_parser_costs",
)
"""At the end of a run they would keep one process busy after the others have finished."""
NOT_FOR_TESTS = (
    "BROKER_URL",
    "DATABASE_DIRECT_URL",
    "PROMETHEUS_MULTIPROC_DIR",
    "ALERT_WEBHOOK_URL",
    "WEBHOOK_ALLOW_LOOPBACK",
)


def _stack() -> dict[str, Any]:
    assert STACK_FILE is not None, "a test with the mark `unit` uses a server"
    stack: dict[str, Any] = json.loads(Path(STACK_FILE).read_text())
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
        response = requests.put(f"{api}/{call}", json=body, auth=(user, password), timeout=MANAGEMENT_TIMEOUT_SECONDS)
        response.raise_for_status()


def _make_database(stack: dict[str, Any], server: str) -> None:
    admin = stack["database_admin_url"].replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        connection.execute(f'CREATE DATABASE {NAME} OWNER "{urlsplit(server).username}"')


def _set_environment() -> None:
    """Set the variables of this process before a test or another conftest imports anything of the gateway."""
    os.environ.update(
        NO_SERVERS,
        KEYS_DIR=tempfile.mkdtemp(prefix="gateway-keys-"),
        RETRY_BACKOFF_SECONDS="1",
        RETRY_BACKOFF_MAX_SECONDS="1",
    )
    for name in NOT_FOR_TESTS:
        os.environ.pop(name, None)
    if STACK_FILE:
        stack = _stack()
        server = stack["database_url"].replace("postgresql+psycopg://", "postgresql://")
        os.environ.update(
            DATABASE_URL=_with_path(server, NAME),
            RABBITMQ_URL=_with_path(stack["broker_url"], NAME),
        )
        _make_database(stack, server)
        _make_vhost(stack)


_set_environment()


def pytest_configure() -> None:
    """Create the tables of the new database."""
    from alembic import command
    from alembic.config import Config

    if STACK_FILE:
        command.upgrade(Config(str(Path(__file__).parent.parent / "alembic.ini")), "head")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest modules first, and refuse to run tests that need servers without a stack."""
    items.sort(key=lambda item: not item.nodeid.startswith(RUN_FIRST))
    if not STACK_FILE and (with_servers := [item for item in items if item.get_closest_marker("unit") is None]):
        raise pytest.UsageError(
            f"{len(with_servers)} of these tests need servers, such as {with_servers[0].nodeid}: run them with"
            " `make test ARGS=…`; `make unit` runs those that need none"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Say in the report of a failed test that there were no servers."""
    report = yield
    if report.failed and not STACK_FILE:
        report.sections.append(
            (
                "without servers",
                "A test with the mark `unit` runs without PostgreSQL and RabbitMQ.",
            )
        )
    return report


@pytest.fixture(scope="session")
def stack() -> dict[str, Any]:
    """Return the contents of the running stack's stack.json."""
    return _stack()


@pytest.fixture
def database() -> Iterator[None]:
    """Give the test an empty database; whatever it committed is deleted afterwards.

    DELETE, not TRUNCATE: that makes new files for every table and index, which the next checkpoint has to sync.
    """
    from gateway.db import begin
    from gateway.models import all_tables

    assert STACK_FILE is not None, "a test with the mark `unit` uses the database"
    yield
    with begin() as connection:
        for table in reversed(all_tables().sorted_tables):
            connection.execute(table.delete())
