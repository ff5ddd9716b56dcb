"""The order in which the Postman collection makes its calls, and what they hand on to each other."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

_ANSWER = "pm.response.json()"
_FIRST = f"{_ANSWER}.data[0]"


@dataclass(frozen=True)
class Step:
    """One call: an operationId, the variable with the id of its path, and what else differs from its example.

    `until` is JavaScript: the call is repeated until it is true. `repeats` keeps the Idempotency-Key.
    A call that is not `planned` may be answered with anything that the document names.
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


_STATUS = f'{_ANSWER}.status === "{{}}"'
_PASSWORD = "correct horse battery staple"  # noqa: S105  # of made-up users
_PAYMENT = {"amount": 12550, "currency": "USD", "payment_method": "tok_approve", "reference": "order-1001"}

MERCHANT = [
    _step("live"),
    _step("ready"),
    _step(
        "register",
        body={"email": "{{email}}", "password": _PASSWORD, "business_name": "Ada's Bookshop"},
        captures=(
            ("access_token", f"{_ANSWER}.access_token"),
            ("merchant_id", f"{_ANSWER}.merchant.id"),
            ("client_id", f"{_ANSWER}.client.client_id"),
            ("client_secret", f"{_ANSWER}.client.client_secret"),
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
        captures=(("access_token", f"{_ANSWER}.access_token"),),
    ),
    _step(
        "create_webhook_endpoint",
        body={"url": "https://example.com/webhooks", "events": ["transaction.completed", "refund.completed"]},
        captures=(("webhook_endpoint_id", f"{_ANSWER}.id"),),
        checks=(f'{_ANSWER}.secret.startsWith("whsec_")',),
    ),
    _step("list_webhook_endpoints", checks=(f"{_ANSWER}.data.length === 1",)),
    _step("change_webhook_endpoint", target="webhook_endpoint_id", body={"events": ["transaction.completed"]}),
    _step("get_webhook_endpoint", target="webhook_endpoint_id", checks=(f"{_ANSWER}.events.length === 1",)),
    _step("rotate_webhook_secret", target="webhook_endpoint_id"),
    _step("create_transaction", body=_PAYMENT, captures=(("transaction_id", f"{_ANSWER}.id"),)),
    _step(
        "create_transaction",
        name="The same again, with the same Idempotency-Key: the first answer",
        body=_PAYMENT,
        repeats=True,
        checks=(
            'pm.response.headers.get("Idempotency-Replayed") === "true"',
            f'{_ANSWER}.id === pm.collectionVariables.get("transaction_id")',
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
        captures=(("refund_id", f"{_ANSWER}.id"),),
    ),
    _step("get_refund", target="refund_id", until=_STATUS.format("completed")),
    _step("list_refunds"),
    _step("get_balance"),
    _step("list_events", captures=(("event_id", f"{_ANSWER}.data.slice(-1)[0].id"),)),
    _step("get_event", target="event_id"),
    _step("resend_event", target="event_id", body={}),
    _step("list_webhook_deliveries", target="webhook_endpoint_id"),
    _step("delete_webhook_endpoint", target="webhook_endpoint_id"),
    _step("create_transaction", name="A payment to cancel", captures=(("canceled_id", f"{_ANSWER}.id"),)),
    _step("cancel_transaction", name="Cancel it, if it is not routed yet", target="canceled_id", statuses=(200, 409)),
    _step(
        "create_transaction",
        name="A payment that no provider manages",
        body={**_PAYMENT, "payment_method": "tok_error_always"},
        captures=(("failing_id", f"{_ANSWER}.id"),),
    ),
    _step(
        "create_api_client",
        body={"name": "till", "scopes": ["transactions:read"]},
        captures=(("api_client_id", f"{_ANSWER}.id"),),
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
        captures=(("operator_token", f"{_ANSWER}.access_token"),),
    ),
    _operators(
        "list_dead_letters",
        query=(("merchant_id", "{{merchant_id}}"), ("status", "open")),
        until=f"{_ANSWER}.data.length === 1",
        captures=(("dead_letter_id", f"{_FIRST}.id"),),
    ),
    _operators("get_dead_letter", target="dead_letter_id"),
    _operators("replay_dead_letter", target="dead_letter_id", checks=(_STATUS.format("replayed"),)),
    _operators(
        "discard_dead_letter",
        name="Discard it after that: it is resolved already",
        target="dead_letter_id",
        statuses=(409,),
    ),
    _operators(
        "create_dead_letter_job",
        body={"action": "replay", "filter": {"merchant_id": "{{merchant_id}}"}, "dry_run": True},
        captures=(("job_id", f"{_ANSWER}.id"),),
    ),
    _operators("get_dead_letter_job", target="job_id"),
    _operators("list_dead_letter_jobs"),
    _operators("create_reconciliation", body=_PERIOD, captures=(("reconciliation_id", f"{_ANSWER}.id"),)),
    _operators("get_reconciliation", target="reconciliation_id", until=_STATUS.format("completed")),
    _operators("list_reconciliations"),
    _operators("list_reconciliation_discrepancies", target="reconciliation_id"),
    _operators("get_reconciliation_report", target="reconciliation_id"),
    _operators("list_discrepancies"),
    _operators("list_statements"),
    _operators("list_audit_log", query=(("limit", "5"),)),
]
