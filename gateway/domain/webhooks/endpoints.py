"""Webhook endpoints: the URLs to which the events of a merchant are sent."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, select, text, update

from gateway.domain.shared import audit
from gateway.domain.shared.listing import newest
from gateway.errors import NotFound, TooManyEndpoints
from gateway.ids import new_id, rfc3339
from gateway.models.merchants import Merchant
from gateway.models.webhooks import WebhookEndpoint
from gateway.security import encryption
from gateway.security.webhook_signatures import new_secret
from gateway.states import EndpointStatus, EventType

ENDPOINTS_MAX = 16
"""Maximum number of endpoints of a merchant. Each is one more delivery per event."""
SECRET_OVERLAP = timedelta(hours=24)
"""After a rotation, the previous secret also signs for this time."""
BY_MERCHANT = "Disabled by the merchant."
GONE = "The receiver returned 410 Gone."
CANCELED_AT_ONCE = 5_000
"""Maximum number of deliveries that one statement cancels. The scheduled job cancels the others."""

_P = WebhookEndpoint
_COLUMNS = (_P.id, _P.url, _P.events, _P.status, _P.disabled_reason, _P.created_at, _P.updated_at)


def _of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "object": "webhook_endpoint",
        "url": row.url,
        "events": row.events,
        "status": row.status,
        "disabled_reason": row.disabled_reason,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
    }


def create(
    connection: Connection, merchant_id: UUID, url: str, events: Sequence[EventType], actor: str
) -> dict[str, Any]:
    """Create an endpoint; return it with its secret, which is never shown again.

    Raises:
        TooManyEndpoints: the merchant already has `ENDPOINTS_MAX`.
    """
    connection.execute(select(Merchant.id).where(Merchant.id == merchant_id).with_for_update(key_share=True))
    count = select(func.count()).where(_P.merchant_id == merchant_id, _P.deleted_at.is_(None))
    if connection.execute(count).scalar_one() >= ENDPOINTS_MAX:
        raise TooManyEndpoints(f"There are already {ENDPOINTS_MAX} endpoints.")
    secret = new_secret()
    values = {
        "id": new_id(),
        "merchant_id": merchant_id,
        "url": url,
        "events": [event.value for event in events],
        "secret": encryption.encrypt(secret),
    }
    row = connection.execute(insert(_P).values(values).returning(*_COLUMNS)).one()
    audit.record(connection, actor=actor, action="webhook_endpoint.created", subject=str(row.id), detail={"url": url})
    return _of_row(row) | {"secret": secret}


def find(connection: Connection, merchant_id: UUID, endpoint_id: UUID) -> dict[str, Any]:
    """Return one endpoint of this merchant.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    row = connection.execute(select(*_COLUMNS).where(*_is(merchant_id, endpoint_id))).one_or_none()
    if row is None:
        raise NotFound
    return _of_row(row)


def list_newest(connection: Connection, merchant_id: UUID, before: UUID | None, limit: int) -> Sequence[dict[str, Any]]:
    """Return at most `limit` endpoints of this merchant that are older than `before`, newest first."""
    query = select(*_COLUMNS).where(_P.merchant_id == merchant_id, _P.deleted_at.is_(None))
    return [_of_row(row) for row in connection.execute(newest(query, _P.id, before, limit))]


def change(
    connection: Connection,
    merchant_id: UUID,
    endpoint_id: UUID,
    *,
    url: str | None,
    events: Sequence[EventType] | None,
    status: EndpointStatus | None,
    actor: str,
) -> dict[str, Any]:
    """Change what is not None; return the endpoint. Disabling cancels its deliveries; enabling resets its failures.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    changes: dict[str, Any] = {"url": url, "events": None if events is None else [event.value for event in events]}
    changes = {name: value for name, value in changes.items() if value is not None}
    detail = dict(changes)
    if status is EndpointStatus.ENABLED:
        changes |= {"status": status.value, "disabled_reason": None, "consecutive_failures": 0}
    elif status is EndpointStatus.DISABLED:
        changes |= {"status": status.value, "disabled_reason": func.coalesce(_P.disabled_reason, BY_MERCHANT)}
    if status is not None:
        detail["status"] = status.value
    row = _update(connection, merchant_id, endpoint_id, changes)
    if status is EndpointStatus.DISABLED:
        cancel_deliveries(connection, [endpoint_id])
    audit.record(connection, actor=actor, action="webhook_endpoint.changed", subject=str(endpoint_id), detail=detail)
    return _of_row(row)


def rotate_secret(connection: Connection, merchant_id: UUID, endpoint_id: UUID, actor: str) -> dict[str, Any]:
    """Give the endpoint a new secret; return the endpoint with it. The old secret also signs for `SECRET_OVERLAP`.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    secret = new_secret()
    changes = {
        "secret": encryption.encrypt(secret),
        "previous_secret": _P.secret,
        "previous_secret_until": func.now() + SECRET_OVERLAP,
    }
    row = _update(connection, merchant_id, endpoint_id, changes)
    audit.record(connection, actor=actor, action="webhook_endpoint.secret_rotated", subject=str(endpoint_id))
    return _of_row(row) | {"secret": secret}


def delete(connection: Connection, merchant_id: UUID, endpoint_id: UUID, actor: str) -> None:
    """Delete the endpoint with its secrets, and cancel its deliveries.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    changes = {"deleted_at": func.now(), "secret": b"", "previous_secret": None, "previous_secret_until": None}
    _update(connection, merchant_id, endpoint_id, changes)
    cancel_deliveries(connection, [endpoint_id])
    audit.record(connection, actor=actor, action="webhook_endpoint.deleted", subject=str(endpoint_id))


def _is(merchant_id: UUID, endpoint_id: UUID) -> tuple[Any, ...]:
    return _P.id == endpoint_id, _P.merchant_id == merchant_id, _P.deleted_at.is_(None)


def _update(
    connection: Connection, merchant_id: UUID, endpoint_id: UUID, changes: dict[str, Any]
) -> Row[*tuple[Any, ...]]:
    statement = update(_P).where(*_is(merchant_id, endpoint_id)).values(changes | {"updated_at": func.now()})
    row = connection.execute(statement.returning(*_COLUMNS)).one_or_none()
    if row is None:
        raise NotFound
    return row


_DISABLE_GONE = text("""
    UPDATE webhook_endpoints SET status = 'disabled', disabled_reason = :reason, updated_at = now()
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'enabled' AND deleted_at IS NULL
""")


def disable_gone(connection: Connection, ids: Sequence[UUID]) -> None:
    """Disable the endpoints `ids`, whose receivers returned 410 Gone, and cancel their deliveries."""
    connection.execute(_DISABLE_GONE, {"ids": list(ids), "reason": GONE})
    cancel_deliveries(connection, ids)


_CANCEL = """
    UPDATE webhook_deliveries SET status = 'canceled', next_attempt_at = NULL, finished_at = now()
    WHERE status = 'pending' AND id = ANY (ARRAY(
        SELECT d.id FROM webhook_endpoints p JOIN webhook_deliveries d ON d.endpoint_id = p.id AND d.status = 'pending'
        WHERE {condition} LIMIT :limit FOR UPDATE OF d SKIP LOCKED
    ))
"""
_CANCEL_OF = text(_CANCEL.format(condition="p.id = ANY(CAST(:ids AS uuid[]))"))
_CANCEL_ORPHANS = text(_CANCEL.format(condition="p.status = 'disabled' OR p.deleted_at IS NOT NULL"))


def cancel_deliveries(connection: Connection, ids: Sequence[UUID]) -> None:
    """Cancel the pending deliveries of the endpoints `ids`, at most `CANCELED_AT_ONCE` of them."""
    connection.execute(_CANCEL_OF, {"ids": list(ids), "limit": CANCELED_AT_ONCE})


def cancel_orphans(connection: Connection) -> int:
    """Cancel pending deliveries of disabled or deleted endpoints, at most `CANCELED_AT_ONCE`; return their number.

    They exceeded the limit, or their event was recorded at the moment when the endpoint was disabled.
    """
    return connection.execute(_CANCEL_ORPHANS, {"limit": CANCELED_AT_ONCE}).rowcount
