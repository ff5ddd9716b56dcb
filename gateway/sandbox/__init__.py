"""The sandbox acquirer: a small HTTP server that simulates an acquirer in tests.

It is a separate process (`python -m gateway.sandbox --port N --file PATH`) with a separate file that the gateway never
reads. Tests compare the gateway with its charges, so it charges at most once per idempotency key and survives SIGKILL.
It can be configured to fail in every way in which a real acquirer fails.

Amounts are integers in the currency's minor unit. Bodies are JSON objects of at most 16 KiB without unknown fields.
Errors are `{"error": {"code", "message"}}` with a 4xx or 5xx status.

POST /charges {idempotency_key, amount, currency, payment_method}
    201 {sequence, id, idempotency_key, status: approved|declined, amount, currency, payment_method, decline_code,
    created_at}. A repeated key: 200 and the first result; with other parameters: 409 idempotency_conflict.
    503: not processed.
GET  /charges/<idempotency_key>
    200 the charge; 202 {status: processing} while a call with this key is in progress; 404 unknown_charge: no call
    with this key has charged.
POST /refunds {idempotency_key, charge_id, amount}
    201 {sequence, id, idempotency_key, charge_id, status: succeeded, amount, currency, created_at}, 200 when
    repeated; 404 unknown_charge; 422 not_refundable (declined) or amount_exceeds_charge (all refunds together).
GET  /refunds/<idempotency_key>
    as for charges; 404 unknown_refund.
GET  /charges, GET /refunds
    All of them, oldest first, as JSON lines of the same objects; `?after=<sequence>` continues after that one.
GET  /statement?from=&to=
    The settlement statement as CSV: charge_id, idempotency_key, type (charge, refund), amount, fee, currency, time.
    RFC 3339 times, inclusive from, exclusive to, both optional. A refund has its own idempotency key and no fee.
GET  /health
    200 {status: ok}.
PUT  /control {mode, probability, calls, latency_ms, late_ms, seconds, seed}, GET /control
    The behaviour from now on; gateway.sandbox.behaviour describes the modes and the payment methods.
"""
