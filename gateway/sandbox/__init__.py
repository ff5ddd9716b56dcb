"""The sandbox acquirer: a small bank over HTTP, to be honest against.

It is a process of its own (`python -m gateway.sandbox --port N --file PATH`) with a file of its own that the gateway
never reads. What it says it charged is the truth that a gateway is judged by, so it charges at most once per
idempotency key, survives its own SIGKILL, and can be told to misbehave in every way that a real one does.

Money is an integer in the currency's minor unit. Bodies are JSON objects without unknown fields, at most 16 KiB.
Errors are `{"error": {"code", "message"}}` with a 4xx or 5xx status.

POST /charges {idempotency_key, amount, currency, payment_method}
    201 {sequence, id, idempotency_key, status: approved|declined, amount, currency, payment_method, decline_code,
    created_at}. The same key again: 200 and the first result; with other parameters: 409 idempotency_conflict.
    503: not processed.
GET  /charges/<idempotency_key>
    200 the charge; 202 {status: processing} while a call with this key is in hand; 404 unknown_charge: no call with
    this key charged.
POST /refunds {idempotency_key, charge_id, amount}
    201 {sequence, id, idempotency_key, charge_id, status: succeeded, amount, currency, created_at}, 200 when
    repeated; 404 unknown_charge; 422 not_refundable (declined) or amount_exceeds_charge (all its refunds together).
GET  /refunds/<idempotency_key>
    as for charges; 404 unknown_refund.
GET  /charges, GET /refunds
    Everything, oldest first, as JSON lines of the same objects; `?after=<sequence>` goes on from there.
GET  /statement?from=&to=
    The settlement statement as CSV: charge_id, idempotency_key, type (charge, refund), amount, fee, currency, time.
    RFC 3339 times, inclusive from, exclusive to, both optional. Refunds carry their own idempotency key, and no fee.
GET  /health
    200 {status: ok}.
PUT  /control {mode, probability, calls, latency_ms, late_ms, seconds, seed}, GET /control
    How it behaves from now on; see gateway.sandbox.behaviour for the modes and for the payment methods.
"""
