"""The SQL of a reconciliation. `COMPARE` finds discrepancies, `DESCRIBE_…` describe them, `RECORD` stores them.

`COMPARE` is one statement, so it reads one snapshot: it sees a payment that completes meanwhile either with its
settlement and its ledger entries, or without all of them. Each part of its UNION ALL is one comparison. PostgreSQL
assigns the parts to its parallel workers, provided that all parts have exactly the same column types, and none has a
correlated scalar subquery.
Because ids are UUIDv7, indexes are in the order of their tables, and merge joins read each table in order without
memory. If ids are in random order (`IDS_ARE_IN_ORDER`), hash joins are used: slower, with the same result.
"""

# ruff: noqa: S608  # composed of constants, never of input
from sqlalchemy import text

from gateway.domain.reconciliation import refund_sql, statement_sql
from gateway.states import SETTLED, UNFINISHED


def _listed(statuses: frozenset[str]) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))


def _in_period(column: str) -> str:
    return (
        f"({column} >= coalesce(CAST(:period_from AS timestamptz), '-infinity')"
        f" AND {column} < CAST(:period_to AS timestamptz))"
    )


def _of_provider(column: str) -> str:
    return f"(CAST(:provider AS text) IS NULL OR {column} = CAST(:provider AS text))"


# An entry belongs to the provider of its transaction, or to none if it has no transaction.
_OF_PROVIDER_S_SOURCE = """(CAST(:provider AS text) IS NULL OR EXISTS (
        SELECT FROM transactions o WHERE o.id = e.transaction_id AND o.provider = CAST(:provider AS text)))"""
_SETTLED = f"t.status IN ({_listed(SETTLED)})"

# A pair is compared if either side is in the period. The condition on pairs comes first, so that the VALUES, which
# describe the discrepancy, are evaluated for offending pairs only.
_PAIRS = f"""
    SELECT v.kind, v.subject_id, t.id AS transaction_id, s.id AS settlement_id,
           coalesce(t.currency, s.currency) AS currency, t.amount AS expected_amount, s.amount AS actual_amount,
           v.detail, NULL::bigint AS counted, NULL::jsonb AS sums
    FROM transactions t FULL JOIN settlements s ON s.transaction_id = t.id
    CROSS JOIN LATERAL (VALUES
        ('missing_settlement', t.id, s.id IS NULL,
         'The transaction is ' || t.status || ', but it has no settlement.'),
        ('orphan_settlement', s.id, t.id IS NULL,
         'There is no transaction ' || s.transaction_id || '.'),
        ('orphan_settlement', s.id, s.id IS NOT NULL AND NOT {_SETTLED},
         'The transaction is ' || t.status || ', yet it has a settlement.'),
        ('amount_mismatch', s.id, {_SETTLED} AND s.amount <> t.amount,
         'The transaction is for ' || t.amount || ', its settlement for ' || s.amount || '.'),
        ('currency_mismatch', s.id, {_SETTLED} AND s.currency <> t.currency,
         'The transaction is in ' || t.currency || ', its settlement in ' || s.currency || '.')
    ) AS v (kind, subject_id, found, detail)
    WHERE (coalesce({_SETTLED}, false) <> (s.id IS NOT NULL) OR s.amount <> t.amount OR s.currency <> t.currency)
      AND ({_in_period("t.completed_at")} OR {_in_period("s.settled_at")})
      AND {_of_provider("coalesce(t.provider, s.provider)")}
      AND v.found
"""

# Only the index is read here. The period is tested when the pair is described.
_DUPLICATES = """
    SELECT 'duplicate_settlement', transaction_id, transaction_id, NULL::uuid, NULL::text, NULL::bigint, NULL::bigint,
           NULL::text, NULL::bigint, NULL::jsonb
    FROM settlements GROUP BY transaction_id HAVING count(*) > 1
"""

# The entries of a settlement as bits: 1 clearing, 2 the merchant's part, 4 the fee, 8 a wrong entry. If it has each
# required entry once and no other, debits equal credits, and both equal the amount.
_LEDGER = f"""
    SELECT 'ledger_imbalance', s.id, s.transaction_id, s.id, s.currency, s.amount, NULL::bigint,
           NULL::text, NULL::bigint, NULL::jsonb
    FROM settlements s LEFT JOIN ledger_entries e ON e.source_id = s.id
    WHERE {_in_period("s.settled_at")} AND {_of_provider("s.provider")}
    GROUP BY s.id
    HAVING count(*) <> 1 + (s.net > 0)::int + (s.fee > 0)::int
        OR bit_or(CASE
            WHEN e.currency <> s.currency THEN 8
            WHEN e.account = 'provider_clearing' AND e.direction = 'debit' AND e.amount = s.amount THEN 1
            WHEN e.account = 'merchant_payable' AND e.direction = 'credit' AND e.amount = s.net THEN 2
            WHEN e.account = 'fees' AND e.direction = 'credit' AND e.amount = s.fee THEN 4
            ELSE 8
           END) <> 1 + 2 * (s.net > 0)::int + 4 * (s.fee > 0)::int
"""

# Only indexes are read here. The period is tested when the entries are described.
_UNSOURCED_ENTRIES = """
    SELECT 'ledger_imbalance', e.source_id, NULL::uuid, NULL::uuid, NULL::text, NULL::bigint, NULL::bigint,
           NULL::text, NULL::bigint, NULL::jsonb
    FROM ledger_entries e
    WHERE NOT EXISTS (SELECT FROM settlements s WHERE s.id = e.source_id)
      AND NOT EXISTS (SELECT FROM refunds f WHERE f.id = e.source_id AND f.status = 'completed')
"""

# The rule of the sweep, except that requeueing is no progress.
_STUCK = f"""
    SELECT 'stuck_processing', t.id, t.id, NULL::uuid, t.currency, t.amount, NULL::bigint,
           'The transaction is ' || t.status || ' and has made no progress since ' ||
           to_char(t.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') || '.', NULL::bigint, NULL::jsonb
    FROM transactions t
    WHERE t.status IN ({_listed(UNFINISHED)}) AND {_in_period("t.created_at")} AND {_of_provider("t.provider")}
      AND t.updated_at < now() - make_interval(secs => :stuck_after_seconds)
      AND NOT EXISTS (
          SELECT FROM charge_attempts a WHERE a.transaction_id = t.id AND a.outcome IS NULL AND a.lease_until > now())
"""

# The compared rows: one row per table and currency. Unlike discrepancies, they have `counted`.
_TOTALS = f"""
    SELECT 'transactions', NULL::uuid, NULL::uuid, NULL::uuid, t.currency, NULL::bigint, NULL::bigint, NULL::text,
           count(*), jsonb_build_object('transactions', sum(t.amount))
    FROM transactions t WHERE {_SETTLED} AND {_in_period("t.completed_at")} AND {_of_provider("t.provider")}
    GROUP BY t.currency
    UNION ALL
    SELECT 'settlements', NULL::uuid, NULL::uuid, NULL::uuid, currency, NULL::bigint, NULL::bigint, NULL::text,
           count(*), jsonb_build_object('settlements', sum(amount), 'fees', sum(fee), 'net', sum(net))
    FROM settlements WHERE {_in_period("settled_at")} AND {_of_provider("provider")} GROUP BY currency
    UNION ALL
    SELECT 'ledger_entries', NULL::uuid, NULL::uuid, NULL::uuid, currency, NULL::bigint, NULL::bigint, NULL::text,
           count(*), jsonb_build_object('ledger_debits', coalesce(sum(amount) FILTER (WHERE direction = 'debit'), 0),
                                        'ledger_credits', coalesce(sum(amount) FILTER (WHERE direction = 'credit'), 0))
    FROM ledger_entries e WHERE {_in_period("posted_at")} AND {_OF_PROVIDER_S_SOURCE} GROUP BY currency
"""

_PARTS = " UNION ALL ".join((
    _PAIRS, _DUPLICATES, _LEDGER, _UNSOURCED_ENTRIES, _STUCK, _TOTALS,
    *refund_sql.parts(_in_period, _of_provider),
    *statement_sql.parts(_in_period, _of_provider),
))  # fmt: skip

IDS_ARE_IN_ORDER = text("""
    SELECT coalesce(min(correlation), 0) >= :correlation FROM pg_stats
    WHERE schemaname = current_schema() AND (tablename, attname) IN (
        ('transactions', 'id'), ('settlements', 'id'), ('settlements', 'transaction_id'),
        ('ledger_entries', 'source_id'))
""")

# Not INSERT ... SELECT, which does not read in parallel, unlike CREATE TABLE AS.
COMPARE = text(f"CREATE TEMPORARY TABLE comparison ON COMMIT DROP AS SELECT * FROM ({_PARTS}) AS parts")

# For the plans of the statements below: few discrepancies are looked up, a million are joined.
ANALYZE = text("ANALYZE comparison")

DESCRIBE_DUPLICATES = text(f"""
    UPDATE comparison c
    SET currency = d.currency, expected_amount = d.expected, actual_amount = d.actual,
        detail = 'The transaction has ' || d.settlements || ' settlements.'
    FROM (
        SELECT s.transaction_id, t.currency, t.amount AS expected, sum(s.amount) AS actual, count(*) AS settlements
        FROM settlements s LEFT JOIN transactions t ON t.id = s.transaction_id
        WHERE s.transaction_id IN (SELECT subject_id FROM comparison WHERE kind = 'duplicate_settlement')
        GROUP BY s.transaction_id, t.currency, t.amount
        HAVING bool_or({_in_period("s.settled_at")} AND {_of_provider("s.provider")})
    ) d
    WHERE c.kind = 'duplicate_settlement' AND c.subject_id = d.transaction_id
""")

DESCRIBE_LEDGER = text(f"""
    UPDATE comparison c
    SET transaction_id = coalesce(c.transaction_id, p.transaction_id), currency = coalesce(c.currency, p.currency),
        actual_amount = CASE WHEN p.debits = c.expected_amount THEN p.credits ELSE p.debits END,
        detail = CASE WHEN c.settlement_id IS NOT NULL THEN 'The settlement has posted: '
                      WHEN c.expected_amount IS NOT NULL THEN 'The refund has posted: '
                      ELSE 'There is no settlement or completed refund with this id; it has posted: '
                 END || p.entries || '.'
    FROM (
        SELECT w.subject_id, (array_agg(e.transaction_id))[1] AS transaction_id, min(e.currency) AS currency,
               coalesce(sum(e.amount) FILTER (WHERE e.direction = 'debit'), 0) AS debits,
               coalesce(sum(e.amount) FILTER (WHERE e.direction = 'credit'), 0) AS credits,
               coalesce(left(string_agg(e.direction || ' ' || e.account || ' ' || e.amount || ' ' || e.currency,
                                        ', ' ORDER BY e.id), 500), 'nothing') AS entries,
               bool_or({_in_period("e.posted_at")} AND {_OF_PROVIDER_S_SOURCE}) AS concerned
        FROM (SELECT DISTINCT subject_id FROM comparison WHERE kind = 'ledger_imbalance') w
        LEFT JOIN ledger_entries e ON e.source_id = w.subject_id
        GROUP BY w.subject_id
    ) p
    WHERE c.kind = 'ledger_imbalance' AND c.subject_id = p.subject_id
      AND (c.expected_amount IS NOT NULL OR p.concerned)
""")

# A discrepancy that an operator resolved stays resolved while it has not changed.
RECORD = text("""
    WITH found AS (INSERT INTO discrepancies AS known (
        id, kind, subject_id, transaction_id, settlement_id, currency, expected_amount, actual_amount, detail,
        first_run_id, last_run_id, first_seen_at, last_seen_at)
    SELECT DISTINCT ON (kind, subject_id) uuid_v7(), kind, subject_id, transaction_id, settlement_id, currency,
           expected_amount, actual_amount, detail, :run_id, :run_id, now(), now()
    FROM comparison WHERE counted IS NULL AND detail IS NOT NULL
    ORDER BY kind, subject_id
    ON CONFLICT (kind, subject_id) DO UPDATE
    SET transaction_id = excluded.transaction_id, settlement_id = excluded.settlement_id, currency = excluded.currency,
        expected_amount = excluded.expected_amount, actual_amount = excluded.actual_amount, detail = excluded.detail,
        last_run_id = excluded.last_run_id, last_seen_at = excluded.last_seen_at,
        (status, resolution, note, resolved_by, resolved_at) = (
            SELECT CASE WHEN same THEN known.status ELSE 'open' END, CASE WHEN same THEN known.resolution END,
                   CASE WHEN same THEN known.note END, CASE WHEN same THEN known.resolved_by END,
                   CASE WHEN same THEN known.resolved_at END
            FROM (SELECT (known.currency, known.expected_amount, known.actual_amount, known.detail)
                         IS NOT DISTINCT FROM
                         (excluded.currency, excluded.expected_amount, excluded.actual_amount, excluded.detail)
                 ) AS compared (same))
    RETURNING id)
    INSERT INTO reconciliation_findings (run_id, discrepancy_id) SELECT :run_id, id FROM found
""")

FOUND = text("""
    SELECT kind, count(*) FILTER (WHERE status = 'open') AS open,
           count(*) FILTER (WHERE status = 'open' AND first_run_id = :run_id) AS new,
           count(*) FILTER (WHERE status = 'resolved') AS resolved
    FROM discrepancies WHERE last_run_id = :run_id GROUP BY kind
""")

COMPARED = text("SELECT kind, currency, counted, sums FROM comparison WHERE counted IS NOT NULL ORDER BY currency")
