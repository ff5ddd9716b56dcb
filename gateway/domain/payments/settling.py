"""Settle transactions: claim attempts at charges, and record their outcomes (see `attempts` and `attempt_results`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.payments import attempt_results, attempts
from gateway.domain.payments.attempt_results import DECLINED_COLUMNS, Recorded
from gateway.domain.payments.attempts import AttemptClaim, Capacity, Claimed
from gateway.domain.payments.kinds import TRANSACTIONS
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.ids import new_id
from gateway.money import fee_of
from gateway.outcomes import Charge, Outcome


@dataclass(frozen=True, slots=True)
class ChargeClaim(AttemptClaim[Charge]):
    """The right to charge one transaction once."""

    fee_basis_points: int


_CLAIM = attempts.claim_statements(
    TRANSACTIONS,
    source="transactions s JOIN merchants m ON m.id = s.merchant_id",
    columns="s.amount, s.currency, s.payment_method, m.fee_basis_points",
)


def claim(
    connection: Connection, ids: Sequence[UUID], task_id: str, lease_seconds: int, capacity: Capacity | None = None
) -> Claimed[ChargeClaim]:
    """Start an attempt at each of `ids` that may have one, within `capacity`; classify the others by reason."""
    return attempts.claim(
        connection, _CLAIM, ids, task_id=task_id, lease_seconds=lease_seconds, capacity=capacity, of_row=_claim_of
    )


def _claim_of(row: Any, in_doubt: bool) -> ChargeClaim:  # noqa: FBT001  # a callback
    charge = Charge(row.id, row.amount, row.currency, row.payment_method, row.number + 1)
    last = charge.attempt >= row.attempt_limit
    return ChargeClaim(charge, row.merchant_id, row.provider, in_doubt, last, row.request_id, row.fee_basis_points)


_RESULTS = attempt_results.results_cte(TRANSACTIONS, fee="bigint", settlement_id="uuid")
_RECORD = text(f"""
    WITH {_RESULTS}, moved AS (
        UPDATE transactions t
        SET status = CASE r.outcome
                WHEN 'approved' THEN 'completed' WHEN 'declined' THEN 'failed' ELSE 'processing' END,
            attempts = r.number,
            updated_at = now(),
            provider_reference = r.provider_reference,
            completed_at = CASE WHEN r.outcome = 'approved' THEN now() END,
            {DECLINED_COLUMNS}
        FROM result r WHERE t.id = r.id AND t.status = r.open_status
        RETURNING t.id, t.merchant_id, t.amount, t.currency, t.provider, t.status, t.attempts, t.created_at,
                  r.provider_reference, r.fee, r.settlement_id
    ), settled AS (
        INSERT INTO settlements (id, transaction_id, merchant_id, amount, fee, net, currency, status, provider,
                                 provider_reference, attempts, settled_at)
        SELECT settlement_id, id, merchant_id, amount, fee, amount - fee, currency, 'settled', provider,
               provider_reference, attempts, now()
        FROM moved WHERE status = 'completed'
    ), posted AS (
        INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                    posted_at)
        SELECT m.settlement_id, m.id, m.merchant_id, e.account, e.direction, e.amount, m.currency, now()
        FROM moved m CROSS JOIN LATERAL (VALUES
            ('provider_clearing', 'debit', m.amount),
            ('merchant_payable', 'credit', m.amount - m.fee),
            ('fees', 'credit', m.fee)
        ) AS e (account, direction, amount)
        WHERE m.status = 'completed' AND e.amount > 0
    ), balanced AS (
        INSERT INTO balance_changes (merchant_id, currency, settled, refunded, fees)
        SELECT merchant_id, currency, sum(amount), 0, sum(fee) FROM moved WHERE status = 'completed'
        GROUP BY merchant_id, currency
    ), event_source AS (
        SELECT m.merchant_id, e.type, e.object_id, m.id AS transaction_id, e.snapshot
        FROM moved m CROSS JOIN LATERAL (VALUES
            ('completed', 'transaction.completed', m.id, jsonb_build_object('status', m.status, 'amount_refunded', 0)),
            ('completed', 'settlement.completed', m.settlement_id, NULL),
            ('failed', 'transaction.failed', m.id, NULL)
        ) AS e (status, type, object_id, snapshot)
        WHERE e.status = m.status
    ), {RECORD_EVENTS}
    SELECT id, status, created_at, now() AS recorded_at FROM moved
""")  # noqa: S608  # a constant


def record(connection: Connection, outcomes: Sequence[tuple[ChargeClaim, Outcome]]) -> list[Recorded]:
    """Store the outcome of each claimed attempt: its row, the status, the settlement, the ledger entries.

    Only transactions that are still `processing` are changed and returned, not those that another worker finished.
    """
    values = attempt_results.values(outcomes) | {
        "fee": [fee_of(claim.instruction.amount, claim.fee_basis_points) for claim, _ in outcomes],
        "settlement_id": [new_id() for _ in outcomes],
    }
    return [Recorded(*row) for row in connection.execute(_RECORD, values)]


def exhaust(connection: Connection, ids: Sequence[UUID], error: str) -> None:
    """Allow no further attempt at the unfinished ones of `ids`, because of an `error` that a retry cannot solve."""
    attempt_results.exhaust(connection, TRANSACTIONS, ids, error)
