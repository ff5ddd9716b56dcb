"""Lists, newest first: filters, and searches that read a bounded number of rows."""

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
"""A column, a comparison from the `operator` module, and a value. If the value is None, there is no condition."""

SEARCH_ROWS_MAX = 2_000
"""Maximum number of rows that are tested for one page, so that a rare match in a long history takes a bounded time. The
page ends with what was found, perhaps nothing, and its cursor continues there. In ten million rows, each of these rows
may be on a separate disk page; reading that many takes about 20 ms."""
ID_LAG = timedelta(seconds=10)
"""Maximum difference between the time in an id and `created_at` of its row, even if the commit is slow."""


def conditions(*criteria: Criterion) -> list[ColumnElement[bool]]:
    """Return the criteria that have a value, as SQL."""
    return [compare(column, value) for column, compare, value in criteria if value is not None]


def created_within(
    id: InstrumentedAttribute[UUID], since: datetime | None, until: datetime | None, lag: timedelta = ID_LAG
) -> list[ColumnElement[bool]]:
    """Return bounds of UUIDv7 ids that include everything created from `since` until `until`, for an index on ids."""
    bounds = []
    if since is not None:
        bounds.append(id >= smallest_id(since, -lag))
    if until is not None:
        bounds.append(id < smallest_id(until, lag))
    return bounds


def newest(
    query: Select[*tuple[Any, ...]], id: InstrumentedAttribute[UUID], before: UUID | None, limit: int
) -> Select[*tuple[Any, ...]]:
    """Return the statement of a page of `query`: at most `limit` rows with an `id` below `before`, newest first."""
    return query.where(*conditions((id, lt, before))).order_by(id.desc()).limit(limit)


class Listed(list[dict[str, Any]]):
    """Objects of a list, newest first. `reached` is the id at which a search stopped early, if it did."""

    def __init__(self, objects: Iterable[dict[str, Any]], reached: UUID | None = None) -> None:
        super().__init__(objects)
        self.reached = reached


def search(
    connection: Connection,
    *,
    columns: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]],
    id: InstrumentedAttribute[UUID],
    represent: Callable[[Row[*tuple[Any, ...]]], dict[str, Any]],
    indexed: Sequence[ColumnElement[bool]],
    tested: Sequence[ColumnElement[bool]],
    limit: int,
) -> Listed:
    """Return at most `limit` rows that satisfy `indexed` and `tested`, those with the largest `id` first.

    Args:
        connection: used for one statement.
        columns: the columns that `represent` needs, including `id`.
        id: the key of the order.
        represent: returns the representation of a row.
        indexed: conditions that one index satisfies in the order of `id`, without reading other rows.
        tested: all other conditions; at most `SEARCH_ROWS_MAX` rows are tested for them.
        limit: the maximum number of rows.
    """
    if not tested:
        plain = select(*columns).where(*indexed).order_by(id.desc()).limit(limit)
        return Listed(represent(row) for row in connection.execute(plain))
    scanned = (
        select(
            *columns,
            func.coalesce(and_(*tested), False).label("is_match"),
            func.row_number().over(order_by=id.desc()).label("position"),
        )
        .where(*indexed)
        .order_by(id.desc())
        .limit(SEARCH_ROWS_MAX)
        .subquery("scanned")
    )
    query = select(scanned).where(or_(scanned.c.is_match, scanned.c.position == SEARCH_ROWS_MAX))
    rows = connection.execute(query.order_by(scanned.c[id.key].desc()).limit(limit)).all()
    stopped = bool(rows) and rows[-1].position == SEARCH_ROWS_MAX
    reached = rows[-1]._mapping[id.key] if stopped else None
    return Listed((represent(row) for row in rows if row.is_match), reached)
