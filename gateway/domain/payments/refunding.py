"""Refunding: claiming attempts at giving money back, and recording what came of them (see `attempts`).

The ledger is corrected by new entries: what the merchant is owed and what the provider holds both shrink by the amount
of the refund. The fee of the settlement is kept.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.payments import attempts
from gateway.domain.payments.attempts import DECLINED_COLUMNS, AttemptClaim, Claimed, Recorded, Room
from gateway.domain.shared import outbox
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.domain.shared.outbox import Topic
from gateway.outcomes import Outcome, Refund
from gateway.states import RefundStatus

RefundClaim = AttemptClaim[Refund]

_CLAIM = attempts.claim_statements(
    source="refunds s JOIN transactions t ON t.id = s.transaction_id",
    columns="s.amount, s.currency, t.payment_method, t.provider_reference AS charge_reference",
    subjects="refunds",
    attempts="refund_attempts",
    key="refund_id",
    open_status=RefundStatus.PENDING,
)


def claim(
    connection: Connection, ids: Sequence[UUID], task_id: str, lease_seconds: int, room: Room | None = None
) -> Claimed[RefundClaim]:
    """Start an attempt at each of `ids` that may have one, as far as there is `room`; classify the others by reason."""
    return attempts.claim(
        connection,
        _CLAIM,
        ids,
        task_id=task_id,
        lease_seconds=lease_seconds,
        room=room,
        open_status=RefundStatus.PENDING,
        of_row=_claim_of,
    )


def _claim_of(row: Any, in_doubt: bool) -> RefundClaim:  # noqa: FBT001  # a callback
    refund = Refund(row.id, row.charge_reference, row.amount, row.currency, row.payment_method, row.number + 1)
    return AttemptClaim(
        refund, row.merchant_id, row.provider, in_doubt, refund.attempt >= row.attempt_limit, row.request_id
    )


_SETTLING_UP = """released AS (
        SELECT transaction_id, sum(amount) AS reserved,
               coalesce(sum(amount) FILTER (WHERE status = 'completed'), 0) AS refunded
        FROM moved WHERE status IN ('completed', 'failed') GROUP BY transaction_id
    ), locked AS MATERIALIZED (
        SELECT id FROM transactions WHERE id IN (SELECT transaction_id FROM released) ORDER BY id FOR UPDATE
    ), repaid AS (
        UPDATE transactions t
        SET amount_refund_reserved = t.amount_refund_reserved - r.reserved,
            amount_refunded = t.amount_refunded + r.refunded,
            status = CASE WHEN t.amount_refunded + r.refunded = t.amount THEN 'refunded'
                          WHEN t.amount_refunded + r.refunded > 0 THEN 'partially_refunded' ELSE t.status END,
            updated_at = now()
        FROM released r JOIN locked l ON l.id = r.transaction_id
        WHERE t.id = l.id AND t.status IN ('completed', 'partially_refunded')
    ), event_source AS (
        SELECT merchant_id, 'refund.' || status AS type, id AS object_id, transaction_id, NULL::jsonb AS snapshot
        FROM moved WHERE status IN ('completed', 'failed')
    )"""
"""CTEs that apply the ended refunds in `moved` to their transactions, and list the events for `RECORD_EVENTS`.

A list may end several refunds of one transaction. Transactions are locked in the order of their ids: two workers that
end refunds of the same ones wait for each other, but never in a circle.
"""

_RESULTS = attempts.results_cte(attempts="refund_attempts", key="refund_id", open_status=RefundStatus.PENDING)
_RECORD = text(f"""
    WITH {_RESULTS}, moved AS (
        UPDATE refunds f
        SET status = CASE r.outcome
                WHEN 'approved' THEN 'completed' WHEN 'declined' THEN 'failed' ELSE 'pending' END,
            attempts = r.number,
            updated_at = now(),
            provider_reference = r.provider_reference,
            completed_at = CASE WHEN r.outcome = 'approved' THEN now() END,
            {DECLINED_COLUMNS}
        FROM result r WHERE f.id = r.id AND f.status = r.open_status
        RETURNING f.id, f.transaction_id, f.merchant_id, f.amount, f.currency, f.status, f.created_at
    ), posted AS (
        INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                    posted_at)
        SELECT m.id, m.transaction_id, m.merchant_id, e.account, e.direction, m.amount, m.currency, now()
        FROM moved m
        CROSS JOIN (VALUES ('merchant_payable', 'debit'), ('provider_clearing', 'credit')) AS e (account, direction)
        WHERE m.status = 'completed'
    ), balanced AS (
        INSERT INTO balance_changes (merchant_id, currency, settled, refunded, fees)
        SELECT merchant_id, currency, 0, sum(amount), 0 FROM moved WHERE status = 'completed'
        GROUP BY merchant_id, currency
    ), {_SETTLING_UP}, {RECORD_EVENTS}
    SELECT id, status, created_at, now() AS recorded_at FROM moved
""")  # noqa: S608  # a constant


def record(connection: Connection, outcomes: Sequence[tuple[RefundClaim, Outcome]]) -> list[Recorded]:
    """Write what each claimed attempt came to: its row, both statuses, the ledger entries, the reserved amount.

    Only a refund that is still `pending` moves; one that another worker finished first keeps its state and is left
    out of the answer.
    """
    return [Recorded(*row) for row in connection.execute(_RECORD, attempts.results(outcomes))]


_REVIVE = text("""
    UPDATE refunds
    SET status = 'pending', attempt_limit = attempts + :attempts, requeues = 0, requeued_at = NULL, last_error = NULL,
        updated_at = now(),
        failure_code = NULL, failure_message = NULL, failure_category = NULL, failure_retryable = NULL
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'dead_lettered'
    RETURNING id, merchant_id
""")

_DISCARD = text(f"""
    WITH moved AS (
        UPDATE refunds
        SET status = 'failed', failure_code = 'discarded', failure_category = 'discarded', failure_retryable = false,
            failure_message = coalesce(:note, 'An operator discarded this refund.'), updated_at = now()
        WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'dead_lettered'
        RETURNING id, transaction_id, merchant_id, amount, status
    ), {_SETTLING_UP}, {RECORD_EVENTS}
    SELECT id FROM moved
""")  # noqa: S608  # a constant


def replay(connection: Connection, ids: Sequence[UUID], attempts: int) -> None:
    """Give those of `ids` that are dead-lettered so many fresh attempts, and enqueue them."""
    revived = connection.execute(_REVIVE, {"ids": list(ids), "attempts": attempts}).all()
    outbox.enqueue_of(connection, Topic.REFUND_REQUESTED, [(row.id, row.merchant_id) for row in revived])


def discard(connection: Connection, ids: Sequence[UUID], note: str | None) -> None:
    """Give those of `ids` that are dead-lettered up for good: they fail, and what they reserved is released."""
    connection.execute(_DISCARD, {"ids": list(ids), "note": note})


_EXHAUST = attempts.exhaust_statement(
    subjects="refunds", attempts="refund_attempts", key="refund_id", unfinished="'pending'"
)


def exhaust(connection: Connection, ids: Sequence[UUID], error: str) -> None:
    """Allow no further attempt at `ids`, whose processing fails for a reason that a retry does not change."""
    connection.execute(_EXHAUST, {"ids": list(ids), "error": error})
