"""One row for every table of every revision, for tests of migrations with data.

A row has the columns that its table has at the revision in question; `RENAMED` translates their names.
"""

import json
from typing import Any

from sqlalchemy import Connection, text

T, M, S, R, E, P, D, L, U = (f"00000000-0000-7000-8000-00000000000{n}" for n in range(1, 10))
"""The ids of a transaction, merchant, settlement, refund, event, endpoint, discrepancy, letter or job, and run."""
NOW = "2026-01-31T12:00:00+00:00"
LATER = "2026-02-28T12:00:00.123456+00:00"
HASH = "\\x" + "ab" * 32

_FAILURE = dict.fromkeys(("failure_code", "failure_message", "failure_category", "failure_retryable"))
_ATTEMPT = {
    "number": 1, "provider": "simulated", "task_id": "task", "started_at": NOW, "lease_until": LATER,
    "finished_at": LATER, "outcome": "approved", "code": None, "message": None,
}  # fmt: skip
_COUNTED = {"attempts": 1, "attempt_limit": 4, "requeues": 2, "request_id": "req", "requeued_at": LATER}
_TIMES = {"created_at": NOW, "updated_at": LATER, "completed_at": LATER, "last_error": "an error"}

ROWS: dict[str, dict[str, Any]] = {
    "merchants": {"id": M, "business_name": "Shop", "fee_basis_points": 290, "weight": 7, "created_at": NOW},
    "users": {
        "id": M, "merchant_id": M, "email": "owner@example.com", "password_hash": "hash", "role": "owner",
        "created_at": NOW,
    },
    "api_clients": {
        "id": M, "merchant_id": M, "client_id": "cl_1", "name": "default", "scopes": "{a,b}", "secret_hash": HASH,
        "previous_secret_hash": HASH, "previous_secret_until": LATER, "revoked_at": LATER, "created_at": NOW,
    },
    "revoked_tokens": {"jti": "jti", "expires_at": LATER, "revoked_at": NOW},
    "transactions": {
        "id": T, "merchant_id": M, "amount": 1000, "currency": "USD", "status": "partially_refunded",
        "payment_method": "tok_approve", "reference": "order", "description": "Two seats", "customer_id": "customer",
        "metadata": {"cart": "c-9"}, "provider": "simulated", "provider_reference": "sim_1",
        "routing_reason": "first of 1", **_FAILURE, **_COUNTED, "amount_refunded": 100, "amount_refund_reserved": 50,
        **_TIMES, "routed_at": NOW,
    },
    "charge_attempts": {"transaction_id": T, **_ATTEMPT},
    "settlements": {
        "id": S, "transaction_id": T, "merchant_id": M, "amount": 1000, "fee": 29, "net": 971, "currency": "USD",
        "status": "settled", "provider": "simulated", "provider_reference": "sim_1", "attempts": 1, "settled_at": LATER,
    },
    "ledger_entries": {
        "id": 1, "source_id": S, "transaction_id": T, "merchant_id": M, "account": "fees", "direction": "credit",
        "amount": 29, "currency": "USD", "posted_at": LATER,
    },
    "balances": {"merchant_id": M, "currency": "USD", "settled": 1000, "refunded": 100, "fees": 29},
    "balance_changes": {"id": 1, "merchant_id": M, "currency": "USD", "settled": 0, "refunded": 50, "fees": 0},
    "refunds": {
        "id": R, "transaction_id": T, "merchant_id": M, "amount": 100, "currency": "USD", "reason": "returned",
        "status": "completed", "provider": "simulated", "provider_reference": "ref_1", **_FAILURE, **_COUNTED, **_TIMES,
    },
    "refund_attempts": {"refund_id": R, **_ATTEMPT},
    "idempotency_records": {
        "merchant_id": M, "key": "key", "request_hash": HASH, "transaction_id": T, "location": "/v1/transactions/1",
        "status": 201, "body": "{}", "created_at": NOW,
    },
    "outbox": {"id": 1, "topic": "transaction.created", "subject_id": T, "merchant_id": M, "created_at": NOW},
    "events": {
        "merchant_id": M, "id": E, "type": "transaction.completed", "object_id": T, "snapshot": {"status": "completed"},
        "created_at": NOW,
    },
    "webhook_endpoints": {
        "id": P, "merchant_id": M, "url": "https://example.com/", "events": "{transaction.completed}",
        "status": "disabled", "disabled_reason": "Disabled by the merchant.", "secret": HASH, "previous_secret": HASH,
        "previous_secret_until": LATER, "consecutive_failures": 3, "created_at": NOW, "updated_at": LATER,
        "deleted_at": None,
    },
    "webhook_bodies": {"event_id": E, "transaction_id": T, "body": HASH, "created_at": NOW},
    "webhook_deliveries": {
        "id": E, "merchant_id": M, "endpoint_id": P, "event_id": E, "event_type": "transaction.completed",
        "transaction_id": T, "status": "pending", "attempts": 1, "next_attempt_at": LATER, "last_attempt_at": NOW,
        "response_status": 500, "last_error": "HTTP 500", "created_at": NOW, "finished_at": None,
    },
    "dead_letters": {
        "id": L, "message_key": "key", "transaction_id": T, "refund_id": None, "merchant_id": M,
        "queue": "settlement.requested", "task": "payments.settle", "reason": "rejected", "exception": "Error",
        "attempts": 4, "payload": "[]", "headers": {"x": 1}, "status": "replayed", "first_failed_at": NOW,
        "dead_lettered_at": NOW, "resolved_at": LATER, "resolved_by": "operator@example.com", "note": "a note",
    },
    "dead_letter_jobs": {
        "id": L, "action": "replay", "filter": {"queue": "refund.requested"}, "note": "a note", "dry_run": False,
        "max_per_second": 5, "status": "completed", "count": 3, "done": 2, "failed": 1, "position": L,
        "requested_by": "operator@example.com", "request_id": "req", "created_at": NOW, "next_step_at": LATER,
        "finished_at": LATER,
    },
    "reconciliation_runs": {
        "id": U, "status": "completed", "period_from": NOW, "period_to": LATER, "started_at": NOW,
        "finished_at": LATER, "counts": {"transactions": 1}, "totals": {"USD": {"charged": 1}}, "error": None,
        "provider": "simulated", "requested_by": "operator@example.com", "enqueued_at": NOW,
    },
    "discrepancies": {
        "id": D, "kind": "amount_mismatch", "subject_id": T, "transaction_id": T, "settlement_id": S, "currency": "USD",
        "expected_amount": 1000, "actual_amount": 999, "detail": "They differ.", "status": "open", "first_run_id": U,
        "last_run_id": U, "first_seen_at": NOW, "last_seen_at": LATER, "resolution": None, "note": None,
        "resolved_by": None, "resolved_at": None,
    },
    "reconciliation_findings": {"run_id": U, "discrepancy_id": D},
    "statements": {
        "id": U, "provider": "sandbox", "content_hash": HASH, "period_from": NOW, "period_to": LATER, "lines": 1,
        "totals": {"USD": {"charges": 1}}, "run_id": U, "uploaded_by": "operator@example.com", "created_at": NOW,
    },
    "statement_lines": {
        "statement_id": U, "number": 2, "provider": "sandbox", "type": "charge", "provider_reference": "ch_1",
        "idempotency_key": T, "subject_id": T, "amount": 1000, "fee": 29, "currency": "USD", "at": NOW,
    },
    "alerts": {
        "id": U, "severity": "error", "message": "It broke.", "details": {"kind": "test"}, "status": "failed",
        "attempts": 4, "last_error": "HTTP 500", "created_at": NOW, "finished_at": LATER,
    },
    "audit_log": {
        "id": U, "actor": "operator@example.com", "action": "dead_letter.replayed", "subject": L,
        "detail": {"note": "a note"}, "created_at": NOW,
    },
    "invariant_checks": {
        "name": "ledger_balances_by_source", "checked_at": LATER, "violations": 1, "sample": [{"subject": S}],
        "broken_since": NOW, "alerted_at": LATER,
    },
    "rate_limits": {"subject": f"merchant:{M}", "tokens": 1.5, "granted": 3, "pacing": True, "refilled_at": NOW},
    "queue_states": {
        "name": "refund.requested", "checked_at": NOW, "failing_since": NOW, "reason": "It is full.", "consumers": 2,
        "waiting_since": NOW, "taken_at": LATER,
    },
}  # fmt: skip
"""The rows, with the names of the newest revision, each after the rows that it references."""

RENAMED = {
    "charge_attempts": "attempts",
    "snapshot": "state",
    "amount_refund_reserved": "amount_refunding",
    "requeues": "rescues",
    "requeued_at": "rescued_at",
}
"""Tables and columns that had another name before 0008."""


def tables(connection: Connection) -> dict[str, list[str]]:
    """Return the columns of each table of the current schema."""
    found: dict[str, list[str]] = {}
    columns = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    for table, column in connection.execute(text(columns)):
        found.setdefault(table, []).append(column)
    del found["alembic_version"]
    return found


def fill(connection: Connection) -> None:
    """Insert one row into every table of the current schema."""
    schema = tables(connection)
    for new_table, row in ROWS.items():
        table = new_table if new_table in schema else RENAMED.get(new_table, new_table)
        if table not in schema:
            continue
        values = {name if name in schema[table] else RENAMED.get(name, name): value for name, value in row.items()}
        values = {name: value for name, value in values.items() if name in schema[table]}
        assert values.keys() == set(schema[table]), f"the row of {table} does not name every column"
        names = ", ".join(f'"{name}"' for name in values)
        statement = f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM "  # noqa: S608
        statement += f"jsonb_populate_record(NULL::{table}, CAST(:row AS jsonb))"
        connection.execute(text(statement), {"row": json.dumps(values)})


def contents(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table, with the names of the newest revision."""
    newest = {old: new for new, old in RENAMED.items()}
    found = {}
    for table in tables(connection):
        rows = connection.execute(text(f"SELECT to_jsonb(t) FROM {table} t ORDER BY to_jsonb(t)")).scalars()  # noqa: S608
        found[newest.get(table, table)] = [
            {newest.get(name, name): value for name, value in row.items()} for row in rows
        ]
    return found
