"""The contract of each endpoint, for tests of all endpoints. It is written here, not derived from the code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.api.http.routes import Endpoint
from gateway.app import PARTS

SOME_ID = "01a203ac-0af0-72d9-8fb4-1064eca29cd1"
"""A valid id of no object."""
ANY_TOKEN = "any token"


@dataclass(frozen=True, kw_only=True)
class Route:
    """`scope` is None for public endpoints; `object` names the id in `World`; `body` and `query` are valid ones."""

    scope: str | None
    object: str | None = None
    body: Mapping[str, Any] | None = None
    query: str = ""
    idempotent: bool = False


PUBLIC = Route(scope=None)
ROUTES = {
    "register": Route(
        scope=None, body={"email": "a@example.com", "password": "correct horse battery", "business_name": "Ada"}
    ),
    "login": Route(scope=None, body={"email": "a@example.com", "password": "correct horse battery"}),
    "logout": Route(scope=ANY_TOKEN),
    "jwks": PUBLIC,
    "token": PUBLIC,
    "create_transaction": Route(scope="transactions:write", body={"amount": 1000, "currency": "USD"}, idempotent=True),
    "list_transactions": Route(scope="transactions:read"),
    "get_transaction": Route(scope="transactions:read", object="transaction"),
    "cancel_transaction": Route(scope="transactions:write", object="transaction", idempotent=True),
    "get_timeline": Route(scope="transactions:read", object="transaction"),
    "get_balance": Route(scope="settlements:read"),
    "create_api_client": Route(scope="clients:manage", body={"name": "till", "scopes": ["transactions:read"]}),
    "list_api_clients": Route(scope="clients:manage"),
    "get_api_client": Route(scope="clients:manage", object="api_client"),
    "rotate_api_client": Route(scope="clients:manage", object="api_client"),
    "delete_api_client": Route(scope="clients:manage", object="api_client"),
    "create_refund": Route(
        scope="refunds:write", object="transaction", body={"amount": 1, "reason": "One seat was taken"}, idempotent=True
    ),
    "list_refunds": Route(scope="transactions:read"),
    "get_refund": Route(scope="transactions:read", object="refund"),
    "create_webhook_endpoint": Route(
        scope="webhooks:manage", body={"url": "https://example.com/webhooks", "events": ["refund.completed"]}
    ),
    "list_webhook_endpoints": Route(scope="webhooks:manage"),
    "get_webhook_endpoint": Route(scope="webhooks:manage", object="webhook_endpoint"),
    "change_webhook_endpoint": Route(
        scope="webhooks:manage", object="webhook_endpoint", body={"events": ["refund.completed"]}
    ),
    "delete_webhook_endpoint": Route(scope="webhooks:manage", object="webhook_endpoint"),
    "rotate_webhook_secret": Route(scope="webhooks:manage", object="webhook_endpoint"),
    "list_webhook_deliveries": Route(scope="webhooks:manage", object="webhook_endpoint"),
    "list_events": Route(scope="webhooks:manage"),
    "get_event": Route(scope="webhooks:manage", object="event"),
    "resend_event": Route(scope="webhooks:manage", object="event", body={}),
    "list_settlements": Route(scope="settlements:read"),
    "get_settlement": Route(scope="settlements:read", object="settlement"),
    "list_dead_letters": Route(scope="operations:read"),
    "get_dead_letter": Route(scope="operations:read", object="dead_letter"),
    "replay_dead_letter": Route(scope="operations:write", object="dead_letter"),
    "discard_dead_letter": Route(scope="operations:write", object="dead_letter", body={"note": "paid in the shop"}),
    "upload_statement": Route(
        scope="operations:write", query="?provider=sandbox&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z"
    ),
    "create_dead_letter_job": Route(
        scope="operations:write", body={"action": "discard", "filter": {"queue": "none"}, "dry_run": True}
    ),
    "list_dead_letter_jobs": Route(scope="operations:read"),
    "get_dead_letter_job": Route(scope="operations:read", object="dead_letter_job"),
    "cancel_dead_letter_job": Route(scope="operations:write", object="dead_letter_job"),
    "create_reconciliation": Route(
        scope="operations:write", body={"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    ),
    "list_reconciliations": Route(scope="operations:read"),
    "get_reconciliation": Route(scope="operations:read", object="reconciliation"),
    "list_reconciliation_discrepancies": Route(scope="operations:read", object="reconciliation"),
    "get_reconciliation_report": Route(scope="operations:read", object="reconciliation"),
    "list_statements": Route(scope="operations:read"),
    "get_statement": Route(scope="operations:read", object="statement"),
    "list_discrepancies": Route(scope="operations:read"),
    "get_discrepancy": Route(scope="operations:read", object="discrepancy"),
    "resolve_discrepancy": Route(scope="operations:write", object="discrepancy", body={"resolution": "accepted"}),
    "list_audit_log": Route(scope="operations:read"),
    "live": PUBLIC,
    "ready": PUBLIC,
    "metrics": PUBLIC,
    "openapi": PUBLIC,
    "docs": PUBLIC,
    "docs_style": PUBLIC,
    "docs_script": PUBLIC,
    "docs_icon": PUBLIC,
    "docs_start": PUBLIC,
}


def endpoints() -> list[Endpoint]:
    """Return every endpoint of the application."""
    return [endpoint for part in PARTS for endpoint in part.endpoints]


def path_of(endpoint: Endpoint, id: str = SOME_ID) -> str:
    """Return the path of an endpoint, with `id`."""
    path = endpoint.path
    for name in endpoint.ids:
        path = path.replace(f"<{name}>", id)
    return path


def name_of(endpoint: Endpoint) -> str:
    """Return the name of an endpoint for the test report."""
    return endpoint.name


def route_of(endpoint: Endpoint) -> Route:
    """Return the contract of an endpoint."""
    assert endpoint.name in ROUTES, (
        f"{endpoint.method} {endpoint.path} is new. Add {endpoint.name!r} to ROUTES in tests/api/routes.py: the scope"
        " it needs, a valid body, and the object that its id names (see World in tests/api/world.py)."
    )
    return ROUTES[endpoint.name]
