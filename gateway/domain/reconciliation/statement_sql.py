"""The parts of a reconciliation that compare the statements of providers with the gateway's records.

Lines of statements are looked up in the records, and records are looked up in the statements:

- A line is compared if its time is in the period, whatever its statement. A charge is found by the provider reference
  of its settlement, a refund by the id in its idempotency key. Unfinished transactions and refunds are skipped.
- A settlement or a refund is missing at the provider if no statement of the provider lists it, although the statements
  cover the whole time in which it can have happened: from its first attempt to its recording. So a charge at midnight,
  which may be in the next day's statement, is not reported before that statement has been uploaded.
"""

# ruff: noqa: S608  # composed of constants, never of input
from collections.abc import Callable

_NOTHING_COUNTED = "NULL::bigint AS counted, NULL::jsonb AS sums"

# A stable id of an unknown charge or refund, whatever statement lists it.
_UNKNOWN_ID = "md5(l.provider || ' ' || l.type || ' ' || l.provider_reference || ' ' || l.idempotency_key)::uuid"

_COVERAGE = (
    "(SELECT provider, range_agg(tstzrange(period_from, period_to)) AS periods FROM statements GROUP BY provider)"
)


def parts(in_period: Callable[[str], str], of_provider: Callable[[str], str]) -> tuple[str, ...]:
    """Return the comparisons, each a SELECT of the columns of `sql.COMPARE`.

    Args:
        in_period: returns the condition that a column of times is in the period of the run.
        of_provider: returns the condition that a column of names is the provider of the run, if it has one.
    """
    lines = f"{in_period('l.at')} AND {of_provider('l.provider')}"
    return (
        _charges_without_settlement(lines),
        _refunds_not_completed(lines),
        _charge_mismatches(lines),
        _refund_mismatches(lines),
        _missing_charges(f"{in_period('s.settled_at')} AND {of_provider('s.provider')}"),
        _missing_refunds(f"{in_period('r.completed_at')} AND {of_provider('r.provider')}"),
        _totals(lines),
    )


def _charges_without_settlement(lines: str) -> str:
    return f"""
    SELECT v.kind, CASE v.kind WHEN 'charged_not_settled' THEN t.id ELSE {_UNKNOWN_ID} END, t.id, NULL::uuid,
           l.currency, t.amount, l.amount,
           l.provider || ' charged ' || l.amount || ' ' || l.currency || ' (' || l.provider_reference || '), ' ||
           CASE v.kind
               WHEN 'unknown_to_us' THEN 'and no transaction belongs to it.'
               WHEN 'duplicate_charge' THEN 'but the transaction was settled with ' || t.provider_reference || '.'
               ELSE 'but the transaction is ' || t.status || coalesce(' (' || t.failure_category || ')', '') || '.' END,
           {_NOTHING_COUNTED}
    FROM statement_lines l LEFT JOIN transactions t ON t.id = l.subject_id
    CROSS JOIN LATERAL (VALUES (
        CASE WHEN t.id IS NULL THEN 'unknown_to_us'
             WHEN t.provider_reference IS NULL THEN 'charged_not_settled' ELSE 'duplicate_charge' END)) AS v (kind)
    WHERE l.type = 'charge' AND {lines} AND coalesce(t.status NOT IN ('pending', 'processing'), true)
      AND NOT EXISTS (SELECT FROM settlements s
                      WHERE s.provider = l.provider AND s.provider_reference = l.provider_reference)
"""


def _refunds_not_completed(lines: str) -> str:
    return f"""
    SELECT CASE WHEN r.id IS NULL THEN 'unknown_to_us' ELSE 'refunded_not_recorded' END, coalesce(r.id, {_UNKNOWN_ID}),
           r.transaction_id, NULL::uuid, l.currency, r.amount, l.amount,
           l.provider || ' refunded ' || l.amount || ' ' || l.currency || ' of ' || l.provider_reference || ', ' ||
           CASE WHEN r.id IS NULL THEN 'and no refund belongs to it.'
                ELSE 'but the refund is ' || r.status || '.' END,
           {_NOTHING_COUNTED}
    FROM statement_lines l LEFT JOIN refunds r ON r.id = l.subject_id
    WHERE l.type = 'refund' AND {lines} AND coalesce(r.status NOT IN ('pending', 'completed'), true)
"""


def _charge_mismatches(lines: str) -> str:
    return f"""
    SELECT v.kind, s.id, s.transaction_id, s.id, s.currency, s.amount, l.amount,
           l.provider || ' charged ' || l.amount || ' ' || l.currency || ', the settlement is for ' ||
           s.amount || ' ' || s.currency || '.',
           {_NOTHING_COUNTED}
    FROM statement_lines l
    JOIN settlements s ON s.provider = l.provider AND s.provider_reference = l.provider_reference
    CROSS JOIN LATERAL (VALUES
        ('statement_amount_mismatch', s.amount <> l.amount), ('statement_currency_mismatch', s.currency <> l.currency)
    ) AS v (kind, found)
    WHERE l.type = 'charge' AND {lines} AND (s.amount <> l.amount OR s.currency <> l.currency) AND v.found
"""


def _refund_mismatches(lines: str) -> str:
    return f"""
    SELECT v.kind, r.id, r.transaction_id, NULL::uuid, r.currency, r.amount, l.amount,
           l.provider || ' refunded ' || l.amount || ' ' || l.currency || ', the refund is for ' ||
           r.amount || ' ' || r.currency || '.',
           {_NOTHING_COUNTED}
    FROM statement_lines l JOIN refunds r ON r.id = l.subject_id
    CROSS JOIN LATERAL (VALUES
        ('statement_amount_mismatch', r.amount <> l.amount), ('statement_currency_mismatch', r.currency <> l.currency)
    ) AS v (kind, found)
    WHERE l.type = 'refund' AND {lines} AND (r.amount <> l.amount OR r.currency <> l.currency) AND v.found
"""


def _missing_charges(settlements: str) -> str:
    return f"""
    SELECT 'missing_at_provider', s.id, s.transaction_id, s.id, s.currency, s.amount, NULL::bigint,
           'No statement of ' || s.provider || ' lists the charge ' || s.provider_reference || '.',
           {_NOTHING_COUNTED}
    FROM {_COVERAGE} AS c JOIN settlements s ON s.provider = c.provider
    WHERE {settlements} AND c.periods @> s.settled_at
      AND NOT EXISTS (SELECT FROM statement_lines l WHERE l.type = 'charge'
                      AND l.provider = s.provider AND l.provider_reference = s.provider_reference)
      AND NOT EXISTS (SELECT FROM charge_attempts a WHERE a.transaction_id = s.transaction_id
                      AND NOT c.periods @> tstzrange(least(a.started_at, s.settled_at), s.settled_at, '[]'))
"""


def _missing_refunds(refunds: str) -> str:
    return f"""
    SELECT 'missing_at_provider', r.id, r.transaction_id, NULL::uuid, r.currency, r.amount, NULL::bigint,
           'No statement of ' || r.provider || ' lists the refund ' || r.id || '.',
           {_NOTHING_COUNTED}
    FROM {_COVERAGE} AS c JOIN refunds r ON r.provider = c.provider AND r.status = 'completed'
    WHERE {refunds} AND c.periods @> r.completed_at
      AND NOT EXISTS (SELECT FROM statement_lines l WHERE l.type = 'refund' AND l.subject_id = r.id)
      AND NOT EXISTS (SELECT FROM refund_attempts a WHERE a.refund_id = r.id
                      AND NOT c.periods @> tstzrange(least(a.started_at, r.completed_at), r.completed_at, '[]'))
"""


def _totals(lines: str) -> str:
    return f"""
    SELECT 'statement_lines', NULL::uuid, NULL::uuid, NULL::uuid, l.currency, NULL::bigint, NULL::bigint, NULL::text,
           count(*), jsonb_build_object(
               'statement_charges', coalesce(sum(l.amount) FILTER (WHERE l.type = 'charge'), 0),
               'statement_refunds', coalesce(sum(l.amount) FILTER (WHERE l.type = 'refund'), 0))
    FROM statement_lines l WHERE {lines} GROUP BY l.currency
"""
