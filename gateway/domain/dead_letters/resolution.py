"""Dead letters as an operator meets them: listed, read, replayed, discarded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, case, not_, select, text, update
from sqlalchemy.sql import ColumnElement

from gateway.domain.payments import refunding, requeueing
from gateway.domain.payments.transactions import ATTEMPT_LIMIT
from gateway.domain.shared import audit, outbox
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.domain.shared.listing import Listed, conditions, search
from gateway.errors import AlreadyResolved, InvalidState, NotFound
from gateway.ids import rfc3339
from gateway.models.attempts import ChargeAttempt, RefundAttempt
from gateway.models.dead_letters import DeadLetter
from gateway.models.refunds import Refund
from gateway.models.transactions import Transaction
from gateway.states import AttemptOutcome, DeadLetterStatus, EventType, RefundStatus, TransactionStatus


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
        "refund_id": str(row.refund_id) if row.refund_id else None,
        "merchant_id": str(row.merchant_id) if row.merchant_id else None,
        **{name: values[name] for name in plain},
        "first_failed_at": rfc3339(row.first_failed_at),
        "dead_lettered_at": rfc3339(row.dead_lettered_at),
        "resolved_at": rfc3339(row.resolved_at) if row.resolved_at else None,
    }


def list_newest(connection: Connection, wanted: DeadLetterFilter, before: UUID | None, limit: int) -> Listed:
    """At most `limit` dead letters older than `before`, newest first."""
    indexed = conditions((DeadLetter.merchant_id, eq, wanted.merchant_id), (DeadLetter.status, eq, wanted.status))[:1]
    return search(
        connection,
        columns=_TABLE.columns.values(),
        id=DeadLetter.id,
        represent=_represent,
        within=[*conditions((DeadLetter.id, lt, before)), *indexed],
        wanted=wanted.conditions() if wanted != DeadLetterFilter() else [],
        limit=limit,
    )


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
    """Give the transaction or the refund a fresh set of attempts and enqueue it.

    Raises:
        NotFound: there is no dead letter with this id.
        AlreadyResolved: it was replayed or discarded before.
        InvalidState: it names nothing that waits as a dead letter, so there is nothing to replay.
    """
    replayed = replay_all(connection, [dead_letter_id], actor, note=None)
    if not replayed:
        _refuse_unless_open(connection, dead_letter_id)
        raise InvalidState("This dead letter belongs to nothing that could be replayed; discard it instead.")
    return replayed[0]


def discard(connection: Connection, dead_letter_id: UUID, actor: str, note: str | None) -> dict[str, Any]:
    """Give the transaction or the refund up for good: it moves to `failed`.

    Raises:
        NotFound: there is no dead letter with this id.
        AlreadyResolved: it was replayed or discarded before.
        InvalidState: the provider has done it, so that only a replay tells the truth.
    """
    discarded = discard_all(connection, [dead_letter_id], actor, note)
    if not discarded:
        _refuse_unless_open(connection, dead_letter_id)
        raise InvalidState("The provider has approved this after it was given up; replay it, and it is completed.")
    return discarded[0]


_REPLAYABLE = case(
    (
        DeadLetter.refund_id.is_(None),
        select(Transaction.id)
        .where(Transaction.id == DeadLetter.transaction_id, Transaction.status == TransactionStatus.DEAD_LETTERED)
        .exists(),
    ),
    else_=select(Refund.id)
    .where(Refund.id == DeadLetter.refund_id, Refund.status == RefundStatus.DEAD_LETTERED)
    .exists(),
)

# Approved by a provider whose answer came after the last lease had ended, so that nothing moved.
_APPROVED_LATE = and_(
    _REPLAYABLE,
    case(
        (
            DeadLetter.refund_id.is_(None),
            select(ChargeAttempt.number)
            .where(
                ChargeAttempt.transaction_id == DeadLetter.transaction_id,
                ChargeAttempt.outcome == AttemptOutcome.APPROVED,
            )
            .exists(),
        ),
        else_=select(RefundAttempt.number)
        .where(RefundAttempt.refund_id == DeadLetter.refund_id, RefundAttempt.outcome == AttemptOutcome.APPROVED)
        .exists(),
    ),
)

_REVIVE = text("""
    UPDATE transactions
    SET status = CASE WHEN provider IS NULL THEN 'pending' ELSE 'processing' END,
        attempt_limit = attempts + :attempts, requeues = 0, requeued_at = NULL, last_error = NULL, updated_at = now(),
        failure_code = NULL, failure_message = NULL, failure_category = NULL, failure_retryable = NULL
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'dead_lettered'
    RETURNING id, status, merchant_id
""")

_DISCARD = text(f"""
    WITH moved AS (
        UPDATE transactions
        SET status = 'failed', failure_code = 'discarded', failure_category = 'discarded', failure_retryable = false,
            failure_message = coalesce(:note, 'An operator discarded this payment.'), updated_at = now()
        WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'dead_lettered'
        RETURNING id, merchant_id
    ), event_source AS (
        SELECT merchant_id, '{EventType.TRANSACTION_FAILED}' AS type, id AS object_id, id AS transaction_id,
               NULL::jsonb AS snapshot
        FROM moved
    ), {RECORD_EVENTS}
    SELECT id FROM moved
""")  # noqa: S608  # a constant


def replay_all(
    connection: Connection, dead_letter_ids: Sequence[UUID], actor: str, note: str | None
) -> list[dict[str, Any]]:
    """Replay those of the dead letters that are open and whose transactions or refunds can be; return these."""
    letters = _resolve(connection, dead_letter_ids, DeadLetterStatus.REPLAYED, actor, note, _REPLAYABLE)
    transaction_ids, refund_ids = _subjects(letters)
    if transaction_ids:
        revived = connection.execute(_REVIVE, {"ids": transaction_ids, "attempts": ATTEMPT_LIMIT}).all()
        for status, topic in requeueing.TRANSACTIONS.topic_of.items():
            rows = [(row.id, row.merchant_id) for row in revived if row.status == status]
            outbox.enqueue_of(connection, topic, rows)
    if refund_ids:
        refunding.replay(connection, refund_ids, ATTEMPT_LIMIT)
    return letters


def discard_all(
    connection: Connection, dead_letter_ids: Sequence[UUID], actor: str, note: str | None
) -> list[dict[str, Any]]:
    """Discard those of the dead letters that are open and whose money has not moved; return these."""
    letters = _resolve(connection, dead_letter_ids, DeadLetterStatus.DISCARDED, actor, note, not_(_APPROVED_LATE))
    transaction_ids, refund_ids = _subjects(letters)
    if refund_ids:
        refunding.discard(connection, refund_ids, note)
    if transaction_ids:
        connection.execute(_DISCARD, {"ids": transaction_ids, "note": note})
    return letters


def _subjects(letters: Sequence[dict[str, Any]]) -> tuple[list[UUID], list[UUID]]:
    """The transactions and the refunds whose work died; the transaction of a refund is not one of them."""
    refunds = [UUID(letter["refund_id"]) for letter in letters if letter["refund_id"]]
    payments = [letter["transaction_id"] for letter in letters if not letter["refund_id"]]
    return [UUID(id) for id in payments if id], refunds


def _resolve(
    connection: Connection,
    dead_letter_ids: Sequence[UUID],
    status: DeadLetterStatus,
    actor: str,
    note: str | None,
    *further: ColumnElement[bool],
) -> list[dict[str, Any]]:
    """Close those of the dead letters that are open and meet the `further` conditions; return these."""
    closed = connection.execute(
        update(DeadLetter)
        .where(DeadLetter.id.in_(dead_letter_ids), DeadLetter.status == DeadLetterStatus.OPEN, *further)
        .values(status=status.value, resolved_at=text("now()"), resolved_by=actor, note=note)
        .returning(*_TABLE.columns)
    )
    letters = [_represent(row) for row in closed]
    named = ("transaction_id", "refund_id")
    details = {letter["id"]: {name: letter[name] for name in named} | {"note": note} for letter in letters}
    audit.record_all(connection, actor=actor, action=f"dead_letter.{status.value}", details=details)
    return letters


def _refuse_unless_open(connection: Connection, dead_letter_id: UUID) -> None:
    """Say why a dead letter could not be resolved.

    Raises:
        NotFound: there is none with this id.
        AlreadyResolved: it was replayed or discarded before.
    """
    letter = find(connection, dead_letter_id)
    if letter["status"] != DeadLetterStatus.OPEN:
        raise AlreadyResolved(f"This dead letter was {letter['status']} at {letter['resolved_at']} already.")
