"""The calls of the Postman collection in their order, and the values that one call passes to the next."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

_RESPONSE = "pm.response.json()"
_FIRST = f"{_RESPONSE}.data[0]"


@dataclass(frozen=True)
class Step:
    """A call: an operationId, the variable with the id in its path, and its differences from the documented example.

    `until` is a JavaScript condition: the call is repeated until it holds. `repeats` keeps the Idempotency-Key.
    A call that is not `planned` may get any documented response below 500.
    """

    operation: str
    _: KW_ONLY
    name: str = ""
    target: str = "unknown_id"
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None
    form: tuple[tuple[str, str], ...] = ()
    captures: tuple[tuple[str, str], ...] = ()
    checks: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    until: str = ""
    repeats: bool = False
    by_operator: bool = False
    planned: bool = False


def _step(operation: str, **options: Any) -> Step:
    return Step(operation, planned=True, **options)


def _operators(operation: str, **options: Any) -> Step:
    return Step(operation, planned=True, by_operator=True, **options)


_STATUS = f'{_RESPONSE}.status === "{{}}"'
_PASSWORD = "correct horse battery staple"  # noqa: S105  # of test users
_PAYMENT = {"amount": 12550, "currency": "USD", "payment_method": "tok_approve", "reference": "order-1001"}

MERCHANT = [
    _step("live"),
    _step("ready"),
    _step(
        "register",
        body={"email": "{{email}}", "password": _PASSWORD, "business_name": "Ada's Bookshop"},
        captures=(
            ("access_token", f"{_RESPONSE}.access_token"),
            ("merchant_id", f"{_RESPONSE}.merchant.id"),
            ("client_id", f"{_RESPONSE}.client.client_id"),
            ("client_secret", f"{_RESPONSE}.client.client_secret"),
        ),
    ),
    _step("login", body={"email": "{{email}}", "password": _PASSWORD}),
    _step(
        "token",
        form=(
            ("grant_type", "client_credentials"),
            ("client_id", "{{client_id}}"),
            ("client_secret", "{{client_secret}}"),
        ),
        captures=(("access_token", f"{_RESPONSE}.access_token"),),
    ),
    _step(
        "create_webhook_endpoint",
        body={"url": "https://example.com/webhooks", "events": ["transaction.completed", "refund.completed"]},
        captures=(("webhook_endpoint_id", f"{_RESPONSE}.id"),),
        checks=(f'{_RESPONSE}.secret.startsWith("whsec_")',),
    ),
    _step("list_webhook_endpoints", checks=(f"{_RESPONSE}.data.length === 1",)),
    _step("change_webhook_endpoint", target="webhook_endpoint_id", body={"events": ["transaction.completed"]}),
    _step("get_webhook_endpoint", target="webhook_endpoint_id", checks=(f"{_RESPONSE}.events.length === 1",)),
    _step("rotate_webhook_secret", target="webhook_endpoint_id"),
    _step("create_transaction", body=_PAYMENT, captures=(("transaction_id", f"{_RESPONSE}.id"),)),
    _step(
        "create_transaction",
        name="Repeat it with the same Idempotency-Key: the first response",
        body=_PAYMENT,
        repeats=True,
        checks=(
            'pm.response.headers.get("Idempotency-Replayed") === "true"',
            f'{_RESPONSE}.id === pm.collectionVariables.get("transaction_id")',
        ),
    ),
    _step("get_transaction", target="transaction_id", until=_STATUS.format("completed")),
    _step("get_timeline", target="transaction_id"),
    _step("list_transactions", query=(("limit", "2"), ("status", "completed"))),
    _step(
        "list_settlements",
        query=(("transaction_id", "{{transaction_id}}"),),
        captures=(("settlement_id", f"{_FIRST}.id"),),
    ),
    _step("get_settlement", target="settlement_id"),
    _step(
        "create_refund",
        target="transaction_id",
        body={"amount": 50, "reason": "One seat was taken"},
        captures=(("refund_id", f"{_RESPONSE}.id"),),
    ),
    _step("get_refund", target="refund_id", until=_STATUS.format("completed")),
    _step("list_refunds"),
    _step("get_balance"),
    _step("list_events", captures=(("event_id", f"{_RESPONSE}.data.slice(-1)[0].id"),)),
    _step("get_event", target="event_id"),
    _step("resend_event", target="event_id", body={}),
    _step("list_webhook_deliveries", target="webhook_endpoint_id"),
    _step("delete_webhook_endpoint", target="webhook_endpoint_id"),
    _step("create_transaction", name="A payment to cancel", captures=(("canceled_id", f"{_RESPONSE}.id"),)),
    _step("cancel_transaction", name="Cancel it, unless it is routed", target="canceled_id", statuses=(200, 409)),
    _step(
        "create_transaction",
        name="A payment that every provider fails to process",
        body={**_PAYMENT, "payment_method": "tok_error_always"},
        captures=(("failing_id", f"{_RESPONSE}.id"),),
    ),
    _step(
        "create_api_client",
        body={"name": "till", "scopes": ["transactions:read"]},
        captures=(("api_client_id", f"{_RESPONSE}.id"),),
    ),
    _step("list_api_clients"),
    _step("get_api_client", target="api_client_id"),
    _step("rotate_api_client", target="api_client_id"),
    _step("delete_api_client", target="api_client_id"),
    _step("logout"),
]

_PERIOD = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}

OPERATOR = [
    _operators(
        "login",
        name="Log in as an operator",
        body={"email": "{{operator_email}}", "password": "{{operator_password}}"},
        captures=(("operator_token", f"{_RESPONSE}.access_token"),),
    ),
    _operators(
        "list_dead_letters",
        query=(("merchant_id", "{{merchant_id}}"), ("status", "open")),
        until=f"{_RESPONSE}.data.length === 1",
        captures=(("dead_letter_id", f"{_FIRST}.id"),),
    ),
    _operators("get_dead_letter", target="dead_letter_id"),
    _operators("replay_dead_letter", target="dead_letter_id", checks=(_STATUS.format("replayed"),)),
    _operators(
        "discard_dead_letter",
        name="Discard it afterwards: it is already resolved",
        target="dead_letter_id",
        statuses=(409,),
    ),
    _operators(
        "create_dead_letter_job",
        body={"action": "replay", "filter": {"merchant_id": "{{merchant_id}}"}, "dry_run": True},
        captures=(("job_id", f"{_RESPONSE}.id"),),
    ),
    _operators("get_dead_letter_job", target="job_id"),
    _operators("list_dead_letter_jobs"),
    _operators("create_reconciliation", body=_PERIOD, captures=(("reconciliation_id", f"{_RESPONSE}.id"),)),
    _operators("get_reconciliation", target="reconciliation_id", until=_STATUS.format("completed")),
    _operators("list_reconciliations"),
    _operators("list_reconciliation_discrepancies", target="reconciliation_id"),
    _operators("get_reconciliation_report", target="reconciliation_id"),
    _operators("list_discrepancies"),
    _operators("list_statements"),
    _operators("list_audit_log", query=(("limit", "5"),)),
]
