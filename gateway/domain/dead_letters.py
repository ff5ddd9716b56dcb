"""Dead letters as an operator meets them: listed, read, replayed, discarded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text, update
from sqlalchemy.sql import ColumnElement

from gateway.domain import audit, outbox, rescue
from gateway.domain.ids import rfc3339
from gateway.domain.listing import conditions
from gateway.domain.transactions import ATTEMPT_LIMIT
from gateway.errors import AlreadyResolved, InvalidState, NotFound
from gateway.models.dead_letters import DeadLetter
from gateway.states import DeadLetterStatus, TransactionStatus


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters to list; None does not filter. Times are inclusive from, exclusive to."""

    status: str | None = None
    queue: str | None = None
    reason: str | None = None
    merchant_id: UUID | None = None
    dead_lettered_from: datetime | None = None
    dead_lettered_to: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as SQL."""
        return conditions(
            (DeadLetter.status, eq, self.status),
            (DeadLetter.queue, eq, self.queue),
            (DeadLetter.reason, eq, self.reason),
            (DeadLetter.merchant_id, eq, self.merchant_id),
            (DeadLetter.dead_lettered_at, ge, self.dead_lettered_from),
            (DeadLetter.dead_lettered_at, lt, self.dead_lettered_to),
        )


_TABLE = DeadLetter.__table__


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    plain = ("queue", "task", "reason", "exception", "attempts", "payload", "headers", "status", "resolved_by", "note")
    values = row._mapping
    return {
        "id": str(row.id),
        "object": "dead_letter",
        "transaction_id": str(row.transaction_id) if row.transaction_id else None,
        "merchant_id": str(row.merchant_id) if row.merchant_id else None,
        **{name: values[name] for name in plain},
        "first_failed_at": rfc3339(row.first_failed_at),
        "dead_lettered_at": rfc3339(row.dead_lettered_at),
        "resolved_at": rfc3339(row.resolved_at) if row.resolved_at else None,
    }


def list_newest(
    connection: Connection, wanted: DeadLetterFilter, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    """At most `limit` dead letters older than `before`, newest first."""
    query = select(_TABLE).where(*wanted.conditions())
    if before is not None:
        query = query.where(DeadLetter.id < before)
    return [_represent(row) for row in connection.execute(query.order_by(DeadLetter.id.desc()).limit(limit))]


def find(connection: Connection, dead_letter_id: UUID) -> dict[str, Any]:
    """One dead letter, as api.md shows it.

    Raises:
        NotFound: there is none with this id.
    """
    row = connection.execute(select(_TABLE).where(DeadLetter.id == dead_letter_id)).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


def replay(connection: Connection, dead_letter_id: UUID, actor: str) -> dict[str, Any]:
    """Give the transaction a fresh set of attempts and enqueue it.

    Raises:
        NotFound, AlreadyResolved: see `_resolve`.
        InvalidState: it names no transaction that waits as a dead letter, so there is nothing to replay.
    """
    letter = _resolve(connection, dead_letter_id, DeadLetterStatus.REPLAYED, actor, note=None)
    revived = connection.execute(_REVIVE, {"id": letter["transaction_id"], "attempts": ATTEMPT_LIMIT}).one_or_none()
    if revived is None:
        raise InvalidState("This dead letter belongs to no transaction that could be replayed; discard it instead.")
    outbox.enqueue(connection, rescue.TOPIC_OF[TransactionStatus(revived.status)], [revived.id])
    return letter


_REVIVE = text("""
    UPDATE transactions
    SET status = CASE WHEN provider IS NULL THEN 'pending' ELSE 'processing' END,
        attempt_limit = attempts + :attempts, rescues = 0, rescued_at = NULL, last_error = NULL, updated_at = now()
    WHERE id = CAST(:id AS uuid) AND status = 'dead_lettered'
    RETURNING id, status
""")

_DISCARD = text("""
    UPDATE transactions
    SET status = 'failed', failure_code = 'discarded', failure_category = 'discarded', failure_retryable = false,
        failure_message = coalesce(:note, 'An operator discarded this payment.'), updated_at = now()
    WHERE id = CAST(:id AS uuid) AND status = 'dead_lettered'
""")


def discard(connection: Connection, dead_letter_id: UUID, actor: str, note: str | None) -> dict[str, Any]:
    """Give the transaction up for good: it moves to `failed`.

    Raises:
        NotFound, AlreadyResolved: see `_resolve`.
    """
    letter = _resolve(connection, dead_letter_id, DeadLetterStatus.DISCARDED, actor, note)
    connection.execute(_DISCARD, {"id": letter["transaction_id"], "note": note})
    return letter


def _resolve(
    connection: Connection, dead_letter_id: UUID, status: DeadLetterStatus, actor: str, note: str | None
) -> dict[str, Any]:
    """Close an open dead letter.

    Raises:
        NotFound: there is none with this id.
        AlreadyResolved: it was replayed or discarded before.
    """
    closed = connection.execute(
        update(DeadLetter)
        .where(DeadLetter.id == dead_letter_id, DeadLetter.status == DeadLetterStatus.OPEN)
        .values(status=status.value, resolved_at=text("now()"), resolved_by=actor, note=note)
        .returning(*_TABLE.columns)
    ).one_or_none()
    if closed is None:
        earlier = find(connection, dead_letter_id)
        raise AlreadyResolved(f"This dead letter was {earlier['status']} at {earlier['resolved_at']} already.")
    audit.record(
        connection,
        actor=actor,
        action=f"dead_letter.{status.value}",
        subject=str(dead_letter_id),
        detail={"transaction_id": str(closed.transaction_id) if closed.transaction_id else None, "note": note},
    )
    return _represent(closed)
