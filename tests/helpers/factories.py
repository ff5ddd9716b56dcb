"""Create rows for tests through the gateway's rules where one exists."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

import psycopg
from sqlalchemy import Connection, insert, select, text

from gateway.config import settings
from gateway.db import autocommit, begin, engine
from gateway.domain.payments.transactions import Acceptance, NewTransaction, repeat, store
from gateway.domain.shared.idempotency import IdempotencyKey, IdempotentResponse
from gateway.flows import routing
from gateway.ids import new_id
from gateway.models.merchants import Merchant
from gateway.models.transactions import Transaction


def make_merchant(fee_basis_points: int = 290) -> UUID:
    """Create a merchant without users or clients."""
    merchant_id = new_id()
    with begin() as connection:
        values = {"id": merchant_id, "business_name": "Test", "fee_basis_points": fee_basis_points}
        connection.execute(insert(Merchant).values(values))
    return merchant_id


def accept(
    connection: Connection, merchant_id: UUID, new: NewTransaction, request_id: str, key: IdempotencyKey | None
) -> IdempotentResponse:
    """Accept a single request; return its response."""
    acceptance = Acceptance.of(merchant_id, new, request_id, key)
    if store(connection, [acceptance]) == [True]:
        return IdempotentResponse(acceptance.response, replayed=False)
    first = repeat(connection, acceptance)
    assert first is not None, "the time of the acceptance is wrong"
    return IdempotentResponse(first, replayed=True)


@contextmanager
def request_in_progress(merchant_id: UUID, key: str) -> Iterator[None]:
    """Hold the key of an unfinished first request within the block; that request then leaves nothing."""
    with engine().connect().execution_options(isolation_level="READ COMMITTED") as running:
        running.execute(
            text(
                "INSERT INTO idempotency_records (merchant_id, key, request_hash, status, body)"
                " VALUES (:merchant_id, :key, :hash, 201, '')"
            ),
            {"merchant_id": merchant_id, "key": key, "hash": bytes(32)},
        )
        yield


def accept_payment(merchant_id: UUID, token: str = "tok_approve", amount: int = 1_000, currency: str = "USD") -> UUID:
    """Create an accepted transaction."""
    with autocommit() as connection:
        accepted = accept(connection, merchant_id, NewTransaction(amount, currency, token), "req-test", None)
    return UUID(str(accepted.response.location).rpartition("/")[2])


def route_payments(merchant_id: UUID, *tokens: str) -> list[UUID]:
    """Create accepted and routed transactions, one per token."""
    ids = [accept_payment(merchant_id, token) for token in tokens]
    routing.route(ids)
    return ids


def status_of(transaction_id: UUID) -> str:
    """Return the transaction's status in the database."""
    with begin() as connection:
        return connection.execute(select(Transaction.status).where(Transaction.id == transaction_id)).scalar_one()


def database_time() -> datetime:
    """Return the database's time, which is later than that of earlier commits; `utc_now` is only close to it."""
    with begin() as connection:
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now


def count(table: str, where: str = "true") -> int:
    """Count the rows of `table` that satisfy `where`."""
    with begin() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table} WHERE {where}")).scalar_one())  # noqa: S608


def execute(statement: str, **values: object) -> None:
    """Run a statement that the gateway never runs, such as one that corrupts a row or changes a time."""
    with begin() as connection:
        connection.execute(text(statement), values)


def expire_lease(ids: Sequence[UUID]) -> None:
    """Expire the leases of charge attempts, as after the death of their worker."""
    statement = "UPDATE charge_attempts SET lease_until = now() - interval '1 second' WHERE transaction_id = ANY(:ids)"
    execute(statement, ids=list(ids))


def end_sessions(pids: list[int]) -> None:
    """Terminate sessions of PostgreSQL; return when they have ended."""
    url = settings().database_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) AS pid", [pids])
