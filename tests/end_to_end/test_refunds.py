"""Refunds through the running gateway, from the payment to the ledger and the events."""

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.end_to_end.client import Client
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually

Truth = psycopg.Connection[dict[str, Any]]
WITHIN_SECONDS = 60
AMOUNT = 12_550


def paid(merchant: Client, token: str = "tok_approve") -> str:
    """Return a completed payment."""
    id: str = merchant.pay(token, AMOUNT)["id"]
    eventually(lambda: merchant.transaction(id)["status"] == "completed", within=WITHIN_SECONDS)
    return id


def request_refund(merchant: Client, transaction_id: str, **fields: object) -> str:
    """Request a refund, which must be accepted."""
    response = merchant.call("POST", f"/v1/transactions/{transaction_id}/refunds", json=fields)
    assert response.status_code == 201, response.text
    id: str = response.json()["id"]
    return id


def ended(merchant: Client, refund_id: str) -> dict[str, Any]:
    """Wait until a refund is no longer pending; return it."""

    def found() -> dict[str, Any]:
        refund = merchant.get(f"/v1/refunds/{refund_id}")
        return refund if refund["status"] != "pending" else {}

    return eventually(found, within=WITHIN_SECONDS, what=f"the end of refund {refund_id}")


def entries(truth: Truth, source_id: str) -> dict[tuple[str, str], int]:
    rows = truth.execute("SELECT account, direction, amount FROM ledger_entries WHERE source_id = %s", [source_id])
    return {(row["account"], row["direction"]): row["amount"] for row in rows}


def letter_of(operator: Client, refund_id: str) -> dict[str, Any]:
    letters = operator.get("/v1/dead-letters", status="open", limit=100)["data"]
    return next((letter for letter in letters if letter["refund_id"] == refund_id), {})


def test_a_payment_is_refunded_in_parts_until_nothing_is_left(merchant: Client, truth: Truth) -> None:
    transaction_id = paid(merchant)
    first = ended(merchant, request_refund(merchant, transaction_id, amount=550, reason="One seat was taken"))
    assert (first["status"], first["amount"], first["attempts"]) == ("completed", 550, 1)
    transaction = merchant.transaction(transaction_id)
    assert (transaction["status"], transaction["amount_refunded"]) == ("partially_refunded", 550)

    second = ended(merchant, request_refund(merchant, transaction_id))
    assert (second["status"], second["amount"]) == ("completed", 12_000)
    transaction = merchant.transaction(transaction_id)
    assert (transaction["status"], transaction["amount_refunded"]) == ("refunded", AMOUNT)

    for refund in (first, second):
        assert entries(truth, refund["id"]) == {
            ("merchant_payable", "debit"): refund["amount"],
            ("provider_clearing", "credit"): refund["amount"],
        }
    [balance] = merchant.get("/v1/balance")["data"]
    assert (balance["settled"], balance["refunded"], balance["fees"]) == (AMOUNT, AMOUNT, 364)
    assert balance["available"] == -364
    events = merchant.get("/v1/events", type="refund.completed")["data"]
    assert [event["data"]["id"] for event in events] == [second["id"], first["id"]]


@pytest.mark.parametrize(
    ("token", "status", "attempts"),
    [
        ("tok_refund_error_once", "completed", 2),
        ("tok_refund_timeout_done", "completed", 1),
        ("tok_refund_timeout_not_done", "completed", 2),
        ("tok_refund_decline", "failed", 1),
    ],
)
def test_refunds_of_each_sandbox_token_end_as_documented(
    merchant: Client, truth: Truth, token: str, status: str, attempts: int
) -> None:
    transaction_id = paid(merchant, token)
    refund = ended(merchant, request_refund(merchant, transaction_id))
    assert (refund["status"], refund["attempts"]) == (status, attempts)
    transaction = merchant.transaction(transaction_id)
    back = AMOUNT if status == "completed" else 0
    assert (transaction["status"], transaction["amount_refunded"]) == ("refunded" if back else "completed", back)
    assert sum(entries(truth, refund["id"]).values()) == 2 * back
    if status == "failed":
        assert refund["failure"]["code"] == "refund_refused"
        assert request_refund(merchant, transaction_id, amount=AMOUNT), "the reserved amount is released"


def test_a_refund_that_always_fails_is_dead_lettered_replayed_and_discarded(
    merchant: Client, operator: Client, truth: Truth
) -> None:
    transaction_id = paid(merchant, "tok_refund_error_always")
    id = request_refund(merchant, transaction_id)
    refund = ended(merchant, id)
    assert (refund["status"], refund["attempts"]) == ("dead_lettered", 4)
    letter = letter_of(operator, id)
    assert (letter["queue"], letter["transaction_id"], letter["attempts"]) == ("refund.requested", transaction_id, 4)
    too_much = merchant.call("POST", f"/v1/transactions/{transaction_id}/refunds", json={"amount": 1})
    assert (too_much.status_code, too_much.json()["code"]) == (422, "amount_exceeds_refundable")

    assert operator.call("POST", f"/v1/dead-letters/{letter['id']}/replay").status_code == 200
    again = eventually(lambda: letter_of(operator, id), within=WITHIN_SECONDS, what="the second dead letter")
    assert again["attempts"] == 8
    discarded = operator.call("POST", f"/v1/dead-letters/{again['id']}/discard", json={"note": "paid in cash"})
    assert discarded.status_code == 200, discarded.text
    refund = merchant.get(f"/v1/refunds/{id}")
    assert (refund["status"], refund["failure"]["category"]) == ("failed", "discarded")
    assert merchant.transaction(transaction_id)["status"] == "completed"
    assert entries(truth, id) == {}


def test_a_hundred_concurrent_refunds_refund_no_more_than_was_paid(merchant: Client, truth: Truth) -> None:
    transaction_id = paid(merchant)

    def attempt(number: int) -> int:
        path = f"/v1/transactions/{transaction_id}/refunds"
        headers = {"Idempotency-Key": f"{transaction_id}-{number}"}
        return merchant.call("POST", path, json={"amount": 251}, headers=headers).status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(attempt, range(100)))
    assert {status: statuses.count(status) for status in set(statuses)} == {201: 50, 422: 50}
    eventually(lambda: merchant.transaction(transaction_id)["status"] == "refunded", within=WITHIN_SECONDS)
    total = truth.execute(
        "SELECT sum(e.amount) AS total FROM ledger_entries e JOIN refunds f ON f.id = e.source_id"
        " WHERE f.transaction_id = %s AND e.direction = 'debit'",
        [transaction_id],
    ).fetchone()
    assert total == {"total": AMOUNT}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_refunds_wait_for_their_worker_and_payments_do_not(
    merchant: Client, truth: Truth, processes: Processes, number: signal.Signals
) -> None:
    transaction_id = paid(merchant)
    with processes.down("worker-refunds", number):
        ids = [request_refund(merchant, transaction_id, amount=100) for _ in range(20)]
        paid(merchant)
    assert {ended(merchant, id)["status"] for id in ids} == {"completed"}
    assert merchant.transaction(transaction_id)["amount_refunded"] == 2_000
    made = truth.execute(
        "SELECT count(*) AS entries FROM ledger_entries WHERE source_id = ANY(%s::uuid[])", [ids]
    ).fetchone()
    assert made == {"entries": 40}
