"""Publish the outbox: take rows, publish them, and delete them, in one database transaction."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from gateway import db
from gateway.domain.shared import outbox
from gateway.domain.shared.outbox import OutboxBatch, OutboxRow, Topic

__all__ = ["OutboxRow", "Topic", "Turns", "listening", "publish_batch"]


@dataclass(slots=True)
class Turns:
    """The position of a relay in its turns among the merchants."""

    backlog: bool = True
    """Whether the last batch left rows behind, so that the next one takes turns. Initially there may be a backlog."""
    next_turn: UUID = outbox.FIRST_TURN


def listening() -> AbstractContextManager[Callable[[float], None]]:
    """LISTEN for new rows; yield a function that waits for a notification, for at most the given seconds."""
    return db.listening(outbox.CHANNEL)


def publish_batch(
    publish: Callable[[Sequence[OutboxRow]], None],
    limit: int,
    turns: Turns,
    *,
    without: Sequence[Topic] = (),
    await_notification: Callable[[], None] = lambda: None,
) -> int:
    """Pass the next rows to `publish` after `await_notification`, and delete them; return their number.

    `turns` is updated. Rows of the topics `without` stay.

    Raises:
        Exception: what `publish` raises, or one of `gateway.db.UNAVAILABLE`. All rows are still in the outbox, although
            some may be published.
    """
    failure: Exception | None = None
    if db.is_pooled():
        await_notification()  # a waiting transaction would occupy one of the pooler's few sessions
    try:
        with db.begin() as connection:
            outbox.prepare(connection)
            if not db.is_pooled():
                await_notification()
            taken = _take(connection, limit, turns, without)
            try:
                publish(taken.rows)
            except Exception as exc:
                failure = exc
                raise
    except db.UNAVAILABLE:
        if failure is not None:  # PostgreSQL ended the idle session while the broker did not answer
            raise failure from failure.__cause__
        raise
    turns.backlog, turns.next_turn = taken.more, taken.next_turn
    return len(taken.rows)


def _take(connection: Connection, limit: int, turns: Turns, without: Sequence[Topic]) -> OutboxBatch:
    """Take a batch: the oldest rows, or with a backlog in turns. There are no turns while a topic is left out."""
    if turns.backlog and not without:
        return outbox.take_in_turns(connection, limit, turns.next_turn)
    return outbox.take(connection, limit, without)
