"""Enqueuing work again that lost its message: expired, dropped with a broker, or dead-lettered untried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from gateway.domain.shared import outbox
from gateway.domain.shared.outbox import Topic
from gateway.states import RefundStatus, TransactionStatus


@dataclass(frozen=True, slots=True)
class Kind:
    """What can stand still. `topic_of` is the work that it needs next, by each status that is unfinished."""

    table: str
    topic_of: Mapping[str, Topic]
    mark: TextClause
    stuck: TextClause


def _kind(table: str, attempts: str, key: str, topic_of: Mapping[str, Topic]) -> Kind:
    statuses = ", ".join(f"'{status}'" for status in topic_of)
    unfinished = f"s.status IN ({statuses})"
    mark = f"""
        UPDATE {table} s SET requeues = requeues + 1, requeued_at = now()
        WHERE s.id = ANY(CAST(:ids AS uuid[])) AND {unfinished}
        RETURNING s.id, s.status, s.merchant_id
    """  # noqa: S608  # the parts are constants of this module
    stuck = f"""
        SELECT s.id FROM {table} s
        WHERE {unfinished}
          AND greatest(s.updated_at, s.requeued_at) < now() - make_interval(secs => :stuck_after_seconds)
          AND NOT EXISTS (
              SELECT FROM {attempts} a WHERE a.{key} = s.id AND a.outcome IS NULL AND a.lease_until > now())
          AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = s.id)
        ORDER BY s.id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    """  # noqa: S608  # the parts are constants of this module
    return Kind(table, topic_of, text(mark), text(stuck))


TRANSACTIONS = _kind(
    "transactions",
    "charge_attempts",
    "transaction_id",
    {
        TransactionStatus.PENDING: Topic.TRANSACTION_CREATED,
        TransactionStatus.PROCESSING: Topic.SETTLEMENT_REQUESTED,
    },
)
REFUNDS = _kind("refunds", "refund_attempts", "refund_id", {RefundStatus.PENDING: Topic.REFUND_REQUESTED})
KINDS = (TRANSACTIONS, REFUNDS)


def enqueue_again(connection: Connection, kind: Kind, ids: Sequence[UUID]) -> list[UUID]:
    """Put those of `ids` that are unfinished into the outbox again; return them."""
    if not ids:
        return []
    rows = connection.execute(kind.mark, {"ids": list(ids)}).all()
    for status, topic in kind.topic_of.items():
        outbox.enqueue_of(connection, topic, [(row.id, row.merchant_id) for row in rows if row.status == status])
    return [row.id for row in rows]


def stuck(connection: Connection, kind: Kind, stuck_after_seconds: int, limit: int) -> list[UUID]:
    """At most `limit` unfinished ones that nothing has touched for so long, oldest first; locked."""
    values = {"stuck_after_seconds": stuck_after_seconds, "limit": limit}
    return list(connection.scalars(kind.stuck, values))
