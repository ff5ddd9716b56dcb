"""Choosing a provider for each accepted transaction: `pending` becomes `processing`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select, text

from gateway.db import WITHOUT_WAITING_FOR_THE_DISK
from gateway.models.transactions import Transaction
from gateway.states import TransactionStatus


@dataclass(frozen=True, slots=True)
class Route:
    """A provider's name, and why it was chosen."""

    provider: str
    reason: str


@dataclass(frozen=True, slots=True)
class Routed:
    """What became of a list of ids: routed now or before, and those that no transaction has."""

    routed: list[UUID]
    nonexistent: list[UUID]


_ROUTE = text(f"""
    WITH hasty AS MATERIALIZED ({WITHOUT_WAITING_FOR_THE_DISK})
    UPDATE transactions t
    SET status = 'processing', provider = r.provider, routing_reason = r.reason, routed_at = now(),
        updated_at = now()
    FROM hasty, unnest(CAST(:ids AS uuid[]), CAST(:providers AS text[]), CAST(:reasons AS text[]))
        AS r (id, provider, reason)
    WHERE t.id = r.id AND t.status = 'pending'
    RETURNING t.id
""")  # noqa: S608  # a constant


def _processing(connection: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Those that another worker routed between the two statements: who hands them on is not known, so we do too."""
    if not ids:
        return set()
    query = select(Transaction.id).where(Transaction.id.in_(ids), Transaction.status == TransactionStatus.PROCESSING)
    return set(connection.scalars(query))


def route(connection: Connection, ids: Sequence[UUID], choose: Callable[[str], Route]) -> Routed:
    """Route those of `ids` that are pending; `choose` picks by currency. `connection` may be in autocommit.

    Ids routed by an earlier run of the same message are returned too: their settlement may not have been requested.
    """
    found = connection.execute(
        select(Transaction.id, Transaction.status, Transaction.currency).where(Transaction.id.in_(ids))
    ).all()
    routes = {row.id: choose(row.currency) for row in found if row.status == TransactionStatus.PENDING}
    routed = {row.id for row in found if row.status == TransactionStatus.PROCESSING}
    if routes:
        chosen = list(routes.values())
        values = {
            "ids": list(routes),
            "providers": [choice.provider for choice in chosen],
            "reasons": [choice.reason for choice in chosen],
        }
        moved = set(connection.scalars(_ROUTE, values))
        routed |= moved | _processing(connection, routes.keys() - moved)
    known = {row.id for row in found}
    return Routed([id for id in ids if id in routed], [id for id in ids if id not in known])
