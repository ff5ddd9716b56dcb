"""SQL that records events in the same statement that makes the change.

Each event becomes a delivery for every endpoint that subscribes to its type. The endpoints are put into the outbox, so
that the first attempt follows immediately.
"""

from gateway.domain.shared.outbox import Topic

RECORD_EVENTS = f"""new_event AS MATERIALIZED (
        SELECT uuid_v7() AS id, * FROM event_source
    ), recorded_event AS (
        INSERT INTO events (merchant_id, id, type, object_id, snapshot, created_at)
        SELECT merchant_id, id, type, object_id, snapshot, now() FROM new_event
    ), new_delivery AS (
        INSERT INTO webhook_deliveries (id, merchant_id, endpoint_id, event_id, event_type, transaction_id,
                                        next_attempt_at, created_at)
        SELECT uuid_v7(), e.merchant_id, p.id, e.id, e.type, e.transaction_id, now(), now()
        FROM new_event e JOIN webhook_endpoints p
          ON p.merchant_id = e.merchant_id AND p.status = 'enabled' AND p.deleted_at IS NULL AND e.type = ANY(p.events)
        RETURNING endpoint_id, merchant_id
    ), enqueued_endpoint AS (
        INSERT INTO outbox (topic, subject_id, merchant_id)
        SELECT DISTINCT '{Topic.WEBHOOK_DUE}', endpoint_id, merchant_id FROM new_delivery
    )"""  # noqa: S608  # a constant
"""CTEs that record the events listed by a preceding CTE `event_source`.

`event_source` has the columns merchant_id, type, object_id, transaction_id and snapshot: those members of the object's
representation that may change after the event (jsonb), or NULL if none may.
"""
