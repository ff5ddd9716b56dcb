"""Migrations keep the rows of every table, upwards and downwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from gateway.db import engine
from tests.migrations.rows import contents, fill, tables

CONFIG = str(Path(__file__).parents[2] / "alembic.ini")
REVISIONS = [script.revision for script in ScriptDirectory.from_config(Config(CONFIG)).walk_revisions()]
OLDEST_WITHOUT_REFUSAL = "0003"
DROPPED_TABLES = {"webhook_bodies", "queue_states"}
DROPPED_COLUMNS = {"outbox": {"merchant_id"}, "merchants": {"weight"}}
"""The tables and columns that downgrades from head to `OLDEST_WITHOUT_REFUSAL` drop; they can be recreated."""

Contents = dict[str, list[dict[str, Any]]]


@pytest.fixture
def connection(database: None) -> Iterator[Connection]:  # noqa: ARG001  # its tables are empty
    """Yield a connection whose transaction is rolled back, including changes of the schema."""
    with engine().connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.begin()
        yield connection
        connection.rollback()


def migrate(connection: Connection, to: str) -> None:
    config = Config(CONFIG)
    config.attributes["connection"] = connection
    if to == "head":
        command.upgrade(config, to)
    else:
        command.downgrade(config, to)


def assert_kept(before: Contents, after: Contents) -> None:
    """Assert that `after` has every row of `before`, with every value."""
    for table, rows in before.items():
        assert len(after[table]) == len(rows), table
        for row, kept in zip(rows, after[table], strict=True):
            assert kept | row == kept, table


@pytest.mark.parametrize("revision", REVISIONS)
def test_rows_of_every_table_survive_an_upgrade_a_downgrade_and_another_upgrade(
    connection: Connection, revision: str
) -> None:
    migrate(connection, revision)
    fill(connection)
    before = contents(connection)
    assert all(before.values()), "there is a table without a row"

    migrate(connection, "head")
    upgraded = contents(connection)
    assert_kept(before, upgraded)

    migrate(connection, revision)
    assert contents(connection) == before

    migrate(connection, "head")
    assert contents(connection) == upgraded


def test_a_downgrade_from_head_keeps_all_rows_but_those_that_can_be_recreated(connection: Connection) -> None:
    fill(connection)
    before = contents(connection)

    migrate(connection, OLDEST_WITHOUT_REFUSAL)
    older = contents(connection)
    assert before.keys() - older.keys() == DROPPED_TABLES
    for table in older:
        assert before[table][0].keys() - older[table][0].keys() == DROPPED_COLUMNS.get(table, set()), table
    assert_kept(older, before)

    migrate(connection, "head")
    assert_kept(older, contents(connection))


def test_a_downgrade_with_rows_in_every_table_stops_before_it_would_lose_rows(connection: Connection) -> None:
    fill(connection)
    with pytest.raises(CommandError, match=r"statements \(1\), dead_letter_jobs \(1\)"):
        migrate(connection, "0002")


def test_a_downgrade_and_an_upgrade_restore_the_schema(connection: Connection) -> None:
    before = {table: set(columns) for table, columns in tables(connection).items()}
    migrate(connection, "base")
    migrate(connection, "head")
    assert {table: set(columns) for table, columns in tables(connection).items()} == before
