"""Refunds over HTTP (api.md, Transactions)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from gateway.flows.refunds import refund as carry_out
from gateway.ids import new_id
from tests.api.conftest import Answer, Caller, expect_problem, field_errors
from tests.helpers.factories import count, execute
from tests.helpers.refunds import ask, paid, refunded, standing

AT_ONCE = 20  # as many as the pool has connections


def ask_for(caller: Caller, transaction_id: UUID, key: str | None = None, **fields: Any) -> Answer:
    headers = {"Idempotency-Key": key} if key else {}
    return caller.post(f"/v1/transactions/{transaction_id}/refunds", fields, headers=headers)


@pytest.fixture
def transaction_id(merchant: Caller) -> UUID:
    """A completed transaction of the merchant, of 10.00."""
    return paid(merchant_id=merchant.merchant_id)


def test_a_refund_is_answered_as_it_is_stored(merchant: Caller, transaction_id: UUID) -> None:
    answer = ask_for(merchant, transaction_id, amount=400, reason="One seat was taken")
    assert answer.status_code == 201
    refund = answer.json
    assert answer.headers["Location"] == f"/v1/refunds/{refund['id']}"
    assert refund == {
        "id": refund["id"],
        "object": "refund",
        "transaction_id": str(transaction_id),
        "merchant_id": str(merchant.merchant_id),
        "amount": 400,
        "currency": "USD",
        "reason": "One seat was taken",
        "status": "pending",
        "provider": "simulated",
        "provider_reference": None,
        "failure": None,
        "attempts": 0,
        "created_at": refund["created_at"],
        "updated_at": refund["created_at"],
        "completed_at": None,
    }
    assert merchant.get(answer.headers["Location"]).json == refund


def test_a_completed_refund_shows_in_its_transaction(merchant: Caller, transaction_id: UUID) -> None:
    id = refunded(transaction_id, 400)
    refund = merchant.get(f"/v1/refunds/{id}").json
    assert (refund["status"], refund["attempts"], refund["provider_reference"]) == (
        "completed",
        1,
        f"sim_re_{id.hex}",
    )
    assert refund["completed_at"] == refund["updated_at"]
    transaction = merchant.get(f"/v1/transactions/{transaction_id}").json
    assert (transaction["status"], transaction["amount_refunded"]) == ("partially_refunded", 400)
    assert (transaction["completed_at"] or "") < refund["completed_at"]


def test_a_failed_refund_says_why(merchant: Caller) -> None:
    id = ask(paid("tok_refund_decline", merchant_id=merchant.merchant_id))
    carry_out([id], "task-1")
    refund = merchant.get(f"/v1/refunds/{id}").json
    assert (refund["status"], refund["completed_at"]) == ("failed", None)
    assert refund["failure"] == {
        "code": "refund_refused",
        "message": "The provider refused the refund.",
        "category": "declined",
        "retryable": False,
    }


@pytest.mark.parametrize("body", [None, {}, {"amount": None}, b""])
def test_without_an_amount_everything_is_refunded(merchant: Caller, transaction_id: UUID, body: Any) -> None:
    answer = merchant.post(f"/v1/transactions/{transaction_id}/refunds", body)
    assert (answer.status_code, answer.json["amount"], answer.json["reason"]) == (201, 1_000, None)


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"amount": 0}, "/amount", "out_of_range"),
        ({"amount": -1}, "/amount", "out_of_range"),
        ({"amount": "12"}, "/amount", "invalid_type"),
        ({"amount": 12.0}, "/amount", "invalid_type"),
        ({"amount": True}, "/amount", "invalid_type"),
        ({"reason": "x" * 501}, "/reason", "invalid_length"),
        ({"currency": "USD"}, "/currency", "unknown_field"),
        ({"reason": "card 4242 4242 4242 4242"}, "/reason", "card_number_rejected"),
    ],
)
def test_what_is_not_valid_is_refused(
    merchant: Caller, transaction_id: UUID, fields: dict[str, Any], pointer: str, code: str
) -> None:
    answer = ask_for(merchant, transaction_id, **fields)
    assert answer.status_code == 422
    assert field_errors(answer) == {pointer: code}
    assert count("refunds") == 0


@pytest.mark.parametrize("fields", [{"amount": 601}, {"amount": 999_999_999_999}])
def test_more_than_is_left_is_422(merchant: Caller, transaction_id: UUID, fields: dict[str, Any]) -> None:
    ask(transaction_id, 400)
    answer = ask_for(merchant, transaction_id, **fields)
    problem = expect_problem(answer, 422, "amount_exceeds_refundable")
    assert field_errors(answer) == {"/amount": "amount_exceeds_refundable"}
    assert "600" in problem["detail"]


def test_when_nothing_is_left_even_everything_is_too_much(merchant: Caller, transaction_id: UUID) -> None:
    refunded(transaction_id)
    expect_problem(ask_for(merchant, transaction_id), 422, "amount_exceeds_refundable")


def test_a_payment_that_is_not_settled_is_409(merchant: Caller) -> None:
    id = UUID(merchant.pay().json["id"])
    problem = expect_problem(ask_for(merchant, id), 409, "invalid_state")
    assert "pending" in problem["detail"]


def test_another_merchants_transactions_and_refunds_do_not_exist(
    merchant: Caller, other_merchant: Caller, transaction_id: UUID
) -> None:
    id = ask(transaction_id)
    stranger = new_id()
    for mine, nothing in (
        (ask_for(other_merchant, transaction_id), ask_for(other_merchant, stranger)),
        (other_merchant.get(f"/v1/refunds/{id}"), other_merchant.get(f"/v1/refunds/{stranger}")),
    ):
        problems = [expect_problem(answer, 404, "not_found") for answer in (mine, nothing)]
        assert {**problems[0], "request_id": ""} == {**problems[1], "request_id": ""}
    assert other_merchant.get(f"/v1/refunds?transaction_id={transaction_id}").json["data"] == []
    assert len(merchant.get(f"/v1/refunds?transaction_id={transaction_id}").json["data"]) == 1


def test_refunds_are_listed_newest_first_and_filtered(merchant: Caller, transaction_id: UUID) -> None:
    done, waiting = refunded(transaction_id, 100), ask(transaction_id, 200)
    elsewhere = ask(paid(merchant_id=merchant.merchant_id))

    def listed(query: str = "") -> list[str]:
        return [refund["id"] for refund in merchant.get(f"/v1/refunds{query}").json["data"]]

    assert listed() == [str(elsewhere), str(waiting), str(done)]
    assert listed(f"?transaction_id={transaction_id}") == [str(waiting), str(done)]
    assert listed("?status=completed") == [str(done)]
    assert listed(f"?status=pending&transaction_id={transaction_id}") == [str(waiting)]
    since = merchant.get(f"/v1/refunds/{waiting}").json["created_at"]
    assert listed(f"?created_from={since}") == [str(elsewhere), str(waiting)]
    assert listed(f"?created_to={since}") == [str(done)]


def test_pages_of_refunds_hold_each_once(merchant: Caller, transaction_id: UUID) -> None:
    ids = [str(ask(transaction_id, 1)) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = merchant.get(f"/v1/refunds?limit=2{cursor and f'&cursor={cursor}'}").json
        seen += [refund["id"] for refund in page["data"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]


def test_a_repeat_gets_the_first_answer_byte_for_byte(merchant: Caller, transaction_id: UUID) -> None:
    first = ask_for(merchant, transaction_id, "refund-1", amount=400)
    carry_out([UUID(first.json["id"])], "task-1")  # the answer is the first one still
    repeat = ask_for(merchant, transaction_id, "refund-1", amount=400)
    assert (repeat.status_code, repeat.data, repeat.headers["Location"]) == (201, first.data, first.headers["Location"])
    assert "Idempotency-Replayed" not in first.headers
    assert repeat.headers["Idempotency-Replayed"] == "true"
    assert (count("refunds"), standing(transaction_id)) == (1, ("partially_refunded", 400, 0))


def test_a_merchant_who_never_saw_the_answer_gets_it_by_repeating(merchant: Caller, transaction_id: UUID) -> None:
    """As if the API had died between its commit and its answer: nothing of the first answer is left but the row."""
    lost = ask_for(merchant, transaction_id, "refund-1", amount=400).data
    execute("DELETE FROM outbox")
    assert ask_for(merchant, transaction_id, "refund-1", amount=400).data == lost
    assert (count("refunds"), count("outbox")) == (1, 0)


def test_two_hundred_concurrent_posts_with_one_key_make_one_refund(merchant: Caller, transaction_id: UUID) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda _: ask_for(merchant, transaction_id, "burst", amount=4), range(200)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.data for answer in answers}) == 1
    assert standing(transaction_id) == ("completed", 0, 4)


def test_two_hundred_concurrent_posts_never_exceed_the_amount(merchant: Caller, transaction_id: UUID) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda n: ask_for(merchant, transaction_id, f"k-{n}", amount=7), range(200)))
    assert sorted(answer.status_code for answer in answers) == [201] * 142 + [422] * 58
    assert standing(transaction_id) == ("completed", 0, 994)
    assert count("idempotency_records") == 142


def test_a_key_with_another_amount_or_transaction_is_refused(merchant: Caller, transaction_id: UUID) -> None:
    ask_for(merchant, transaction_id, "refund-1", amount=400)
    other = paid(merchant_id=merchant.merchant_id)
    for id, amount in ((transaction_id, 401), (other, 400)):
        expect_problem(ask_for(merchant, id, "refund-1", amount=amount), 422, "idempotency_key_reused")
    assert count("refunds") == 1


def test_nothing_is_kept_of_a_refund_that_was_refused(merchant: Caller, transaction_id: UUID) -> None:
    held = ask(transaction_id, 900)
    assert ask_for(merchant, transaction_id, "refund-1", amount=400).status_code == 422
    execute("UPDATE transactions SET amount_refund_reserved = 0 WHERE id = :id", id=transaction_id)
    execute("UPDATE refunds SET status = 'failed', failure_category = 'discarded' WHERE id = :id", id=held)
    retry = ask_for(merchant, transaction_id, "refund-1", amount=400)
    assert retry.status_code == 201
    assert "Idempotency-Replayed" not in retry.headers
