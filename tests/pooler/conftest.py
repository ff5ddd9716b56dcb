"""A database with the gateway's schema and the session defaults, and PgBouncer in front of it."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, make_url

from devstack.servers import debian_packages
from devstack.settings import layout
from devstack.terminal import DevstackError
from gateway.config import settings
from tests.conftest import NAME
from tests.pooler.pgbouncer import PgBouncer, pgbouncer
from tests.pooler.running import alembic, flask

POOL_SIZE = 5


@pytest.fixture(autouse=True)
def _collect_connections() -> Iterator[None]:
    """Collect connections whose engine a test disposed of, so that their warnings do not fail another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def program() -> Path:
    """Return PgBouncer's executable, or skip the test if it is not available."""
    try:
        return debian_packages.program(layout().cache, dict(os.environ), "pgbouncer")
    except DevstackError as exc:
        pytest.skip(str(exc))


def environment(pooler: PgBouncer, direct: URL) -> dict[str, str]:
    """Return the environment with the URLs of both."""
    return {"DATABASE_URL": pooler.url, "DATABASE_DIRECT_URL": direct.render_as_string(hide_password=False)}


@contextmanager
def database(name: str, admin_url: str) -> Iterator[URL]:
    """Create an empty database of the gateway's role; dropping it also drops the role's defaults in it."""
    server = make_url(settings().database_url).set(drivername="postgresql")
    with psycopg.connect(admin_url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f'CREATE DATABASE {name} OWNER "{server.username}"')
        yield server.set(database=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def direct(program: Path, stack: dict[str, Any]) -> Iterator[URL]:  # noqa: ARG001  # skips before it is made
    """Create the database of these tests."""
    with database(f"{NAME}_pooled", stack["database_admin_url"]) as url:
        yield url


@pytest.fixture
def unprepared(program: Path, stack: dict[str, Any]) -> Iterator[URL]:  # noqa: ARG001
    """Create a database in which the role has no session defaults."""
    with database(f"{NAME}_unprepared", stack["database_admin_url"]) as url:
        yield url


@pytest.fixture(scope="session")
def pooler(program: Path, direct: URL) -> Iterator[PgBouncer]:
    """Run a pooler as the documentation describes it, but with few sessions."""
    with pgbouncer(program, direct, default_pool_size=str(POOL_SIZE)) as running:
        alembic("upgrade", "head", **environment(running, direct))
        flask("database", "set-session-defaults", **environment(running, direct))
        yield running


@pytest.fixture
def both(pooler: PgBouncer, direct: URL) -> dict[str, str]:
    """Return the environment of a process that uses the pooler."""
    return environment(pooler, direct)
