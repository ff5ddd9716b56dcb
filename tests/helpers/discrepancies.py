"""Settled payments for tests that damage them, and the discrepancies that a reconciliation finds."""

from typing import Any
from uuid import UUID

from sqlalchemy import text

from gateway.db import begin
from gateway.domain.reconciliation import runs as reconciliation_runs
from gateway.domain.reconciliation.runs import Run
from gateway.flows import routing
from gateway.flows.settlement import settle
from tests.helpers.factories import accept_payment, execute, make_merchant


def settled_payment(amount: int = 1_000, merchant_id: UUID | None = None) -> UUID:
    """Create a completed transaction with its settlement and three ledger entries."""
    id = accept_payment(merchant_id or make_merchant(), amount=amount)
    routing.route([id])
    assert settle([id], "task-1").completed == [id]
    return id


def settlement_of(transaction_id: UUID) -> UUID:
    """Return the id of the settlement of a transaction."""
    with begin() as connection:
        query = text("SELECT id FROM settlements WHERE transaction_id = :id")
        found: UUID = connection.execute(query, {"id": transaction_id}).scalar_one()
    return found


def discrepancies(run: Run) -> list[dict[str, Any]]:
    """Return the discrepancies of a run."""
    with begin() as connection:
        return list(reconciliation_runs.found_by(connection, run.id, 100))


def only_discrepancy(run: Run) -> dict[str, Any]:
    """Return the discrepancy of a run that has exactly one."""
    [found] = discrepancies(run)
    return found


def copy_settlement(transaction_id: UUID) -> None:
    """Create a second settlement of a transaction, with its ledger entries."""
    execute(
        """
        WITH s AS (
            INSERT INTO settlements SELECT gen_random_uuid(), transaction_id, merchant_id, amount, fee, net, currency,
                status, provider, provider_reference, attempts, settled_at
            FROM settlements WHERE transaction_id = :id RETURNING *
        )
        INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                    posted_at)
        SELECT s.id, e.transaction_id, e.merchant_id, account, direction, e.amount, e.currency, posted_at
        FROM ledger_entries e JOIN s USING (transaction_id)
        """,
        id=transaction_id,
    )
