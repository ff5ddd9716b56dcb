"""The statements that code sends to PostgreSQL, and their plans."""

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
    """A statement with its parameters, as given to psycopg."""

    sql: str
    parameters: Any


@contextmanager
def statements() -> Iterator[list[Statement]]:
    """Record the statements within the block, in order, without the check of an idle connection."""
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
    """Yield a node of a plan and its descendants."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def executed(statement: Statement) -> list[dict[str, Any]]:
    """Run a statement with EXPLAIN ANALYZE; return the nodes of its plan."""
    with begin() as connection:
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement.sql}"
        found = connection.exec_driver_sql(explain, statement.parameters).scalar_one()
    return list(nodes(found[0]["Plan"]))


def read_by(node: dict[str, Any]) -> int:
    """Return the number of table rows that a node reads, including those that it filters out."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return round((node["Actual Rows"] + removed) * node["Actual Loops"]) if "Relation Name" in node else 0
