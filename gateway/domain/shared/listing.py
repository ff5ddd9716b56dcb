"""Lists, newest first: filters, and searches that look at a bounded number of rows."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from operator import lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import ColumnElement

from gateway.ids import smallest_id

Criterion = tuple[InstrumentedAttribute[Any], Callable[[Any, Any], Any], object]
"""A column, a comparison of the `operator` module, and the value wanted; None does not filter."""

SEARCH_ROWS_MAX = 2_000
"""Rows that one page looks at, at most. A rare match in a long history would otherwise take as long as the history is:
the page ends with what it found, perhaps nothing, and its cursor goes on from there. In ten million rows each of these
may be on a disk page of its own: reading so many takes some 20 ms."""
ID_LAG = timedelta(seconds=10)
"""The time in an id and its row's `created_at` differ by less, even when that is the beginning of a slow commit."""


def conditions(*criteria: Criterion) -> list[ColumnElement[bool]]:
    """The criteria that have a value, as SQL."""
    return [compare(column, value) for column, compare, value in criteria if value is not None]


def created_within(
    id: InstrumentedAttribute[UUID], since: datetime | None, until: datetime | None, lag: timedelta = ID_LAG
) -> list[ColumnElement[bool]]:
    """Bounds of UUIDv7 ids that leave out nothing created from `since` until `until`: an index on ids begins there."""
    bounds = []
    if since is not None:
        bounds.append(id >= smallest_id(since, -lag))
    if until is not None:
        bounds.append(id < smallest_id(until, lag))
    return bounds


def newest(
    query: Select[*tuple[Any, ...]], id: InstrumentedAttribute[UUID], before: UUID | None, limit: int
) -> Select[*tuple[Any, ...]]:
    """A page of `query`: at most `limit` rows with an `id` below `before`, those with the largest first."""
    return query.where(*conditions((id, lt, before))).order_by(id.desc()).limit(limit)


class Listed(list[dict[str, Any]]):
    """Objects of a list, newest first. `reached` is the id at which the search for more stopped for now, if it did."""

    def __init__(self, objects: Iterable[dict[str, Any]], reached: UUID | None = None) -> None:
        super().__init__(objects)
        self.reached = reached


def search(
    connection: Connection,
    *,
    columns: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]],
    id: InstrumentedAttribute[UUID],
    represent: Callable[[Row[*tuple[Any, ...]]], dict[str, Any]],
    within: Sequence[ColumnElement[bool]],
    wanted: Sequence[ColumnElement[bool]],
    limit: int,
) -> Listed:
    """At most `limit` rows that satisfy `within` and `wanted`, those with the largest `id` first.

    Args:
        connection: reads in one statement.
        columns: what `represent` makes an object of, `id` among them.
        id: the key that the list is in order of.
        represent: makes the object of a row.
        within: what one index answers in the order of `id`, so that no row is read in vain.
        wanted: everything else; `SEARCH_ROWS_MAX` rows are tested for it.
        limit: rows wanted.
    """
    if not wanted:
        plain = select(*columns).where(*within).order_by(id.desc()).limit(limit)
        return Listed(represent(row) for row in connection.execute(plain))
    scanned = (
        select(
            *columns,
            func.coalesce(and_(*wanted), False).label("is_wanted"),
            func.row_number().over(order_by=id.desc()).label("position"),
        )
        .where(*within)
        .order_by(id.desc())
        .limit(SEARCH_ROWS_MAX)
        .subquery("scanned")
    )
    query = select(scanned).where(or_(scanned.c.is_wanted, scanned.c.position == SEARCH_ROWS_MAX))
    rows = connection.execute(query.order_by(scanned.c[id.key].desc()).limit(limit)).all()
    stopped = bool(rows) and rows[-1].position == SEARCH_ROWS_MAX
    reached = rows[-1]._mapping[id.key] if stopped else None
    return Listed((represent(row) for row in rows if row.is_wanted), reached)
