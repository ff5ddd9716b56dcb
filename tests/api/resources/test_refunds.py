"""Create, retrieve and list refunds."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from gateway.flows.refunds import refund as carry_out
from tests.api.conftest import Caller, Response, expect_problem, field_errors
from tests.helpers.factories import count
from tests.helpers.refunds import paid, refund_amounts, refunded, request_refund

AT_ONCE = 20  # as many as the pool has connections


def ask_for(caller: Caller, transaction_id: UUID, key: str | None = None, **fields: Any) -> Response:
    headers = {"Idempotency-Key": key} if key else {}
    return caller.post(f"/v1/transactions/{transaction_id}/refunds", fields, headers=headers)


@pytest.fixture
def transaction_id(merchant: Caller) -> UUID:
    """Return a completed transaction of the merchant, of 10.00."""
    return paid(merchant_id=merchant.merchant_id)


def test_a_new_refund_has_the_fields_of_the_contract(merchant: Caller, transaction_id: UUID) -> None:
    response = ask_for(merchant, transaction_id, amount=400, reason="One seat was taken")
    assert response.status_code == 201
    refund = response.json
    assert response.headers["Location"] == f"/v1/refunds/{refund['id']}"
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
    assert merchant.get(response.headers["Location"]).json == refund


def test_a_completed_refund_changes_its_transaction(merchant: Caller, transaction_id: UUID) -> None:
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


def test_a_failed_refund_shows_its_failure(merchant: Caller) -> None:
    id = request_refund(paid("tok_refund_decline", merchant_id=merchant.merchant_id))
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
def test_without_an_amount_everything_that_is_left_is_refunded(
    merchant: Caller, transaction_id: UUID, body: Any
) -> None:
    response = merchant.post(f"/v1/transactions/{transaction_id}/refunds", body)
    assert (response.status_code, response.json["amount"], response.json["reason"]) == (201, 1_000, None)


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"reason": "x" * 501}, "/reason", "invalid_length"),
        ({"currency": "USD"}, "/currency", "unknown_field"),
        ({"reason": "card 4242 4242 4242 4242"}, "/reason", "card_number_rejected"),
    ],
)
def test_an_invalid_field_is_rejected(
    merchant: Caller, transaction_id: UUID, fields: dict[str, Any], pointer: str, code: str
) -> None:
    response = ask_for(merchant, transaction_id, **fields)
    assert response.status_code == 422
    assert field_errors(response) == {pointer: code}
    assert count("refunds") == 0


@pytest.mark.parametrize("fields", [{"amount": 601}, {"amount": 999_999_999_999}])
def test_an_amount_above_what_is_left_is_rejected(
    merchant: Caller, transaction_id: UUID, fields: dict[str, Any]
) -> None:
    request_refund(transaction_id, 400)
    response = ask_for(merchant, transaction_id, **fields)
    problem = expect_problem(response, 422, "amount_exceeds_refundable")
    assert field_errors(response) == {"/amount": "amount_exceeds_refundable"}
    assert "600" in problem["detail"]


def test_a_refunded_transaction_cannot_be_refunded_again(merchant: Caller, transaction_id: UUID) -> None:
    refunded(transaction_id)
    expect_problem(ask_for(merchant, transaction_id), 422, "amount_exceeds_refundable")


def test_a_pending_transaction_cannot_be_refunded(merchant: Caller) -> None:
    id = UUID(merchant.pay().json["id"])
    problem = expect_problem(ask_for(merchant, id), 409, "invalid_state")
    assert "pending" in problem["detail"]


def test_refunds_are_listed_newest_first_and_filtered(merchant: Caller, transaction_id: UUID) -> None:
    done, waiting = refunded(transaction_id, 100), request_refund(transaction_id, 200)
    elsewhere = request_refund(paid(merchant_id=merchant.merchant_id))

    def listed(query: str = "") -> list[str]:
        return [refund["id"] for refund in merchant.get(f"/v1/refunds{query}").json["data"]]

    assert listed() == [str(elsewhere), str(waiting), str(done)]
    assert listed(f"?transaction_id={transaction_id}") == [str(waiting), str(done)]
    assert listed("?status=completed") == [str(done)]
    assert listed(f"?status=pending&transaction_id={transaction_id}") == [str(waiting)]
    since = merchant.get(f"/v1/refunds/{waiting}").json["created_at"]
    assert listed(f"?created_from={since}") == [str(elsewhere), str(waiting)]
    assert listed(f"?created_to={since}") == [str(done)]


def test_the_pages_of_refunds_contain_each_one_once(merchant: Caller, transaction_id: UUID) -> None:
    ids = [str(request_refund(transaction_id, 1)) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = merchant.get(f"/v1/refunds?limit=2{cursor and f'&cursor={cursor}'}").json
        seen += [refund["id"] for refund in page["data"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]


def test_two_hundred_concurrent_posts_never_exceed_the_amount(merchant: Caller, transaction_id: UUID) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        responses = list(threads.map(lambda n: ask_for(merchant, transaction_id, f"k-{n}", amount=7), range(200)))
    assert sorted(response.status_code for response in responses) == [201] * 142 + [422] * 58
    assert refund_amounts(transaction_id) == ("completed", 0, 994)
    assert count("idempotency_records") == 142
