"""Create refunds for tests through the gateway's rules."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text

from gateway.db import autocommit, begin
from gateway.domain.payments import refunds
from gateway.domain.payments.refunds import NewRefund
from gateway.flows import routing
from gateway.flows.refunds import refund as carry_out
from gateway.flows.settlement import settle
from tests.helpers.factories import accept_payment, execute, make_merchant


def paid(token: str = "tok_approve", amount: int = 1_000, merchant_id: UUID | None = None) -> UUID:
    """Create a completed transaction."""
    id = accept_payment(merchant_id or make_merchant(), token, amount)
    routing.route([id])
    assert settle([id], "task-1").completed == [id]
    return id


def merchant_of(transaction_id: UUID) -> UUID:
    """Return the merchant of a transaction."""
    found: UUID = row("transactions", transaction_id).merchant_id
    return found


def request_refund(transaction_id: UUID, amount: int | None = None) -> UUID:
    """Create a refund that no worker has claimed."""
    merchant_id, new = merchant_of(transaction_id), NewRefund(amount, "changed their mind")
    with autocommit() as connection:
        made = refunds.create(connection, merchant_id, transaction_id, new, "req-test")
    return UUID(made["id"])


def refunded(transaction_id: UUID, amount: int | None = None) -> UUID:
    """Create a completed refund."""
    id = request_refund(transaction_id, amount)
    assert carry_out([id], "task-1").completed == [id]
    return id


def row(table: str, id: UUID) -> Any:
    """Return the row with this id."""
    with begin() as connection:
        return connection.execute(text(f"SELECT * FROM {table} WHERE id = :id"), {"id": id}).one()  # noqa: S608


def refund_amounts(transaction_id: UUID) -> tuple[str, int, int]:
    """Return the status, the refunded amount and the reserved amount of a transaction."""
    found = row("transactions", transaction_id)
    return found.status, found.amount_refunded, found.amount_refund_reserved


def expire_lease(ids: Sequence[UUID]) -> None:
    """Expire the leases of refund attempts, as after the death of their worker."""
    statement = "UPDATE refund_attempts SET lease_until = now() - interval '1 second' WHERE refund_id = ANY(:ids)"
    execute(statement, ids=list(ids))
