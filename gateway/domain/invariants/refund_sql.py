"""The invariants of refunds as data; see `payment_sql` for their form and their scopes.

Pending and dead-lettered refunds are always read completely, by an index or by the open dead letters. Others are read
if they are new, or if their transaction was updated in the scope, because every end of a refund updates it.
"""

# ruff: noqa: S608  # composed of constants of these modules

from gateway.domain.invariants.payment_sql import KNOWN, TRANSACTIONS_IN_SCOPE, Invariant

_IN_SCOPE = f"""f.id IN (
        SELECT id FROM refunds WHERE id >= :from_id
        UNION ALL SELECT unnest({KNOWN})
        UNION ALL SELECT r.id FROM transactions t JOIN refunds r ON r.transaction_id = t.id WHERE t.updated_at >= :since
    )"""
_IS = "'the refund is ' || f.status"

_UNSCHEDULED = f"""
    SELECT f.id::text AS subject, {_IS} || ', untouched since ' || greatest(f.updated_at, f.requeued_at) AS detail
    FROM refunds f
    WHERE f.status = 'pending'
      AND greatest(f.updated_at, f.requeued_at) <= now() - make_interval(secs => :horizon_seconds)
      AND NOT EXISTS (
          SELECT FROM refund_attempts a WHERE a.refund_id = f.id AND a.outcome IS NULL AND a.lease_until > now())
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = f.id)
      AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.refund_id = f.id AND d.status = 'open')
"""

_WITHOUT_LETTER = """
    SELECT f.id::text AS subject, 'dead_lettered, with ' || count(d.id) || ' open dead letters' AS detail
    FROM refunds f LEFT JOIN dead_letters d ON d.refund_id = f.id AND d.status = 'open'
    WHERE f.status = 'dead_lettered' GROUP BY f.id HAVING count(d.id) <> 1
"""

_MISPLACED_LETTER = f"""
    SELECT f.id::text AS subject, {_IS} || ', yet dead letter ' || min(d.id::text) || ' is open' AS detail
    FROM dead_letters d JOIN refunds f ON f.id = d.refund_id
    WHERE d.status = 'open' AND f.status <> 'dead_lettered' GROUP BY f.id
"""

_REFUNDED = "coalesce(sum(f.amount) FILTER (WHERE f.status = 'completed'), 0)"
_RESERVED = "coalesce(sum(f.amount) FILTER (WHERE f.status IN ('pending', 'dead_lettered')), 0)"
_AMOUNTS = f"""
    WITH concerned AS (
        SELECT t.id FROM transactions t
        WHERE {TRANSACTIONS_IN_SCOPE}
          AND (t.amount_refunded > 0 OR t.amount_refund_reserved > 0 OR t.status IN ('partially_refunded', 'refunded'))
        UNION SELECT transaction_id FROM refunds WHERE id >= :from_id
        UNION SELECT r.transaction_id FROM transactions t JOIN refunds r ON r.transaction_id = t.id
              WHERE {TRANSACTIONS_IN_SCOPE}
    )
    SELECT t.id::text AS subject, 'the transaction is ' || t.status || ', ' || t.amount_refunded || ' of ' || t.amount
           || ' refunded and ' || t.amount_refund_reserved || ' reserved; its refunds: ' || {_REFUNDED} || ' and '
           || {_RESERVED} AS detail
    FROM concerned c JOIN transactions t ON t.id = c.id LEFT JOIN refunds f ON f.transaction_id = t.id
    GROUP BY t.id
    HAVING t.amount_refunded <> {_REFUNDED} OR t.amount_refund_reserved <> {_RESERVED}
        OR t.status <> CASE t.amount_refunded
            WHEN 0 THEN 'completed' WHEN t.amount THEN 'refunded' ELSE 'partially_refunded' END
        OR bool_or((f.currency, f.merchant_id, f.provider) IS DISTINCT FROM (t.currency, t.merchant_id, t.provider))
           AND count(f.id) > 0
"""

# The entries of a refund as bits: 1 the merchant's part, 2 clearing, 4 a wrong entry.
_ENTRIES = f"""
    SELECT f.id::text AS subject, {_IS} || ', amount ' || f.amount || ' ' || f.currency || ', with ' || count(e.id)
           || ' entries' AS detail
    FROM refunds f LEFT JOIN ledger_entries e ON e.source_id = f.id
    WHERE {_IN_SCOPE}
    GROUP BY f.id
    HAVING count(e.id) <> CASE f.status WHEN 'completed' THEN 2 ELSE 0 END
        OR f.status = 'completed' AND bit_or(CASE
            WHEN (e.currency, e.transaction_id, e.merchant_id) <> (f.currency, f.transaction_id, f.merchant_id) THEN 4
            WHEN (e.account, e.direction, e.amount) = ('merchant_payable', 'debit', f.amount) THEN 1
            WHEN (e.account, e.direction, e.amount) = ('provider_clearing', 'credit', f.amount) THEN 2
            ELSE 4
           END) <> 3
"""

_UNAPPROVED = f"""
    SELECT f.id::text AS subject, {_IS} || ', its attempt ' || f.attempts || ' is '
           || coalesce(a.outcome, CASE WHEN a.number IS NULL THEN 'missing' ELSE 'unfinished' END) AS detail
    FROM refunds f LEFT JOIN refund_attempts a ON a.refund_id = f.id AND a.number = f.attempts
    WHERE f.status = 'completed' AND {_IN_SCOPE} AND a.outcome IS DISTINCT FROM 'approved'
"""

_GIVEN_BACK = f"""
    SELECT f.id::text AS subject, {_IS} || ', yet attempt ' || min(a.number) || ' was approved' AS detail
    FROM refunds f JOIN refund_attempts a ON a.refund_id = f.id AND a.outcome = 'approved'
    WHERE f.status = 'failed' AND {_IN_SCOPE} GROUP BY f.id
"""

# Exhausting a refund sets the limit to its attempts. A concurrently claimed attempt may exceed this by one.
_TOO_MANY_ATTEMPTS = f"""
    SELECT f.id::text AS subject, greatest(f.attempts, max(a.number)) || ' attempts of ' || f.attempt_limit AS detail
    FROM refunds f LEFT JOIN refund_attempts a ON a.refund_id = f.id
    WHERE {_IN_SCOPE} AND greatest(f.attempts, a.number) > f.attempt_limit + (f.last_error IS NOT NULL)::int
    GROUP BY f.id
"""

# The record of a request for a refund is recognized by its location.
_NAMELESS_RECORD = """
    SELECT r.merchant_id || '/' || r.key AS subject, 'there is no refund ' || substr(r.location, 13) AS detail
    FROM idempotency_records r LEFT JOIN refunds f ON f.id = substr(r.location, 13)::uuid
    WHERE r.location LIKE '/v1/refunds/%' AND f.id IS NULL
      AND (r.created_at >= :since OR (r.merchant_id, r.key) IN (
          SELECT left(name, 36)::uuid, substr(name, 38) FROM unnest(CAST(:known_keys AS text[])) AS k (name)))
"""

REFUND_INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "pending_refunds_are_scheduled",
        "A pending refund is in the outbox, claimed by a worker, or was updated within the sweep's horizon.",
        "payments_unaccounted",
        _UNSCHEDULED,
        "Check that beat and the operations worker run. Each sweep requeues such refunds.",
        has_grace=True,
    ),
    Invariant(
        "dead_lettered_refunds_have_one_open_dead_letter",
        "A dead-lettered refund has exactly one open dead letter.",
        "payments_unaccounted",
        _WITHOUT_LETTER,
        "No operator sees these refunds. Check their attempts, then move each back to pending.",
    ),
    Invariant(
        "open_dead_letters_are_of_dead_lettered_refunds",
        "An open dead letter that names a refund names a dead-lettered one, if it exists.",
        "payments_unaccounted",
        _MISPLACED_LETTER,
        "flask dead-letters list, then discard the dead letters of refunds that have an outcome.",
    ),
    Invariant(
        "idempotency_records_name_refunds",
        "The refund of an idempotency record exists, because the merchant got a response that it was accepted.",
        "payments_unaccounted",
        _NAMELESS_RECORD,
        "Accepted refunds are missing. Compare with a backup; the responses are in idempotency_records.body.",
    ),
    Invariant(
        "refunds_add_up",
        "The refunded and the reserved amount of a transaction, and its status, agree with its refunds.",
        "ledger_imbalance",
        _AMOUNTS,
        "Ask the provider what it refunded of these transactions; do not refund more until then.",
    ),
    Invariant(
        "refunds_have_their_entries",
        "A completed refund has posted its amount from merchant_payable to provider_clearing; others have no entries.",
        "ledger_imbalance",
        _ENTRIES,
        "Compare the ledger_entries of this source_id with the refund, and correct them with a new posting.",
    ),
    Invariant(
        "completed_refunds_have_an_approved_attempt",
        "The last counted attempt at a completed refund was approved.",
        "ledger_imbalance",
        _UNAPPROVED,
        "Ask the provider whether it refunded.",
    ),
    Invariant(
        "failed_refunds_were_not_given_back",
        "No attempt at a failed refund was approved.",
        "ledger_imbalance",
        _GIVEN_BACK,
        "The customer got a refund that the merchant sees as failed. Correct it manually.",
    ),
    Invariant(
        "refund_attempts_stay_within_their_limit",
        "A refund has no more attempts than its limit allows.",
        None,
        _TOO_MANY_ATTEMPTS,
        "More refunds were attempted than allowed. Ask the provider whether it refunded only once.",
    ),
)
