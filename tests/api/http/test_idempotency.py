"""Idempotency keys (api.md, Idempotency)."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import count, execute, request_under_way

POSTS = 200
THREADS = 20  # as many as the pool has connections


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


def test_a_repeat_gets_the_first_answer_byte_for_byte(merchant: Caller) -> None:
    first = merchant.pay(key("order-1"), metadata={"z": "1", "a": "ü"})
    execute(
        "UPDATE transactions SET status = 'processing', provider = 'simulated'"
    )  # the answer is the first one still

    repeat = merchant.pay(key("order-1"), metadata={"z": "1", "a": "ü"})

    assert (first.status_code, repeat.status_code) == (201, 201)
    assert repeat.data == first.data
    assert repeat.headers["Location"] == first.headers["Location"]
    assert repeat.content_type == first.content_type
    assert "Idempotency-Replayed" not in first.headers
    assert repeat.headers["Idempotency-Replayed"] == "true"
    assert count("transactions") == count("outbox") == 1


def test_two_hundred_concurrent_posts_with_one_key_make_one_transaction(merchant: Caller) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(lambda _: merchant.pay(key("burst")), range(POSTS)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.data for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert count("transactions") == count("outbox") == count("idempotency_records") == 1


@pytest.mark.parametrize("fields", [{"amount": 1001}, {"reference": "other"}])
def test_a_key_that_comes_with_another_body_is_refused(merchant: Caller, fields: dict[str, object]) -> None:
    merchant.pay(key("order-1"))

    answer = merchant.pay(key("order-1"), **fields)

    expect_problem(answer, 422, "idempotency_key_reused")
    assert count("transactions") == 1


def test_a_key_whose_first_request_is_still_running_is_in_progress(merchant: Caller) -> None:
    with request_under_way(merchant.merchant_id, "order-1"):
        answer = merchant.pay(key("order-1"))

    expect_problem(answer, 409, "idempotency_in_progress")
    assert int(answer.headers["Retry-After"]) >= 1
    assert count("transactions") == 0
    assert merchant.pay(key("order-1")).status_code == 201


def test_nothing_is_kept_of_a_request_that_was_not_valid(merchant: Caller) -> None:
    assert merchant.pay(key("order-1"), amount=0).status_code == 422

    retry = merchant.pay(key("order-1"))

    assert retry.status_code == 201
    assert "Idempotency-Replayed" not in retry.headers


def test_the_keys_of_two_merchants_do_not_meet(merchant: Caller, other_merchant: Caller) -> None:
    answers = [caller.pay(key("order-1")) for caller in (merchant, other_merchant)]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json["id"] != answers[1].json["id"]
    assert "Idempotency-Replayed" not in answers[1].headers


def test_without_a_key_every_post_is_a_payment(merchant: Caller) -> None:
    assert merchant.pay().json["id"] != merchant.pay().json["id"]


@pytest.mark.parametrize(
    "value", ["k", "k" * 255, "a b", "~!@#", "ade769d4-2ae4-4bbb-9e25-bbfed702627d", "2026-01-31T12:00:00.123456Z"]
)
def test_any_printable_ascii_key_is_taken(merchant: Caller, value: str) -> None:
    assert merchant.pay(key(value)).status_code == 201
    assert merchant.pay(key(value)).headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("value", ["", "k" * 256, "schlüssel", "tab\tin"])
def test_any_other_key_is_refused(merchant: Caller, value: str) -> None:
    expect_problem(merchant.pay(key(value)), 400, "invalid_idempotency_key")
    assert count("transactions") == 0


def test_a_card_number_is_no_key(merchant: Caller) -> None:
    answer = merchant.pay(key("pay-4242424242424242"))

    expect_problem(answer, 422, "card_number_rejected")
    assert field_errors(answer) == {"/Idempotency-Key": "card_number_rejected"}
    assert count("idempotency_records") == 0


def test_a_key_in_progress_delays_but_spoils_no_post_that_is_stored_with_it(merchant: Caller) -> None:
    headers = [key("stuck"), key("order-1"), key("stuck"), key("order-2"), {}, {}]
    with request_under_way(merchant.merchant_id, "stuck"), ThreadPoolExecutor(len(headers)) as threads:
        answers = list(threads.map(merchant.pay, headers))

    assert [answer.status_code for answer in answers] == [409, 201, 409, 201, 201, 201]
    assert len({answer.json["id"] for answer in answers if answer.status_code == 201}) == 4
    assert not any("Idempotency-Replayed" in answer.headers for answer in answers)
    assert count("transactions") == count("outbox") == 4
    assert count("idempotency_records") == 2
