"""Webhooks as merchants see them: endpoint, payment, received events."""

import signal
import threading
from typing import Any

import pytest
from kombu import Connection
from standardwebhooks.webhooks import Webhook

from tests.end_to_end.client import Client
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually
from tests.helpers.webhooks import Receiver, receiver


def subscribe(merchant: Client, there: Receiver, *events: str) -> dict[str, Any]:
    response = merchant.call("POST", "/v1/webhook-endpoints", json={"url": there.url, "events": list(events)})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def test_the_events_of_a_payment_arrive_and_can_be_verified(merchant: Client) -> None:
    with receiver() as there:
        secret = subscribe(merchant, there, "*")["secret"]
        paid = merchant.pay()["id"]
        declined = merchant.pay("tok_decline_fraud")["id"]
        eventually(lambda: len(there.calls) == 3, what="three events")
    received = {
        (call.json["type"], call.json["data"].get("transaction_id", call.json["data"]["id"])) for call in there.calls
    }
    assert received == {
        ("transaction.completed", paid),
        ("settlement.completed", paid),
        ("transaction.failed", declined),
    }
    for call in there.calls:
        Webhook(secret).verify(call.body, call.headers)
    assert {event["id"] for event in merchant.get("/v1/events")["data"]} == set(there.ids())


def test_a_failed_delivery_is_retried_after_a_few_seconds(merchant: Client) -> None:
    with receiver(status=500) as there:
        endpoint = subscribe(merchant, there, "transaction.completed")
        merchant.pay()
        eventually(lambda: len(there.calls) == 1, what="the first attempt")
        there.status = 204
        eventually(lambda: len(there.calls) == 2, within=20, what="the second attempt")

        def delivered() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = merchant.get(
                f"/v1/webhook-endpoints/{endpoint['id']}/deliveries", status="succeeded"
            )["data"]
            return found

        [delivery] = eventually(delivered, what="the recorded success")
    assert (delivery["attempts"], delivery["response_status"]) == (2, 204)
    assert there.calls[0].body == there.calls[1].body
    assert len(set(there.ids())) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_events_of_payments_that_settled_while_the_webhook_worker_was_down_arrive_later(
    merchant: Client, processes: Processes, number: signal.Signals
) -> None:
    with receiver() as there:
        subscribe(merchant, there, "transaction.completed")
        with processes.down("worker-webhooks", number):
            paid = [merchant.pay()["id"] for _ in range(5)]
            eventually(
                lambda: all(merchant.transaction(id)["status"] == "completed" for id in paid), what="the payments"
            )
        eventually(lambda: len(set(there.ids())) == 5, within=40, what="the events")
    assert {call.json["data"]["id"] for call in there.calls} == set(paid)


def consumers(stack: dict[str, Any]) -> int:
    with Connection(stack["broker_url"]) as connection:
        channel: Any = connection.channel()
        count: int = channel.queue_declare("webhook.delivery", passive=True).consumer_count
        return count


def test_a_stopped_worker_finishes_its_current_call(
    merchant: Client, processes: Processes, stack: dict[str, Any]
) -> None:
    stopping = threading.Event()
    with receiver(before_answer=lambda: stopping.wait(10)) as there:
        endpoint = subscribe(merchant, there, "transaction.completed")
        merchant.pay()
        eventually(lambda: len(there.calls) == 1, what="the call")
        with processes.down("worker-webhooks", signal.SIGTERM):
            eventually(lambda: consumers(stack) == 0, what="the worker's shutdown")
            stopping.set()

            def delivered() -> list[dict[str, Any]]:
                path = f"/v1/webhook-endpoints/{endpoint['id']}/deliveries"
                found: list[dict[str, Any]] = merchant.get(path, status="succeeded")["data"]
                return found

            [delivery] = eventually(delivered, what="the recorded success, while no worker runs")
    assert delivery["attempts"] == 1
    assert len(there.calls) == 1
