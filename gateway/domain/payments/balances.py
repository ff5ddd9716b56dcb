"""Balances: the sums of a merchant's ledger entries, per currency.

Each posting writes its change as a separate row, so that concurrent postings do not wait for each other. `fold` adds
these rows to the balances periodically. `of_merchant` reads both in one statement, so each change counts once.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.db import allow_seq_scans

_READ = text("""
    SELECT currency, CAST(sum(settled - refunded - fees) AS bigint) AS available,
           CAST(sum(settled) AS bigint) AS settled, CAST(sum(refunded) AS bigint) AS refunded,
           CAST(sum(fees) AS bigint) AS fees
    FROM (
        SELECT currency, settled, refunded, fees FROM balances WHERE merchant_id = :merchant_id
        UNION ALL
        SELECT currency, settled, refunded, fees FROM balance_changes WHERE merchant_id = :merchant_id
    ) AS parts
    GROUP BY currency ORDER BY currency
""")


def of_merchant(connection: Connection, merchant_id: UUID) -> list[dict[str, Any]]:
    """Return the merchant's balance in each of its currencies, in minor units, ordered by currency.

    `available` is `settled - refunded - fees`. It is negative if the merchant owes money.
    """
    return [dict(row) for row in connection.execute(_READ, {"merchant_id": merchant_id}).mappings()]


# Concurrent folds take different changes (SKIP LOCKED), and lock the balances that both need in the same order.
_FOLD = text("""
    WITH taken AS (
        DELETE FROM balance_changes WHERE id = ANY (ARRAY(
            SELECT id FROM balance_changes ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
        )) RETURNING merchant_id, currency, settled, refunded, fees
    ), folded AS (
        INSERT INTO balances AS b (merchant_id, currency, settled, refunded, fees)
        SELECT merchant_id, currency, sum(settled), sum(refunded), sum(fees) FROM taken
        GROUP BY merchant_id, currency ORDER BY merchant_id, currency
        ON CONFLICT (merchant_id, currency) DO UPDATE
        SET settled = b.settled + excluded.settled, refunded = b.refunded + excluded.refunded,
            fees = b.fees + excluded.fees
    )
    SELECT count(*) FROM taken
""")


def fold(connection: Connection, limit: int) -> int:
    """Add the oldest `limit` changes that no other fold has locked to their balances; return their number."""
    return int(connection.execute(_FOLD, {"limit": limit}).scalar_one())


# Settled amounts are debited to provider_clearing, and refunded ones are credited to it.
_MISSTATED = text("""
    WITH kept AS (
        SELECT merchant_id, currency, sum(settled) AS settled, sum(refunded) AS refunded, sum(fees) AS fees
        FROM (SELECT merchant_id, currency, settled, refunded, fees FROM balances
              UNION ALL SELECT merchant_id, currency, settled, refunded, fees FROM balance_changes) AS parts
        GROUP BY merchant_id, currency
    ), posted AS (
        SELECT merchant_id, currency,
               coalesce(sum(amount) FILTER (WHERE account = 'provider_clearing' AND direction = 'debit'), 0) AS settled,
               coalesce(sum(amount) FILTER (WHERE account = 'provider_clearing' AND direction = 'credit'), 0)
                   AS refunded,
               coalesce(sum(CASE direction WHEN 'credit' THEN amount ELSE -amount END)
                   FILTER (WHERE account = 'fees'), 0) AS fees
        FROM ledger_entries GROUP BY merchant_id, currency
    )
    SELECT merchant_id, currency, concat_ws('/', k.settled, k.refunded, k.fees) AS kept,
           concat_ws('/', p.settled, p.refunded, p.fees) AS posted
    FROM kept k FULL JOIN posted p USING (merchant_id, currency)
    WHERE (k.settled, k.refunded, k.fees) IS DISTINCT FROM (p.settled, p.refunded, p.fees)
    ORDER BY merchant_id, currency LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Misstated:
    """A balance that differs from the ledger. `kept` and `posted` are settled/refunded/fees, or empty."""

    merchant_id: UUID
    currency: str
    kept: str
    posted: str


def misstated(connection: Connection, limit: int) -> list[Misstated]:
    """Return at most `limit` balances that differ from the ledger, all of which is read in one snapshot."""
    allow_seq_scans(connection)
    return [Misstated(*row) for row in connection.execute(_MISSTATED, {"limit": limit})]
