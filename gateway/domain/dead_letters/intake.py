"""Taking dead messages in: which of their transactions and refunds are dead, and which only lost their message.

The broker's word that a message is dead is not the last one: whether its subject had its attempts is known here.
Work that died untried (expired, dropped with its worker) is enqueued again; only the rest becomes a dead letter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, TextClause, text
from sqlalchemy.dialects.postgresql import insert

from gateway.domain.payments import requeueing
from gateway.domain.shared import alerts
from gateway.domain.shared.alerts import IDS_MAX
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.domain.shared.failures import EXPIRED, cause_of_death
from gateway.ids import new_id, utc_now
from gateway.models.dead_letters import DeadLetter
from gateway.states import UNFINISHED, EventType

REQUEUE_LIMIT = 10
"""What was enqueued again so often, and is rejected once more without an attempt, is dead after all."""
ALERTS_MAX = 30
ALERT_SECONDS = 60
"""So many alerts about dead letters in so many seconds; what comes on top is told in one."""
IN_DOUBT = "in_doubt"
"""The reason of a payment or refund whose last attempt has no known outcome: the provider may have done it.

A replay queries its status before it is sent again.
"""


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message from a dead-letter queue. Its payload names transactions or refunds, or nothing that can be read."""

    message_key: str
    queue: str
    reason: str
    task: str | None
    payload: str
    headers: dict[str, Any]
    died_at: datetime
    transaction_ids: tuple[UUID, ...] = ()
    refund_ids: tuple[UUID, ...] = ()


@dataclass(slots=True)
class Stored:
    """What became of a batch of dead messages."""

    dead: list[tuple[str, str]] = field(default_factory=list)
    """Queue and reason of each new dead letter."""
    requeued: list[UUID] = field(default_factory=list)
    ignored: list[UUID] = field(default_factory=list)
    """Settled otherwise, or in the hands of a live worker."""


def _state_statement(table: str, attempts: str, key: str, names: str) -> TextClause:
    return text(f"""
        SELECT s.id, {names}, s.status, s.merchant_id, s.attempt_limit, s.requeues, s.request_id, s.created_at,
               a.attempts, a.in_doubt, a.leased, a.first_failed_at, e.code, e.message,
               coalesce(s.last_error, e.code || ': ' || e.message) AS error
        FROM {table} s
        CROSS JOIN LATERAL (
            SELECT coalesce(max(number), 0) AS attempts, min(started_at) AS first_failed_at,
                   count(*) > 0
                       AND coalesce((array_agg(outcome ORDER BY number DESC))[1], 'unknown') = 'unknown' AS in_doubt,
                   coalesce(bool_or(outcome IS NULL AND lease_until > now()), false) AS leased
            FROM {attempts} WHERE {key} = s.id
        ) a
        LEFT JOIN LATERAL (
            SELECT code, message FROM {attempts}
            WHERE {key} = s.id AND code IS NOT NULL ORDER BY number DESC LIMIT 1
        ) e ON true
        WHERE s.id = ANY(CAST(:ids AS uuid[]))
        ORDER BY s.id FOR UPDATE OF s
    """)  # noqa: S608  # the parts are constants of this module


_STATE_OF_TRANSACTIONS = _state_statement(
    "transactions", "charge_attempts", "transaction_id", "s.id AS transaction_id, NULL::uuid AS refund_id"
)
_STATE_OF_REFUNDS = _state_statement("refunds", "refund_attempts", "refund_id", "s.transaction_id, s.id AS refund_id")

_DEAD = """
    SET status = 'dead_lettered', attempts = a.attempts, failure_code = a.code, failure_message = a.message,
        failure_category = a.category, failure_retryable = true, updated_at = now()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:codes AS text[]), CAST(:messages AS text[]),
                CAST(:categories AS text[])) AS a (id, attempts, code, message, category)
"""

# A replay may change what the event's object shows, so the event keeps all of that.
_GIVE_UP_TRANSACTIONS = text(f"""
    WITH moved AS (
        UPDATE transactions {_DEAD}
        WHERE transactions.id = a.id AND status IN ('pending', 'processing')
        RETURNING transactions.id, merchant_id, status, provider, transactions.attempts, failure_code, failure_message,
                  failure_category, failure_retryable
    ), event_source AS (
        SELECT merchant_id, '{EventType.TRANSACTION_DEAD_LETTERED}' AS type, id AS object_id, id AS transaction_id,
               jsonb_build_object(
                   'status', status, 'provider', provider, 'provider_reference', NULL,
                   'failure', jsonb_build_object('code', failure_code, 'message', failure_message,
                                                 'category', failure_category, 'retryable', failure_retryable),
                   'attempts', attempts, 'amount_refunded', 0, 'completed_at', NULL) AS snapshot
        FROM moved
    ), {RECORD_EVENTS}
    SELECT id FROM moved
""")  # noqa: S608  # a constant

_GIVE_UP_REFUNDS = text(f"""
    UPDATE refunds {_DEAD}
    WHERE refunds.id = a.id AND status = 'pending'
""")


def store(connection: Connection, messages: Sequence[DeadMessage]) -> Stored:
    """Store a batch of dead messages, with one alert for all of them; a repeat changes nothing."""
    states = _states(connection, messages)
    result = Stored()
    letters: list[dict[str, Any]] = []
    for message in messages:
        ids = message.transaction_ids + message.refund_ids
        if not ids:
            letters.append(_letter(message, None, None))
        for id in ids:
            state = states.get(id)
            if state is None or _is_dead(state, message.reason):
                letters.append(_letter(message, id, state))
            elif state.status not in UNFINISHED or state.leased:
                result.ignored.append(id)
            else:
                result.requeued.append(id)
    new = _insert(connection, letters)
    result.dead = [(letter["queue"], letter["reason"]) for letter in new]
    _give_up(connection, states, [letter for letter in new if letter["merchant_id"]])
    result.requeued = [
        id for kind in requeueing.KINDS for id in requeueing.enqueue_again(connection, kind, result.requeued)
    ]
    if new:
        _alert_dead(connection, new)
    if result.requeued:
        _alert_requeued(connection, messages, result.requeued)
    return result


def _states(connection: Connection, messages: Sequence[DeadMessage]) -> dict[UUID, Row[Any]]:
    """How the transactions and refunds that the messages name stand; locked, so that nobody moves them meanwhile."""
    payments = sorted({id for message in messages for id in message.transaction_ids})
    refunds = sorted({id for message in messages for id in message.refund_ids})
    rows: list[Row[Any]] = []
    # Refunds come before transactions in every database transaction that locks both, so that none waits in a circle.
    for statement, ids in ((_STATE_OF_REFUNDS, refunds), (_STATE_OF_TRANSACTIONS, payments)):
        if ids:
            rows += connection.execute(statement, {"ids": ids})
    return {row.id: row for row in rows}


def _is_dead(state: Row[Any], reason: str) -> bool:
    """A message that expired only waited too long: that says nothing against its transactions, however often."""
    spent = state.attempts >= state.attempt_limit or (state.requeues >= REQUEUE_LIMIT and reason != EXPIRED)
    return state.status in UNFINISHED and spent and not state.leased


def _insert(connection: Connection, letters: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Store those of `letters` that are new, and return them.

    One stored before came again because the monitor died before it acknowledged: it says nothing about what a replay
    has made of the transaction since.
    """
    if not letters:
        return []
    insert_new = insert(DeadLetter).on_conflict_do_nothing().returning(DeadLetter.id)
    stored = set(connection.scalars(insert_new, letters))
    return [letter for letter in letters if letter["id"] in stored]


def _give_up(connection: Connection, states: Mapping[UUID, Row[Any]], letters: Sequence[dict[str, Any]]) -> None:
    refunds = {letter["refund_id"]: letter["reason"] for letter in letters if letter["refund_id"]}
    payments = {letter["transaction_id"]: letter["reason"] for letter in letters if not letter["refund_id"]}
    for statement, dead in ((_GIVE_UP_TRANSACTIONS, payments), (_GIVE_UP_REFUNDS, refunds)):
        if not dead:
            continue
        causes = [cause_of_death(states[id].code, states[id].message, reason) for id, reason in dead.items()]
        values = {
            "ids": list(dead),
            "attempts": [states[id].attempts for id in dead],
            "codes": [code for code, _, _ in causes],
            "messages": [message for _, message, _ in causes],
            "categories": [category for _, _, category in causes],
        }
        connection.execute(statement, values)


def _letter(message: DeadMessage, id: UUID | None, state: Row[Any] | None) -> dict[str, Any]:
    """The dead letter of what the message names by `id`; without a `state` there is no such thing."""
    of_refund = id in message.refund_ids
    first_failed_at = (state.first_failed_at or state.created_at) if state else message.died_at
    died_at = min(max(message.died_at, first_failed_at), utc_now())  # the broker's clock may differ from the database's
    return {
        "id": new_id(),
        "message_key": message.message_key,
        "transaction_id": state.transaction_id if state else None if of_refund else id,
        "refund_id": id if of_refund else None,
        "merchant_id": state.merchant_id if state else None,
        "queue": message.queue,
        "task": message.task,
        "reason": IN_DOUBT if state and state.in_doubt else message.reason,
        "exception": state.error
        if state
        else f"No {'refund' if of_refund else 'transaction'} has this id."
        if id
        else None,
        "attempts": state.attempts if state else 0,
        "payload": message.payload,
        "headers": message.headers,
        "first_failed_at": min(first_failed_at, died_at),
        "dead_lettered_at": died_at,
    }


def _alert_dead(connection: Connection, letters: Sequence[dict[str, Any]]) -> None:
    if alerts.raised_within(connection, ALERT_SECONDS, "dead_letter", ALERTS_MAX):
        _alert_flood(connection)
        return
    first, reason = letters[0], letters[0]["reason"]
    refunds = [str(letter["refund_id"]) for letter in letters if letter["refund_id"]]
    payments = [str(letter["transaction_id"]) for letter in letters if letter["transaction_id"]]
    named = [f"refund {id}" for id in refunds] or [f"transaction {id}" for id in payments]
    what = named[0] if len(letters) == 1 and named else f"{len(letters)} dead letters"
    alerts.raise_alert(
        connection,
        "error",
        f"Dead-lettered: {what} on {first['queue']} ({reason})",
        {
            "kind": "dead_letter",
            "count": len(letters),
            "dead_letter_ids": [str(letter["id"]) for letter in letters[:IDS_MAX]],
            "transaction_ids": payments[:IDS_MAX],
            "refund_ids": refunds[:IDS_MAX],
            "queue": first["queue"],
            "reason": reason,
            "exception": first["exception"],
            "what_to_do": "flask dead-letters show ID, then replay or discard it",
        },
    )


def _alert_flood(connection: Connection) -> None:
    """Whoever is paged by the first thirty has nothing from the next thousand, but must know that they come."""
    if not alerts.raised_within(connection, ALERT_SECONDS, "dead_letter_flood"):
        message = f"Over {ALERTS_MAX} alerts about dead letters within {ALERT_SECONDS} s; no more of them for now"
        details = {"kind": "dead_letter_flood", "what_to_do": "flask dead-letters list; is a provider away?"}
        alerts.raise_alert(connection, "critical", message, details)


def _alert_requeued(connection: Connection, messages: Sequence[DeadMessage], requeued: Sequence[UUID]) -> None:
    if alerts.raised_within(connection, ALERT_SECONDS, "requeued"):
        return
    alerts.raise_alert(
        connection,
        "warning",
        f"{len(requeued)} transactions or refunds left their queue untried and were enqueued again",
        {
            "kind": "requeued",
            "count": len(requeued),
            "ids": [str(id) for id in requeued[:IDS_MAX]],
            "queues": sorted({message.queue for message in messages}),
            "reasons": sorted({message.reason for message in messages}),
        },
    )
