"""Reading settlements (api.md, Transactions)."""

from uuid import UUID

from gateway.api.http.schemas import page_of
from gateway.api.resources.settlements import Settlement
from gateway.flows import routing
from gateway.flows.settlement import settle
from gateway.ids import new_id
from tests.api.conftest import Caller, expect_problem, field_errors


def settled_payment(merchant: Caller, amount: int = 12550) -> str:
    """A payment that the pipeline has completed."""
    made: str = merchant.pay(amount=amount).json["id"]
    routing.route([UUID(made)])
    settle([UUID(made)], "task-1")
    return made


def test_a_settlement_shows_the_amount_less_the_fee(merchant: Caller) -> None:
    transaction = settled_payment(merchant)

    answer = merchant.get("/v1/settlements")

    page_of(Settlement).model_validate_json(answer.data)
    [settlement] = answer.json["data"]
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


def test_a_settlement_is_read_by_its_id(merchant: Caller) -> None:
    settled_payment(merchant)
    [listed] = merchant.get("/v1/settlements").json["data"]

    answer = merchant.get(f"/v1/settlements/{listed['id']}")

    Settlement.model_validate_json(answer.data)
    assert answer.json == listed


def test_the_settlement_of_one_transaction_can_be_asked_for(merchant: Caller) -> None:
    first, second = settled_payment(merchant), settled_payment(merchant)
    unsettled = merchant.pay().json["id"]

    def of(transaction: str) -> list[str]:
        page = merchant.get(f"/v1/settlements?transaction_id={transaction}").json
        return [item["transaction_id"] for item in page["data"]]

    assert of(first) == [first]
    assert of(second) == [second]
    assert of(unsettled) == []
    assert of(str(new_id())) == []


def test_settlements_come_in_pages(merchant: Caller) -> None:
    made = [settled_payment(merchant) for _ in range(3)]

    first = merchant.get("/v1/settlements?limit=2").json
    second = merchant.get(f"/v1/settlements?limit=2&cursor={first['next_cursor']}").json

    assert [item["transaction_id"] for item in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None


def test_a_malformed_transaction_id_is_no_filter(merchant: Caller) -> None:
    answer = merchant.get("/v1/settlements?transaction_id=1")

    expect_problem(answer, 422, "validation_failed")
    assert field_errors(answer) == {"/transaction_id": "invalid_id"}


def test_a_foreign_settlement_is_one_that_never_existed(merchant: Caller, other_merchant: Caller) -> None:
    transaction = settled_payment(other_merchant)
    [foreign] = other_merchant.get("/v1/settlements").json["data"]
    headers = {"X-Request-Id": "same"}

    answers = [merchant.get(f"/v1/settlements/{id}", headers=headers) for id in (foreign["id"], str(new_id()), "x")]

    for answer in answers:
        expect_problem(answer, 404, "not_found")
    assert len({answer.data for answer in answers}) == 1
    assert merchant.get("/v1/settlements").json["data"] == []
    assert merchant.get(f"/v1/settlements?transaction_id={transaction}").json["data"] == []
