"""List, read, replay and discard dead letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, case, not_, select, text, update
from sqlalchemy.sql import ColumnElement

from gateway.domain.payments import dead_lettering
from gateway.domain.payments.kinds import REFUNDS, TRANSACTIONS
from gateway.domain.shared import audit
from gateway.domain.shared.listing import Listed, conditions, search
from gateway.errors import AlreadyResolved, InvalidState, NotFound
from gateway.ids import rfc3339
from gateway.models.attempts import ChargeAttempt, RefundAttempt
from gateway.models.dead_letters import DeadLetter
from gateway.models.refunds import Refund
from gateway.models.transactions import Transaction
from gateway.states import AttemptOutcome, DeadLetterStatus, RefundStatus, TransactionStatus


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """A filter of dead letters; None does not filter. The `from` times are inclusive, the `to` times exclusive."""

    status: str | None = None
    queue: str | None = None
    reason: str | None = None
    merchant_id: UUID | None = None
    dead_lettered_from: datetime | None = None
    dead_lettered_to: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the filter as SQL."""
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
        "refund_id": str(row.refund_id) if row.refund_id else None,
        "merchant_id": str(row.merchant_id) if row.merchant_id else None,
        **{name: values[name] for name in plain},
        "first_failed_at": rfc3339(row.first_failed_at),
        "dead_lettered_at": rfc3339(row.dead_lettered_at),
        "resolved_at": rfc3339(row.resolved_at) if row.resolved_at else None,
    }


def list_newest(connection: Connection, filters: DeadLetterFilter, before: UUID | None, limit: int) -> Listed:
    """Return at most `limit` dead letters older than `before`, newest first."""
    indexed = conditions((DeadLetter.merchant_id, eq, filters.merchant_id), (DeadLetter.status, eq, filters.status))[:1]
    return search(
        connection,
        columns=_TABLE.columns.values(),
        id=DeadLetter.id,
        represent=_represent,
        indexed=[*conditions((DeadLetter.id, lt, before)), *indexed],
        tested=filters.conditions() if filters != DeadLetterFilter() else [],
        limit=limit,
    )


def find(connection: Connection, dead_letter_id: UUID) -> dict[str, Any]:
    """Return one dead letter.

    Raises:
        NotFound: there is none with this id.
    """
    row = connection.execute(select(_TABLE).where(DeadLetter.id == dead_letter_id)).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


def replay(connection: Connection, dead_letter_id: UUID, actor: str) -> dict[str, Any]:
    """Give the transaction or the refund new attempts, and enqueue it; return the resolved dead letter.

    Raises:
        NotFound: there is no dead letter with this id.
        AlreadyResolved: it was replayed or discarded before.
        InvalidState: its transaction or refund does not exist or is not dead-lettered.
    """
    replayed = replay_all(connection, [dead_letter_id], actor, note=None)
    if not replayed:
        _refuse_unless_open(connection, dead_letter_id)
        raise InvalidState("No dead-lettered payment or refund belongs to this dead letter; discard it instead.")
    return replayed[0]


def discard(connection: Connection, dead_letter_id: UUID, actor: str, note: str | None) -> dict[str, Any]:
    """Move the transaction or the refund to `failed`; return the resolved dead letter.

    Raises:
        NotFound: there is no dead letter with this id.
        AlreadyResolved: it was replayed or discarded before.
        InvalidState: the provider has approved it, so only a replay records what happened.
    """
    discarded = discard_all(connection, [dead_letter_id], actor, note)
    if not discarded:
        _refuse_unless_open(connection, dead_letter_id)
        raise InvalidState("The provider approved this after its last attempt; replay it to complete it.")
    return discarded[0]


_REPLAYABLE = case(
    (
        DeadLetter.refund_id.is_(None),
        select(Transaction.id)
        .where(Transaction.id == DeadLetter.transaction_id, Transaction.status == TransactionStatus.DEAD_LETTERED)
        .exists(),
    ),
    else_=select(Refund.id)
    .where(Refund.id == DeadLetter.refund_id, Refund.status == RefundStatus.DEAD_LETTERED)
    .exists(),
)

# The provider's approval came after the last lease, so it changed no status.
_APPROVED_LATE = and_(
    _REPLAYABLE,
    case(
        (
            DeadLetter.refund_id.is_(None),
            select(ChargeAttempt.number)
            .where(
                ChargeAttempt.transaction_id == DeadLetter.transaction_id,
                ChargeAttempt.outcome == AttemptOutcome.APPROVED,
            )
            .exists(),
        ),
        else_=select(RefundAttempt.number)
        .where(RefundAttempt.refund_id == DeadLetter.refund_id, RefundAttempt.outcome == AttemptOutcome.APPROVED)
        .exists(),
    ),
)


def replay_all(
    connection: Connection, dead_letter_ids: Sequence[UUID], actor: str, note: str | None
) -> list[dict[str, Any]]:
    """Replay the open dead letters whose transactions or refunds are dead-lettered; return these."""
    letters = _resolve(connection, dead_letter_ids, DeadLetterStatus.REPLAYED, actor, note, _REPLAYABLE)
    transaction_ids, refund_ids = _subjects(letters)
    dead_lettering.replay(connection, TRANSACTIONS, transaction_ids)
    dead_lettering.replay(connection, REFUNDS, refund_ids)
    return letters


def discard_all(
    connection: Connection, dead_letter_ids: Sequence[UUID], actor: str, note: str | None
) -> list[dict[str, Any]]:
    """Discard the open dead letters that no provider has approved; return these."""
    letters = _resolve(connection, dead_letter_ids, DeadLetterStatus.DISCARDED, actor, note, not_(_APPROVED_LATE))
    transaction_ids, refund_ids = _subjects(letters)
    dead_lettering.discard(connection, REFUNDS, refund_ids, note)
    dead_lettering.discard(connection, TRANSACTIONS, transaction_ids, note)
    return letters


def _subjects(letters: Sequence[dict[str, Any]]) -> tuple[list[UUID], list[UUID]]:
    """Return the dead transactions and the dead refunds; not the transactions of these refunds."""
    refunds = [UUID(letter["refund_id"]) for letter in letters if letter["refund_id"]]
    payments = [letter["transaction_id"] for letter in letters if not letter["refund_id"]]
    return [UUID(id) for id in payments if id], refunds


def _resolve(
    connection: Connection,
    dead_letter_ids: Sequence[UUID],
    status: DeadLetterStatus,
    actor: str,
    note: str | None,
    *further: ColumnElement[bool],
) -> list[dict[str, Any]]:
    """Close the open dead letters that meet the `further` conditions; return these."""
    closed = connection.execute(
        update(DeadLetter)
        .where(DeadLetter.id.in_(dead_letter_ids), DeadLetter.status == DeadLetterStatus.OPEN, *further)
        .values(status=status.value, resolved_at=text("now()"), resolved_by=actor, note=note)
        .returning(*_TABLE.columns)
    )
    letters = [_represent(row) for row in closed]
    named = ("transaction_id", "refund_id")
    details = {letter["id"]: {name: letter[name] for name in named} | {"note": note} for letter in letters}
    audit.record_all(connection, actor=actor, action=f"dead_letter.{status.value}", details=details)
    return letters


def _refuse_unless_open(connection: Connection, dead_letter_id: UUID) -> None:
    """Raise the reason why a dead letter could not be resolved.

    Raises:
        NotFound: there is none with this id.
        AlreadyResolved: it was replayed or discarded before.
    """
    letter = find(connection, dead_letter_id)
    if letter["status"] != DeadLetterStatus.OPEN:
        raise AlreadyResolved(f"This dead letter was already {letter['status']} at {letter['resolved_at']}.")
