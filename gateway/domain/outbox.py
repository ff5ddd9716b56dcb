"""The outbox: work that is committed together with its cause, and published afterwards by the relay."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, text

from gateway.db import WITHOUT_WAITING_FOR_THE_DISK, rows
from gateway.models.transactions import OutboxMessage

CHANNEL = "outbox"
"""Where PostgreSQL notifies those who listen that rows were committed: by a trigger, so whoever writes them."""


class Topic(StrEnum):
    """What is to be done with the subject; the relay knows which task does it."""

    TRANSACTION_CREATED = "transaction.created"
    SETTLEMENT_REQUESTED = "settlement.requested"
    ALERT_RAISED = "alert.raised"
    REFUND_REQUESTED = "refund.requested"
    WEBHOOK_DUE = "webhook.due"
    RECONCILIATION_REQUESTED = "reconciliation.requested"
    DEAD_LETTER_JOB_DUE = "dead_letter_job.due"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row taken from the outbox."""

    topic: str
    subject_id: UUID


_PREPARE = text(WITHOUT_WAITING_FOR_THE_DISK)
# An array is made once. A subquery after IN may become the inner side of a nested loop, whose every round skips the
# rows that the one before has locked, and takes the next ones instead.
_TAKE = text("""
    DELETE FROM outbox WHERE id = ANY (ARRAY(
        SELECT id FROM outbox ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    )) RETURNING id, topic, subject_id
""")

_TAKE_SOME = text("""
    DELETE FROM outbox WHERE id = ANY (ARRAY(
        SELECT id FROM outbox WHERE topic <> ALL (CAST(:without AS text[])) ORDER BY id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )) RETURNING id, topic, subject_id
""")


def enqueue(connection: Connection, topic: Topic, subject_ids: Iterable[UUID]) -> None:
    """Have the relay publish `topic` for each subject once this database transaction has committed."""
    messages = [{"topic": topic.value, "subject_id": subject_id} for subject_id in subject_ids]
    if messages:
        connection.execute(insert(OutboxMessage), messages)


def prepare(connection: Connection) -> None:
    """Begin a transaction that `take` will be in, before there is anything to take. Its commit waits for no disk."""
    rows(connection, _PREPARE, {})


def take(connection: Connection, limit: int, without: Sequence[str] = ()) -> list[Waiting]:
    """Take the oldest `limit` rows that no other relay holds; they are gone when this transaction commits.

    Rows of the topics `without` stay.

    A crash of PostgreSQL just after that may bring them back, to be published again, as a crash just before it does.
    """
    if without:
        taken = sorted(rows(connection, _TAKE_SOME, {"limit": limit, "without": list(without)}))
    else:
        taken = sorted(rows(connection, _TAKE, {"limit": limit}))
    return [Waiting(row.topic, row.subject_id) for row in taken]


def backlog(connection: Connection) -> tuple[int, datetime | None]:
    """How many rows wait, and since when the oldest does."""
    row = connection.execute(select(func.count(), func.min(OutboxMessage.created_at))).one()
    return row[0], row[1]
