"""Find, list and represent transactions."""

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

_T = Transaction
_SHOWN = (
    "id", "object", "merchant_id", "amount", "currency", "status", "payment_method", "reference", "description",
    "customer_id", "metadata", "provider", "provider_reference", "failure", "attempts", "amount_refunded", "created_at",
    "updated_at", "completed_at",
)  # fmt: skip
"""The members of a transaction's representation, in their order."""
_FAILURE = ("failure_code", "failure_message", "failure_category", "failure_retryable")
COLUMNS = tuple(
    _T.__table__.columns[name] for name in (*(name for name in _SHOWN if name not in {"object", "failure"}), *_FAILURE)
)
"""The columns that `represent` needs."""
_UNSET: dict[str, Any] = {
    "object": "transaction",
    "provider": None,
    "provider_reference": None,
    "failure": None,
    "attempts": 0,
    "amount_refunded": 0,
    "completed_at": None,
}
"""The members of a transaction that was just accepted, unless it has others."""


def represent(values: dict[str, Any]) -> dict[str, Any]:
    """Return the representation of a transaction with these `values` by name. Ids and times are converted to text."""
    found = _UNSET | values
    shown = {name: found[name] for name in _SHOWN}
    shown["id"], shown["merchant_id"] = str(shown["id"]), str(shown["merchant_id"])
    for name in ("created_at", "updated_at", "completed_at"):
        if shown[name] is not None:
            shown[name] = rfc3339(shown[name])
    return shown


def of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    """Return the representation of a row of `COLUMNS`."""
    return represent({**row._mapping, "failure": failure_of(row)})


def find(connection: Connection, merchant_id: UUID, transaction_id: UUID) -> dict[str, Any]:
    """Return one transaction of this merchant.

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
"""The id and `created_at` of a transaction are made together; since migration 0002 from the same millisecond."""
INDEXED_STATUSES = frozenset(TransactionStatus) - {TransactionStatus.COMPLETED}
"""The statuses in the index of uncommon statuses, which omits the status of most transactions."""


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """A filter of transactions; None does not filter. The `from` times are inclusive, the `to` times exclusive."""

    status: TransactionStatus | None = None
    currency: str | None = None
    reference: str | None = None
    customer_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    amount_min: int | None = None
    amount_max: int | None = None

    def criteria(self) -> tuple[list[ColumnElement[bool]], list[ColumnElement[bool]]]:
        """Return the filter as SQL: the conditions for the most selective index, and the other ones."""
        indexed = conditions((_T.reference, eq, self.reference), (_T.customer_id, eq, self.customer_id))
        if self.status is not None:
            # A constant, not a parameter: a plan for any status could not use an index that contains only some.
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
    connection: Connection, merchant_id: UUID, filters: TransactionFilter, before: UUID | None, limit: int
) -> Listed:
    """Return at most `limit` transactions of this merchant that are older than `before`, newest first."""
    indexed, rest = filters.criteria()
    indexed = [_T.merchant_id == merchant_id, *conditions((_T.id, lt, before)), *indexed]
    return search(connection, columns=COLUMNS, id=_T.id, represent=of_row, indexed=indexed, tested=rest, limit=limit)
