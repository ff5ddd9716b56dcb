"""The retention of old rows."""

from datetime import timedelta
from uuid import UUID

import pytest

from gateway.db import autocommit, begin
from gateway.domain.operations import retention
from gateway.domain.operations.retention import DELIVERY_DAYS, IDEMPOTENCY_DAYS
from gateway.domain.shared import idempotency
from gateway.domain.shared.idempotency import IdempotencyKey, StoredResponse
from gateway.domain.webhooks import deliveries as webhook_deliveries
from gateway.flows import upkeep
from gateway.flows.refunds import refund as carry_out
from gateway.flows.upkeep import BATCH
from gateway.ids import smallest_id, utc_now
from gateway.states import EventType
from tests.helpers import lifecycles
from tests.helpers.factories import accept_payment, count, execute, make_merchant, route_payments
from tests.helpers.refunds import merchant_of, paid, request_refund
from tests.helpers.webhooks import complete_payments, make_endpoint

pytestmark = pytest.mark.usefixtures("database")


def store_response(transaction_id: UUID, days: int = IDEMPOTENCY_DAYS + 1) -> None:
    """Store the response to a request about this transaction, as if it were `days` old."""
    key = IdempotencyKey.of(f"key-{transaction_id}", "POST", "/v1/things", b"{}")
    with begin() as connection:
        idempotency.once(
            connection, merchant_of(transaction_id), key, transaction_id, lambda: StoredResponse(201, "{}")
        )
    execute("UPDATE idempotency_records SET created_at = now() - make_interval(days => :days)", days=days)


def purge() -> int:
    with autocommit() as connection:
        return retention.purge(connection, 100)


def test_a_response_is_kept_for_thirty_days() -> None:
    store_response(paid(), IDEMPOTENCY_DAYS - 1)
    assert (purge(), count("idempotency_records")) == (0, 1)
    execute("UPDATE idempotency_records SET created_at = now() - interval '31 days'")
    assert (purge(), count("idempotency_records")) == (1, 0)


def test_a_response_is_kept_while_its_transaction_is_unfinished() -> None:
    merchant_id = make_merchant()
    waiting = [accept_payment(merchant_id), *route_payments(merchant_id, "tok_approve")]
    waiting.append(lifecycles.dead_lettered(merchant_id)[0])
    for id in waiting:
        store_response(id)
    assert (purge(), count("idempotency_records")) == (0, 3)


@pytest.mark.parametrize("token", ["tok_approve", "tok_refund_decline"])
def test_a_response_is_kept_while_a_refund_of_its_transaction_is_pending(token: str) -> None:
    transaction_id = paid(token)
    id = request_refund(transaction_id, 400)
    store_response(transaction_id)
    assert purge() == 0
    carry_out([id], "task-1")
    assert (purge(), count("idempotency_records")) == (1, 0)


def test_a_response_is_kept_while_a_refund_of_its_transaction_is_dead_lettered() -> None:
    transaction_id = paid("tok_refund_error_always")
    lifecycles.dead_lettered_refund(transaction_id)
    store_response(transaction_id)
    assert purge() == 0


def test_one_sweep_purges_more_responses_than_a_batch() -> None:
    store_response(paid())
    execute(
        "INSERT INTO idempotency_records SELECT merchant_id, key || n, request_hash, transaction_id, location, status, "
        "body, created_at FROM idempotency_records, generate_series(1, :number) AS n",
        number=2 * BATCH,
    )
    assert upkeep.sweep().purged == 2 * BATCH + 1


@pytest.mark.parametrize(("status", "kept"), [("succeeded", 0), ("exhausted", 0), ("canceled", 0), ("pending", 1)])
def test_a_delivery_is_kept_for_ninety_days_and_until_it_is_finished(status: str, kept: int) -> None:
    merchant_id = make_merchant()
    make_endpoint(merchant_id, "https://example.com/", EventType.TRANSACTION_COMPLETED)
    complete_payments(merchant_id)
    if status != "pending":
        execute("UPDATE webhook_deliveries SET status = :status, next_attempt_at = NULL", status=status)
    for days, expected in ((DELIVERY_DAYS - 1, 1), (DELIVERY_DAYS + 1, kept)):
        id = smallest_id(utc_now(), -timedelta(days=days))
        execute("UPDATE webhook_deliveries SET id = :id", id=id)
        purge()
        assert count("webhook_deliveries") == expected


def test_the_body_of_an_event_is_kept_for_ninety_days_and_until_its_deliveries_are_finished() -> None:
    merchant_id = make_merchant()
    endpoint_id, _ = make_endpoint(merchant_id, "https://example.com/", EventType.TRANSACTION_COMPLETED)
    complete_payments(merchant_id)
    with autocommit() as connection:
        webhook_deliveries.claim(connection, {endpoint_id: (1, 1)})
    old = smallest_id(utc_now(), -timedelta(days=DELIVERY_DAYS + 1))
    execute("UPDATE webhook_deliveries SET event_id = :id", id=old)
    execute("UPDATE webhook_bodies SET event_id = :id", id=old)
    finish = (
        "UPDATE webhook_deliveries SET status = :status, next_attempt_at = CASE :status WHEN 'pending' THEN now() END"
    )
    for created_at, status, kept in (
        ("now()", "succeeded", 1),
        ("now() - interval '91 days'", "pending", 1),
        ("now() - interval '91 days'", "succeeded", 0),
    ):
        execute(f"UPDATE webhook_bodies SET created_at = {created_at}")  # noqa: S608  # a constant
        execute(finish, status=status)
        purge()
        assert count("webhook_bodies") == kept
