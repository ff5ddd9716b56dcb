"""Store the messages of dead-letter queues as dead letters, or requeue their transactions and refunds.

A message may be dead although its transaction still has attempts, because it expired or its worker died. Such work is
requeued. Only transactions and refunds without further attempts become dead letters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, TextClause, text
from sqlalchemy.dialects.postgresql import insert

from gateway.domain.payments import dead_lettering, requeueing
from gateway.domain.payments.dead_lettering import DeadLettering
from gateway.domain.payments.kinds import KINDS, REFUNDS, TRANSACTIONS, Kind
from gateway.domain.shared import alerts
from gateway.domain.shared.alerts import IDS_MAX
from gateway.domain.shared.failures import EXPIRED, failure_of_dead_letter
from gateway.ids import new_id, utc_now
from gateway.models.dead_letters import DeadLetter
from gateway.states import UNFINISHED

REQUEUE_LIMIT = 10
"""Work that was requeued this many times is dead if it is rejected once more without an attempt."""
ALERTS_MAX = 30
ALERT_SECONDS = 60
"""At most `ALERTS_MAX` alerts about dead letters are raised in this time, and one about the suppressed ones."""
IN_DOUBT = "in_doubt"
"""The reason if the outcome of the last attempt is unknown: the provider may have charged or refunded.

A replay queries the status first.
"""


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message from a dead-letter queue. Its ids are empty if the payload is unreadable."""

    message_key: str
    queue: str
    reason: str
    task: str | None
    payload: str
    headers: dict[str, Any]
    dead_lettered_at: datetime
    transaction_ids: tuple[UUID, ...] = ()
    refund_ids: tuple[UUID, ...] = ()


@dataclass(slots=True)
class Stored:
    """The result of storing a batch of dead messages."""

    dead: list[tuple[str, str]] = field(default_factory=list)
    """Queue and reason of each new dead letter."""
    requeued: list[UUID] = field(default_factory=list)
    ignored: list[UUID] = field(default_factory=list)
    """Ids with a final status, or that a worker is processing."""


def _states_statement(kind: Kind, ids: str) -> TextClause:
    attempts, key = kind.attempts, kind.key
    return text(f"""
        SELECT s.id, {ids}, s.status, s.merchant_id, s.attempt_limit, s.requeues, s.request_id, s.created_at,
               a.attempts, a.in_doubt, a.leased, a.first_failed_at, e.code, e.message,
               coalesce(s.last_error, e.code || ': ' || e.message) AS error
        FROM {kind.table} s
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
    """)  # noqa: S608  # constants


_STATES = {
    REFUNDS: _states_statement(REFUNDS, "s.transaction_id, s.id AS refund_id"),
    TRANSACTIONS: _states_statement(TRANSACTIONS, "s.id AS transaction_id, NULL::uuid AS refund_id"),
}
"""In the order in which every database transaction locks the rows, so that no two of them deadlock."""


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
    _dead_letter(connection, states, [letter for letter in new if letter["merchant_id"]])
    result.requeued = [id for kind in KINDS for id in requeueing.requeue(connection, kind, result.requeued)]
    if new:
        _alert_dead(connection, new)
    if result.requeued:
        _alert_requeued(connection, messages, result.requeued)
    return result


def _states(connection: Connection, messages: Sequence[DeadMessage]) -> dict[UUID, Row[Any]]:
    """Lock the transactions and refunds that the messages name; return their states."""
    ids = {
        REFUNDS: sorted({id for message in messages for id in message.refund_ids}),
        TRANSACTIONS: sorted({id for message in messages for id in message.transaction_ids}),
    }
    rows: list[Row[Any]] = []
    for kind, statement in _STATES.items():
        if ids[kind]:
            rows += connection.execute(statement, {"ids": ids[kind]})
    return {row.id: row for row in rows}


def _is_dead(state: Row[Any], reason: str) -> bool:
    """Return whether there is no further attempt. An expired message only waited, so it may be requeued any time."""
    spent = state.attempts >= state.attempt_limit or (state.requeues >= REQUEUE_LIMIT and reason != EXPIRED)
    return state.status in UNFINISHED and spent and not state.leased


def _insert(connection: Connection, letters: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Store those of `letters` that are new, and return them.

    A letter that is already stored was redelivered because the monitor died before it acknowledged the message. Its
    transaction may have been replayed since.
    """
    if not letters:
        return []
    insert_new = insert(DeadLetter).on_conflict_do_nothing().returning(DeadLetter.id)
    stored = set(connection.scalars(insert_new, letters))
    return [letter for letter in letters if letter["id"] in stored]


def _dead_letter(connection: Connection, states: Mapping[UUID, Row[Any]], letters: Sequence[dict[str, Any]]) -> None:
    causes: dict[Kind, list[DeadLettering]] = {TRANSACTIONS: [], REFUNDS: []}
    for letter in letters:
        kind = REFUNDS if letter["refund_id"] else TRANSACTIONS
        state = states[letter["refund_id"] or letter["transaction_id"]]
        failure = failure_of_dead_letter(state.code, state.message, letter["reason"])
        causes[kind].append(DeadLettering(state.id, state.attempts, *failure))
    for kind, of_kind in causes.items():
        dead_lettering.dead_letter(connection, kind, of_kind)


def _letter(message: DeadMessage, id: UUID | None, state: Row[Any] | None) -> dict[str, Any]:
    """Return the dead letter of the object with this `id`. Without a `state`, the object does not exist."""
    of_refund = id in message.refund_ids
    first_failed_at = (state.first_failed_at or state.created_at) if state else message.dead_lettered_at
    # The broker's clock may differ from the database's.
    dead_lettered_at = min(max(message.dead_lettered_at, first_failed_at), utc_now())
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
        "first_failed_at": min(first_failed_at, dead_lettered_at),
        "dead_lettered_at": dead_lettered_at,
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
            "what_to_do": "Read the dead letter with flask dead-letters show ID, then replay or discard it.",
        },
    )


def _alert_flood(connection: Connection) -> None:
    """Raise one alert instead of the alerts above the limit."""
    if not alerts.raised_within(connection, ALERT_SECONDS, "dead_letter_flood"):
        message = f"More than {ALERTS_MAX} alerts about dead letters within {ALERT_SECONDS} s; others are suppressed"
        what_to_do = "List the dead letters with flask dead-letters list; check whether a provider is unavailable."
        details = {"kind": "dead_letter_flood", "what_to_do": what_to_do}
        alerts.raise_alert(connection, "critical", message, details)


def _alert_requeued(connection: Connection, messages: Sequence[DeadMessage], requeued: Sequence[UUID]) -> None:
    if alerts.raised_within(connection, ALERT_SECONDS, "requeued"):
        return
    alerts.raise_alert(
        connection,
        "warning",
        f"{len(requeued)} transactions or refunds left their queue without an attempt and were requeued",
        {
            "kind": "requeued",
            "count": len(requeued),
            "ids": [str(id) for id in requeued[:IDS_MAX]],
            "queues": sorted({message.queue for message in messages}),
            "reasons": sorted({message.reason for message in messages}),
        },
    )
