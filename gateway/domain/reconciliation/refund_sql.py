"""The parts of a reconciliation that compare refunds with their transactions and the ledger."""

# ruff: noqa: S608  # composed of constants, never of input
from collections.abc import Callable

_NOTHING_COUNTED = "NULL::bigint, NULL::jsonb"


def parts(in_period: Callable[[str], str], of_provider: Callable[[str], str]) -> tuple[str, ...]:
    """Return the comparisons, each a SELECT of the columns of `sql.COMPARE`; see `statement_sql.parts`."""
    return (
        _ledger(f"{in_period('f.completed_at')} AND {of_provider('f.provider')}"),
        _amounts(f"({in_period('t.completed_at')} OR {in_period('r.changed_at')}) AND {of_provider('t.provider')}"),
        _stuck(f"{in_period('f.created_at')} AND {of_provider('f.provider')}"),
        _totals(f"{in_period('completed_at')} AND {of_provider('provider')}"),
    )


# The entries of a refund as bits: 1 the merchant's part, 2 clearing, 4 a wrong entry.
def _ledger(completed: str) -> str:
    return f"""
    SELECT 'ledger_imbalance', f.id, f.transaction_id, NULL::uuid, f.currency, f.amount, NULL::bigint, NULL::text,
           {_NOTHING_COUNTED}
    FROM refunds f LEFT JOIN ledger_entries e ON e.source_id = f.id
    WHERE {completed}
    GROUP BY f.id
    HAVING count(*) <> 2
        OR bit_or(CASE
            WHEN (e.currency, e.amount) <> (f.currency, f.amount) THEN 4
            WHEN e.account = 'merchant_payable' AND e.direction = 'debit' THEN 1
            WHEN e.account = 'provider_clearing' AND e.direction = 'credit' THEN 2
            ELSE 4
           END) <> 3
"""


def _amounts(concerned: str) -> str:
    return f"""
    SELECT 'amount_mismatch', t.id, t.id, NULL::uuid, t.currency, coalesce(r.refunded, 0)::bigint, t.amount_refunded,
           'Of the transaction ' || t.amount_refunded || ' is refunded and ' || t.amount_refund_reserved ||
           ' reserved; its refunds add up to ' || coalesce(r.refunded, 0) || ' and ' || coalesce(r.reserved, 0) || '.',
           {_NOTHING_COUNTED}
    FROM transactions t LEFT JOIN (
        SELECT transaction_id, max(updated_at) AS changed_at,
               coalesce(sum(amount) FILTER (WHERE status = 'completed'), 0) AS refunded,
               coalesce(sum(amount) FILTER (WHERE status IN ('pending', 'dead_lettered')), 0) AS reserved
        FROM refunds GROUP BY transaction_id
    ) r ON r.transaction_id = t.id
    WHERE (t.amount_refunded <> coalesce(r.refunded, 0) OR t.amount_refund_reserved <> coalesce(r.reserved, 0))
      AND {concerned}
"""


# The rule of the sweep, except that requeueing is no progress.
def _stuck(created: str) -> str:
    return f"""
    SELECT 'stuck_processing', f.id, f.transaction_id, NULL::uuid, f.currency, f.amount, NULL::bigint,
           'The refund is pending and has made no progress since ' ||
           to_char(f.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') || '.', {_NOTHING_COUNTED}
    FROM refunds f
    WHERE f.status = 'pending' AND {created}
      AND f.updated_at < now() - make_interval(secs => :stuck_after_seconds)
      AND NOT EXISTS (
          SELECT FROM refund_attempts a WHERE a.refund_id = f.id AND a.outcome IS NULL AND a.lease_until > now())
"""


def _totals(completed: str) -> str:
    return f"""
    SELECT 'refunds', NULL::uuid, NULL::uuid, NULL::uuid, currency, NULL::bigint, NULL::bigint, NULL::text,
           count(*), jsonb_build_object('refunds', sum(amount))
    FROM refunds WHERE {completed} GROUP BY currency
"""
