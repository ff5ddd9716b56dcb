"""Retrieve balances."""

from uuid import UUID

from gateway.api.resources.balances import Balance
from gateway.flows import balances, routing
from gateway.flows.settlement import settle
from tests.api.conftest import Caller
from tests.helpers.factories import accept_payment, count

FEE_BASIS_POINTS = 290


def settled(caller: Caller, amount: int, currency: str = "USD", token: str = "tok_approve") -> UUID:
    id = accept_payment(caller.merchant_id, token, amount, currency)
    routing.route([id])
    settle([id], "task-1")
    return id


def test_a_merchant_without_payments_has_no_balance(merchant: Caller) -> None:
    merchant.pay()

    assert merchant.get("/v1/balance").json == {"data": []}


def test_a_balance_is_the_sum_of_settlements_less_fees_in_each_currency(
    merchant: Caller, other_merchant: Caller
) -> None:
    settled(merchant, 10_000)
    settled(merchant, 10_000)
    settled(merchant, 500, "JPY")
    settled(merchant, 700, "EUR", "tok_decline_fraud")
    settled(other_merchant, 99_999)

    response = merchant.get("/v1/balance")

    Balance.model_validate_json(response.data)
    assert response.json["data"] == [
        {"currency": "JPY", "available": 485, "settled": 500, "refunded": 0, "fees": 15},
        {"currency": "USD", "available": 19_420, "settled": 20_000, "refunded": 0, "fees": 580},
    ]


def test_folding_the_changes_into_a_balance_does_not_change_it(merchant: Caller) -> None:
    for _ in range(2):
        settled(merchant, 10_000)
        before = merchant.get("/v1/balance").json

        assert balances.fold() == 1

        assert merchant.get("/v1/balance").json == before
    assert count("balance_changes") == 0
    assert count("balances", f"merchant_id = '{merchant.merchant_id}' AND settled = 20000 AND fees = 580") == 1
    assert balances.fold() == 0
