"""The outbox: work that is committed together with its cause, and published later by the relay."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, text

from gateway.domain.shared.sql import ASYNC_COMMIT
from gateway.models.transactions import OutboxMessage

CHANNEL = "outbox"
"""The channel on which a trigger of the table notifies listeners of committed rows."""


class Topic(StrEnum):
    """The work to be done with the subject. The relay maps each topic to a task."""

    TRANSACTION_CREATED = "transaction.created"
    SETTLEMENT_REQUESTED = "settlement.requested"
    ALERT_RAISED = "alert.raised"
    REFUND_REQUESTED = "refund.requested"
    WEBHOOK_DUE = "webhook.due"
    RECONCILIATION_REQUESTED = "reconciliation.requested"
    DEAD_LETTER_JOB_DUE = "dead_letter_job.due"


FIRST_TURN = UUID(int=0)
"""The smallest possible merchant id."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One row taken from the outbox."""

    topic: str
    subject_id: UUID
    merchant_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """Rows in their order. `more`: further rows exist. `next_turn`: the first merchant of the next batch."""

    rows: list[OutboxRow]
    more: bool
    next_turn: UUID = FIRST_TURN


MERCHANTS_MAX = 1_000
"""Maximum number of merchants in one batch; the next batch continues after the last of them."""

_PREPARE = text(ASYNC_COMMIT)
# An array is computed once. A subquery after IN may become the inner side of a nested loop, of which every iteration
# skips the rows that the previous one has locked, and takes the next rows instead.
_TAKE = text("""
    DELETE FROM outbox WHERE id = ANY (ARRAY(
        SELECT id FROM outbox ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    )) RETURNING id, topic, subject_id, merchant_id
""")
# Each merchant takes one index lookup, and so do its rows, regardless of the length of the outbox. Rows without a
# merchant share one turn. A merchant that used its whole share may have more rows. ORDER BY includes the merchant so
# that only the index by merchant fits: with the other one PostgreSQL might search the whole outbox for a merchant.
_TAKE_IN_TURNS = text("""
    WITH RECURSIVE waiting AS (
        (SELECT merchant_id, 1 AS nth FROM outbox WHERE merchant_id >= :next_turn ORDER BY merchant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT o.merchant_id FROM outbox o WHERE o.merchant_id > w.merchant_id ORDER BY o.merchant_id LIMIT 1),
               nth + 1
        FROM waiting w WHERE w.merchant_id IS NOT NULL AND nth <= :merchants_max
    ), weighted AS MATERIALIZED (
        SELECT w.merchant_id, coalesce(m.weight, 1) AS weight
        FROM waiting w LEFT JOIN merchants m ON m.id = w.merchant_id
        WHERE w.merchant_id IS NOT NULL AND nth <= :merchants_max
    ), turn AS MATERIALIZED (
        SELECT merchant_id,
               CAST(ceil(CAST(:limit AS numeric) * weight / (sum(weight) OVER () + ownerless_turns)) AS int) AS share
        FROM weighted,
             (SELECT CAST(EXISTS (SELECT FROM outbox WHERE merchant_id IS NULL) AS int) AS ownerless_turns) AS others
    ), picked AS MATERIALIZED (
        SELECT o.id, t.merchant_id, t.share
        FROM turn t CROSS JOIN LATERAL (
            SELECT id FROM outbox WHERE merchant_id = t.merchant_id
            ORDER BY outbox.merchant_id, id LIMIT t.share FOR UPDATE SKIP LOCKED
        ) o
    ), ownerless AS MATERIALIZED (
        SELECT id FROM outbox WHERE merchant_id IS NULL ORDER BY merchant_id, id
        LIMIT (SELECT coalesce(min(share), :limit) FROM turn) FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM outbox WHERE id = ANY (ARRAY(SELECT id FROM picked UNION ALL SELECT id FROM ownerless))
        RETURNING id, topic, subject_id, merchant_id
    )
    SELECT taken.id, topic, subject_id, merchant_id, more, next_turn
    FROM taken, (
        SELECT EXISTS (SELECT FROM picked GROUP BY picked.merchant_id, share HAVING count(*) >= share)
               OR (SELECT count(*) >= coalesce((SELECT min(share) FROM turn), :limit) FROM ownerless)
               OR (SELECT count(*) > :merchants_max FROM waiting) AS more,
               (SELECT merchant_id FROM waiting WHERE nth > :merchants_max) AS next_turn
    ) AS rest
""")

_TAKE_SOME = text("""
    DELETE FROM outbox WHERE id = ANY (ARRAY(
        SELECT id FROM outbox WHERE topic <> ALL (CAST(:without AS text[])) ORDER BY id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )) RETURNING id, topic, subject_id, merchant_id
""")


def enqueue(connection: Connection, topic: Topic, subject_ids: Iterable[UUID]) -> None:
    """Have the relay publish `topic` for each subject once this database transaction has committed.

    For subjects without a merchant; see `enqueue_of` for the others.
    """
    _insert(connection, [{"topic": topic.value, "subject_id": subject_id} for subject_id in subject_ids])


def enqueue_of(connection: Connection, topic: Topic, subjects: Iterable[tuple[UUID, UUID]]) -> None:
    """Enqueue like `enqueue`, for pairs of a subject and its merchant."""
    messages = [
        {"topic": topic.value, "subject_id": subject_id, "merchant_id": merchant_id}
        for subject_id, merchant_id in subjects
    ]
    _insert(connection, messages)


def _insert(connection: Connection, messages: Sequence[Mapping[str, object]]) -> None:
    if messages:
        connection.execute(insert(OutboxMessage), messages)


def prepare(connection: Connection) -> None:
    """Begin the transaction of `take` before there are rows to take. Its commit does not wait for the disk."""
    connection.execute(_PREPARE)


def take(connection: Connection, limit: int, without: Sequence[str] = ()) -> OutboxBatch:
    """Take the oldest `limit` rows that no other relay has locked; this transaction deletes them.

    Rows of the topics `without` stay.

    A crash of PostgreSQL shortly before or after the commit may restore them, and they are published again.
    """
    if without:
        taken = connection.execute(_TAKE_SOME, {"limit": limit, "without": list(without)}).all()
    else:
        taken = connection.execute(_TAKE, {"limit": limit}).all()
    return OutboxBatch(_in_order(taken), len(taken) >= limit)


def take_in_turns(connection: Connection, limit: int, next_turn: UUID) -> OutboxBatch:
    """Take about `limit` rows: the oldest ones of each merchant, at most its share, starting at merchant `next_turn`.

    The shares are proportional to the merchants' weights. Use this for a backlog: `take` costs less, and is fair if it
    takes everything.
    """
    values = {"limit": limit, "next_turn": next_turn, "merchants_max": MERCHANTS_MAX}
    taken = connection.execute(_TAKE_IN_TURNS, values).all()
    if not taken:  # there are no rows, or none from that merchant on
        return OutboxBatch([], more=next_turn != FIRST_TURN)
    return OutboxBatch(_in_order(taken), taken[0].more or next_turn != FIRST_TURN, taken[0].next_turn or FIRST_TURN)


def _in_order(taken: Iterable[Any]) -> list[OutboxRow]:
    return [OutboxRow(row.topic, row.subject_id, row.merchant_id) for row in sorted(taken, key=lambda row: int(row.id))]


def backlog(connection: Connection) -> tuple[int, datetime | None]:
    """Return the number of rows, and the time of the oldest one."""
    row = connection.execute(select(func.count(), func.min(OutboxMessage.created_at))).one()
    return row[0], row[1]
