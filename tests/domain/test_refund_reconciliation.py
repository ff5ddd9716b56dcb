"""Reconciliation of refunds with their transactions and the ledger."""

from uuid import UUID

import pytest

from gateway.flows.reconciliation import reconcile
from gateway.flows.refunds import refund as carry_out
from tests.helpers.discrepancies import discrepancies, only_discrepancy
from tests.helpers.factories import execute
from tests.helpers.refunds import paid, refunded, request_refund

pytestmark = pytest.mark.usefixtures("database")


def test_refunds_in_every_state_agree_and_are_counted() -> None:
    refunded(paid())
    partly = paid()
    refunded(partly, 100)
    refunded(partly, 200)
    request_refund(partly, 300)
    carry_out([request_refund(paid("tok_refund_decline"))], "task-1")
    for _ in range(2):
        carry_out([request_refund(paid("tok_refund_error_always"))], "task-1")
    run = reconcile()
    assert (run.discrepancies, discrepancies(run)) == ({}, [])
    assert (run.counts["refunds"], run.counts["transactions"], run.counts["ledger_entries"]) == (3, 5, 21)
    assert run.totals["USD"]["refunds"] == 1_300
    assert run.totals["USD"]["ledger_debits"] == run.totals["USD"]["ledger_credits"] == 6_300


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM ledger_entries WHERE source_id = :source",
        "DELETE FROM ledger_entries WHERE source_id = :source AND direction = 'debit'",
        "UPDATE ledger_entries SET amount = amount + 1 WHERE source_id = :source",
        "UPDATE ledger_entries SET amount = amount + 1 WHERE source_id = :source AND account = 'merchant_payable'",
        "UPDATE ledger_entries SET currency = 'EUR' WHERE source_id = :source",
        "UPDATE ledger_entries SET account = 'fees' WHERE source_id = :source AND direction = 'debit'",
        """UPDATE ledger_entries SET direction = CASE direction WHEN 'debit' THEN 'credit' ELSE 'debit' END
           WHERE source_id = :source""",
        """INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                       posted_at)
           SELECT source_id, transaction_id, merchant_id, 'fees', 'debit', 1, currency, posted_at
           FROM ledger_entries WHERE source_id = :source AND direction = 'debit'""",
    ],
)
def test_ledger_entries_that_disagree_with_their_refund_are_found(damage: str) -> None:
    refunded(paid())
    id = refunded(paid(), 400)
    execute(damage, source=id)
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"], found["expected_amount"]) == ("ledger_imbalance", str(id), 400)
    assert found["detail"].startswith("The refund has posted: ")


def test_entries_of_a_refund_that_was_not_completed_are_found() -> None:
    id = refunded(paid(), 400)
    execute(
        "UPDATE refunds SET status = 'failed', failure_category = 'declined', completed_at = NULL,"
        " provider_reference = NULL WHERE id = :id",
        id=id,
    )
    execute("UPDATE transactions SET amount_refunded = 0")
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"], found["actual_amount"]) == ("ledger_imbalance", str(id), 400)
    assert "no settlement or completed refund" in found["detail"]


@pytest.mark.parametrize(
    ("damage", "amounts"),
    [
        ("UPDATE transactions SET amount_refunded = 399 WHERE id = :id", (400, 399)),
        ("UPDATE transactions SET amount_refund_reserved = 0 WHERE id = :id", (400, 400)),
        ("UPDATE transactions SET amount_refund_reserved = 301 WHERE id = :id", (400, 400)),
        ("UPDATE refunds SET transaction_id = :other WHERE transaction_id = :id AND status = 'pending'", (400, 400)),
    ],
)
def test_a_transaction_whose_amounts_disagree_with_its_refunds_is_found(damage: str, amounts: tuple[int, int]) -> None:
    id, other = paid(), paid()
    refunded(id, 400)
    request_refund(id, 300)
    execute(f"WITH chosen AS (SELECT CAST(:other AS uuid)) {damage}", id=id, other=other)
    found = next(found for found in discrepancies(reconcile()) if found["subject_id"] == str(id))
    assert (found["kind"], found["transaction_id"]) == ("amount_mismatch", str(id))
    assert (found["expected_amount"], found["actual_amount"]) == amounts


def test_a_refunded_amount_without_a_refund_is_found() -> None:
    id = paid()
    execute("UPDATE transactions SET status = 'partially_refunded', amount_refunded = 1 WHERE id = :id", id=id)
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["expected_amount"], found["actual_amount"]) == ("amount_mismatch", 0, 1)


def test_a_stuck_refund_is_found_unless_a_worker_processes_it() -> None:
    id, busy = request_refund(paid()), request_refund(paid())
    execute(
        "INSERT INTO refund_attempts (refund_id, number, provider, task_id, started_at, lease_until)"
        " VALUES (:id, 1, 'simulated', 'task-1', now(), now() + interval '1 hour')",
        id=busy,
    )
    execute("UPDATE refunds SET updated_at = now() - interval '1 day'")
    found = only_discrepancy(reconcile())
    assert (found["kind"], UUID(found["subject_id"])) == ("stuck_processing", id)
