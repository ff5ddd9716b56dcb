"""Requests for refunds. Concurrent refunds never exceed the paid amount."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from gateway.db import autocommit, begin
from gateway.domain.payments import refunding, refunds
from gateway.domain.payments.refunds import NewRefund
from gateway.errors import AmountExceedsRefundable, InvalidState, NotFound
from gateway.flows.refunds import refund as carry_out
from gateway.flows.settlement import settle
from gateway.ids import new_id
from gateway.outcomes import Declined
from tests.helpers.factories import accept_payment, count, execute, make_merchant, route_payments
from tests.helpers.refunds import merchant_of, paid, refund_amounts, refunded, request_refund, row
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")

CONCURRENT = 20  # the connections of the pool
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_a_refund_reserves_its_amount_and_is_enqueued() -> None:
    transaction_id = paid()
    id = request_refund(transaction_id, 300)
    assert refund_amounts(transaction_id) == ("completed", 0, 300)
    refund = row("refunds", id)
    assert (refund.status, refund.amount, refund.currency, refund.provider) == ("pending", 300, "USD", "simulated")
    assert count("outbox", f"topic = 'refund.requested' AND subject_id = '{id}'") == 1


def test_without_an_amount_the_whole_refundable_amount_is_refunded() -> None:
    transaction_id = paid()
    refunded(transaction_id, 250)
    request_refund(transaction_id, 100)
    assert row("refunds", request_refund(transaction_id)).amount == 650


@pytest.mark.parametrize("amount", [1, None])
@pytest.mark.parametrize("status", ["pending", "processing", "failed", "dead_lettered", "canceled"])
def test_only_a_settled_transaction_can_be_refunded(status: str, amount: int | None) -> None:
    id = accept_payment(make_merchant())
    execute(
        "UPDATE transactions SET status = :status, provider = 'simulated', failure_category = CASE WHEN"
        " :status IN ('failed', 'dead_lettered') THEN 'declined' END WHERE id = :id",
        id=id,
        status=status,
    )
    with pytest.raises(InvalidState, match=status):
        request_refund(id, amount)
    assert refund_amounts(id) == (status, 0, 0)


@pytest.mark.parametrize(("earlier", "amount"), [([], 1_001), ([999], 2), ([600, 400], None), ([600, 400], 1)])
def test_more_than_the_refundable_amount_is_rejected(earlier: list[int], amount: int | None) -> None:
    transaction_id = paid()
    for part in earlier:
        refunded(transaction_id, part)
    before = refund_amounts(transaction_id)
    with pytest.raises(AmountExceedsRefundable) as raised:
        request_refund(transaction_id, amount)
    assert [error["pointer"] for error in raised.value.errors] == ["/amount"]
    assert refund_amounts(transaction_id) == before
    assert count("refunds") == len(earlier)


def test_the_amount_of_a_failed_refund_can_be_refunded() -> None:
    transaction_id = paid("tok_refund_decline")
    failed = request_refund(transaction_id)
    carry_out([failed], "task-1")
    assert row("refunds", request_refund(transaction_id)).amount == 1_000


def test_the_transaction_of_another_merchant_does_not_exist() -> None:
    transaction_id = paid()
    for merchant_id, id in ((make_merchant(), transaction_id), (merchant_of(transaction_id), new_id())):
        with autocommit() as connection, pytest.raises(NotFound):
            refunds.create(connection, merchant_id, id, NewRefund(), "req-test")


def test_two_hundred_concurrent_refunds_never_exceed_the_paid_amount() -> None:
    transaction_id = paid(amount=1_000)
    amounts: list[int | None] = [1 + 7 * number % 60 for number in range(199)]

    def attempt(amount: int | None) -> int:
        try:
            return int(row("refunds", request_refund(transaction_id, amount)).amount)
        except AmountExceedsRefundable:
            return 0

    with ThreadPoolExecutor(CONCURRENT) as threads:
        reserved = sum(threads.map(attempt, amounts))
    assert reserved <= 1_000
    assert refund_amounts(transaction_id) == ("completed", 0, reserved)
    rest = attempt(None)
    assert reserved + rest == 1_000
    assert count("refunds", "status = 'pending'") == count("outbox", "topic = 'refund.requested'")


def test_a_refund_of_everything_considers_concurrent_refunds() -> None:
    transaction_id = paid()
    merchant_id = merchant_of(transaction_id)
    with ThreadPoolExecutor(1) as threads:
        with begin() as connection:
            refunds.create(connection, merchant_id, transaction_id, NewRefund(300), "req-test")
            rest = threads.submit(request_refund, transaction_id)
            eventually(lambda: scalar(WAITING), within=0.9, what="the other refund waiting")
        assert row("refunds", rest.result()).amount == 700
    assert refund_amounts(transaction_id) == ("completed", 0, 1_000)


def scalar(query: str) -> int:
    with autocommit() as connection:
        return int(connection.execute(text(query)).scalar_one())


def test_an_amount_that_a_concurrently_failing_refund_releases_can_be_refunded() -> None:
    transaction_id = paid()
    with autocommit() as connection:
        [claim] = refunding.claim(connection, [request_refund(transaction_id)], "task-1", lease_seconds=30).claims
    with ThreadPoolExecutor(1) as threads:
        with begin() as connection:
            refunding.record(connection, [(claim, Declined("refund_refused", "No."))])
            other = threads.submit(request_refund, transaction_id, 700)
            eventually(lambda: scalar(WAITING), within=0.9, what="the other refund waiting")
        assert row("refunds", other.result()).amount == 700
    assert refund_amounts(transaction_id) == ("completed", 0, 700)


def test_concurrent_requests_and_executions_of_refunds_add_up() -> None:
    transaction_id = paid(amount=200)

    def ask_and_carry_out(_: int) -> None:
        carry_out([request_refund(transaction_id, 1)], "task-1")

    with ThreadPoolExecutor(CONCURRENT) as threads:
        list(threads.map(ask_and_carry_out, range(200)))
    assert refund_amounts(transaction_id) == ("refunded", 200, 0)
    assert count("refunds", "status = 'completed'") == 200


def test_a_declined_payment_cannot_be_refunded() -> None:
    [id] = route_payments(make_merchant(), "tok_decline_fraud")
    settle([id], "task-1")
    with pytest.raises(InvalidState):
        request_refund(id)
