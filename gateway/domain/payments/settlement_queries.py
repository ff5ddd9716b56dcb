"""Find, list and represent settlements."""

from collections.abc import Sequence
from operator import eq
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from gateway.domain.shared.listing import conditions, newest
from gateway.errors import NotFound
from gateway.ids import rfc3339
from gateway.models.settlements import Settlement

_S = Settlement
COLUMNS = (
    _S.id, _S.transaction_id, _S.amount, _S.fee, _S.net, _S.currency, _S.status, _S.provider, _S.provider_reference,
    _S.attempts, _S.settled_at,
)  # fmt: skip


def of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    """Return the representation of a row of `COLUMNS`."""
    plain = ("amount", "fee", "net", "currency", "status", "provider", "provider_reference", "attempts")
    return {
        "id": str(row.id),
        "object": "settlement",
        "transaction_id": str(row.transaction_id),
        **{name: row._mapping[name] for name in plain},
        "settled_at": rfc3339(row.settled_at),
    }


def find(connection: Connection, merchant_id: UUID, settlement_id: UUID) -> dict[str, Any]:
    """Return one settlement of this merchant.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    query = select(*COLUMNS).where(_S.id == settlement_id, _S.merchant_id == merchant_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound
    return of_row(row)


def list_newest(
    connection: Connection, merchant_id: UUID, transaction_id: UUID | None, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    """Return at most `limit` settlements of this merchant that are older than `before`, newest first."""
    wanted = conditions((_S.transaction_id, eq, transaction_id))
    query = select(*COLUMNS).where(_S.merchant_id == merchant_id, *wanted)
    return [of_row(row) for row in connection.execute(newest(query, _S.id, before, limit))]
