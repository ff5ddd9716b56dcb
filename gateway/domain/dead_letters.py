"""Dead letters: storing what the broker gave up on, and an operator's replay or discard.

The broker's word that a message is dead is not the last one: whether a transaction had its attempts is known here.
Work that died untried (expired, dropped with its worker) is enqueued again; only the rest becomes a dead letter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from gateway.domain import alerts, audit, outbox, rescue
from gateway.domain.ids import new_id, rfc3339
from gateway.domain.listing import conditions
from gateway.domain.transactions import ATTEMPT_LIMIT
from gateway.errors import AlreadyResolved, InvalidState, NotFound
from gateway.models.dead_letters import DeadLetter
from gateway.states import UNFINISHED, DeadLetterStatus, TransactionStatus

RESCUE_LIMIT = 10
"""A transaction that was enqueued again so often without an attempt being counted is dead after all."""
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
               count(*) > 0 AND coalesce((array_agg(outcome ORDER BY number DESC))[1], 'unknown') = 'unknown' AS in_doubt,
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
            if state is None or _is_dead(state):
                letters.append(_letter(message, id, state))
            elif state.status not in UNFINISHED or state.leased:
                result.ignored.append(id)
            else:
                result.rescued.append(id)
    if letters:
        _give_up(connection, [states[letter["transaction_id"]] for letter in letters if letter["merchant_id"]])
        insert_new = insert(DeadLetter).on_conflict_do_nothing().returning(DeadLetter.queue, DeadLetter.reason)
        result.dead = [(row.queue, row.reason) for row in connection.execute(insert_new, letters)]
    result.rescued = rescue.enqueue_again(connection, result.rescued)
    if result.dead:
        _alert_dead(connection, letters)
    if result.rescued:
        _alert_rescued(connection, messages, result.rescued)
    return result


def _is_dead(state: Row[*tuple[Any, ...]]) -> bool:
    spent = state.attempts >= state.attempt_limit or state.rescues >= RESCUE_LIMIT
    return state.status in UNFINISHED and spent and not state.leased


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
    subjects = [str(letter["transaction_id"]) for letter in letters if letter["transaction_id"]]
    first, reason = letters[0], letters[0]["reason"]
    what = f"transaction {subjects[0]}" if len(letters) == 1 and subjects else f"{len(letters)} dead letters"
    alerts.raise_alert(
        connection,
        "error",
        f"Dead-lettered: {what} on {first['queue']} ({reason})",
        {
            "count": len(letters),
            "dead_letter_ids": [str(letter["id"]) for letter in letters[:ALERT_IDS_MAX]],
            "transaction_ids": subjects[:ALERT_IDS_MAX],
            "queue": first["queue"],
            "reason": reason,
            "exception": first["exception"],
            "what_to_do": "flask dead-letters show ID, then replay or discard it",
        },
    )


def _alert_rescued(connection: Connection, messages: Sequence[DeadMessage], rescued: Sequence[UUID]) -> None:
    alerts.raise_alert(
        connection,
        "warning",
        f"{len(rescued)} transactions left their queue untried and were enqueued again",
        {
            "count": len(rescued),
            "transaction_ids": [str(id) for id in rescued[:ALERT_IDS_MAX]],
            "queues": sorted({message.queue for message in messages}),
            "reasons": sorted({message.reason for message in messages}),
        },
    )


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters to list; None does not filter. Times are inclusive from, exclusive to."""

    status: str | None = None
    queue: str | None = None
    reason: str | None = None
    merchant_id: UUID | None = None
    dead_lettered_from: datetime | None = None
    dead_lettered_to: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as SQL."""
        return conditions(
            (DeadLetter.status, eq, self.status),
            (DeadLetter.queue, eq, self.queue),
            (DeadLetter.reason, eq, self.reason),
            (DeadLetter.merchant_id, eq, self.merchant_id),
            (DeadLetter.dead_lettered_at, ge, self.dead_lettered_from),
            (DeadLetter.dead_lettered_at, lt, self.dead_lettered_to),
        )


_TABLE = DeadLetter.__table__


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    plain = ("queue", "task", "reason", "exception", "attempts", "payload", "headers", "status", "resolved_by", "note")
    values = row._mapping
    return {
        "id": str(row.id),
        "object": "dead_letter",
        "transaction_id": str(row.transaction_id) if row.transaction_id else None,
        "merchant_id": str(row.merchant_id) if row.merchant_id else None,
        **{name: values[name] for name in plain},
        "first_failed_at": rfc3339(row.first_failed_at),
        "dead_lettered_at": rfc3339(row.dead_lettered_at),
        "resolved_at": rfc3339(row.resolved_at) if row.resolved_at else None,
    }


def list_newest(
    connection: Connection, wanted: DeadLetterFilter, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    """At most `limit` dead letters older than `before`, newest first."""
    query = select(_TABLE).where(*wanted.conditions())
    if before is not None:
        query = query.where(DeadLetter.id < before)
    return [_represent(row) for row in connection.execute(query.order_by(DeadLetter.id.desc()).limit(limit))]


def find(connection: Connection, dead_letter_id: UUID) -> dict[str, Any]:
    """One dead letter, as api.md shows it.

    Raises:
        NotFound: there is none with this id.
    """
    row = connection.execute(select(_TABLE).where(DeadLetter.id == dead_letter_id)).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


def replay(connection: Connection, dead_letter_id: UUID, actor: str) -> dict[str, Any]:
    """Give the transaction a fresh set of attempts and enqueue it.

    Raises:
        NotFound, AlreadyResolved: see `_resolve`.
        InvalidState: it names no transaction that waits as a dead letter, so there is nothing to replay.
    """
    letter = _resolve(connection, dead_letter_id, DeadLetterStatus.REPLAYED, actor, note=None)
    revived = connection.execute(_REVIVE, {"id": letter["transaction_id"], "attempts": ATTEMPT_LIMIT}).one_or_none()
    if revived is None:
        raise InvalidState("This dead letter belongs to no transaction that could be replayed; discard it instead.")
    outbox.enqueue(connection, rescue.TOPIC_OF[TransactionStatus(revived.status)], [revived.id])
    return letter


_REVIVE = text("""
    UPDATE transactions
    SET status = CASE WHEN provider IS NULL THEN 'pending' ELSE 'processing' END,
        attempt_limit = attempts + :attempts, rescues = 0, rescued_at = NULL, last_error = NULL, updated_at = now()
    WHERE id = CAST(:id AS uuid) AND status = 'dead_lettered'
    RETURNING id, status
""")

_DISCARD = text("""
    UPDATE transactions
    SET status = 'failed', failure_code = 'discarded', failure_category = 'discarded', failure_retryable = false,
        failure_message = coalesce(:note, 'An operator discarded this payment.'), updated_at = now()
    WHERE id = CAST(:id AS uuid) AND status = 'dead_lettered'
""")


def discard(connection: Connection, dead_letter_id: UUID, actor: str, note: str | None) -> dict[str, Any]:
    """Give the transaction up for good: it moves to `failed`.

    Raises:
        NotFound, AlreadyResolved: see `_resolve`.
    """
    letter = _resolve(connection, dead_letter_id, DeadLetterStatus.DISCARDED, actor, note)
    connection.execute(_DISCARD, {"id": letter["transaction_id"], "note": note})
    return letter


def _resolve(
    connection: Connection, dead_letter_id: UUID, status: DeadLetterStatus, actor: str, note: str | None
) -> dict[str, Any]:
    """Close an open dead letter.

    Raises:
        NotFound: there is none with this id.
        AlreadyResolved: it was replayed or discarded before.
    """
    closed = connection.execute(
        update(DeadLetter)
        .where(DeadLetter.id == dead_letter_id, DeadLetter.status == DeadLetterStatus.OPEN)
        .values(status=status.value, resolved_at=text("now()"), resolved_by=actor, note=note)
        .returning(*_TABLE.columns)
    ).one_or_none()
    if closed is None:
        earlier = find(connection, dead_letter_id)
        raise AlreadyResolved(f"This dead letter was {earlier['status']} at {earlier['resolved_at']} already.")
    audit.record(
        connection,
        actor=actor,
        action=f"dead_letter.{status.value}",
        subject=str(dead_letter_id),
        detail={"transaction_id": str(closed.transaction_id) if closed.transaction_id else None, "note": note},
    )
    return _represent(closed)
