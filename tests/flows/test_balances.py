"""Balances equal the ledger to the minor unit, during settlements, folds and reads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from celery.schedules import schedule
from sqlalchemy import text

import celeryconfig
from gateway.app import create_app
from gateway.db import autocommit, begin, engine
from gateway.domain.payments import balances as rules
from gateway.domain.payments import refunds
from gateway.domain.payments.refunds import NewRefund
from gateway.flows import balances, routing, settlement
from gateway.flows.refunds import refund
from tasks import app as celery
from tasks.upkeep import check_balances, fold_balances
from tests.helpers.factories import accept_payment, count, execute, make_merchant

pytestmark = pytest.mark.usefixtures("database")

ROUNDS = 15
CURRENCIES = ("USD", "EUR", "JPY")

LEDGER = text("""
    SELECT currency,
           sum(CASE direction WHEN 'credit' THEN amount ELSE -amount END)
               FILTER (WHERE account = 'merchant_payable') AS available,
           sum(amount) FILTER (WHERE account = 'provider_clearing' AND direction = 'debit') AS settled,
           coalesce(sum(amount) FILTER (WHERE account = 'provider_clearing' AND direction = 'credit'), 0) AS refunded,
           coalesce(sum(CASE direction WHEN 'credit' THEN amount ELSE -amount END)
               FILTER (WHERE account = 'fees'), 0) AS fees
    FROM ledger_entries WHERE merchant_id = :merchant_id GROUP BY currency ORDER BY currency
""")
"""The balances as sums of the ledger, without the stored balances."""


def read_beside_ledger(merchant_id: UUID) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the balance and the sums of the ledger, in one snapshot."""
    with engine().connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        shown = rules.of_merchant(connection, merchant_id)
        ledger = connection.execute(LEDGER, {"merchant_id": merchant_id}).mappings()
        return shown, [dict(row) for row in ledger]


def settle_some(merchant_ids: list[UUID], amount: int) -> None:
    ids = [accept_payment(id, "tok_approve", amount, currency) for id in merchant_ids for currency in CURRENCIES]
    routing.route(ids)
    settlement.settle(ids, "task-1")


def refund_some(wanted: int) -> None:
    """Refund 37 minor units of each completed payment, until this number of refunds is completed."""
    refunded = 0
    while refunded < wanted:
        with autocommit() as connection:
            found = connection.execute(text("SELECT id, merchant_id FROM transactions WHERE status = 'completed'"))
            for row in found.all():
                made = refunds.create(connection, row.merchant_id, row.id, NewRefund(amount=37), "req-test")
                refunded += len(refund([UUID(made["id"])], "task-2").completed)


def test_a_balance_equals_the_ledger_during_payments_refunds_and_folds() -> None:
    merchant_ids = [make_merchant(basis_points) for basis_points in (0, 290, 333)]
    settling = threading.Event()
    settling.set()

    def settle_all(seed: int) -> None:
        for number in range(ROUNDS):
            settle_some(merchant_ids if number % 2 else merchant_ids[::-1], 101 + 7 * seed + number)

    def fold_all() -> int:
        folded = 0
        while settling.is_set():
            with autocommit() as connection:
                folded += rules.fold(connection, 5)
        return folded

    def read_all() -> int:
        reads = 0
        while settling.is_set():
            for merchant_id in merchant_ids:
                shown, ledger = read_beside_ledger(merchant_id)
                assert shown == ledger
                reads += 1
        return reads

    with ThreadPoolExecutor(7) as pool:
        settles = [*(pool.submit(settle_all, seed) for seed in range(2)), pool.submit(refund_some, ROUNDS)]
        folds = [pool.submit(fold_all) for _ in range(3)]
        reads = pool.submit(read_all)
        try:
            for done in settles:
                done.result()
        finally:
            settling.clear()
        folded = [done.result() for done in folds]
        assert reads.result() > ROUNDS
    assert sum(folded) > 0
    balances.fold()
    assert count("balance_changes") == 0
    for merchant_id in merchant_ids:
        shown, ledger = read_beside_ledger(merchant_id)
        assert (shown, len(shown)) == (ledger, len(CURRENCIES))
    assert count("balances", "refunded % 37 = 0 AND refunded > 0") > 0


def test_concurrent_folds_take_different_changes() -> None:
    first, second = make_merchant(), make_merchant()
    settle_some([first], 1_000)
    settle_some([second], 1_000)
    with begin() as one, begin() as other:
        assert rules.fold(one, 3) == 3
        assert rules.fold(other, 10) == 3
    assert count("balance_changes") == 0
    assert count("balances", "settled = 1000 AND fees = 29") == 6


def test_a_fold_that_dies_changes_nothing() -> None:
    merchant_id = make_merchant()
    settle_some([merchant_id], 1_000)
    before = read_beside_ledger(merchant_id)
    with engine().connect().execution_options(isolation_level="READ COMMITTED") as connection:
        assert rules.fold(connection, 10) == 3
        connection.rollback()
    assert count("balance_changes") == 3
    assert read_beside_ledger(merchant_id) == before


def test_beat_schedules_folds_and_a_fold_without_database_logs_a_warning() -> None:
    settle_some([make_merchant()], 1_000)
    with begin() as connection:
        connection.execute(text("LOCK TABLE balances IN ACCESS EXCLUSIVE MODE"))
        fold_balances()
    assert count("balance_changes") == 3
    fold_balances()
    assert count("balance_changes") == 0
    entry = celeryconfig.beat_schedule["fold_balances"]
    assert entry["task"] in celery.tasks
    assert entry["schedule"] == schedule(15)


def test_a_balance_may_be_negative() -> None:
    merchant_id = make_merchant()
    settle_some([merchant_id], 1_000)
    refund = (
        "INSERT INTO balance_changes (merchant_id, currency, settled, refunded, fees) VALUES (:id, 'USD', 0, 1000, 0)"
    )
    execute(refund, id=merchant_id)
    for _ in range(2):
        with begin() as connection:
            [usd] = [row for row in rules.of_merchant(connection, merchant_id) if row["currency"] == "USD"]
        assert usd == {"currency": "USD", "available": -29, "settled": 1_000, "refunded": 1_000, "fees": 29}
        balances.fold()


def test_a_balance_that_differs_from_the_ledger_raises_an_alert() -> None:
    merchant_id = make_merchant()
    settle_some([merchant_id], 1_000)
    balances.fold()
    settle_some([merchant_id], 500)
    agreed = create_app().test_cli_runner().invoke(args=["balances"])
    assert (agreed.exit_code, count("alerts")) == (0, 0)
    execute("UPDATE balances SET fees = fees + 1 WHERE currency = 'USD'")
    execute("DELETE FROM balance_changes WHERE currency = 'EUR'")
    execute("DELETE FROM ledger_entries WHERE currency = 'JPY'")

    found = create_app().test_cli_runner().invoke(args=["balances"])

    assert found.exit_code == 1
    assert found.output.splitlines()[:3] == [
        f"{merchant_id} EUR: kept 1000/0/29, posted 1500/0/44",
        f"{merchant_id} JPY: kept 1500/0/44, posted nothing",
        f"{merchant_id} USD: kept 1500/0/45, posted 1500/0/44",
    ]
    assert count("alerts", "severity = 'critical' AND details ->> 'kind' = 'misstated_balance'") == 1


def test_the_nightly_check_is_scheduled_and_agrees_while_payments_settle() -> None:
    merchant_id = make_merchant()
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(settle_some, [merchant_id], 100 + number) for number in range(10)]
        while not all(done.done() for done in work):
            balances.fold()
            assert balances.check() == []
    check_balances()
    assert count("alerts") == 0
    assert celeryconfig.beat_schedule["check_balances"]["task"] in celery.tasks
