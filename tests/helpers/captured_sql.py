"""What a block of code really sends to PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from gateway import db
from gateway.db import begin


@dataclass(frozen=True)
class Statement:
    """A statement as psycopg takes it."""

    sql: str
    parameters: Any


@contextmanager
def statements() -> Iterator[list[Statement]]:
    """The statements that psycopg is given within the block, in order, but for the test of a rested connection."""
    sent: list[Statement] = []
    execute = psycopg.Cursor.execute

    def note(cursor: Any, sql: Any, parameters: Any = None, **options: Any) -> Any:
        if sql != db.IDLE_CHECK:
            sent.append(Statement(sql, parameters))
        return execute(cursor, sql, parameters, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", note)
        yield sent


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's node and all below it."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def executed(statement: Statement) -> list[dict[str, Any]]:
    """The nodes of the plan that PostgreSQL makes and runs for a statement."""
    with begin() as connection:
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement.sql}"
        found = connection.exec_driver_sql(explain, statement.parameters).scalar_one()
    return list(nodes(found[0]["Plan"]))


def read_by(node: dict[str, Any]) -> int:
    """The rows of a table that a node reads, whether or not it hands them on."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return round((node["Actual Rows"] + removed) * node["Actual Loops"]) if "Relation Name" in node else 0
