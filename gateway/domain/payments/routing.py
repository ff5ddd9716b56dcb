"""Choose a provider for each accepted transaction: `pending` becomes `processing`."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from uuid import UUID

from sqlalchemy import Connection, select, text

from gateway.domain.shared.sql import ASYNC_COMMIT, LISTED
from gateway.errors import PermanentError
from gateway.models.transactions import Transaction
from gateway.states import TransactionStatus


class NoProvider(PermanentError):
    """No provider takes payments in this currency."""

    code = "no_provider"
    remedy = "Enable a provider for it in PROVIDERS, then replay the dead letter."


@dataclass(frozen=True, slots=True)
class Route:
    """The provider for some currencies, and the reason for the choice."""

    provider: str
    reason: str
    currencies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Routed:
    """The result of a list of ids: those routed now or before, and those of no transaction."""

    routed: list[UUID]
    nonexistent: list[UUID]


# One statement reads and changes. The status is compared with a column, not with a literal. With a literal, the planner
# may read all pending transactions by an index on the status, for every list.
_ROUTE = text(f"""
    WITH {LISTED}, async_commit AS MATERIALIZED ({ASYNC_COMMIT}), choice AS MATERIALIZED (
        SELECT *, '{TransactionStatus.PENDING}' AS open_status
        FROM json_to_recordset(CAST(:routes AS json)) AS c (provider text, reason text, currencies text[])
    ), moved AS (
        UPDATE transactions t
        SET status = '{TransactionStatus.PROCESSING}', provider = c.provider, routing_reason = c.reason,
            routed_at = now(), updated_at = now()
        FROM async_commit, listed l, choice c
        WHERE t.id = l.id AND t.currency = ANY(c.currencies) AND t.status = c.open_status
        RETURNING t.id
    )
    SELECT t.id, t.status, t.currency, t.id IN (SELECT id FROM moved) AS moved
    FROM listed JOIN transactions t USING (id)
""")  # noqa: S608  # constants


def route(connection: Connection, ids: Sequence[UUID], routes: tuple[Route, ...]) -> Routed:
    """Route those of `ids` that are pending, by their currency. Each currency is in at most one of `routes`.

    Ids that an earlier run of the same message routed are returned too, because their next step may not be published.

    Raises:
        NoProvider: `routes` lacks a currency. The other transactions are routed.
    """
    found = connection.execute(_ROUTE, {"ids": list(ids), "routes": _as_json(routes)}).all()
    left = {row.id: row.currency for row in found if row.status == TransactionStatus.PENDING and not row.moved}
    if unroutable := sorted(set(left.values()).difference(*(one.currencies for one in routes))):
        raise NoProvider(f"no provider takes payments in {', '.join(unroutable)}")
    routed = {row.id for row in found if row.moved or row.status == TransactionStatus.PROCESSING}
    routed |= _processing(connection, left)
    known = {row.id for row in found}
    return Routed([id for id in ids if id in routed], [id for id in ids if id not in known])


@cache
def _as_json(routes: tuple[Route, ...]) -> str:
    return json.dumps([asdict(one) for one in routes])


def _processing(connection: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Return those of `ids` that another worker has routed. It may die before it publishes their next step."""
    if not ids:
        return set()
    query = select(Transaction.id).where(Transaction.id.in_(ids), Transaction.status == TransactionStatus.PROCESSING)
    return set(connection.scalars(query))
