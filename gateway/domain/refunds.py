"""Asking for refunds and reading them back.

A refund reserves its amount in its transaction from the start, so that any number of them at once never exceeds what
was paid. The reservation ends with the refund: see `gateway.domain.refunding`.
"""

from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text

from gateway.domain.ids import new_id, rfc3339, time_of
from gateway.domain.listing import Listed, conditions, created_within, search
from gateway.domain.outbox import Topic
from gateway.domain.transactions import ATTEMPT_LIMIT
from gateway.errors import AmountExceedsRefundable, FieldError, InvalidState, NotFound
from gateway.models.refunds import Refund
from gateway.states import SETTLED


@dataclass(frozen=True, slots=True)
class NewRefund:
    """What a merchant asks for, validated; `amount` in minor units, None for all that is left."""

    amount: int | None = None
    reason: str | None = None


# One statement decides and does it. `paid` waits for whoever has the transaction in hand, and then sees what it left.
_CREATE = text(f"""
    WITH paid AS MATERIALIZED (
        SELECT id, status, amount - amount_refunded - amount_refunding AS refundable
        FROM transactions WHERE id = :transaction_id AND merchant_id = :merchant_id FOR UPDATE
    ), reserved AS (
        UPDATE transactions t
        SET amount_refunding = t.amount_refunding + coalesce(:amount, p.refundable), updated_at = :now
        FROM paid p
        WHERE t.id = p.id AND t.status IN ({", ".join(f"'{status}'" for status in sorted(SETTLED))})
          AND coalesce(:amount, p.refundable) BETWEEN 1 AND t.amount - t.amount_refunded - t.amount_refunding
        RETURNING t.id, t.merchant_id, coalesce(:amount, p.refundable) AS amount, t.currency, t.provider
    ), made AS (
        INSERT INTO refunds (id, transaction_id, merchant_id, amount, currency, reason, provider, attempt_limit,
                             request_id, created_at, updated_at)
        SELECT :id, id, merchant_id, amount, currency, :reason, provider, :attempt_limit, :request_id, :now, :now
        FROM reserved RETURNING *
    ), enqueued AS (
        INSERT INTO outbox (topic, subject_id) SELECT '{Topic.REFUND_REQUESTED}', id FROM made
    )
    SELECT p.status AS paid_status, p.refundable, m.* FROM paid p LEFT JOIN made m ON true
""")  # noqa: S608  # the parts are constants


def create(
    connection: Connection, merchant_id: UUID, transaction_id: UUID, new: NewRefund, request_id: str
) -> dict[str, Any]:
    """Reserve the amount, store the refund with its outbox row, and return it as api.md shows it.

    Raises:
        NotFound: this merchant has no such transaction.
        InvalidState: it is not settled, so there is nothing to give back.
        AmountExceedsRefundable: more than is left, or nothing is.
    """
    refund_id = new_id()
    values = {
        "id": refund_id,
        "transaction_id": transaction_id,
        "merchant_id": merchant_id,
        "amount": new.amount,
        "reason": new.reason,
        "attempt_limit": ATTEMPT_LIMIT,
        "request_id": request_id,
        "now": time_of(refund_id),
    }
    row = connection.execute(_CREATE, values).one_or_none()
    if row is None:
        raise NotFound
    if row.id is not None:
        return _of_row(row)
    if row.paid_status not in SETTLED:
        raise InvalidState(f"This transaction is {row.paid_status}; only a completed one can be refunded.")
    detail = f"{row.refundable} of this transaction is left to be refunded."
    error = FieldError(pointer="/amount", code=AmountExceedsRefundable.code, detail=detail)
    raise AmountExceedsRefundable(detail, errors=[error])


def location_of(refund: dict[str, Any]) -> str:
    """The path of a refund."""
    return f"/v1/refunds/{refund['id']}"


_F = Refund
_COLUMNS = (
    _F.id, _F.transaction_id, _F.merchant_id, _F.amount, _F.currency, _F.reason, _F.status, _F.provider,
    _F.provider_reference, _F.failure_code, _F.failure_message, _F.failure_category, _F.failure_retryable, _F.attempts,
    _F.created_at, _F.updated_at, _F.completed_at,
)  # fmt: skip


def _of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    failure = row.failure_category and {
        "code": row.failure_code,
        "message": row.failure_message,
        "category": row.failure_category,
        "retryable": row.failure_retryable,
    }
    return {
        "id": str(row.id),
        "object": "refund",
        "transaction_id": str(row.transaction_id),
        "merchant_id": str(row.merchant_id),
        "amount": row.amount,
        "currency": row.currency,
        "reason": row.reason,
        "status": row.status,
        "provider": row.provider,
        "provider_reference": row.provider_reference,
        "failure": failure,
        "attempts": row.attempts,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
        "completed_at": rfc3339(row.completed_at) if row.completed_at else None,
    }


def find(connection: Connection, merchant_id: UUID, refund_id: UUID) -> dict[str, Any]:
    """One refund of this merchant, as api.md shows it.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    query = select(*_COLUMNS).where(_F.id == refund_id, _F.merchant_id == merchant_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound
    return _of_row(row)


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """Which refunds to list; None does not filter. Times are inclusive from, exclusive to."""

    transaction_id: UUID | None = None
    status: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


def list_newest(
    connection: Connection, merchant_id: UUID, wanted: RefundFilter, before: UUID | None, limit: int
) -> Listed:
    """At most `limit` refunds of this merchant that are older than `before`, newest first."""
    within = [
        _F.merchant_id == merchant_id,
        *conditions((_F.id, lt, before), (_F.transaction_id, eq, wanted.transaction_id)),
        *created_within(_F.id, wanted.created_from, wanted.created_to),
    ]
    rest = conditions(
        (_F.status, eq, wanted.status),
        (_F.created_at, ge, wanted.created_from),
        (_F.created_at, lt, wanted.created_to),
    )
    return search(connection, columns=_COLUMNS, id=_F.id, represent=_of_row, within=within, wanted=rest, limit=limit)
