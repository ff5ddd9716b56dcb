"""Payments with each test token, from the POST to their final status, through real queues and workers."""

from typing import Any

import psycopg
import pytest

from tests.end_to_end.client import FINAL, Client
from tests.helpers.waiting import eventually

APPROVED = {
    "tok_approve": 1,
    "tok_error_once": 2,
    "tok_error_twice": 3,
    "tok_error_thrice": 4,
    "tok_timeout_charged": 1,
    "tok_timeout_not_charged": 2,
    "tok_slow": 1,
}
DECLINED = {
    "tok_decline_insufficient_funds": "insufficient_funds",
    "tok_decline_do_not_honor": "do_not_honor",
    "tok_decline_fraud": "fraud_suspected",
}
WITHIN_SECONDS = 40

Truth = psycopg.Connection[dict[str, Any]]


def final(merchant: Client, id: str) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        transaction = merchant.transaction(id)
        return transaction if transaction["status"] in FINAL else None

    return eventually(probe, within=WITHIN_SECONDS, what=f"the end of {id}") or {}


def entries(truth: Truth, id: str) -> dict[tuple[str, str], int]:
    query = "SELECT account, direction, amount, currency FROM ledger_entries WHERE transaction_id = %s"
    return {(row["account"], row["direction"]): row["amount"] for row in truth.execute(query, [id])}


@pytest.mark.parametrize(("token", "attempts"), APPROVED.items())
def test_an_approved_payment_settles_once(merchant: Client, truth: Truth, token: str, attempts: int) -> None:
    accepted = merchant.pay(token, amount=12_550)
    assert (accepted["status"], accepted["attempts"], accepted["provider"]) == ("pending", 0, None)
    transaction = final(merchant, accepted["id"])
    assert (transaction["status"], transaction["attempts"], transaction["failure"]) == ("completed", attempts, None)
    assert transaction["provider"] == "simulated"
    assert transaction["completed_at"] >= transaction["created_at"]
    [settlement] = merchant.get("/v1/settlements", transaction_id=accepted["id"])["data"]
    assert (settlement["amount"], settlement["fee"], settlement["net"]) == (12_550, 364, 12_186)
    assert (settlement["attempts"], settlement["currency"]) == (attempts, "USD")
    assert settlement["provider_reference"] == transaction["provider_reference"]
    assert entries(truth, accepted["id"]) == {
        ("provider_clearing", "debit"): 12_550,
        ("merchant_payable", "credit"): 12_186,
        ("fees", "credit"): 364,
    }


@pytest.mark.parametrize(("token", "code"), DECLINED.items())
def test_a_declined_payment_fails_at_once(merchant: Client, truth: Truth, token: str, code: str) -> None:
    transaction = final(merchant, merchant.pay(token)["id"])
    assert (transaction["status"], transaction["attempts"]) == ("failed", 1)
    assert transaction["failure"]["code"] == code
    assert (transaction["failure"]["category"], transaction["failure"]["retryable"]) == ("declined", False)
    assert merchant.get("/v1/settlements", transaction_id=transaction["id"])["data"] == []
    assert entries(truth, transaction["id"]) == {}


def test_a_payment_that_always_fails_is_dead_lettered_replayed_and_discarded(
    merchant: Client, operator: Client, truth: Truth
) -> None:
    id = merchant.pay("tok_error_always")["id"]
    transaction = final(merchant, id)
    assert (transaction["status"], transaction["attempts"]) == ("dead_lettered", 4)
    assert entries(truth, id) == {}
    letter = open_letter(operator, id)
    assert (letter["queue"], letter["reason"], letter["attempts"]) == ("settlement.requested", "rejected", 4)
    assert "provider_error" in letter["exception"]

    assert operator.call("POST", f"/v1/dead-letters/{letter['id']}/replay").status_code == 200
    second = operator.call("POST", f"/v1/dead-letters/{letter['id']}/replay")
    assert (second.status_code, second.json()["code"]) == (409, "already_resolved")
    again = eventually(lambda: open_letter(operator, id), within=WITHIN_SECONDS, what="the second dead letter")
    assert again["attempts"] == 8

    discarded = operator.call("POST", f"/v1/dead-letters/{again['id']}/discard", json={"note": "given up"})
    assert discarded.status_code == 200, discarded.text
    transaction = merchant.transaction(id)
    assert (transaction["status"], transaction["failure"]["category"]) == ("failed", "discarded")


def test_a_replay_after_the_provider_recovered_settles_once(merchant: Client, operator: Client, truth: Truth) -> None:
    id = merchant.pay("tok_error_always")["id"]
    assert final(merchant, id)["status"] == "dead_lettered"
    truth.execute("UPDATE transactions SET payment_method = 'tok_approve' WHERE id = %s", [id])
    letter = open_letter(operator, id)
    assert operator.call("POST", f"/v1/dead-letters/{letter['id']}/replay").status_code == 200
    eventually(lambda: merchant.transaction(id)["status"] == "completed", within=WITHIN_SECONDS)
    assert len(merchant.get("/v1/settlements", transaction_id=id)["data"]) == 1
    assert sum(entries(truth, id).values()) == 2 * 12_550
    assert operator.get(f"/v1/dead-letters/{letter['id']}")["status"] == "replayed"


def open_letter(operator: Client, transaction_id: str) -> dict[str, Any]:
    letters = operator.get("/v1/dead-letters", status="open", limit=100)["data"]
    return next((letter for letter in letters if letter["transaction_id"] == transaction_id), {})
