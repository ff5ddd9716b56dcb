"""Carry out refunds: claim attempts, and record their outcomes (see `attempts` and `attempt_results`).

The ledger is corrected by new entries, which reduce the merchant's claim and the provider's debt by the amount of the
refund. The fee of the settlement is kept.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.payments import attempt_results, attempts
from gateway.domain.payments.attempt_results import DECLINED_COLUMNS, Recorded
from gateway.domain.payments.attempts import AttemptClaim, Capacity, Claimed
from gateway.domain.payments.kinds import REFUNDS
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.outcomes import Outcome, Refund

RefundClaim = AttemptClaim[Refund]

_CLAIM = attempts.claim_statements(
    REFUNDS,
    source="refunds s JOIN transactions t ON t.id = s.transaction_id",
    columns="s.amount, s.currency, t.payment_method, t.provider_reference AS charge_reference",
)


def claim(
    connection: Connection, ids: Sequence[UUID], task_id: str, lease_seconds: int, capacity: Capacity | None = None
) -> Claimed[RefundClaim]:
    """Start an attempt at each of `ids` that may have one, within `capacity`; classify the others by reason."""
    return attempts.claim(
        connection, _CLAIM, ids, task_id=task_id, lease_seconds=lease_seconds, capacity=capacity, of_row=_claim_of
    )


def _claim_of(row: Any, in_doubt: bool) -> RefundClaim:  # noqa: FBT001  # a callback
    refund = Refund(row.id, row.charge_reference, row.amount, row.currency, row.payment_method, row.number + 1)
    return AttemptClaim(
        refund, row.merchant_id, row.provider, in_doubt, refund.attempt >= row.attempt_limit, row.request_id
    )


APPLY_ENDED_REFUNDS = """released AS (
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

A list may end several refunds of one transaction. Transactions are locked in the order of their ids, so two workers
that end refunds of the same transactions cannot deadlock.
"""

_RESULTS = attempt_results.results_cte(REFUNDS)
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
    ), {APPLY_ENDED_REFUNDS}, {RECORD_EVENTS}
    SELECT id, status, created_at, now() AS recorded_at FROM moved
""")  # noqa: S608  # a constant


def record(connection: Connection, outcomes: Sequence[tuple[RefundClaim, Outcome]]) -> list[Recorded]:
    """Store the outcome of each claimed attempt: its row, both statuses, the ledger entries, the reserved amount.

    Only refunds that are still `pending` are changed and returned, not those that another worker finished.
    """
    return [Recorded(*row) for row in connection.execute(_RECORD, attempt_results.values(outcomes))]


def exhaust(connection: Connection, ids: Sequence[UUID], error: str) -> None:
    """Allow no further attempt at the unfinished ones of `ids`, because of an `error` that a retry cannot solve."""
    attempt_results.exhaust(connection, REFUNDS, ids, error)
