"""Acceptance of transactions: one commit writes everything, and a repeated key creates nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from gateway.db import autocommit, begin
from gateway.domain.payments.transactions import NewTransaction
from gateway.domain.shared import outbox
from gateway.domain.shared.idempotency import IdempotencyKey, IdempotentResponse
from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidIdempotencyKey
from gateway.ids import new_id
from tests.helpers.factories import accept, count, execute, make_merchant

pytestmark = pytest.mark.usefixtures("database")

PAYMENT = NewTransaction(1_000, "USD", "tok_approve")


def key(name: str = "key-1", body: bytes = b"{}") -> IdempotencyKey:
    return IdempotencyKey.of(name, "POST", "/v1/transactions", body)


def test_a_transaction_its_outbox_row_and_its_idempotency_record_are_written_together() -> None:
    merchant_id = make_merchant()
    with autocommit() as connection:
        accept(connection, merchant_id, PAYMENT, "req-1", key())
    assert (count("transactions"), count("outbox"), count("idempotency_records")) == (1, 1, 1)


def test_a_rejected_row_stores_nothing() -> None:
    with autocommit() as connection, pytest.raises(IntegrityError):
        accept(connection, new_id(), PAYMENT, "req-1", key())  # no such merchant
    assert (count("transactions"), count("outbox"), count("idempotency_records")) == (0, 0, 0)


def test_a_repeated_key_gets_the_first_response() -> None:
    merchant_id = make_merchant()
    with autocommit() as connection:
        first = accept(connection, merchant_id, PAYMENT, "req-1", key())
        second = accept(connection, merchant_id, PAYMENT, "req-2", key())
    assert (first.replayed, second.replayed) == (False, True)
    assert second.response == first.response
    assert count("transactions") == 1


def test_the_same_key_with_another_request_is_rejected() -> None:
    merchant_id = make_merchant()
    with autocommit() as connection:
        accept(connection, merchant_id, PAYMENT, "req-1", key())
        with pytest.raises(IdempotencyKeyReused):
            accept(connection, merchant_id, PAYMENT, "req-2", key(body=b'{"amount": 2}'))
    assert count("transactions") == 1


def test_the_same_key_of_two_merchants_creates_two_transactions() -> None:
    with autocommit() as connection:
        answers = [accept(connection, make_merchant(), PAYMENT, "req-1", key()) for _ in range(2)]
    assert [answer.replayed for answer in answers] == [False, False]
    assert count("transactions") == 2


@pytest.mark.parametrize("name", ["", "x" * 256, "with\nnewline", "schlüssel"])
def test_a_key_that_is_not_printable_ascii_of_valid_length_is_rejected(name: str) -> None:
    with pytest.raises(InvalidIdempotencyKey):
        key(name)


def test_concurrent_posts_with_one_key_create_one_transaction() -> None:
    merchant_id, start = make_merchant(), threading.Barrier(16)

    def post(_: int) -> IdempotentResponse:
        start.wait(timeout=10)
        with autocommit() as connection:
            return accept(connection, merchant_id, PAYMENT, "req-1", key())

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(16)))
    assert len({answer.response.body for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert (count("transactions"), count("outbox")) == (1, 1)


def test_a_key_whose_first_request_is_still_running_is_in_progress() -> None:
    merchant_id = make_merchant()
    with begin() as running:
        accept(running, merchant_id, PAYMENT, "req-1", key())
        with autocommit() as connection, pytest.raises(IdempotencyInProgress):
            accept(connection, merchant_id, PAYMENT, "req-2", key())
    assert count("transactions") == 1


def test_rows_stay_in_the_outbox_if_publishing_fails() -> None:
    merchant_id = make_merchant()
    with autocommit() as connection:
        accept(connection, merchant_id, PAYMENT, "req-1", None)

    def relay() -> None:
        with begin() as connection:
            assert len(outbox.take(connection, 10).rows) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        relay()
    assert count("outbox") == 1


def test_two_relays_never_take_the_same_row() -> None:
    merchant_id = make_merchant()
    with autocommit() as connection:
        for _ in range(4):
            accept(connection, merchant_id, PAYMENT, "req-1", None)
    with begin() as one, begin() as other:
        first = {row.subject_id for row in outbox.take(one, 2).rows}
        second = {row.subject_id for row in outbox.take(other, 10).rows}
    assert (len(first), len(second), first & second) == (2, 2, set())
    assert count("outbox") == 0


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE transactions SET amount = 0",
        "UPDATE transactions SET currency = 'usd'",
        "UPDATE transactions SET status = 'paid'",
        "UPDATE transactions SET status = 'completed', provider = 'simulated'",
        "UPDATE transactions SET status = 'processing'",
        "UPDATE transactions SET status = 'failed'",
        "UPDATE transactions SET amount_refunded = amount + 1",
    ],
)
def test_the_database_rejects_an_impossible_transaction(broken: str) -> None:
    with autocommit() as connection:
        accept(connection, make_merchant(), PAYMENT, "req-1", None)
    with pytest.raises(IntegrityError):
        execute(broken)


def test_the_database_rejects_duplicate_settlements_and_entries() -> None:
    with begin() as connection:
        unique = connection.execute(
            text("SELECT conname FROM pg_constraint WHERE contype = 'u' AND conrelid = 'settlements'::regclass")
        )
        assert set(unique.scalars()) == {
            "uq_settlements_transaction_id",
            "uq_settlements_provider_provider_reference",
        }


def test_a_relay_takes_at_most_its_limit_with_any_query_plan() -> None:
    merchant_id = make_merchant()
    with autocommit() as connection:
        for _ in range(20):
            accept(connection, merchant_id, PAYMENT, "req-1", None)
    with begin() as connection:
        for node in ("hashjoin", "mergejoin", "hashagg", "material", "sort"):
            connection.execute(text(f"SET LOCAL enable_{node} = off"))
        assert len(outbox.take(connection, 2).rows) == 2
