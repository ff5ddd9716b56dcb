"""Purge old rows: idempotency records, expired revocations, alerts, webhook deliveries and bodies.

Everything else is kept forever.
"""

from datetime import timedelta

from sqlalchemy import Connection, text

from gateway.db import allow_seq_scans
from gateway.ids import smallest_id, utc_now

IDEMPOTENCY_DAYS = 30
ALERT_DAYS = 90
DELIVERY_DAYS = 90

_STATEMENTS = tuple(
    text(statement)
    for statement in (
        """DELETE FROM idempotency_records WHERE (merchant_id, key) IN (
            SELECT r.merchant_id, r.key FROM idempotency_records r
            WHERE r.created_at < now() - make_interval(days => :idempotency_days)
              AND NOT EXISTS (
                  SELECT FROM transactions t WHERE t.id = r.transaction_id
                  AND (t.status IN ('pending', 'processing', 'dead_lettered') OR t.amount_refund_reserved > 0))
            LIMIT :limit)""",
        """DELETE FROM revoked_tokens WHERE jti IN (
            SELECT jti FROM revoked_tokens WHERE expires_at < now() LIMIT :limit)""",
        """DELETE FROM alerts WHERE id IN (
            SELECT id FROM alerts WHERE created_at < now() - make_interval(days => :alert_days) AND status <> 'pending'
            LIMIT :limit)""",
        """DELETE FROM webhook_deliveries WHERE id IN (
            SELECT id FROM webhook_deliveries WHERE id < :first_delivery AND status <> 'pending'
            ORDER BY id LIMIT :limit)""",
        """DELETE FROM webhook_bodies WHERE event_id IN (
            SELECT event_id FROM webhook_bodies b
            WHERE event_id < :first_delivery AND created_at < now() - make_interval(days => :delivery_days)
              AND NOT EXISTS (SELECT FROM webhook_deliveries d
                              WHERE d.transaction_id = b.transaction_id AND d.event_id = b.event_id
                                AND d.status = 'pending')
            ORDER BY event_id LIMIT :limit)""",
    )
)


def purge(connection: Connection, limit: int) -> int:
    """Delete at most `limit` rows of each table; return the number of deleted rows.

    An idempotency record is kept for longer if its transaction, or a refund of it, has no final status
    (docs/idempotency.md). The age of a delivery is that of its id, so no further index is needed. A body is kept as
    long as there may be deliveries that send it.
    """
    values = {
        "limit": limit,
        "idempotency_days": IDEMPOTENCY_DAYS,
        "alert_days": ALERT_DAYS,
        "delivery_days": DELIVERY_DAYS,
        "first_delivery": smallest_id(utc_now(), -timedelta(days=DELIVERY_DAYS)),
    }
    allow_seq_scans(connection)
    return sum(connection.execute(statement, values).rowcount for statement in _STATEMENTS)
