"""Reconciliation on real PostgreSQL: every kind of discrepancy is found, and nothing else."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.db import begin
from gateway.flows.reconciliation import reconcile
from gateway.flows.settlement import settle
from gateway.ids import utc_now
from tests.helpers.captured_sql import statements
from tests.helpers.discrepancies import copy_settlement, only_discrepancy, settled_payment, settlement_of
from tests.helpers.factories import accept_payment, count, execute, make_merchant, route_payments
from tests.helpers.refunds import refunded

pytestmark = pytest.mark.usefixtures("database")

IMPOSSIBLE = (
    ("settlements", "uq_settlements_transaction_id"),
    ("settlements", "uq_settlements_provider_provider_reference"),
    ("settlements", "fk_settlements_transaction_id"),
    ("ledger_entries", "uq_ledger_entries_source_id_account_direction"),
)


@pytest.fixture
def unguarded(database: None) -> Iterator[None]:  # noqa: ARG001  # its rows are to go before the constraints return
    """Remove the constraints that make some discrepancies impossible."""
    definitions = {}
    with begin() as connection:
        for table, name in IMPOSSIBLE:
            query = text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name")
            definitions[table, name] = connection.execute(query, {"name": name}).scalar_one()
            connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    yield
    with begin() as connection:
        connection.execute(text("TRUNCATE settlements, ledger_entries"))
        for (table, name), definition in definitions.items():
            connection.execute(text(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"))


def test_payments_of_every_outcome_reconcile_without_a_discrepancy() -> None:
    tokens = ("tok_approve", "tok_approve", "tok_decline_fraud", "tok_error_always", "tok_timeout_charged")
    settle(route_payments(make_merchant(), *tokens), "task-1")
    settle(route_payments(make_merchant(fee_basis_points=0), "tok_approve"), "task-2")
    settle(route_payments(make_merchant(fee_basis_points=10_000), "tok_approve"), "task-3")
    accept_payment(make_merchant())
    run = reconcile()
    assert run.status == "completed"
    assert run.discrepancies == {}
    assert (run.counts["transactions"], run.counts["settlements"], run.counts["ledger_entries"]) == (5, 5, 13)
    assert run.totals == {
        "USD": {
            "transactions": 5_000,
            "settlements": 5_000,
            "fees": 1_087,
            "net": 3_913,
            "ledger_debits": 5_000,
            "ledger_credits": 5_000,
        }
    }
    assert count("alerts") == 0


def test_an_empty_database_reconciles() -> None:
    run = reconcile()
    assert (run.status, run.compared, run.discrepancies) == ("completed", 0, {})


def test_a_missing_settlement_is_found() -> None:
    settled_payment()
    id = settled_payment(amount=700)
    execute("DELETE FROM ledger_entries WHERE transaction_id = :id", id=id)
    execute("DELETE FROM settlements WHERE transaction_id = :id", id=id)
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"]) == ("missing_settlement", str(id))
    assert (found["expected_amount"], found["actual_amount"], found["currency"]) == (700, None, "USD")


def test_a_missing_settlement_of_a_refunded_transaction_is_found() -> None:
    id = settled_payment()
    refund = refunded(id)
    assert reconcile().discrepancies == {}
    execute("DELETE FROM ledger_entries WHERE source_id <> :refund", refund=refund)
    execute("DELETE FROM settlements")
    assert reconcile().discrepancies == {"missing_settlement": 1}


def test_a_settlement_with_another_amount_is_found() -> None:
    id = settled_payment(amount=1_000)
    execute("UPDATE transactions SET amount = 1005 WHERE id = :id", id=id)
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"]) == ("amount_mismatch", str(settlement_of(id)))
    assert (found["transaction_id"], found["expected_amount"], found["actual_amount"]) == (str(id), 1_005, 1_000)


def test_a_settlement_in_another_currency_is_found() -> None:
    id = settled_payment()
    execute("UPDATE transactions SET currency = 'EUR' WHERE id = :id", id=id)
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["transaction_id"], found["currency"]) == ("currency_mismatch", str(id), "EUR")
    assert "EUR" in found["detail"]
    assert "USD" in found["detail"]


def test_a_pair_can_have_two_discrepancies() -> None:
    settled_payment()
    execute("UPDATE transactions SET currency = 'EUR', amount = 1005")
    assert reconcile().discrepancies == {"amount_mismatch": 1, "currency_mismatch": 1}


@pytest.mark.usefixtures("unguarded")
def test_a_second_settlement_is_found_once_with_the_sum_of_both() -> None:
    settled_payment()
    id = settled_payment(amount=300)
    copy_settlement(id)
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"]) == ("duplicate_settlement", str(id))
    assert (found["expected_amount"], found["actual_amount"], found["currency"]) == (300, 600, "USD")


@pytest.mark.usefixtures("unguarded")
def test_a_settlement_without_a_transaction_is_an_orphan() -> None:
    id = settled_payment()
    execute("DELETE FROM charge_attempts")
    execute("DELETE FROM transactions")
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"]) == ("orphan_settlement", str(settlement_of(id)))
    assert (found["expected_amount"], found["actual_amount"]) == (None, 1_000)


@pytest.mark.parametrize(
    "change",
    [
        "status = 'processing', completed_at = NULL, provider_reference = NULL",
        "status = 'failed', failure_category = 'declined', completed_at = NULL, provider_reference = NULL",
    ],
    ids=["processing", "failed"],
)
def test_a_settlement_of_a_transaction_that_did_not_complete_is_an_orphan(change: str) -> None:
    id = settled_payment()
    execute(f"UPDATE transactions SET {change} WHERE id = :id", id=id)  # noqa: S608
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["transaction_id"]) == ("orphan_settlement", str(id))


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM ledger_entries WHERE account = 'fees' AND source_id = :source",
        "DELETE FROM ledger_entries WHERE source_id = :source",
        "UPDATE ledger_entries SET amount = amount + 1 WHERE account = 'merchant_payable' AND source_id = :source",
        "UPDATE ledger_entries SET amount = amount + 1 WHERE account <> 'fees' AND source_id = :source",
        "UPDATE ledger_entries SET currency = 'EUR' WHERE account = 'fees' AND source_id = :source",
        "UPDATE ledger_entries SET currency = 'EUR' WHERE source_id = :source",
        "UPDATE ledger_entries SET direction = 'debit' WHERE account = 'fees' AND source_id = :source",
        "UPDATE ledger_entries SET direction = 'debit' WHERE account = 'merchant_payable' AND source_id = :source",
        "UPDATE ledger_entries SET direction = 'credit' WHERE account = 'provider_clearing' AND source_id = :source",
        "UPDATE settlements SET fee = fee + 1, net = net - 1 WHERE id = :source",
        """INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                       posted_at)
           SELECT source_id, transaction_id, merchant_id, 'provider_clearing', 'credit', 1, 'USD', posted_at
           FROM ledger_entries WHERE source_id = :source AND account = 'fees'""",
    ],
    ids=[
        "no fee",
        "none",
        "unbalanced",
        "other amount",
        "two currencies",
        "other currency",
        "fee debited",
        "payable debited",
        "clearing credited",
        "fee",
        "extra",
    ],
)
def test_ledger_entries_that_disagree_with_their_settlement_are_found(damage: str) -> None:
    settled_payment()
    id = settled_payment(amount=500)
    execute(damage, source=settlement_of(id))
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"]) == ("ledger_imbalance", str(settlement_of(id)))
    assert (found["transaction_id"], found["expected_amount"]) == (str(id), 500)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger_entries SET account = 'merchant_payable', amount = 485 WHERE account = 'fees'",
        """INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                       posted_at)
           SELECT source_id, transaction_id, merchant_id, account, direction, amount, currency, posted_at
           FROM ledger_entries WHERE account = 'merchant_payable'""",
    ],
    ids=["in place of another", "besides the others"],
)
def test_a_duplicate_ledger_entry_is_found(damage: str) -> None:
    id = settled_payment(amount=500)
    execute(damage)
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["transaction_id"]) == ("ledger_imbalance", str(id))
    assert found["detail"].count("merchant_payable 485") == 2


def test_ledger_entries_without_a_settlement_are_one_discrepancy() -> None:
    id = settled_payment(amount=500)
    source = UUID("00000000-0000-7000-8000-000000000001")
    execute(
        """INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                       posted_at)
           SELECT :source, transaction_id, merchant_id, account, direction, amount, currency, posted_at
           FROM ledger_entries""",
        source=source,
    )
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"], found["transaction_id"]) == ("ledger_imbalance", str(source), str(id))
    assert (found["expected_amount"], found["actual_amount"]) == (None, 500)


def test_entries_without_a_settlement_outside_of_the_period_are_ignored() -> None:
    settled_payment(amount=500)
    execute(
        """INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency,
                                       posted_at)
           SELECT gen_random_uuid(), transaction_id, merchant_id, account, direction, amount, currency,
                  now() - interval '1 day'
           FROM ledger_entries LIMIT 1"""
    )
    now = utc_now()
    assert reconcile(now - timedelta(hours=1), None).discrepancies == {}
    assert reconcile(now - timedelta(hours=25), now - timedelta(hours=1)).discrepancies == {"ledger_imbalance": 1}


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_a_stuck_transaction_is_found_although_the_sweep_requeued_it(status: str) -> None:
    id = accept_payment(make_merchant()) if status == "pending" else route_payments(make_merchant(), "tok_approve")[0]
    execute("UPDATE transactions SET updated_at = now() - interval '1 hour', requeued_at = now(), requeues = 1")
    found = only_discrepancy(reconcile())
    assert (found["kind"], found["subject_id"]) == ("stuck_processing", str(id))
    assert status in found["detail"]


def test_a_transaction_with_a_lease_is_not_stuck() -> None:
    settle(route_payments(make_merchant(), "tok_error_once"), "task-1")
    execute("UPDATE transactions SET updated_at = now() - interval '1 hour'")
    execute("UPDATE charge_attempts SET outcome = NULL, finished_at = NULL, lease_until = now() + interval '1 minute'")
    assert reconcile().discrepancies == {}


@pytest.mark.usefixtures("unguarded")
def test_a_second_settlement_outside_of_the_period_is_ignored() -> None:
    copy_settlement(settled_payment())
    now = utc_now()
    assert reconcile(now - timedelta(hours=2), now - timedelta(hours=1)).discrepancies == {}
    assert reconcile(now - timedelta(hours=1), None).discrepancies == {"duplicate_settlement": 1}


def test_parallel_workers_execute_the_comparisons() -> None:
    with statements() as sent:
        reconcile()
    limits = [statement for statement in sent if "set_config" in statement.sql]
    comparison = next(statement for statement in sent if "TEMPORARY TABLE comparison" in statement.sql)
    with begin() as connection:
        for limit in limits:
            connection.exec_driver_sql(limit.sql, limit.parameters)
        plan = connection.exec_driver_sql(f"EXPLAIN {comparison.sql}", comparison.parameters).scalars().all()
    assert plan[0].startswith("Gather"), "\n".join(plan)
