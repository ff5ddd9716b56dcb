"""List, retrieve and resend events."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from gateway.api.http.schemas import page_of
from gateway.api.resources.events import Event, ResentEvent
from gateway.db import begin
from gateway.domain.webhooks import delivery_queries
from gateway.flows.settlement import settle
from gateway.ids import new_id
from gateway.models.webhooks import LEASE_SECONDS
from gateway.states import EventType
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import accept_payment, count, execute, route_payments
from tests.helpers.webhooks import complete_payments, make_endpoint

URL = "https://example.com/webhooks"


def events_of(merchant: Caller, query: str = "") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = merchant.get(f"/v1/events{query}").json["data"]
    return listed


def test_an_event_contains_its_object_as_it_was_after_the_change(merchant: Caller) -> None:
    [payment] = complete_payments(merchant.merchant_id)
    then = merchant.get(f"/v1/transactions/{payment}").json
    execute(
        "UPDATE transactions SET status = 'partially_refunded', amount_refunded = 1, updated_at = now() WHERE id = :id",
        id=payment,
    )

    response = merchant.get("/v1/events")

    page_of(Event).model_validate_json(response.data)
    by_type = {event["type"]: event for event in response.json["data"]}
    assert by_type.keys() == {"transaction.completed", "settlement.completed"}
    assert by_type["transaction.completed"]["data"] == then
    [settlement] = merchant.get("/v1/settlements").json["data"]
    assert by_type["settlement.completed"]["data"] == settlement
    for event in response.json["data"]:
        read = merchant.get(f"/v1/events/{event['id']}")
        Event.model_validate_json(read.data)
        assert read.json == event


def test_events_are_stored_without_any_endpoint(merchant: Caller) -> None:
    complete_payments(merchant.merchant_id)
    assert len(events_of(merchant)) == 2
    assert (count("webhook_deliveries"), count("outbox", "topic = 'webhook.due'")) == (0, 0)


def test_events_are_filtered_by_type_and_time_and_listed_in_pages(merchant: Caller) -> None:
    complete_payments(merchant.merchant_id, 3)
    every = events_of(merchant)
    middle = every[3]["created_at"]

    assert [event["type"] for event in events_of(merchant, "?type=settlement.completed")] == [
        "settlement.completed"
    ] * 3
    assert events_of(merchant, f"?created_from={middle}&created_to={middle}") == []
    complete_payments(merchant.merchant_id)
    assert len(events_of(merchant, f"?created_to={events_of(merchant)[0]['created_at']}")) == 6
    assert len(events_of(merchant, f"?created_from={events_of(merchant)[0]['created_at']}")) == 2
    first = merchant.get("/v1/events?limit=5").json
    second = merchant.get(f"/v1/events?limit=5&cursor={first['next_cursor']}").json
    assert [event["id"] for event in first["data"] + second["data"]] == [event["id"] for event in events_of(merchant)]
    expect_problem(merchant.get("/v1/events?type=transaction.created"), 422, "validation_failed")


def test_the_event_of_a_declined_payment_contains_its_failure(merchant: Caller) -> None:
    settle(route_payments(merchant.merchant_id, "tok_decline_fraud"), "task-1")
    [event] = events_of(merchant)
    assert (event["type"], event["data"]["status"]) == ("transaction.failed", "failed")
    assert event["data"]["failure"]["category"] == "declined"


def test_an_event_is_resent_to_every_enabled_endpoint_that_subscribes_to_its_type(merchant: Caller) -> None:
    [payment] = complete_payments(merchant.merchant_id)
    wanted = {
        str(make_endpoint(merchant.merchant_id, URL)[0]),
        str(make_endpoint(merchant.merchant_id, URL, EventType.TRANSACTION_COMPLETED)[0]),
    }
    make_endpoint(merchant.merchant_id, URL, EventType.REFUND_FAILED)
    disabled, _ = make_endpoint(merchant.merchant_id, URL)
    execute("UPDATE webhook_endpoints SET status = 'disabled', disabled_reason = 'x' WHERE id = :id", id=disabled)
    [event] = events_of(merchant, "?type=transaction.completed")

    response = merchant.post(f"/v1/events/{event['id']}/resend")

    assert response.status_code == 202
    ResentEvent.model_validate_json(response.data)
    assert {item["endpoint_id"] for item in response.json["data"]} == wanted
    assert all((item["event_id"], item["status"]) == (event["id"], "pending") for item in response.json["data"])
    assert count("webhook_deliveries", f"transaction_id = '{payment}'") == 2
    assert count("outbox", "topic = 'webhook.due'") == 2


def test_an_event_can_be_resent_to_an_endpoint_that_does_not_subscribe_to_its_type(merchant: Caller) -> None:
    complete_payments(merchant.merchant_id)
    endpoint, _ = make_endpoint(merchant.merchant_id, URL, EventType.REFUND_FAILED)
    make_endpoint(merchant.merchant_id, URL)
    [event] = events_of(merchant, "?type=settlement.completed")

    response = merchant.post(f"/v1/events/{event['id']}/resend", {"endpoint_id": str(endpoint)})

    assert [item["endpoint_id"] for item in response.json["data"]] == [str(endpoint)]


def test_an_event_cannot_be_resent_to_a_disabled_foreign_or_unknown_endpoint(
    merchant: Caller, other_merchant: Caller
) -> None:
    complete_payments(merchant.merchant_id)
    disabled, _ = make_endpoint(merchant.merchant_id, URL)
    execute("UPDATE webhook_endpoints SET status = 'disabled', disabled_reason = 'x'")
    foreign, _ = make_endpoint(other_merchant.merchant_id, URL)
    path = f"/v1/events/{events_of(merchant)[0]['id']}/resend"

    expect_problem(merchant.post(path, {"endpoint_id": str(disabled)}), 409, "invalid_state")
    for id in (foreign, new_id()):
        expect_problem(merchant.post(path, {"endpoint_id": str(id)}), 404, "not_found")
    unusable: tuple[object, ...] = ("x", 7, ["a"], {})
    for wrong in unusable:
        response = merchant.post(path, {"endpoint_id": wrong})
        expect_problem(response, 422, "validation_failed")
        assert field_errors(response).keys() == {"/endpoint_id"}
    assert merchant.post(path).json == {"data": []}
    assert count("webhook_deliveries") == 0


def test_accepting_a_payment_creates_no_event(merchant: Caller) -> None:
    accept_payment(merchant.merchant_id)
    assert events_of(merchant) == []


def failed_once(delay_seconds: int) -> None:
    """Make each delivery look failed, with the next attempt after `delay_seconds`."""
    execute(
        "UPDATE webhook_deliveries SET attempts = 1, next_attempt_at = now() + make_interval(secs => :delay)",
        delay=delay_seconds,
    )
    execute("DELETE FROM outbox")


def test_a_resend_creates_no_delivery_while_one_is_pending(merchant: Caller) -> None:
    complete_payments(merchant.merchant_id)
    for _ in range(2):
        make_endpoint(merchant.merchant_id, URL, EventType.TRANSACTION_COMPLETED)
    [event] = events_of(merchant, "?type=transaction.completed")
    path = f"/v1/events/{event['id']}/resend"

    responses = [merchant.post(path) for _ in range(5)]

    assert [response.status_code for response in responses] == [202] * 5
    assert all(response.json == responses[0].json for response in responses)
    assert len(responses[0].json["data"]) == 2
    assert (count("webhook_deliveries"), count("outbox", "topic = 'webhook.due'")) == (2, 2)


def test_concurrent_resends_create_one_delivery(merchant: Caller) -> None:
    complete_payments(merchant.merchant_id)
    make_endpoint(merchant.merchant_id, URL, EventType.TRANSACTION_COMPLETED)
    [event] = events_of(merchant, "?type=transaction.completed")
    event_id = UUID(event["id"])

    def resend(_: int) -> Any:
        with begin() as connection:
            return delivery_queries.resend(connection, merchant.merchant_id, event_id, None)

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(resend, range(40)))

    assert len({delivery["id"] for deliveries in made for delivery in deliveries}) == 1
    assert count("webhook_deliveries") == 1


def test_a_resend_makes_a_waiting_delivery_due_immediately(merchant: Caller) -> None:
    make_endpoint(merchant.merchant_id, URL, EventType.TRANSACTION_COMPLETED)
    complete_payments(merchant.merchant_id)
    failed_once(delay_seconds=7_200)
    [event] = events_of(merchant, "?type=transaction.completed")

    [delivery] = merchant.post(f"/v1/events/{event['id']}/resend").json["data"]

    assert (delivery["status"], delivery["attempts"]) == ("pending", 1)
    assert count("webhook_deliveries") == 1
    assert count("webhook_deliveries", "next_attempt_at <= now()") == 1
    assert count("outbox", "topic = 'webhook.due'") == 1


def test_a_resend_does_not_change_a_delivery_in_progress_and_follows_a_finished_one(merchant: Caller) -> None:
    make_endpoint(merchant.merchant_id, URL, EventType.TRANSACTION_COMPLETED)
    complete_payments(merchant.merchant_id)
    failed_once(delay_seconds=LEASE_SECONDS - 1)
    [event] = events_of(merchant, "?type=transaction.completed")
    path = f"/v1/events/{event['id']}/resend"

    [in_progress] = merchant.post(path).json["data"]
    assert (count("webhook_deliveries", "next_attempt_at <= now()"), count("outbox")) == (0, 0)
    execute("UPDATE webhook_deliveries SET status = 'succeeded', next_attempt_at = NULL, finished_at = now()")
    [again] = merchant.post(path).json["data"]

    assert again["id"] != in_progress["id"]
    assert count("webhook_deliveries") == 2
