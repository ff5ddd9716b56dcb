"""Statements of a provider, with lines of settlements in the database or with chosen lines."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from gateway.db import begin
from gateway.domain.reconciliation.statement_files import COLUMNS
from gateway.ids import rfc3339
from tests.helpers.discrepancies import settled_payment

HEADER = ",".join(COLUMNS)


def charge_of(transaction_id: UUID) -> dict[str, str]:
    """Return the line of the charge of a settled payment."""
    with begin() as connection:
        query = text("SELECT provider_reference, amount, currency FROM settlements WHERE transaction_id = :id")
        reference, amount, currency = connection.execute(query, {"id": transaction_id}).one()
    return line(charge_id=reference, idempotency_key=str(transaction_id), amount=str(amount), currency=currency)


def line(**cells: str) -> dict[str, str]:
    """Return a line whose cells are valid except for `cells`."""
    usual = {"charge_id": "ch_1", "type": "charge", "amount": "1000", "fee": "18", "currency": "USD"}
    return {"idempotency_key": "key-1", "time": rfc3339(datetime.now(UTC)), **usual, **cells}


def csv_of(*lines: dict[str, Any]) -> bytes:
    """Return a file with these lines."""
    rows = [HEADER, *(",".join(cells[name] for name in COLUMNS) for cells in lines)]
    return "".join(f"{row}\r\n" for row in rows).encode()


def settled_line(amount: int = 1_000) -> dict[str, str]:
    """Settle a new payment; return the line of its charge."""
    return charge_of(settled_payment(amount))
