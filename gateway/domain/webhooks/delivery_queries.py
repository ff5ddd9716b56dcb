"""List deliveries, and resend events."""

from collections.abc import Sequence
from datetime import datetime
from operator import eq, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text

from gateway.domain.shared import outbox
from gateway.domain.shared.listing import Listed, conditions, search
from gateway.domain.shared.outbox import Topic
from gateway.domain.webhooks import endpoints as webhook_endpoints
from gateway.domain.webhooks import event_queries
from gateway.errors import InvalidState
from gateway.ids import rfc3339
from gateway.models.webhooks import LEASE_SECONDS, Event, WebhookDelivery
from gateway.states import DeliveryStatus, EndpointStatus

_D = WebhookDelivery
_COLUMNS = (
    _D.id, _D.endpoint_id, _D.event_id, _D.event_type, _D.status, _D.attempts, _D.next_attempt_at, _D.last_attempt_at,
    _D.response_status, _D.last_error, _D.created_at, _D.finished_at,
)  # fmt: skip


def _of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    def optional_time(at: datetime | None) -> str | None:
        return rfc3339(at) if at else None

    return {
        "id": str(row.id),
        "object": "webhook_delivery",
        "endpoint_id": str(row.endpoint_id),
        "event_id": str(row.event_id),
        "event_type": row.event_type,
        "status": row.status,
        "attempts": row.attempts,
        "next_attempt_at": optional_time(row.next_attempt_at),
        "last_attempt_at": optional_time(row.last_attempt_at),
        "response_status": row.response_status,
        "last_error": row.last_error,
        "created_at": rfc3339(row.created_at),
        "finished_at": optional_time(row.finished_at),
    }


def list_newest(
    connection: Connection,
    merchant_id: UUID,
    endpoint_id: UUID,
    status: DeliveryStatus | None,
    *,
    before: UUID | None,
    limit: int,
) -> Listed:
    """Return at most `limit` deliveries to this endpoint that are older than `before`, newest first.

    Raises:
        NotFound: there is no such endpoint, or it belongs to another merchant.
    """
    webhook_endpoints.find(connection, merchant_id, endpoint_id)
    return search(
        connection,
        columns=_COLUMNS,
        id=_D.id,
        represent=_of_row,
        indexed=[_D.endpoint_id == endpoint_id, *conditions((_D.id, lt, before))],
        tested=conditions((_D.status, eq, status)),
        limit=limit,
    )


# A claimed delivery has a lease of at most `lease_seconds`. One that is due later is a retry, which may be sent now.
_RESEND = text("""
    WITH target AS (
        SELECT p.id, p.merchant_id FROM webhook_endpoints p
        WHERE p.merchant_id = :merchant_id AND p.status = 'enabled' AND p.deleted_at IS NULL
          AND CASE WHEN CAST(:endpoint_id AS uuid) IS NULL THEN :event_type = ANY(p.events) ELSE p.id = :endpoint_id END
    ), pending AS MATERIALIZED (
        SELECT d.* FROM webhook_deliveries d JOIN target t ON t.id = d.endpoint_id
        WHERE d.transaction_id = :transaction_id AND d.event_id = :event_id AND d.status = 'pending'
        FOR UPDATE OF d
    ), rescheduled AS (
        UPDATE webhook_deliveries d SET next_attempt_at = now() FROM pending p
        WHERE d.id = p.id AND p.next_attempt_at > now() + make_interval(secs => :lease_seconds)
        RETURNING d.*
    ), created AS (
        INSERT INTO webhook_deliveries (id, merchant_id, endpoint_id, event_id, event_type, transaction_id,
                                        next_attempt_at, created_at)
        SELECT uuid_v7(), t.merchant_id, t.id, :event_id, :event_type, :transaction_id, now(), now()
        FROM target t WHERE NOT EXISTS (SELECT FROM pending p WHERE p.endpoint_id = t.id)
        RETURNING *
    )
    SELECT *, true AS is_due FROM rescheduled
    UNION ALL SELECT *, true FROM created
    UNION ALL SELECT *, false FROM pending WHERE id NOT IN (SELECT id FROM rescheduled)
    ORDER BY id
""")


def resend(
    connection: Connection, merchant_id: UUID, event_id: UUID, endpoint_id: UUID | None
) -> Sequence[dict[str, Any]]:
    """Resend an event to `endpoint_id`, or to every enabled endpoint that subscribes to it; return the deliveries.

    An event has at most one pending delivery per endpoint. If there is one, it is sent immediately if it waits for a
    retry, and no other is created. Resends of one event are serialized.

    Raises:
        NotFound: the event or the endpoint does not exist, or belongs to another merchant.
        InvalidState: the endpoint is disabled.
    """
    event = event_queries.find(connection, merchant_id, event_id)
    if endpoint_id is not None:
        endpoint = webhook_endpoints.find(connection, merchant_id, endpoint_id)
        if endpoint["status"] != EndpointStatus.ENABLED:
            raise InvalidState("The endpoint is disabled.")
    turn = select(Event.id).where(Event.merchant_id == merchant_id, Event.id == event_id)
    connection.execute(turn.with_for_update(key_share=True))
    values = {
        "merchant_id": merchant_id,
        "event_id": event_id,
        "event_type": event["type"],
        "transaction_id": UUID(event["data"].get("transaction_id") or event["data"]["id"]),
        "endpoint_id": endpoint_id,
        "lease_seconds": LEASE_SECONDS,
    }
    rows = connection.execute(_RESEND, values).all()
    due = [(row.endpoint_id, merchant_id) for row in rows if row.is_due]
    outbox.enqueue_of(connection, Topic.WEBHOOK_DUE, due)
    return [_of_row(row) for row in rows]
