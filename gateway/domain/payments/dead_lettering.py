"""Move transactions and refunds to `dead_lettered`, and from there back to work or to `failed`.

The dead letters themselves are stored by gateway.domain.dead_letters, in the same database transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from gateway.domain.payments import requeueing
from gateway.domain.payments.kinds import REFUNDS, TRANSACTIONS, Kind
from gateway.domain.payments.refunding import APPLY_ENDED_REFUNDS
from gateway.domain.payments.transactions import ATTEMPT_LIMIT
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.states import EventType


@dataclass(frozen=True, slots=True)
class DeadLettering:
    """A transaction or a refund to be dead-lettered: its number of attempts, and its failure."""

    id: UUID
    attempts: int
    code: str
    message: str
    category: str


def _dead_letter(kind: Kind) -> str:
    return f"""
    UPDATE {kind.table} s
    SET status = 'dead_lettered', attempts = d.attempts, failure_code = d.code, failure_message = d.message,
        failure_category = d.category, failure_retryable = true, updated_at = now()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:codes AS text[]), CAST(:messages AS text[]),
                CAST(:categories AS text[])) AS d (id, attempts, code, message, category)
    WHERE s.id = d.id AND s.status IN ({kind.unfinished})
    """  # noqa: S608  # constants


# A replay may change everything that the event shows of its transaction, so the snapshot contains all of that.
_DEAD_LETTER_TRANSACTIONS = f"""
    WITH moved AS ({_dead_letter(TRANSACTIONS)}
        RETURNING s.id, s.merchant_id, s.status, s.provider, s.attempts, s.failure_code, s.failure_message,
                  s.failure_category, s.failure_retryable
    ), event_source AS (
        SELECT merchant_id, '{EventType.TRANSACTION_DEAD_LETTERED}' AS type, id AS object_id, id AS transaction_id,
               jsonb_build_object(
                   'status', status, 'provider', provider, 'provider_reference', NULL,
                   'failure', jsonb_build_object('code', failure_code, 'message', failure_message,
                                                 'category', failure_category, 'retryable', failure_retryable),
                   'attempts', attempts, 'amount_refunded', 0, 'completed_at', NULL) AS snapshot
        FROM moved
    ), {RECORD_EVENTS}
    SELECT id FROM moved
"""  # noqa: S608  # constants
_DEAD_LETTER = {TRANSACTIONS: text(_DEAD_LETTER_TRANSACTIONS), REFUNDS: text(_dead_letter(REFUNDS))}


def dead_letter(connection: Connection, kind: Kind, items: Sequence[DeadLettering]) -> None:
    """Move the unfinished objects that `items` name to `dead_lettered`."""
    if not items:
        return
    values = {
        "ids": [item.id for item in items],
        "attempts": [item.attempts for item in items],
        "codes": [item.code for item in items],
        "messages": [item.message for item in items],
        "categories": [item.category for item in items],
    }
    connection.execute(_DEAD_LETTER[kind], values)


def _replay(kind: Kind, status: str) -> TextClause:
    return text(f"""
    UPDATE {kind.table}
    SET status = {status}, attempt_limit = attempts + {ATTEMPT_LIMIT}, requeues = 0, requeued_at = NULL,
        last_error = NULL, updated_at = now(),
        failure_code = NULL, failure_message = NULL, failure_category = NULL, failure_retryable = NULL
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'dead_lettered'
    RETURNING id, merchant_id, status
    """)  # noqa: S608  # constants


_REPLAY = {
    TRANSACTIONS: _replay(TRANSACTIONS, "CASE WHEN provider IS NULL THEN 'pending' ELSE 'processing' END"),
    REFUNDS: _replay(REFUNDS, "'pending'"),
}


def replay(connection: Connection, kind: Kind, ids: Sequence[UUID]) -> None:
    """Give those of `ids` that are dead-lettered `ATTEMPT_LIMIT` new attempts, and enqueue them."""
    if ids:
        replayed = connection.execute(_REPLAY[kind], {"ids": list(ids)}).all()
        requeueing.enqueue_by_status(connection, kind, [(row.id, row.merchant_id, row.status) for row in replayed])


def _discard(kind: Kind, noun: str, effects: str) -> TextClause:
    return text(f"""
    WITH moved AS (
        UPDATE {kind.table}
        SET status = 'failed', failure_code = 'discarded', failure_category = 'discarded', failure_retryable = false,
            failure_message = coalesce(:note, 'An operator discarded this {noun}.'), updated_at = now()
        WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'dead_lettered'
        RETURNING *
    ), {effects}, {RECORD_EVENTS}
    SELECT id FROM moved
    """)  # noqa: S608  # constants


_FAILED_TRANSACTIONS = f"""event_source AS (
        SELECT merchant_id, '{EventType.TRANSACTION_FAILED}' AS type, id AS object_id, id AS transaction_id,
               NULL::jsonb AS snapshot
        FROM moved
    )"""  # noqa: S608  # constants
_DISCARD = {
    TRANSACTIONS: _discard(TRANSACTIONS, "payment", _FAILED_TRANSACTIONS),
    REFUNDS: _discard(REFUNDS, "refund", APPLY_ENDED_REFUNDS),
}


def discard(connection: Connection, kind: Kind, ids: Sequence[UUID], note: str | None) -> None:
    """Move those of `ids` that are dead-lettered to `failed`; release what refunds have reserved."""
    if ids:
        connection.execute(_DISCARD[kind], {"ids": list(ids), "note": note})
