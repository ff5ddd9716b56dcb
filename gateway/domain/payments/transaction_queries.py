"""Reading transactions back for the merchant who made them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import eq, ge, le, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, literal_column, select
from sqlalchemy.sql import ColumnElement

from gateway.domain.shared.failures import failure_of
from gateway.domain.shared.listing import Listed, conditions, created_within, search
from gateway.errors import NotFound
from gateway.ids import rfc3339
from gateway.models.transactions import Transaction
from gateway.states import TransactionStatus


def represent(
    *,
    id: UUID,
    merchant_id: UUID,
    created_at: datetime,
    updated_at: datetime,
    completed_at: datetime | None = None,
    provider: str | None = None,
    provider_reference: str | None = None,
    failure: dict[str, Any] | None = None,
    attempts: int = 0,
    amount_refunded: int = 0,
    **plain: Any,
) -> dict[str, Any]:
    """A transaction as api.md shows it."""
    return {
        "id": str(id),
        "object": "transaction",
        "merchant_id": str(merchant_id),
        **plain,
        "provider": provider,
        "provider_reference": provider_reference,
        "failure": failure,
        "attempts": attempts,
        "amount_refunded": amount_refunded,
        "created_at": rfc3339(created_at),
        "updated_at": rfc3339(updated_at),
        "completed_at": rfc3339(completed_at) if completed_at else None,
    }


_T = Transaction
COLUMNS = (
    _T.id, _T.merchant_id, _T.amount, _T.currency, _T.status, _T.payment_method, _T.reference, _T.description,
    _T.customer_id, _T.metadata_, _T.provider, _T.provider_reference, _T.failure_code, _T.failure_message,
    _T.failure_category, _T.failure_retryable, _T.attempts, _T.amount_refunded, _T.created_at, _T.updated_at,
    _T.completed_at,
)  # fmt: skip


def of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    """A row of `COLUMNS` as api.md shows it."""
    plain = ("amount", "currency", "status", "payment_method", "reference", "description", "customer_id", "metadata")
    shown = ("id", "merchant_id", "provider", "provider_reference", "attempts", "amount_refunded")
    times = ("created_at", "updated_at", "completed_at")
    values = row._mapping
    return represent(failure=failure_of(row), **{name: values[name] for name in plain + shown + times})


def find(connection: Connection, merchant_id: UUID, transaction_id: UUID) -> dict[str, Any]:
    """One transaction of this merchant, as api.md shows it.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    row = connection.execute(
        select(*COLUMNS).where(_T.id == transaction_id, _T.merchant_id == merchant_id)
    ).one_or_none()
    if row is None:
        raise NotFound
    return of_row(row)


ID_LAG = timedelta(seconds=1)
"""A transaction's id and its `created_at` were made together, and since 0002 are of the same millisecond."""
INDEXED_STATUSES = frozenset(TransactionStatus) - {TransactionStatus.COMPLETED}
"""Those that the index of uncommon statuses holds: it leaves out the one that most transactions end in."""


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """Which transactions to list; None does not filter. Times are inclusive from, exclusive to."""

    status: TransactionStatus | None = None
    currency: str | None = None
    reference: str | None = None
    customer_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    amount_min: int | None = None
    amount_max: int | None = None

    def criteria(self) -> tuple[list[ColumnElement[bool]], list[ColumnElement[bool]]]:
        """The filter as SQL: what the one index that finds the fewest rows answers, and all the rest."""
        indexed = conditions((_T.reference, eq, self.reference), (_T.customer_id, eq, self.customer_id))
        if self.status is not None:
            # A constant, not a parameter: a plan for any status could not use an index that holds only some.
            has_status = _T.status == literal_column(f"'{self.status.value}'")
            indexed += [has_status] if self.status in INDEXED_STATUSES else []
        wanted = indexed[1:] + conditions(
            (_T.status, eq, None if self.status in INDEXED_STATUSES else self.status),
            (_T.currency, eq, self.currency),
            (_T.created_at, ge, self.created_from),
            (_T.created_at, lt, self.created_to),
            (_T.amount, ge, self.amount_min),
            (_T.amount, le, self.amount_max),
        )
        return [*indexed[:1], *created_within(_T.id, self.created_from, self.created_to, ID_LAG)], wanted


def list_newest(
    connection: Connection, merchant_id: UUID, wanted: TransactionFilter, before: UUID | None, limit: int
) -> Listed:
    """At most `limit` transactions of this merchant that are older than `before`, newest first."""
    indexed, rest = wanted.criteria()
    within = [_T.merchant_id == merchant_id, *conditions((_T.id, lt, before)), *indexed]
    return search(connection, columns=COLUMNS, id=_T.id, represent=of_row, within=within, wanted=rest, limit=limit)
