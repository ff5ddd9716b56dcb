"""The invariants of payments as data: each is one SQL statement that returns offending rows as `subject` and `detail`.

All statements of a check read the same snapshot. Each statement has two scopes: everything, or what can have changed
since the last check. The scope is determined by the parameters `:since` (a time), `:from_id` (the smallest UUIDv7 of
that time) and `:known` (earlier findings), and by the indexes that they use:

- unfinished and dead-lettered transactions and open dead letters are always read completely, because each has an index
  that contains nothing else;
- other transactions by `updated_at` (BRIN): accepted, routed, settled, failed or refunded since;
- settlements and ledger entries by the settlement's id (UUIDv7, so the primary key is in the order of time);
- idempotency records by `created_at` (BRIN).

So the recent scope does not find changes that bypass the gateway: a changed row of an old settlement, a transaction
that was changed without `updated_at`, an entry that was added to an old source, a deleted row. The full scope does.
"""

# ruff: noqa: S608  # composed of constants of this module

from dataclasses import dataclass
from typing import Literal

from gateway.states import SETTLED, UNFINISHED

Metric = Literal["payments_unaccounted", "ledger_imbalance"]


@dataclass(frozen=True, slots=True)
class Invariant:
    """A condition that always holds in the database. `sql` returns offending rows: `subject`, `detail`.

    If it `has_grace`, it may be broken for a moment after an outage, until the sweep has run; see `checks.record`.
    """

    name: str
    description: str
    metric: Metric | None
    sql: str
    remedy: str
    has_grace: bool = False


def _listed(statuses: frozenset[str]) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))


KNOWN = "CAST(:known AS uuid[])"
_SETTLED = f"t.status IN ({_listed(SETTLED)})"
_UNFINISHED = f"t.status IN ({_listed(UNFINISHED)})"
TRANSACTIONS_IN_SCOPE = f"(t.updated_at >= :since OR t.id = ANY({KNOWN}))"
_SETTLEMENTS = f"(s.id >= :from_id OR s.id = ANY({KNOWN}))"
_ENTRIES = f"(e.source_id >= :from_id OR e.source_id = ANY({KNOWN}))"
_BALANCE = "sum(CASE e.direction WHEN 'debit' THEN e.amount ELSE -e.amount END)"
_IS = "'the transaction is ' || t.status"

# The rule of the sweep (payments.requeueing), plus the time of a sweep. `open_dead_letters_are_of_dead_lettered` counts
# transactions with an open dead letter.
_UNSCHEDULED = f"""
    SELECT t.id::text AS subject, {_IS} || ', untouched since ' || greatest(t.updated_at, t.requeued_at) AS detail
    FROM transactions t
    WHERE {_UNFINISHED}
      AND greatest(t.updated_at, t.requeued_at) <= now() - make_interval(secs => :horizon_seconds)
      AND NOT EXISTS (
          SELECT FROM charge_attempts a WHERE a.transaction_id = t.id AND a.outcome IS NULL AND a.lease_until > now())
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = t.id)
      AND NOT EXISTS (
          SELECT FROM dead_letters d WHERE d.transaction_id = t.id AND d.refund_id IS NULL AND d.status = 'open')
"""

_WITHOUT_LETTER = """
    SELECT t.id::text AS subject, 'dead_lettered, with ' || count(d.id) || ' open dead letters' AS detail
    FROM transactions t
    LEFT JOIN dead_letters d ON d.transaction_id = t.id AND d.refund_id IS NULL AND d.status = 'open'
    WHERE t.status = 'dead_lettered' GROUP BY t.id HAVING count(d.id) <> 1
"""

_MISPLACED_LETTER = f"""
    SELECT t.id::text AS subject, {_IS} || ', yet dead letter ' || min(d.id::text) || ' is open' AS detail
    FROM dead_letters d JOIN transactions t ON t.id = d.transaction_id
    WHERE d.status = 'open' AND d.refund_id IS NULL AND t.status <> 'dead_lettered'
    GROUP BY t.id
"""

# Known records are found by their primary key, which does not contain the transaction, hence the two parts.
_NAMELESS_RECORD = """
    WITH records AS (
        SELECT merchant_id, key, transaction_id FROM idempotency_records WHERE created_at >= :since
        UNION
        SELECT r.merchant_id, r.key, r.transaction_id FROM unnest(CAST(:known_keys AS text[])) AS k (name)
        JOIN idempotency_records r ON r.merchant_id = left(k.name, 36)::uuid AND r.key = substr(k.name, 38)
    )
    SELECT r.merchant_id || '/' || r.key AS subject, 'there is no transaction ' || r.transaction_id AS detail
    FROM records r LEFT JOIN transactions t ON t.id = r.transaction_id
    WHERE r.transaction_id IS NOT NULL AND t.id IS NULL
"""

_UNBALANCED_CURRENCY = f"""
    SELECT e.currency AS subject, 'debits less credits: ' || {_BALANCE} AS detail
    FROM ledger_entries e WHERE {_ENTRIES} GROUP BY e.currency HAVING {_BALANCE} <> 0
"""

_UNBALANCED_SOURCE = f"""
    SELECT e.source_id::text AS subject, 'debits less credits in ' || e.currency || ': ' || {_BALANCE} AS detail
    FROM ledger_entries e WHERE {_ENTRIES} GROUP BY e.source_id, e.currency HAVING {_BALANCE} <> 0
"""

# The entries of a settlement as bits: 1 clearing, 2 the merchant's part, 4 the fee, 8 a wrong entry.
_WITHOUT_ENTRIES = f"""
    SELECT s.id::text AS subject, 'amount ' || s.amount || ', fee ' || s.fee || ', net ' || s.net || ' ' || s.currency
           || ', with ' || count(e.id) || ' entries' AS detail
    FROM settlements s LEFT JOIN ledger_entries e ON e.source_id = s.id
    WHERE {_SETTLEMENTS}
    GROUP BY s.id
    HAVING count(e.id) <> 1 + (s.net > 0)::int + (s.fee > 0)::int
        OR bit_or(CASE
            WHEN (e.currency, e.transaction_id, e.merchant_id) <> (s.currency, s.transaction_id, s.merchant_id) THEN 8
            WHEN (e.account, e.direction, e.amount) = ('provider_clearing', 'debit', s.amount) THEN 1
            WHEN (e.account, e.direction, e.amount) = ('merchant_payable', 'credit', s.net) THEN 2
            WHEN (e.account, e.direction, e.amount) = ('fees', 'credit', s.fee) THEN 4
            ELSE 8
           END) <> 1 + 2 * (s.net > 0)::int + 4 * (s.fee > 0)::int
"""

_WITHOUT_SETTLEMENT = f"""
    SELECT t.id::text AS subject, {_IS} || ', with ' || count(s.id) || ' settlements' AS detail
    FROM transactions t LEFT JOIN settlements s ON s.transaction_id = t.id
    WHERE {_SETTLED} AND {TRANSACTIONS_IN_SCOPE}
    GROUP BY t.id HAVING count(s.id) <> 1
"""

_DISAGREEING = f"""
    SELECT s.id::text AS subject, 'settlement of ' || s.amount || ' ' || s.currency || ' (' || s.provider_reference
           || '), transaction of ' || t.amount || ' ' || t.currency || ' (' || coalesce(t.provider_reference, '-')
           || '), fee ' || s.fee || ', net ' || s.net AS detail
    FROM settlements s JOIN transactions t ON t.id = s.transaction_id
    WHERE {_SETTLEMENTS} AND {_SETTLED}
      AND ((s.amount, s.currency, s.merchant_id, s.provider_reference)
           IS DISTINCT FROM (t.amount, t.currency, t.merchant_id, t.provider_reference)
           OR s.net + s.fee <> s.amount)
"""

_MISPLACED_SETTLEMENT = f"""
    SELECT s.id::text AS subject, coalesce({_IS}, 'there is no transaction ' || s.transaction_id) AS detail
    FROM settlements s LEFT JOIN transactions t ON t.id = s.transaction_id
    WHERE {_SETTLEMENTS} AND ({_SETTLED}) IS NOT true
"""

_MISPLACED_ENTRIES = f"""
    SELECT DISTINCT e.source_id::text AS subject,
           coalesce({_IS}, 'there is no transaction ' || e.transaction_id) AS detail
    FROM ledger_entries e LEFT JOIN transactions t ON t.id = e.transaction_id
    WHERE {_ENTRIES} AND ({_SETTLED}) IS NOT true
"""

_UNAPPROVED = f"""
    SELECT t.id::text AS subject, {_IS} || ', its attempt ' || t.attempts || ' is '
           || coalesce(a.outcome, CASE WHEN a.number IS NULL THEN 'missing' ELSE 'unfinished' END)
           || ', its provider reference ' || coalesce(t.provider_reference, 'missing') AS detail
    FROM transactions t LEFT JOIN charge_attempts a ON a.transaction_id = t.id AND a.number = t.attempts
    WHERE {_SETTLED} AND {TRANSACTIONS_IN_SCOPE}
      AND (a.outcome IS DISTINCT FROM 'approved' OR t.provider_reference IS NULL)
"""

_CHARGED = f"""
    SELECT t.id::text AS subject, {_IS} || ', yet attempt ' || min(a.number) || ' was approved' AS detail
    FROM transactions t JOIN charge_attempts a ON a.transaction_id = t.id AND a.outcome = 'approved'
    WHERE t.status IN ('failed', 'canceled') AND {TRANSACTIONS_IN_SCOPE}
    GROUP BY t.id
"""

# Exhausting a transaction sets the limit to its attempts. A concurrently claimed attempt may exceed this by one.
_TOO_MANY_ATTEMPTS = f"""
    SELECT t.id::text AS subject, greatest(t.attempts, max(a.number)) || ' attempts of ' || t.attempt_limit AS detail
    FROM transactions t LEFT JOIN charge_attempts a ON a.transaction_id = t.id
    WHERE {TRANSACTIONS_IN_SCOPE}
      AND greatest(t.attempts, a.number) > t.attempt_limit + (t.last_error IS NOT NULL)::int
    GROUP BY t.id
"""

PAYMENT_INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "unfinished_are_scheduled",
        "An unfinished transaction is in the outbox, claimed by a worker, or was updated within the sweep's horizon.",
        "payments_unaccounted",
        _UNSCHEDULED,
        "Check that beat and the operations worker run. Each sweep requeues such transactions.",
        has_grace=True,
    ),
    Invariant(
        "dead_lettered_have_one_open_dead_letter",
        "A dead-lettered transaction has exactly one open dead letter.",
        "payments_unaccounted",
        _WITHOUT_LETTER,
        "No operator sees these payments. Check their attempts, then move each back to processing or to failed.",
    ),
    Invariant(
        "open_dead_letters_are_of_dead_lettered",
        "An open dead letter that names a transaction names a dead-lettered one, if it exists.",
        "payments_unaccounted",
        _MISPLACED_LETTER,
        "flask dead-letters list, then discard the dead letters of transactions that have an outcome.",
    ),
    Invariant(
        "idempotency_records_name_transactions",
        "The transaction of an idempotency record exists, because the merchant got a response that it was accepted.",
        "payments_unaccounted",
        _NAMELESS_RECORD,
        "Accepted payments are missing. Compare with a backup; the responses are in idempotency_records.body.",
    ),
    Invariant(
        "ledger_balances_by_currency",
        "In each currency, debits equal credits.",
        "ledger_imbalance",
        _UNBALANCED_CURRENCY,
        "See ledger_balances_by_source for the unbalanced postings.",
    ),
    Invariant(
        "ledger_balances_by_source",
        "For each source and currency, debits equal credits.",
        "ledger_imbalance",
        _UNBALANCED_SOURCE,
        "Compare the entries of this source_id with its settlement, and correct them with a new posting.",
    ),
    Invariant(
        "settlements_have_their_entries",
        "A settlement has posted its amount to provider_clearing, its net to merchant_payable and its fee to fees.",
        "ledger_imbalance",
        _WITHOUT_ENTRIES,
        "Compare the ledger_entries of this source_id with the settlement, and correct them with a new posting.",
    ),
    Invariant(
        "settled_have_one_settlement",
        "A completed or refunded transaction has exactly one settlement.",
        "ledger_imbalance",
        _WITHOUT_SETTLEMENT,
        "Ask the provider what it charged for these transactions; do not pay them out until then.",
    ),
    Invariant(
        "settlements_agree_with_their_transactions",
        "A settlement has the amount, currency, merchant and reference of its transaction, and net + fee = amount.",
        "ledger_imbalance",
        _DISAGREEING,
        "Ask the provider what it charged; do not pay out these settlements until then.",
    ),
    Invariant(
        "settlements_are_of_settled",
        "The transaction of a settlement is completed or refunded.",
        "ledger_imbalance",
        _MISPLACED_SETTLEMENT,
        "Ask the provider whether it charged; do not pay out these settlements until then.",
    ),
    Invariant(
        "entries_are_of_settled",
        "The transaction of a ledger entry is completed or refunded.",
        "ledger_imbalance",
        _MISPLACED_ENTRIES,
        "Ask the provider whether it charged, then correct the entries of this source_id with a new posting.",
    ),
    Invariant(
        "settled_have_an_approved_attempt",
        "A completed or refunded transaction has a provider reference, and its last counted attempt was approved.",
        "ledger_imbalance",
        _UNAPPROVED,
        "Ask the provider whether it charged these transactions.",
    ),
    Invariant(
        "failed_were_not_charged",
        "No attempt at a failed or canceled transaction was approved.",
        "ledger_imbalance",
        _CHARGED,
        "The customer was charged for a payment that the merchant sees as failed. Refund it at the provider.",
    ),
    Invariant(
        "attempts_stay_within_their_limit",
        "A transaction has no more attempts than its limit allows.",
        None,
        _TOO_MANY_ATTEMPTS,
        "More charges were attempted than allowed. Ask the provider whether it charged only once.",
    ),
)
