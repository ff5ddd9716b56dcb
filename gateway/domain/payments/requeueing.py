"""Requeue work that lost its message: it expired, was lost with a broker, or was dead-lettered without an attempt."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from gateway.domain.payments.kinds import KINDS, Kind
from gateway.domain.shared import outbox


def _requeue(kind: Kind) -> TextClause:
    return text(f"""
        UPDATE {kind.table} s SET requeues = requeues + 1, requeued_at = now()
        WHERE s.id = ANY(CAST(:ids AS uuid[])) AND s.status IN ({kind.unfinished})
        RETURNING s.id, s.status, s.merchant_id
    """)  # noqa: S608  # constants


def _stuck(kind: Kind) -> TextClause:
    return text(f"""
        SELECT s.id FROM {kind.table} s
        WHERE s.status IN ({kind.unfinished})
          AND greatest(s.updated_at, s.requeued_at) < now() - make_interval(secs => :stuck_after_seconds)
          AND NOT EXISTS (
              SELECT FROM {kind.attempts} a
              WHERE a.{kind.key} = s.id AND a.outcome IS NULL AND a.lease_until > now())
          AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = s.id)
        ORDER BY s.id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    """)  # noqa: S608  # constants


_REQUEUE = {kind: _requeue(kind) for kind in KINDS}
_STUCK = {kind: _stuck(kind) for kind in KINDS}


def requeue(connection: Connection, kind: Kind, ids: Sequence[UUID]) -> list[UUID]:
    """Put those of `ids` that are unfinished into the outbox again; return them."""
    if not ids:
        return []
    rows = connection.execute(_REQUEUE[kind], {"ids": list(ids)}).all()
    enqueue_by_status(connection, kind, [(row.id, row.merchant_id, row.status) for row in rows])
    return [row.id for row in rows]


def enqueue_by_status(connection: Connection, kind: Kind, rows: Sequence[tuple[UUID, UUID, str]]) -> None:
    """Enqueue the work that each of `rows` (id, merchant id, status) needs next."""
    for status, topic in kind.topics.items():
        outbox.enqueue_of(connection, topic, [(id, merchant_id) for id, merchant_id, found in rows if found == status])


def stuck(connection: Connection, kind: Kind, stuck_after_seconds: int, limit: int) -> list[UUID]:
    """Lock and return at most `limit` unfinished objects without progress for `stuck_after_seconds`, oldest first."""
    values = {"stuck_after_seconds": stuck_after_seconds, "limit": limit}
    return list(connection.scalars(_STUCK[kind], values))
