"""Refunding against a real acquirer that misbehaves: it gives back once, and the gateway records what it gave back."""

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
from tests.helpers.refunds import ask, expire_lease, paid, row, standing
from tests.sandbox.process import AcquirerProcess, Configure

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def sandbox_is_the_provider(acquirer: AcquirerProcess, configure: Configure) -> None:
    """Payments go to the acquirer, which has 0.6 s to answer."""
    configure(PROVIDERS="sandbox", SANDBOX_ACQUIRER_URL=acquirer.url, PROVIDER_TIMEOUT_SECONDS="1")


def given_back(acquirer: AcquirerProcess, id: UUID) -> list[dict[str, Any]]:
    """What the acquirer gave back for this refund."""
    return [entry for entry in acquirer.refunds() if entry["idempotency_key"] == str(id)]


def assert_refunded_as_given_back(acquirer: AcquirerProcess, ids: Sequence[UUID]) -> None:
    """Each of `ids` is completed, with the one refund that the acquirer has for it."""
    for id in ids:
        done = row("refunds", id)
        [entry] = given_back(acquirer, id)
        assert (done.status, done.provider_reference, done.amount) == ("completed", entry["id"], entry["amount"])
        assert entry["charge_id"] == row("transactions", done.transaction_id).provider_reference
    assert count("ledger_entries", "account = 'merchant_payable' AND direction = 'debit'") == len(ids)


@pytest.mark.parametrize("mode", ["normal", "drop_after", "error_after", "slow", "garbage", "wrong_amount"])
def test_a_refund_whose_answer_is_lost_is_completed_at_once_by_the_status_query(
    acquirer: AcquirerProcess, mode: str
) -> None:
    id = ask(paid())
    acquirer.control(mode, late_ms=5_000)
    assert refund([id], "task-1").completed == [id]
    assert_refunded_as_given_back(acquirer, [id])


@pytest.mark.parametrize("mode", ["drop_after", "hang", "drop_before"])
def test_a_refund_that_stays_unknown_is_asked_after_before_it_is_tried_again(
    acquirer: AcquirerProcess, mode: str
) -> None:
    transaction_id = paid()
    id = ask(transaction_id, 400)
    acquirer.control(mode, calls="all")
    assert refund([id], "task-1").retry == [id]
    assert standing(transaction_id) == ("completed", 0, 400)
    acquirer.control("normal")
    assert refund([id], "task-1").completed == [id]
    assert_refunded_as_given_back(acquirer, [id])


@pytest.mark.parametrize("token", ["tok_refund_decline", "tok_refund_error_always"])
def test_what_the_acquirer_does_not_give_back_is_not_recorded(acquirer: AcquirerProcess, token: str) -> None:
    id = ask(paid(token))
    result = refund([id], "task-1")
    assert result.completed == []
    assert given_back(acquirer, id) == []
    assert row("refunds", id).status == ("failed" if token == "tok_refund_decline" else "pending")


def test_a_refund_that_the_acquirer_thinks_too_large_fails_and_releases_what_it_reserved(
    acquirer: AcquirerProcess,
) -> None:
    transaction_id = paid()
    charge_id = row("transactions", transaction_id).provider_reference
    body = {"idempotency_key": f"by-hand-{transaction_id}", "charge_id": charge_id, "amount": 700}
    assert acquirer.call("POST", "/refunds", json=body).status_code == 201
    id = ask(transaction_id, 400)
    refund([id], "task-1")
    assert (row("refunds", id).failure_code, standing(transaction_id)) == (
        "amount_exceeds_charge",
        ("completed", 0, 0),
    )


def test_a_worker_that_dies_after_the_acquirer_gave_back_refunds_once(acquirer: AcquirerProcess) -> None:
    ids = [ask(paid(), 400) for _ in range(3)]
    for id in ids:
        with autocommit() as connection:
            [claim] = refunding.claim(connection, [id], "task-1", settings().claim_lease_seconds).claims
        registry.provider("sandbox").refund(claim.instruction)  # and here the worker dies, before it records
    expire_lease(ids)
    acquirer.control("error_before")  # only a query can tell
    for id in ids:
        assert refund([id], "task-2").completed == [id]
    assert_refunded_as_given_back(acquirer, ids)


def test_workers_that_send_the_same_refunds_at_once_give_back_each_once(acquirer: AcquirerProcess) -> None:
    ids = [ask(paid(), 10) for _ in range(20)]
    claims = []
    for task in ("task-1", "task-2"):
        for id in ids:
            with autocommit() as connection:
                claims += refunding.claim(connection, [id], task, settings().claim_lease_seconds).claims
        expire_lease(ids)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda claim: (claim, registry.provider("sandbox").refund(claim.instruction)), claims))
    for answer in answers:
        with autocommit() as connection:
            refunding.record(connection, [answer])
    assert_refunded_as_given_back(acquirer, ids)


def test_under_faults_of_every_kind_each_refund_is_recorded_as_it_was_given_back(acquirer: AcquirerProcess) -> None:
    merchant_id = make_merchant()
    transactions = [
        paid(token, merchant_id=merchant_id) for token in ("tok_approve", "tok_refund_error_once") for _ in range(5)
    ]
    ids = [ask(transaction_id, 300) for transaction_id in transactions for _ in range(3)]
    for seed, mode in enumerate(("drop_after", "error_after", "drop_before")):
        acquirer.control(mode, calls="all", probability=0.7, seed=seed)
        refund([id for id in ids if row("refunds", id).status == "pending"], f"task-{seed}")
    assert count("refunds", "status = 'completed'") not in {0, 30}
    acquirer.control("normal")
    refund(ids, "task-last")
    assert_refunded_as_given_back(acquirer, ids)
    assert [standing(id) for id in transactions] == [("partially_refunded", 900, 0)] * 10
