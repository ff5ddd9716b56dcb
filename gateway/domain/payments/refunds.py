"""Create refunds.

A refund reserves its amount in its transaction, so that concurrent refunds never exceed the paid amount. The
reservation ends with the refund; see `gateway.domain.payments.refunding`.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.payments.refund_queries import of_row
from gateway.domain.payments.transactions import ATTEMPT_LIMIT
from gateway.domain.shared.outbox import Topic
from gateway.errors import AmountExceedsRefundable, FieldError, InvalidState, NotFound
from gateway.ids import new_id
from gateway.states import SETTLED


@dataclass(frozen=True, slots=True)
class NewRefund:
    """A validated request for a refund; `amount` in minor units, None for all that is refundable."""

    amount: int | None = None
    reason: str | None = None


# One statement decides and writes. `paid` waits for the lock of the transaction, reads its newest version and keeps the
# lock. The UPDATE uses the values of `paid`, because its own scan starts with the version from before the wait.
_CREATE = text(f"""
    WITH paid AS MATERIALIZED (
        SELECT id, status, amount_refund_reserved, amount - amount_refunded - amount_refund_reserved AS refundable
        FROM transactions WHERE id = :transaction_id AND merchant_id = :merchant_id FOR UPDATE
    ), reserved AS (
        UPDATE transactions t
        SET amount_refund_reserved = p.amount_refund_reserved + coalesce(:amount, p.refundable), updated_at = now()
        FROM paid p
        WHERE t.id = p.id AND p.status IN ({", ".join(f"'{status}'" for status in sorted(SETTLED))})
          AND coalesce(:amount, p.refundable) BETWEEN 1 AND p.refundable
        RETURNING t.id, t.merchant_id, coalesce(:amount, p.refundable) AS amount, t.currency, t.provider
    ), created AS (
        INSERT INTO refunds (id, transaction_id, merchant_id, amount, currency, reason, provider, attempt_limit,
                             request_id, created_at, updated_at)
        SELECT :id, id, merchant_id, amount, currency, :reason, provider, :attempt_limit, :request_id, now(), now()
        FROM reserved RETURNING *
    ), enqueued AS (
        INSERT INTO outbox (topic, subject_id, merchant_id)
        SELECT '{Topic.REFUND_REQUESTED}', id, merchant_id FROM created
    )
    SELECT p.status AS paid_status, p.refundable, c.* FROM paid p LEFT JOIN created c ON true
""")  # noqa: S608  # the parts are constants


def create(
    connection: Connection, merchant_id: UUID, transaction_id: UUID, new: NewRefund, request_id: str
) -> dict[str, Any]:
    """Reserve the amount, store the refund with its outbox row, and return its representation.

    Raises:
        NotFound: this merchant has no such transaction.
        InvalidState: the transaction is not settled.
        AmountExceedsRefundable: the amount exceeds the refundable amount, or nothing is refundable.
    """
    values = {
        "id": new_id(),
        "transaction_id": transaction_id,
        "merchant_id": merchant_id,
        "amount": new.amount,
        "reason": new.reason,
        "attempt_limit": ATTEMPT_LIMIT,
        "request_id": request_id,
    }
    row = connection.execute(_CREATE, values).one_or_none()
    if row is None:
        raise NotFound
    if row.id is not None:
        return of_row(row)
    if row.paid_status not in SETTLED:
        raise InvalidState(f"This transaction is {row.paid_status}; only a completed one can be refunded.")
    detail = f"The refundable amount of this transaction is {row.refundable}."
    error = FieldError(pointer="/amount", code=AmountExceedsRefundable.code, detail=detail)
    raise AmountExceedsRefundable(detail, errors=[error])
