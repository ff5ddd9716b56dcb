"""Events: what merchants are told of, written by the very statement that makes it happen.

Each event becomes a delivery for every endpoint that asked for its type, and those endpoints go into the outbox, so
that the first attempt follows at once.
"""

from gateway.domain.shared.outbox import Topic

TELLING = f"""event AS MATERIALIZED (
        SELECT uuid_v7() AS id, * FROM happened
    ), told AS (
        INSERT INTO events (merchant_id, id, type, object_id, state, created_at)
        SELECT merchant_id, id, type, object_id, state, now() FROM event
    ), delivery AS (
        INSERT INTO webhook_deliveries (id, merchant_id, endpoint_id, event_id, event_type, transaction_id,
                                        next_attempt_at, created_at)
        SELECT uuid_v7(), e.merchant_id, p.id, e.id, e.type, e.transaction_id, now(), now()
        FROM event e JOIN webhook_endpoints p
          ON p.merchant_id = e.merchant_id AND p.status = 'enabled' AND p.deleted_at IS NULL AND e.type = ANY(p.events)
        RETURNING endpoint_id, merchant_id
    ), woken AS (
        INSERT INTO outbox (topic, subject_id, merchant_id)
        SELECT DISTINCT '{Topic.WEBHOOK_DUE}', endpoint_id, merchant_id FROM delivery
    )"""  # noqa: S608  # a constant
"""CTEs that store what the CTE `happened` before them lists, for the statement that writes the change itself.

`happened` has the columns merchant_id, type, object_id, transaction_id and state: those members of the object's
representation that may change after the event (jsonb), or NULL when none does.
"""
