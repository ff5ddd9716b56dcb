"""Enqueuing work again that lost its message: expired, dropped with a broker, or dead-lettered untried."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain import outbox
from gateway.domain.outbox import Topic
from gateway.states import TransactionStatus

TOPIC_OF = {
    TransactionStatus.PENDING: Topic.TRANSACTION_CREATED,
    TransactionStatus.PROCESSING: Topic.SETTLEMENT_REQUESTED,
}
"""The work that an unfinished transaction of this status needs next."""

_MARK = text("""
    UPDATE transactions SET rescues = rescues + 1, rescued_at = now()
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status IN ('pending', 'processing')
    RETURNING id, status
""")

_STUCK = text("""
    SELECT t.id FROM transactions t
    WHERE t.status IN ('pending', 'processing')
      AND greatest(t.updated_at, t.rescued_at) < now() - make_interval(secs => :stuck_after_seconds)
      AND NOT EXISTS (
          SELECT FROM attempts a WHERE a.transaction_id = t.id AND a.outcome IS NULL AND a.lease_until > now())
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = t.id)
    ORDER BY t.id LIMIT :limit
    FOR UPDATE SKIP LOCKED
""")


def enqueue_again(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Put those of `ids` that are unfinished into the outbox again; return them."""
    rows = connection.execute(_MARK, {"ids": list(ids)}).all()
    for status, topic in TOPIC_OF.items():
        outbox.enqueue(connection, topic, [row.id for row in rows if row.status == status])
    return [row.id for row in rows]


def stuck(connection: Connection, stuck_after_seconds: int, limit: int) -> list[UUID]:
    """At most `limit` unfinished transactions that nothing has touched for so long, oldest first; locked."""
    values = {"stuck_after_seconds": stuck_after_seconds, "limit": limit}
    return list(connection.scalars(_STUCK, values))
