"""The lifecycle of payments as merchants see it: cancellation, timeline, balance."""

from typing import Any

import psycopg
import pytest

from tests.end_to_end.client import FINAL, Client
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually

FEE_OF_12550 = 364


def finished(merchant: Client, id: str) -> bool:
    return merchant.transaction(id)["status"] in FINAL


@pytest.mark.parametrize("role", ["relay", "worker-route"])
def test_a_payment_that_is_canceled_in_time_is_never_charged(
    merchant: Client, processes: Processes, truth: psycopg.Connection[dict[str, Any]], role: str
) -> None:
    def in_outbox(id: str) -> bool:
        return truth.execute("SELECT FROM outbox WHERE subject_id = %s", [id]).rowcount > 0

    with processes.down(role):
        id = merchant.pay()["id"]
        if role == "worker-route":
            eventually(lambda: not in_outbox(id), what="the message's publication")
        response = merchant.call("POST", f"/v1/transactions/{id}/cancel")
        assert (response.status_code, response.json()["status"]) == (200, "canceled")
    following = merchant.pay()["id"]

    eventually(lambda: finished(merchant, following), within=60)
    assert merchant.transaction(following)["status"] == "completed"
    assert not in_outbox(id)
    assert merchant.transaction(id)["status"] == "canceled"
    assert [entry["type"] for entry in merchant.get(f"/v1/transactions/{id}/timeline")["data"]] == [
        "transaction.created",
        "transaction.canceled",
    ]
    listed = [(event["type"], event["data"]["id"]) for event in merchant.get("/v1/events")["data"]]
    assert ("transaction.canceled", id) in listed
    for table in ("charge_attempts", "dead_letters", "settlements"):
        assert truth.execute(f"SELECT FROM {table} WHERE transaction_id = %s", [id]).rowcount == 0
    assert merchant.call("POST", f"/v1/transactions/{following}/cancel").json()["code"] == "invalid_state"


def test_a_retried_payment_has_a_timeline_and_is_part_of_the_balance(
    merchant: Client, truth: psycopg.Connection[dict[str, Any]]
) -> None:
    made = merchant.pay("tok_error_once")
    eventually(lambda: finished(merchant, made["id"]), within=60)

    entries = merchant.get(f"/v1/transactions/{made['id']}/timeline")["data"]

    assert [entry["type"] for entry in entries] == [
        "transaction.created", "transaction.routed", "attempt.started", "attempt.finished", "attempt.started",
        "attempt.finished", "transaction.completed", "settlement.completed",
    ]  # fmt: skip
    assert entries[4]["detail"]["delay_ms"] >= 1_000
    balance = [
        {
            "currency": "USD",
            "available": 12_550 - FEE_OF_12550,
            "settled": 12_550,
            "refunded": 0,
            "fees": FEE_OF_12550,
        }
    ]
    assert merchant.get("/v1/balance")["data"] == balance
    changes = "SELECT FROM balance_changes WHERE merchant_id = %s"
    eventually(
        lambda: truth.execute(changes, [made["merchant_id"]]).rowcount == 0, within=30, what="the folding by beat"
    )
    assert merchant.get("/v1/balance")["data"] == balance
