"""Settling: claiming attempts at charging, and recording what came of them.

The attempt's row is the claim: its primary key (transaction, number) lets one worker in, its lease says for how
long, and its number counts against the transaction's limit whatever queue, retry or redelivery brought the work.
Both functions are one statement each, so one round trip and one commit for a list of any length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.events import TELLING
from gateway.domain.ids import new_id
from gateway.money import fee_of
from gateway.outcomes import Approved, Charge, Outcome
from gateway.states import AttemptOutcome, TransactionStatus


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to charge one transaction once, until the lease ends.

    `in_doubt` tells that the attempt before this one has no known outcome: query the status before charging.
    """

    charge: Charge
    provider: str
    in_doubt: bool
    last_attempt: bool
    fee_basis_points: int
    request_id: str


@dataclass(slots=True)
class Claimed:
    """What a list of ids came to."""

    claims: list[Claim] = field(default_factory=list)
    busy: list[UUID] = field(default_factory=list)
    """Another worker holds them, or held them when it died: come back when the lease is over."""
    interrupted: list[UUID] = field(default_factory=list)
    """Their last worker died. In a list they might kill this one too, so each is to travel alone."""
    exhausted: list[UUID] = field(default_factory=list)
    nonexistent: list[UUID] = field(default_factory=list)
    completed: list[UUID] = field(default_factory=list)


_MAY_HAVE_CHARGED = frozenset({AttemptOutcome.UNKNOWN, AttemptOutcome.APPROVED})
"""Approved, yet still processing: the answer came after the transaction had been given up."""

_CLAIM = text("""
    WITH wanted AS MATERIALIZED (
        SELECT t.id, t.merchant_id, t.amount, t.currency, t.payment_method, t.provider, t.status, t.attempt_limit,
               t.request_id, coalesce(a.number, 0) AS number, a.outcome,
               a.number IS NOT NULL AND a.outcome IS NULL AS unfinished,
               coalesce(a.lease_until > now(), false) AS leased
        FROM transactions t
        LEFT JOIN LATERAL (
            SELECT number, outcome, lease_until FROM attempts
            WHERE transaction_id = t.id ORDER BY number DESC LIMIT 1
        ) a ON true
        WHERE t.id = ANY(CAST(:ids AS uuid[]))
    ), claimed AS (
        INSERT INTO attempts (transaction_id, number, provider, task_id, started_at, lease_until)
        SELECT id, number + 1, provider, :task_id, now(), now() + make_interval(secs => :lease_seconds)
        FROM wanted
        WHERE status = 'processing' AND number < attempt_limit AND (NOT unfinished OR (:alone AND NOT leased))
        ON CONFLICT DO NOTHING
        RETURNING transaction_id
    ), given_up AS (
        UPDATE attempts a
        SET outcome = 'unknown', finished_at = now(), code = 'worker_lost', message = 'The worker died during the call.'
        FROM wanted w JOIN claimed c ON c.transaction_id = w.id
        WHERE w.unfinished AND a.transaction_id = w.id AND a.number = w.number AND a.outcome IS NULL
    )
    SELECT w.*, m.fee_basis_points, c.transaction_id IS NOT NULL AS claimed
    FROM wanted w JOIN merchants m ON m.id = w.merchant_id LEFT JOIN claimed c ON c.transaction_id = w.id
""")


def claim(connection: Connection, ids: Sequence[UUID], task_id: str, lease_seconds: int) -> Claimed:
    """Start an attempt at each of `ids` that may have one; say of each other one why not."""
    values = {"ids": list(ids), "task_id": task_id, "lease_seconds": lease_seconds, "alone": len(ids) == 1}
    rows = {row.id: row for row in connection.execute(_CLAIM, values)}
    result = Claimed(nonexistent=[id for id in ids if id not in rows])
    for row in rows.values():
        if row.claimed:
            charge = Charge(row.id, row.amount, row.currency, row.payment_method, row.number + 1)
            in_doubt = row.unfinished or row.outcome in _MAY_HAVE_CHARGED
            last = charge.attempt >= row.attempt_limit
            result.claims.append(Claim(charge, row.provider, in_doubt, last, row.fee_basis_points, row.request_id))
        elif row.status == TransactionStatus.COMPLETED:
            result.completed.append(row.id)
        elif row.status != TransactionStatus.PROCESSING:
            continue  # a duplicate of work that ended otherwise, or that is not routed yet
        elif row.unfinished and row.leased:
            result.busy.append(row.id)
        elif row.number >= row.attempt_limit:
            result.exhausted.append(row.id)
        elif row.unfinished:
            result.interrupted.append(row.id)
        else:
            result.busy.append(row.id)  # claimed by another worker while this statement ran
    return result


_RECORD = text(f"""
    WITH result AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:outcomes AS text[]), CAST(:codes AS text[]),
            CAST(:messages AS text[]), CAST(:provider_references AS text[]), CAST(:fees AS bigint[]),
            CAST(:settlement_ids AS uuid[])
        ) AS r (id, number, outcome, code, message, provider_reference, fee, settlement_id)
    ), attempt AS (
        UPDATE attempts a
        SET outcome = r.outcome, code = r.code, message = r.message, finished_at = now()
        FROM result r WHERE a.transaction_id = r.id AND a.number = r.number
    ), moved AS (
        UPDATE transactions t
        SET status = CASE r.outcome
                WHEN 'approved' THEN 'completed' WHEN 'declined' THEN 'failed' ELSE 'processing' END,
            attempts = r.number,
            updated_at = now(),
            provider_reference = r.provider_reference,
            completed_at = CASE WHEN r.outcome = 'approved' THEN now() END,
            failure_code = CASE WHEN r.outcome = 'declined' THEN r.code END,
            failure_message = CASE WHEN r.outcome = 'declined' THEN r.message END,
            failure_category = CASE WHEN r.outcome = 'declined' THEN 'declined' END,
            failure_retryable = CASE WHEN r.outcome = 'declined' THEN false END
        FROM result r WHERE t.id = r.id AND t.status = 'processing'
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
    ), happened AS (
        SELECT m.merchant_id, e.type, e.object_id, m.id AS transaction_id, e.state
        FROM moved m CROSS JOIN LATERAL (VALUES
            ('completed', 'transaction.completed', m.id, jsonb_build_object('status', m.status, 'amount_refunded', 0)),
            ('completed', 'settlement.completed', m.settlement_id, NULL),
            ('failed', 'transaction.failed', m.id, NULL)
        ) AS e (status, type, object_id, state)
        WHERE e.status = m.status
    ), {TELLING}
    SELECT id, status, created_at, now() AS recorded_at FROM moved
""")  # noqa: S608  # a constant


@dataclass(frozen=True, slots=True)
class Recorded:
    """A transaction's status after recording; `seconds` is its age since acceptance."""

    transaction_id: UUID
    status: str
    created_at: datetime
    recorded_at: datetime

    @property
    def seconds(self) -> float:
        """Time since the transaction was accepted."""
        return (self.recorded_at - self.created_at).total_seconds()


def record(connection: Connection, results: Sequence[tuple[Claim, Outcome]]) -> list[Recorded]:
    """Write what each claimed attempt came to: its row, the status, the settlement, the ledger entries.

    Only a transaction that is still `processing` moves; one that another worker finished first keeps its state
    and is left out of the answer.
    """
    values = {
        "ids": [claim.charge.transaction_id for claim, _ in results],
        "numbers": [claim.charge.attempt for claim, _ in results],
        "outcomes": [type(outcome).__name__.lower() for _, outcome in results],
        "codes": [None if isinstance(outcome, Approved) else outcome.code for _, outcome in results],
        "messages": [None if isinstance(outcome, Approved) else outcome.message for _, outcome in results],
        "provider_references": [outcome.reference if isinstance(outcome, Approved) else None for _, outcome in results],
        "fees": [fee_of(claim.charge.amount, claim.fee_basis_points) for claim, _ in results],
        "settlement_ids": [new_id() for _ in results],
    }
    return [Recorded(*row) for row in connection.execute(_RECORD, values)]


_EXHAUST = text("""
    UPDATE transactions t
    SET attempt_limit = (SELECT coalesce(max(number), 0) FROM attempts WHERE transaction_id = t.id),
        last_error = :error, updated_at = now()
    WHERE t.id = ANY(CAST(:ids AS uuid[])) AND t.status IN ('pending', 'processing')
""")


def give_up(connection: Connection, ids: Sequence[UUID], error: str) -> None:
    """Allow no further attempt at `ids`, whose processing fails for a reason that a retry does not change."""
    connection.execute(_EXHAUST, {"ids": list(ids), "error": error})
