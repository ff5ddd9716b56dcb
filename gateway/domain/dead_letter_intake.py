"""Taking dead messages in: which of their transactions are dead, and which only lost their message.

The broker's word that a message is dead is not the last one: whether a transaction had its attempts is known here.
Work that died untried (expired, dropped with its worker) is enqueued again; only the rest becomes a dead letter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text
from sqlalchemy.dialects.postgresql import insert

from gateway.domain import alerts, rescue
from gateway.domain.ids import new_id
from gateway.models.dead_letters import DeadLetter
from gateway.states import UNFINISHED

EXPIRED = "expired"
RESCUE_LIMIT = 10
"""A transaction that was enqueued again so often, and is rejected once more without an attempt, is dead after all."""
ALERTS_MAX = 30
ALERT_SECONDS = 60
"""So many alerts about dead letters in so many seconds; what comes on top is told in one."""
IN_DOUBT = "in_doubt"
"""The reason of a payment whose last attempt has no known outcome: the provider may have charged.

A replay queries the charge's status before it charges again.
"""
ALERT_IDS_MAX = 20


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message from a dead-letter queue. `transaction_ids` are those that its payload names, if it can be read."""

    message_key: str
    queue: str
    reason: str
    task: str | None
    payload: str
    headers: dict[str, Any]
    died_at: datetime
    transaction_ids: tuple[UUID, ...] = ()


@dataclass(slots=True)
class Stored:
    """What became of a batch of dead messages."""

    dead: list[tuple[str, str]] = field(default_factory=list)
    """Queue and reason of each new dead letter."""
    rescued: list[UUID] = field(default_factory=list)
    ignored: list[UUID] = field(default_factory=list)
    """Settled otherwise, or in the hands of a live worker."""


_STATE = text("""
    SELECT t.id, t.status, t.merchant_id, t.attempt_limit, t.rescues, t.request_id, t.created_at,
           a.attempts, a.in_doubt, a.leased, a.first_failed_at, coalesce(t.last_error, e.error) AS error
    FROM transactions t
    CROSS JOIN LATERAL (
        SELECT coalesce(max(number), 0) AS attempts, min(started_at) AS first_failed_at,
               count(*) > 0
                   AND coalesce((array_agg(outcome ORDER BY number DESC))[1], 'unknown') = 'unknown' AS in_doubt,
               coalesce(bool_or(outcome IS NULL AND lease_until > now()), false) AS leased
        FROM attempts WHERE transaction_id = t.id
    ) a
    LEFT JOIN LATERAL (
        SELECT code || ': ' || message AS error FROM attempts
        WHERE transaction_id = t.id AND code IS NOT NULL ORDER BY number DESC LIMIT 1
    ) e ON true
    WHERE t.id = ANY(CAST(:ids AS uuid[]))
    FOR UPDATE OF t
""")

_GIVE_UP = text("""
    UPDATE transactions SET status = 'dead_lettered', attempts = a.attempts, updated_at = now()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS a (id, attempts)
    WHERE transactions.id = a.id AND status IN ('pending', 'processing')
""")


def store(connection: Connection, messages: Sequence[DeadMessage]) -> Stored:
    """Store a batch of dead messages, with one alert for all of them; a repeat changes nothing."""
    ids = sorted({id for message in messages for id in message.transaction_ids})
    states = {row.id: row for row in connection.execute(_STATE, {"ids": ids})} if ids else {}
    result = Stored()
    letters: list[dict[str, Any]] = []
    for message in messages:
        if not message.transaction_ids:
            letters.append(_letter(message, None, None))
        for id in message.transaction_ids:
            state = states.get(id)
            if state is None or _is_dead(state, message.reason):
                letters.append(_letter(message, id, state))
            elif state.status not in UNFINISHED or state.leased:
                result.ignored.append(id)
            else:
                result.rescued.append(id)
    new = _insert(connection, letters)
    result.dead = [(letter["queue"], letter["reason"]) for letter in new]
    _give_up(connection, [states[letter["transaction_id"]] for letter in new if letter["merchant_id"]])
    result.rescued = rescue.enqueue_again(connection, result.rescued)
    if new:
        _alert_dead(connection, new)
    if result.rescued:
        _alert_rescued(connection, messages, result.rescued)
    return result


def _is_dead(state: Row[*tuple[Any, ...]], reason: str) -> bool:
    """A message that expired only waited too long: that says nothing against its transactions, however often."""
    spent = state.attempts >= state.attempt_limit or (state.rescues >= RESCUE_LIMIT and reason != EXPIRED)
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


def _give_up(connection: Connection, states: Iterable[Row[*tuple[Any, ...]]]) -> None:
    attempts = {state.id: state.attempts for state in states}
    if attempts:
        connection.execute(_GIVE_UP, {"ids": list(attempts), "attempts": list(attempts.values())})


def _letter(message: DeadMessage, transaction_id: UUID | None, state: Row[*tuple[Any, ...]] | None) -> dict[str, Any]:
    return {
        "id": new_id(),
        "message_key": message.message_key,
        "transaction_id": transaction_id,
        "merchant_id": state.merchant_id if state else None,
        "queue": message.queue,
        "task": message.task,
        "reason": IN_DOUBT if state and state.in_doubt else message.reason,
        "exception": state.error if state else "No transaction has this id." if transaction_id else None,
        "attempts": state.attempts if state else 0,
        "payload": message.payload,
        "headers": message.headers,
        "first_failed_at": (state.first_failed_at or state.created_at) if state else message.died_at,
        "dead_lettered_at": message.died_at,
    }


def _alert_dead(connection: Connection, letters: Sequence[dict[str, Any]]) -> None:
    if alerts.raised_within(connection, ALERT_SECONDS, "dead_letter", ALERTS_MAX):
        _alert_flood(connection)
        return
    subjects = [str(letter["transaction_id"]) for letter in letters if letter["transaction_id"]]
    first, reason = letters[0], letters[0]["reason"]
    what = f"transaction {subjects[0]}" if len(letters) == 1 and subjects else f"{len(letters)} dead letters"
    alerts.raise_alert(
        connection,
        "error",
        f"Dead-lettered: {what} on {first['queue']} ({reason})",
        {
            "kind": "dead_letter",
            "count": len(letters),
            "dead_letter_ids": [str(letter["id"]) for letter in letters[:ALERT_IDS_MAX]],
            "transaction_ids": subjects[:ALERT_IDS_MAX],
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


def _alert_rescued(connection: Connection, messages: Sequence[DeadMessage], rescued: Sequence[UUID]) -> None:
    if alerts.raised_within(connection, ALERT_SECONDS, "rescued"):
        return
    alerts.raise_alert(
        connection,
        "warning",
        f"{len(rescued)} transactions left their queue untried and were enqueued again",
        {
            "kind": "rescued",
            "count": len(rescued),
            "transaction_ids": [str(id) for id in rescued[:ALERT_IDS_MAX]],
            "queues": sorted({message.queue for message in messages}),
            "reasons": sorted({message.reason for message in messages}),
        },
    )
