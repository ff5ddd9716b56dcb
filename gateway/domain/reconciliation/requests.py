"""Reconciliations that operators request; `gateway.domain.reconciliation.runs` carries them out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, select, text

from gateway.domain.shared import audit, outbox
from gateway.domain.shared.listing import newest
from gateway.domain.shared.outbox import Topic
from gateway.errors import NotFound, TooManyJobs
from gateway.ids import new_id, rfc3339
from gateway.models.reconciliation import ReconciliationRun
from gateway.states import RunStatus

RUNS_UNFINISHED_MAX = 50
"""Maximum number of reconciliations that wait or run; one runs at a time."""
ADVISORY_LOCK = 7_205_021
"""The advisory lock that serializes the check of `RUNS_UNFINISHED_MAX`."""

_R = ReconciliationRun
_TABLE = ReconciliationRun.__table__


def request(
    connection: Connection,
    period_from: datetime,
    period_to: datetime,
    provider: str | None,
    actor: str,
) -> dict[str, Any]:
    """Enqueue a reconciliation of the period [from, to), of all providers or of one; return the pending run.

    Raises:
        TooManyJobs: `RUNS_UNFINISHED_MAX` are unfinished.
    """
    connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    unfinished = select(func.count()).select_from(_R).where(_R.status.in_((RunStatus.PENDING, RunStatus.RUNNING)))
    if connection.execute(unfinished).scalar_one() >= RUNS_UNFINISHED_MAX:
        raise TooManyJobs(f"{RUNS_UNFINISHED_MAX} reconciliations are unfinished.")
    run = connection.execute(
        insert(_R)
        .values(
            id=new_id(),
            status=RunStatus.PENDING.value,
            period_from=period_from,
            period_to=period_to,
            provider=provider,
            requested_by=actor,
            started_at=text("now()"),
            enqueued_at=text("now()"),
        )
        .returning(*_TABLE.columns)
    ).one()
    outbox.enqueue(connection, Topic.RECONCILIATION_REQUESTED, [run.id])
    detail = {"from": rfc3339(period_from), "to": rfc3339(period_to), "provider": provider}
    audit.record(connection, actor=actor, action="reconciliation.requested", subject=str(run.id), detail=detail)
    return _represent(run)


def list_newest(connection: Connection, before: UUID | None, limit: int) -> Sequence[dict[str, Any]]:
    """Return at most `limit` runs older than `before`, including the nightly ones, newest first."""
    return [_represent(row) for row in connection.execute(newest(select(_TABLE), _R.id, before, limit))]


def find(connection: Connection, run_id: UUID) -> dict[str, Any]:
    """Return one run.

    Raises:
        NotFound: there is none with this id.
    """
    row = connection.execute(select(_TABLE).where(_R.id == run_id)).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


_STALE = text("""
    UPDATE reconciliation_runs SET enqueued_at = now() WHERE id = ANY (ARRAY(
        SELECT id FROM reconciliation_runs r
        WHERE status IN ('pending', 'running')
          AND enqueued_at < now() - make_interval(secs => :pending_seconds)
          AND (status = 'pending' OR started_at < now() - make_interval(secs => :running_seconds))
          AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = r.id)
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED))
    RETURNING id
""")


def enqueue_stale(connection: Connection, *, pending_seconds: int, running_seconds: int, limit: int) -> int:
    """Requeue requested runs whose message was lost or whose worker died; return their number.

    A run whose message is only late, or which is still running, is not carried out twice.
    """
    values = {"pending_seconds": pending_seconds, "running_seconds": running_seconds, "limit": limit}
    ids = list(connection.scalars(_STALE, values))
    outbox.enqueue(connection, Topic.RECONCILIATION_REQUESTED, ids)
    return len(ids)


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "object": "reconciliation",
        "status": row.status,
        "from": rfc3339(row.period_from) if row.period_from else None,
        "to": rfc3339(row.period_to),
        "provider": row.provider,
        "counts": row.counts,
        "totals": row.totals,
        "error": row.error,
        "requested_by": row.requested_by,
        "started_at": None if row.status == RunStatus.PENDING else rfc3339(row.started_at),
        "finished_at": rfc3339(row.finished_at) if row.finished_at else None,
    }
