"""List, retrieve, replay and discard dead letters."""

from datetime import timedelta
from urllib.parse import quote
from uuid import UUID

import pytest

from gateway.api.http.schemas import page_of
from gateway.api.resources.dead_letters import DeadLetter
from gateway.db import begin
from gateway.domain.dead_letters import intake
from gateway.domain.dead_letters.intake import DeadMessage
from gateway.flows import routing
from gateway.flows.settlement import settle
from gateway.ids import new_id, rfc3339, utc_now
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import count

SETTLE = "settlement.requested"


def dead_payment(merchant: Caller, queue: str = SETTLE, reason: str = "rejected") -> str:
    """Create a dead-lettered transaction, all of whose attempts have failed; return its id."""
    made = UUID(merchant.pay(payment_method="tok_error_always").json["id"])
    routing.route([made])
    for _ in range(4):
        settle([made], "task-1")
    message = DeadMessage(f"task-{made}", queue, reason, "payments.settle", "[]", {"x": 1}, utc_now(), (made,))
    with begin() as connection:
        intake.store(connection, [message])
    return str(made)


def listed(operator: Caller, query: str = "") -> list[dict[str, object]]:
    response = operator.get(f"/v1/dead-letters{query}")
    assert response.status_code == 200, response.text
    page_of(DeadLetter).model_validate_json(response.data)
    found: list[dict[str, object]] = response.json["data"]
    return found


def test_an_operator_sees_the_dead_letter_and_its_reason(operator: Caller, merchant: Caller) -> None:
    transaction = dead_payment(merchant)

    [letter] = listed(operator)

    assert (letter["transaction_id"], letter["merchant_id"]) == (transaction, str(merchant.merchant_id))
    assert (letter["queue"], letter["reason"], letter["status"]) == (SETTLE, "rejected", "open")
    assert (letter["attempts"], letter["payload"], letter["headers"]) == (4, "[]", {"x": 1})
    assert "provider_error" in str(letter["exception"])
    assert operator.get(f"/v1/dead-letters/{letter['id']}").json == letter
    assert merchant.get(f"/v1/transactions/{transaction}").json["status"] == "dead_lettered"


def test_each_filter_finds_the_matching_dead_letters(
    operator: Caller, merchant: Caller, other_merchant: Caller
) -> None:
    first = dead_payment(merchant)
    between = utc_now()
    second = dead_payment(other_merchant, queue="transaction.created", reason="expired")
    [second_letter, _] = listed(operator)
    operator.post(f"/v1/dead-letters/{second_letter['id']}/discard", {"note": "gone"})

    for query, found in (
        ("?status=open", [first]),
        ("?status=discarded", [second]),
        ("?status=replayed", []),
        (f"?queue={SETTLE}", [first]),
        ("?reason=expired", [second]),
        (f"?merchant_id={merchant.merchant_id}", [first]),
        (f"?merchant_id={new_id()}", []),
        (f"?dead_lettered_from={rfc3339(between)}", [second]),
        (f"?dead_lettered_to={rfc3339(between)}", [first]),
        (f"?dead_lettered_from={quote((between - timedelta(days=1)).isoformat())}", [second, first]),
    ):
        assert [letter["transaction_id"] for letter in listed(operator, query)] == found, query


def test_dead_letters_are_listed_in_pages(operator: Caller, merchant: Caller) -> None:
    made = [dead_payment(merchant) for _ in range(3)]

    first = operator.get("/v1/dead-letters?limit=2").json
    second = operator.get(f"/v1/dead-letters?limit=2&cursor={first['next_cursor']}").json

    assert [item["transaction_id"] for item in first["data"] + second["data"]] == made[::-1]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("status=dead", "/status"), ("merchant_id=1", "/merchant_id"), ("dead_lettered_from=now", "/dead_lettered_from")],
)
def test_an_invalid_filter_is_named(operator: Caller, query: str, pointer: str) -> None:
    response = operator.get(f"/v1/dead-letters?{query}")

    expect_problem(response, 422, "validation_failed")
    assert list(field_errors(response)) == [pointer]


def test_a_dead_letter_is_replayed_once(operator: Caller, merchant: Caller) -> None:
    transaction = dead_payment(merchant)
    [letter] = listed(operator)
    before = count("outbox")

    response = operator.post(f"/v1/dead-letters/{letter['id']}/replay")

    assert response.status_code == 200, response.text
    DeadLetter.model_validate_json(response.data)
    assert response.json["status"] == "replayed"
    assert response.json["resolved_by"].startswith("user:")
    assert merchant.get(f"/v1/transactions/{transaction}").json["status"] == "processing"
    assert count("outbox") == before + 1
    assert count("audit_log", "action = 'dead_letter.replayed'") == 1
    expect_problem(operator.post(f"/v1/dead-letters/{letter['id']}/replay"), 409, "already_resolved")
    expect_problem(operator.post(f"/v1/dead-letters/{letter['id']}/discard", {}), 409, "already_resolved")
    assert count("outbox") == before + 1


def test_a_discard_fails_the_transaction_and_stores_the_note(operator: Caller, merchant: Caller) -> None:
    transaction = dead_payment(merchant)
    [letter] = listed(operator)

    response = operator.post(f"/v1/dead-letters/{letter['id']}/discard", {"note": "Paid in the shop."})

    assert response.status_code == 200, response.text
    assert (response.json["status"], response.json["note"]) == ("discarded", "Paid in the shop.")
    failed = merchant.get(f"/v1/transactions/{transaction}").json
    assert failed["status"] == "failed"
    assert failed["failure"]["category"] == "discarded"
    expect_problem(operator.post(f"/v1/dead-letters/{letter['id']}/discard", {}), 409, "already_resolved")


@pytest.mark.parametrize("body", [None, {}, {"note": None}])
def test_a_note_is_optional(operator: Caller, merchant: Caller, body: dict[str, object] | None) -> None:
    dead_payment(merchant)
    [letter] = listed(operator)

    assert operator.post(f"/v1/dead-letters/{letter['id']}/discard", body).json["note"] is None


@pytest.mark.parametrize("note", ["n" * 501, 7, "\x00"])
def test_an_invalid_note_is_rejected(operator: Caller, merchant: Caller, note: object) -> None:
    dead_payment(merchant)
    [letter] = listed(operator)

    expect_problem(operator.post(f"/v1/dead-letters/{letter['id']}/discard", {"note": note}), 422, "validation_failed")
    assert listed(operator)[0]["status"] == "open"


def test_a_dead_letter_without_a_transaction_can_only_be_discarded(operator: Caller) -> None:
    with begin() as connection:
        message = DeadMessage("m-1", SETTLE, "rejected", None, "\ufffdnot json", {}, utc_now())
        intake.store(connection, [message])
    [letter] = listed(operator)

    expect_problem(operator.post(f"/v1/dead-letters/{letter['id']}/replay"), 409, "invalid_state")
    assert listed(operator)[0]["status"] == "open"
    assert operator.post(f"/v1/dead-letters/{letter['id']}/discard", {}).json["status"] == "discarded"
