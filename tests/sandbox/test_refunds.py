"""Refunds with a faulty acquirer: it refunds once, and the gateway records what it refunded."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from gateway.config import settings
from gateway.db import autocommit
from gateway.domain.payments import refunding
from gateway.flows.refunds import refund
from gateway.providers import registry
from tests.helpers.factories import count, make_merchant
from tests.helpers.refunds import expire_lease, paid, refund_amounts, request_refund, row
from tests.sandbox.process import AcquirerProcess, Configure

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def sandbox_is_the_provider(acquirer: AcquirerProcess, configure: Configure) -> None:
    """Send payments to the acquirer, which has 0.6 s for a response."""
    configure(PROVIDERS="sandbox", SANDBOX_ACQUIRER_URL=acquirer.url, PROVIDER_TIMEOUT_SECONDS="1")


def refunds_at_acquirer(acquirer: AcquirerProcess, id: UUID) -> list[dict[str, Any]]:
    """Return what the acquirer has for this refund."""
    return [entry for entry in acquirer.refunds() if entry["idempotency_key"] == str(id)]


def assert_recorded_as_refunded(acquirer: AcquirerProcess, ids: Sequence[UUID]) -> None:
    """Check that each of `ids` is completed with its only refund at the acquirer."""
    for id in ids:
        done = row("refunds", id)
        [entry] = refunds_at_acquirer(acquirer, id)
        assert (done.status, done.provider_reference, done.amount) == ("completed", entry["id"], entry["amount"])
        assert entry["charge_id"] == row("transactions", done.transaction_id).provider_reference
    assert count("ledger_entries", "account = 'merchant_payable' AND direction = 'debit'") == len(ids)


@pytest.mark.parametrize("mode", ["normal", "drop_after", "error_after", "slow", "garbage", "wrong_amount"])
def test_the_status_query_completes_a_refund_whose_response_is_lost(acquirer: AcquirerProcess, mode: str) -> None:
    id = request_refund(paid())
    acquirer.control(mode, late_ms=5_000)
    assert refund([id], "task-1").completed == [id]
    assert_recorded_as_refunded(acquirer, [id])


@pytest.mark.parametrize("mode", ["drop_after", "hang", "drop_before"])
def test_an_unknown_refund_is_queried_before_it_is_sent_again(acquirer: AcquirerProcess, mode: str) -> None:
    transaction_id = paid()
    id = request_refund(transaction_id, 400)
    acquirer.control(mode, calls="all")
    assert refund([id], "task-1").retry == [id]
    assert refund_amounts(transaction_id) == ("completed", 0, 400)
    acquirer.control("normal")
    assert refund([id], "task-1").completed == [id]
    assert_recorded_as_refunded(acquirer, [id])


@pytest.mark.parametrize("token", ["tok_refund_decline", "tok_refund_error_always"])
def test_a_refund_that_the_acquirer_refuses_is_not_recorded(acquirer: AcquirerProcess, token: str) -> None:
    id = request_refund(paid(token))
    result = refund([id], "task-1")
    assert result.completed == []
    assert refunds_at_acquirer(acquirer, id) == []
    assert row("refunds", id).status == ("failed" if token == "tok_refund_decline" else "pending")


def test_a_refund_above_the_amount_at_the_acquirer_fails_and_releases_its_reservation(
    acquirer: AcquirerProcess,
) -> None:
    transaction_id = paid()
    charge_id = row("transactions", transaction_id).provider_reference
    body = {"idempotency_key": f"by-hand-{transaction_id}", "charge_id": charge_id, "amount": 700}
    assert acquirer.call("POST", "/refunds", json=body).status_code == 201
    id = request_refund(transaction_id, 400)
    refund([id], "task-1")
    assert (row("refunds", id).failure_code, refund_amounts(transaction_id)) == (
        "amount_exceeds_charge",
        ("completed", 0, 0),
    )


def test_a_worker_that_dies_after_the_refund_refunds_once(acquirer: AcquirerProcess) -> None:
    ids = [request_refund(paid(), 400) for _ in range(3)]
    for id in ids:
        with autocommit() as connection:
            [claim] = refunding.claim(connection, [id], "task-1", settings().claim_lease_seconds).claims
        registry.provider("sandbox").refund(claim.instruction)  # the worker dies before it records the refund
    expire_lease(ids)
    acquirer.control("error_before")  # so that only the query finds the refund
    for id in ids:
        assert refund([id], "task-2").completed == [id]
    assert_recorded_as_refunded(acquirer, ids)


def test_workers_that_send_the_same_refunds_concurrently_refund_each_once(acquirer: AcquirerProcess) -> None:
    ids = [request_refund(paid(), 10) for _ in range(20)]
    claims = []
    for task in ("task-1", "task-2"):
        for id in ids:
            with autocommit() as connection:
                claims += refunding.claim(connection, [id], task, settings().claim_lease_seconds).claims
        expire_lease(ids)
    with ThreadPoolExecutor(40) as pool:
        responses = list(
            pool.map(lambda claim: (claim, registry.provider("sandbox").refund(claim.instruction)), claims)
        )
    for response in responses:
        with autocommit() as connection:
            refunding.record(connection, [response])
    assert_recorded_as_refunded(acquirer, ids)


def test_under_all_faults_each_refund_is_recorded_as_it_was_refunded(acquirer: AcquirerProcess) -> None:
    merchant_id = make_merchant()
    transactions = [
        paid(token, merchant_id=merchant_id) for token in ("tok_approve", "tok_refund_error_once") for _ in range(5)
    ]
    ids = [request_refund(transaction_id, 300) for transaction_id in transactions for _ in range(3)]
    for seed, mode in enumerate(("drop_after", "error_after", "drop_before")):
        acquirer.control(mode, calls="all", probability=0.7, seed=seed)
        refund([id for id in ids if row("refunds", id).status == "pending"], f"task-{seed}")
    assert count("refunds", "status = 'completed'") not in {0, 30}
    acquirer.control("normal")
    refund(ids, "task-last")
    assert_recorded_as_refunded(acquirer, ids)
    assert [refund_amounts(id) for id in transactions] == [("partially_refunded", 900, 0)] * 10
