"""What a block of code really sends to PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from gateway.db import begin, engine


@dataclass(frozen=True)
class Statement:
    """A statement as psycopg takes it."""

    sql: str
    parameters: Any


@contextmanager
def statements() -> Iterator[list[Statement]]:
    """The statements that are executed within the block, in order; those of a driver's own are not among them."""
    sent: list[Statement] = []

    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append(Statement(sql, parameters))

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine(), "before_cursor_execute", note)


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
