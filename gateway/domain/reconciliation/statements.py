"""Statements of providers. Each is stored once, and compared by a reconciliation of its period."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, time, timedelta
from operator import eq
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from gateway.db import driver_connection
from gateway.domain.reconciliation import requests as reconciliation_requests
from gateway.domain.reconciliation import statement_files
from gateway.domain.reconciliation.statement_files import ERRORS_MAX, StatementFile
from gateway.domain.shared import audit
from gateway.domain.shared.listing import conditions, newest
from gateway.errors import FieldError, NotFound
from gateway.ids import rfc3339, utc_now
from gateway.models.statements import Statement

_S = Statement
_TABLE = Statement.__table__

COPY = """
    COPY statement_lines (statement_id, provider, number, type, provider_reference, idempotency_key, subject_id, amount,
                          fee, currency, at) FROM STDIN (FORMAT csv)
"""
"""Rows of a StatementFile whose prefix is the statement's id and the provider."""

_DUPLICATES = text("""
    SELECT number, first FROM (
        SELECT number, min(number) OVER (PARTITION BY type, CASE type WHEN 'charge' THEN provider_reference
                                                                  ELSE idempotency_key END) AS first
        FROM statement_lines WHERE statement_id = :id
    ) l WHERE number > first ORDER BY number LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class NewStatement:
    """A statement to be stored. It covers [from, to), or by default the UTC days of its lines until now."""

    id: UUID
    provider: str
    period_from: datetime | None
    period_to: datetime | None


def store(
    connection: Connection, statement: NewStatement, file: StatementFile, actor: str, *, timeout_seconds: int
) -> tuple[dict[str, Any], bool]:
    """Store a statement and enqueue its reconciliation, unless it exists; return it, and whether it is new.

    The lines are copied from the file to PostgreSQL with COPY, so memory does not grow with their number. No SQL
    statement takes longer than `timeout_seconds`.

    Raises:
        InvalidStatement: it lists a charge or a refund twice, or its period is unknown.
        TooManyJobs: too many reconciliations are unfinished.
    """
    period_from, period_to = _period(statement, file)
    connection.execute(select(func.set_config("statement_timeout", f"{timeout_seconds}s", True)))  # noqa: FBT003
    values = {
        "id": statement.id,
        "provider": statement.provider,
        "content_hash": file.content_hash,
        "period_from": period_from,
        "period_to": period_to,
        "lines": file.lines,
        "totals": {currency: asdict(sums) for currency, sums in sorted(file.totals.items())},
        "uploaded_by": actor,
    }
    inserted = connection.scalar(insert(_S).on_conflict_do_nothing().values(values).returning(_S.id))
    if inserted is None:
        known = select(_TABLE).where(_S.provider == statement.provider, _S.content_hash == file.content_hash)
        return _represent(connection.execute(known).one()), False
    _copy(connection, file)
    _refuse_duplicates(connection, statement.id)
    run = reconciliation_requests.request(connection, period_from, period_to, statement.provider, actor)
    stored = connection.execute(
        update(_S).where(_S.id == statement.id).values(run_id=run["id"]).returning(*_TABLE.columns)
    ).one()
    detail = {"provider": statement.provider, "lines": file.lines, "sha256": file.content_hash.hex()}
    audit.record(connection, actor=actor, action="statement.uploaded", subject=str(statement.id), detail=detail)
    return _represent(stored), True


def list_newest(
    connection: Connection, provider: str | None, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    """Return at most `limit` statements older than `before`, newest first."""
    query = select(_TABLE).where(*conditions((_S.provider, eq, provider)))
    return [_represent(row) for row in connection.execute(newest(query, _S.id, before, limit))]


def find(connection: Connection, statement_id: UUID) -> dict[str, Any]:
    """Return one statement, without its lines.

    Raises:
        NotFound: there is none with this id.
    """
    row = connection.execute(select(_TABLE).where(_S.id == statement_id)).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


def _period(statement: NewStatement, file: StatementFile) -> tuple[datetime, datetime]:
    since, until = statement.period_from, statement.period_to
    if since is None and file.first_at is not None:
        since = datetime.combine(file.first_at.astimezone(UTC).date(), time(), UTC)
    if until is None and file.last_at is not None:
        days_end = datetime.combine(file.last_at.astimezone(UTC).date() + timedelta(days=1), time(), UTC)
        until = max(min(days_end, utc_now()), file.last_at + timedelta(microseconds=1))
    if since is None or until is None:
        detail = "A statement without lines needs the period that it covers: `from` and `to`."
        raise statement_files.invalid([FieldError(pointer="", code="required", detail=detail)])
    if since >= until:
        raise statement_files.invalid(
            [FieldError(pointer="/to", code="out_of_range", detail="This is not after from.")]
        )
    return since, until


def _copy(connection: Connection, file: StatementFile) -> None:
    with driver_connection(connection) as driver, driver.cursor() as cursor, cursor.copy(COPY) as copy:
        for chunk in file.chunks():
            copy.write(chunk)


def _refuse_duplicates(connection: Connection, statement_id: UUID) -> None:
    rows = connection.execute(_DUPLICATES, {"id": statement_id, "limit": ERRORS_MAX}).all()
    if rows:
        raise statement_files.invalid([statement_files.duplicate(row.number, row.first) for row in rows])


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "object": "statement",
        "provider": row.provider,
        "from": rfc3339(row.period_from),
        "to": rfc3339(row.period_to),
        "lines": row.lines,
        "totals": row.totals,
        "sha256": row.content_hash.hex(),
        "reconciliation_id": str(row.run_id),
        "uploaded_by": row.uploaded_by,
        "created_at": rfc3339(row.created_at),
    }
