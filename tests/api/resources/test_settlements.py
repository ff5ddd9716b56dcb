"""Retrieve and list settlements."""

from uuid import UUID

from gateway.api.http.schemas import page_of
from gateway.api.resources.settlements import Settlement
from gateway.flows import routing
from gateway.flows.settlement import settle
from gateway.ids import new_id
from tests.api.conftest import Caller, expect_problem, field_errors


def settled_payment(merchant: Caller, amount: int = 12550) -> str:
    """Create a completed transaction; return its id."""
    made: str = merchant.pay(amount=amount).json["id"]
    routing.route([UUID(made)])
    settle([UUID(made)], "task-1")
    return made


def test_a_settlement_shows_the_amount_the_fee_and_the_net_amount(merchant: Caller) -> None:
    transaction = settled_payment(merchant)

    response = merchant.get("/v1/settlements")

    page_of(Settlement).model_validate_json(response.data)
    [settlement] = response.json["data"]
    assert list(settlement) == [
        "id", "object", "transaction_id", "amount", "fee", "net", "currency", "status", "provider",
        "provider_reference", "attempts", "settled_at",
    ]  # fmt: skip
    assert (settlement["transaction_id"], settlement["amount"]) == (transaction, 12550)
    assert (settlement["fee"], settlement["net"]) == (364, 12186)
    assert (settlement["object"], settlement["status"], settlement["provider"]) == (
        "settlement",
        "settled",
        "simulated",
    )


def test_the_transaction_of_a_settlement_is_completed(merchant: Caller) -> None:
    transaction = merchant.get(f"/v1/transactions/{settled_payment(merchant)}").json

    assert transaction["status"] == "completed"
    assert transaction["completed_at"]
    assert transaction["provider"] == "simulated"


def test_a_settlement_is_retrieved_by_its_id(merchant: Caller) -> None:
    settled_payment(merchant)
    [listed] = merchant.get("/v1/settlements").json["data"]

    response = merchant.get(f"/v1/settlements/{listed['id']}")

    Settlement.model_validate_json(response.data)
    assert response.json == listed


def test_settlements_can_be_filtered_by_transaction(merchant: Caller) -> None:
    first, second = settled_payment(merchant), settled_payment(merchant)
    unsettled = merchant.pay().json["id"]

    def of(transaction: str) -> list[str]:
        page = merchant.get(f"/v1/settlements?transaction_id={transaction}").json
        return [item["transaction_id"] for item in page["data"]]

    assert of(first) == [first]
    assert of(second) == [second]
    assert of(unsettled) == []
    assert of(str(new_id())) == []


def test_settlements_are_listed_in_pages(merchant: Caller) -> None:
    made = [settled_payment(merchant) for _ in range(3)]

    first = merchant.get("/v1/settlements?limit=2").json
    second = merchant.get(f"/v1/settlements?limit=2&cursor={first['next_cursor']}").json

    assert [item["transaction_id"] for item in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None


def test_a_malformed_transaction_id_is_rejected(merchant: Caller) -> None:
    response = merchant.get("/v1/settlements?transaction_id=1")

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {"/transaction_id": "invalid_id"}
