"""The history of a transaction, derived from the rows of all tables that concern it.

One statement reads one snapshot of the database. The time of an entry is the one in its row. Entries of one commit have
the same time; they are in causal order.
"""

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.errors import NotFound
from gateway.ids import rfc3339
from gateway.outcomes import ADAPTER_ERROR

ENTRIES_MAX = 1_000


class EntryType(StrEnum):
    """The types of entries, in their causal order within one commit."""

    TRANSACTION_CREATED = "transaction.created"
    TRANSACTION_ROUTED = "transaction.routed"
    ATTEMPT_STARTED = "attempt.started"
    ATTEMPT_FINISHED = "attempt.finished"
    TRANSACTION_COMPLETED = "transaction.completed"
    SETTLEMENT_COMPLETED = "settlement.completed"
    TRANSACTION_DEAD_LETTERED = "transaction.dead_lettered"
    TRANSACTION_REPLAYED = "transaction.replayed"
    TRANSACTION_DISCARDED = "transaction.discarded"
    TRANSACTION_FAILED = "transaction.failed"
    TRANSACTION_CANCELED = "transaction.canceled"
    REFUND_REQUESTED = "refund.requested"
    REFUND_ATTEMPT_STARTED = "refund.attempt_started"
    REFUND_ATTEMPT_FINISHED = "refund.attempt_finished"
    REFUND_COMPLETED = "refund.completed"
    REFUND_DEAD_LETTERED = "refund.dead_lettered"
    REFUND_REPLAYED = "refund.replayed"
    REFUND_DISCARDED = "refund.discarded"
    REFUND_FAILED = "refund.failed"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_ATTEMPTED = "webhook.attempted"
    WEBHOOK_SUCCEEDED = "webhook.succeeded"
    WEBHOOK_EXHAUSTED = "webhook.exhausted"
    WEBHOOK_CANCELED = "webhook.canceled"


_T = EntryType
_RANKS = ", ".join(f"'{kind}'" for kind in _T)


def _attempts(table: str, owner: str, started: EntryType, finished: EntryType, of: str) -> str:
    """Return the SQL of the attempts in `table` at the rows of the CTE `of`, with the delay before each.

    `owner` is the column of `table` that references `of`. Errors of adapters are for operators only, so the message is
    omitted.
    """
    named = "jsonb_build_object('refund_id', a.refund_id) || " if of == "refund" else ""
    return f"""
        SELECT v.at, v.type, v.detail FROM (
            SELECT *, lag(finished_at) OVER (PARTITION BY {owner} ORDER BY number) AS earlier
            FROM {table} WHERE {owner} IN (SELECT id FROM {of})
        ) a CROSS JOIN LATERAL (VALUES
            (a.started_at, '{started}', {named}jsonb_build_object('number', a.number, 'provider', a.provider,
                'delay_ms', {_milliseconds("a.started_at - a.earlier")})),
            (a.finished_at, '{finished}', {named}jsonb_build_object('number', a.number, 'outcome', a.outcome,
                'code', a.code, 'message', CASE WHEN a.code IS DISTINCT FROM '{ADAPTER_ERROR}' THEN a.message END,
                'duration_ms', {_milliseconds("a.finished_at - a.started_at")}))
        ) AS v (at, type, detail) WHERE v.at IS NOT NULL
    """  # noqa: S608  # constants of this module


def _milliseconds(interval: str) -> str:
    return f"round(extract(epoch FROM {interval}) * 1000)::bigint"


# The time in a dead letter's id is when the letter was stored and its transaction dead-lettered; the broker's time has
# only whole seconds. The operator who resolved it is in the audit log.
_DEAD_LETTERS = """
    SELECT v.at, CASE WHEN d.refund_id IS NULL THEN 'transaction.' ELSE 'refund.' END || v.what,
           CASE WHEN d.refund_id IS NULL THEN v.detail ELSE v.detail || jsonb_build_object('refund_id', d.refund_id) END
    FROM dead_letters d CROSS JOIN LATERAL (VALUES
        (to_timestamp(('x' || translate(left(d.id::text, 13), '-', ''))::bit(48)::bigint / 1000.0), 'dead_lettered',
         jsonb_build_object('reason', d.reason, 'attempts', d.attempts)),
        (d.resolved_at, d.status, jsonb_build_object('by', 'operator'))
    ) AS v (at, what, detail)
    WHERE d.transaction_id IN (SELECT id FROM t) AND v.at IS NOT NULL
"""

_TIMELINE = text(f"""
    WITH t AS MATERIALIZED (
        SELECT * FROM transactions WHERE id = :id AND merchant_id = :merchant_id
    ), refund AS MATERIALIZED (
        SELECT r.* FROM refunds r WHERE r.transaction_id IN (SELECT id FROM t) ORDER BY r.id LIMIT {ENTRIES_MAX}
    ), entry AS (
        SELECT v.at, v.type, v.detail FROM t CROSS JOIN LATERAL (VALUES
            (t.created_at, '{_T.TRANSACTION_CREATED}', jsonb_build_object('amount', t.amount, 'currency', t.currency)),
            (t.routed_at, '{_T.TRANSACTION_ROUTED}',
             jsonb_build_object('provider', t.provider, 'reason', t.routing_reason)),
            (t.completed_at, '{_T.TRANSACTION_COMPLETED}', jsonb_build_object('attempts', t.attempts)),
            (CASE WHEN t.status = 'failed' THEN t.updated_at END, '{_T.TRANSACTION_FAILED}',
             jsonb_build_object('code', t.failure_code, 'message', t.failure_message, 'category', t.failure_category)),
            (CASE WHEN t.status = 'canceled' THEN t.updated_at END, '{_T.TRANSACTION_CANCELED}', '{{}}'::jsonb)
        ) AS v (at, type, detail) WHERE v.at IS NOT NULL
        UNION ALL
        {_attempts("charge_attempts", "transaction_id", _T.ATTEMPT_STARTED, _T.ATTEMPT_FINISHED, "t")}
        UNION ALL
        SELECT s.settled_at, '{_T.SETTLEMENT_COMPLETED}', jsonb_build_object('settlement_id', s.id, 'amount', s.amount,
               'fee', s.fee, 'net', s.net)
        FROM settlements s WHERE s.transaction_id IN (SELECT id FROM t)
        UNION ALL
        {_DEAD_LETTERS}
        UNION ALL
        SELECT v.at, v.type, jsonb_build_object('refund_id', r.id) || v.detail
        FROM refund r CROSS JOIN LATERAL (VALUES
            (r.created_at, '{_T.REFUND_REQUESTED}', jsonb_build_object('amount', r.amount, 'reason', r.reason)),
            (r.completed_at, '{_T.REFUND_COMPLETED}', jsonb_build_object('attempts', r.attempts)),
            (CASE WHEN r.status = 'failed' THEN r.updated_at END, '{_T.REFUND_FAILED}',
             jsonb_build_object('code', r.failure_code, 'message', r.failure_message, 'category', r.failure_category))
        ) AS v (at, type, detail) WHERE v.at IS NOT NULL
        UNION ALL
        {_attempts("refund_attempts", "refund_id", _T.REFUND_ATTEMPT_STARTED, _T.REFUND_ATTEMPT_FINISHED, "refund")}
        UNION ALL
        SELECT v.at, v.type, jsonb_build_object('event', w.event_type, 'event_id', w.event_id,
                                                'endpoint_id', w.endpoint_id) || v.detail
        FROM (
            SELECT * FROM webhook_deliveries WHERE transaction_id IN (SELECT id FROM t) ORDER BY id LIMIT {ENTRIES_MAX}
        ) w CROSS JOIN LATERAL (VALUES
            (w.created_at, '{_T.WEBHOOK_CREATED}', '{{}}'::jsonb),
            (coalesce(w.finished_at, w.last_attempt_at),
             CASE w.status WHEN 'pending' THEN '{_T.WEBHOOK_ATTEMPTED}' ELSE 'webhook.' || w.status END,
             jsonb_build_object('attempts', w.attempts, 'response_status', w.response_status))
        ) AS v (at, type, detail)
        WHERE v.at IS NOT NULL
    )
    SELECT at, type, detail FROM entry
    ORDER BY type <> '{_T.TRANSACTION_CREATED}', at, array_position(ARRAY[{_RANKS}], type),
             CAST(detail ->> 'number' AS int)
    LIMIT {ENTRIES_MAX}
""")  # noqa: S608  # constants of this module


def of_transaction(connection: Connection, merchant_id: UUID, transaction_id: UUID) -> list[dict[str, Any]]:
    """Return the first `ENTRIES_MAX` entries of one transaction of this merchant, oldest first.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    rows = connection.execute(_TIMELINE, {"id": transaction_id, "merchant_id": merchant_id}).all()
    if not rows:
        raise NotFound
    return [{"at": rfc3339(row.at), "type": row.type, "detail": row.detail} for row in rows]
