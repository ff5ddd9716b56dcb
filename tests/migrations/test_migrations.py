"""Downgrades work on an empty schema, and refuse to delete data that cannot be recreated."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from gateway.config import settings
from gateway.db import engine
from tests.helpers.factories import make_merchant
from tests.helpers.refunds import paid, refunded

ALEMBIC = Path(__file__).parents[2] / "alembic.ini"
NO_EVENTS = "DELETE FROM webhook_deliveries; DELETE FROM events"
JOB = """
    INSERT INTO dead_letter_jobs (id, action, filter, dry_run, max_per_second, status, count, requested_by, request_id)
    VALUES (gen_random_uuid(), 'replay', '{}', false, 1, 'running', 0, 'operator@example.com', 'req-test')
"""


@pytest.fixture
def connection(database: None) -> Iterator[Connection]:  # noqa: ARG001  # deletes what the test commits
    """Yield a connection whose transaction is rolled back, including changes of the schema."""
    with engine().connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.begin()
        yield connection
        connection.rollback()


def downgrade(connection: Connection, to: str) -> None:
    config = Config(str(ALEMBIC))
    config.attributes["connection"] = connection
    command.downgrade(config, to)


def version(connection: Connection) -> str | None:
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def test_an_empty_schema_can_be_downgraded_to_nothing(connection: Connection) -> None:
    downgrade(connection, "base")
    assert version(connection) is None


def test_a_downgrade_below_the_first_revision_refuses_while_there_are_payments(connection: Connection) -> None:
    paid()
    connection.execute(text(NO_EVENTS))
    downgrade(connection, "0001")
    with pytest.raises(CommandError, match=r"ledger_entries \(\d+\), settlements \(1\), transactions \(1\)"):
        downgrade(connection, "base")
    assert version(connection) == "0001"
    assert connection.execute(text("SELECT count(*) FROM ledger_entries")).scalar_one() > 0


def test_a_downgrade_below_the_first_revision_refuses_while_there_are_merchants(connection: Connection) -> None:
    make_merchant()
    with pytest.raises(CommandError, match=r"merchants \(1\)"):
        downgrade(connection, "base")


def test_a_downgrade_refuses_to_lose_refunds(connection: Connection) -> None:
    refunded(paid(), 100)
    connection.execute(text(NO_EVENTS))
    with pytest.raises(CommandError, match=re.escape("refunds (1)")):
        downgrade(connection, "0001")
    assert version(connection) == "0002"


def test_a_downgrade_refuses_to_lose_events(connection: Connection) -> None:
    paid()
    with pytest.raises(CommandError, match=r"events \(\d+\)"):
        downgrade(connection, "0001")


def test_a_downgrade_refuses_to_lose_jobs_of_operators(connection: Connection) -> None:
    connection.execute(text(JOB))
    with pytest.raises(CommandError, match=re.escape("dead_letter_jobs (1)")):
        downgrade(connection, "0002")


def test_a_downgrade_whose_later_step_is_refused_changes_nothing(connection: Connection) -> None:
    paid()
    config = Config(str(ALEMBIC))
    with pytest.raises(CommandError, match="Nothing was changed"):
        command.downgrade(config, "base")
    assert version(connection) == ScriptDirectory.from_config(config).get_current_head()


def test_a_migration_by_a_role_that_does_not_own_the_tables_names_the_owner(
    stack: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", stack["database_url"])
    settings.cache_clear()
    try:
        with pytest.raises(CommandError, match="of the tables' owner"):
            command.downgrade(Config(str(ALEMBIC)), "0006")
    finally:
        monkeypatch.undo()
        settings.cache_clear()
