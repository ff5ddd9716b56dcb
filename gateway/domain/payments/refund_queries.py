"""Find, list and represent refunds."""

from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from gateway.domain.shared.failures import failure_of
from gateway.domain.shared.listing import Listed, conditions, created_within, search
from gateway.errors import NotFound
from gateway.ids import rfc3339
from gateway.models.refunds import Refund

_F = Refund
COLUMNS = (
    _F.id, _F.transaction_id, _F.merchant_id, _F.amount, _F.currency, _F.reason, _F.status, _F.provider,
    _F.provider_reference, _F.failure_code, _F.failure_message, _F.failure_category, _F.failure_retryable, _F.attempts,
    _F.created_at, _F.updated_at, _F.completed_at,
)  # fmt: skip


def of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    """Return the representation of a row of `COLUMNS`."""
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
        "failure": failure_of(row),
        "attempts": row.attempts,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
        "completed_at": rfc3339(row.completed_at) if row.completed_at else None,
    }


def find(connection: Connection, merchant_id: UUID, refund_id: UUID) -> dict[str, Any]:
    """Return one refund of this merchant.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    query = select(*COLUMNS).where(_F.id == refund_id, _F.merchant_id == merchant_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound
    return of_row(row)


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """A filter of refunds; None does not filter. The `from` times are inclusive, the `to` times exclusive."""

    transaction_id: UUID | None = None
    status: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


def list_newest(
    connection: Connection, merchant_id: UUID, filters: RefundFilter, before: UUID | None, limit: int
) -> Listed:
    """Return at most `limit` refunds of this merchant that are older than `before`, newest first."""
    indexed = [
        _F.merchant_id == merchant_id,
        *conditions((_F.id, lt, before), (_F.transaction_id, eq, filters.transaction_id)),
        *created_within(_F.id, filters.created_from, filters.created_to),
    ]
    rest = conditions(
        (_F.status, eq, filters.status),
        (_F.created_at, ge, filters.created_from),
        (_F.created_at, lt, filters.created_to),
    )
    return search(connection, columns=COLUMNS, id=_F.id, represent=of_row, indexed=indexed, tested=rest, limit=limit)
