"""Create, list, update and delete webhook endpoints, and list their deliveries."""

import json
from typing import Any
from uuid import UUID

import pytest

from gateway.api.http.schemas import page_of
from gateway.api.resources.webhook_endpoints import (
    NewWebhookEndpoint,
    WebhookDelivery,
    WebhookEndpoint,
)
from gateway.domain.webhooks.endpoints import ENDPOINTS_MAX, GONE
from gateway.states import EventType
from tests.api.conftest import Caller, Response, expect_problem, field_errors
from tests.helpers.factories import count, execute
from tests.helpers.webhooks import complete_payments

URL = "https://example.com/webhooks"


def make(merchant: Caller, **fields: Any) -> Response:
    return merchant.post("/v1/webhook-endpoints", {"url": URL, "events": ["*"], **fields})


def test_a_new_endpoint_shows_its_secret_once(merchant: Caller) -> None:
    response = make(merchant, events=["transaction.completed"])

    assert response.status_code == 201
    made = response.json
    NewWebhookEndpoint.model_validate_json(response.data)
    assert response.headers["Location"] == f"/v1/webhook-endpoints/{made['id']}"
    secret = made.pop("secret")
    read = merchant.get(f"/v1/webhook-endpoints/{made['id']}")
    WebhookEndpoint.model_validate_json(read.data)
    assert read.json == made
    assert (made["url"], made["events"], made["status"]) == (URL, ["transaction.completed"], "enabled")
    assert secret not in merchant.get("/v1/webhook-endpoints").text
    assert count("webhook_endpoints", "position('whsec_' in encode(secret, 'escape')) > 0") == 0
    assert count("audit_log", f"detail::text LIKE '%{secret}%'") == 0


def test_a_star_means_all_types_and_duplicate_types_are_removed(merchant: Caller) -> None:
    assert make(merchant).json["events"] == [str(type) for type in EventType]
    twice = make(merchant, events=["refund.failed", "transaction.failed", "refund.failed"])
    assert twice.json["events"] == ["refund.failed", "transaction.failed"]


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"url": "http://example.com/"}, "/url", "invalid_url"),
        ({"url": "https://127.0.0.1/"}, "/url", "invalid_url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "/url", "invalid_url"),
        ({"url": "https://localhost/"}, "/url", "invalid_url"),
        ({"url": "https://2130706433/"}, "/url", "invalid_url"),
        ({"url": "https://user:password@example.com/"}, "/url", "invalid_url"),
        ({"url": "https://example.com/" + "x" * 2048}, "/url", "invalid_length"),
        ({"url": 7}, "/url", "invalid_type"),
        ({"url": None}, "/url", "invalid_type"),
        ({"events": []}, "/events", "invalid_length"),
        ({"events": ["transaction.created"]}, "/events/0", "invalid_choice"),
        ({"events": ["*", "refund.failed"]}, "/events/0", "invalid_choice"),
        ({"events": "*"}, "/events", "invalid_type"),
        ({"events": None}, "/events", "invalid_type"),
        ({"secret": "whsec_mine"}, "/secret", "unknown_field"),
    ],
)
def test_an_invalid_endpoint_is_rejected(merchant: Caller, fields: dict[str, Any], pointer: str, code: str) -> None:
    response = make(merchant, **fields)

    expect_problem(response, 422, "unknown_field" if code == "unknown_field" else "validation_failed")
    assert field_errors(response) == {pointer: code}
    assert count("webhook_endpoints") == 0


def test_the_number_of_endpoints_is_limited(merchant: Caller, other_merchant: Caller) -> None:
    made = [make(merchant).json["id"] for _ in range(ENDPOINTS_MAX)]

    expect_problem(make(merchant), 409, "too_many_endpoints")
    assert make(other_merchant).status_code == 201
    merchant.call("DELETE", f"/v1/webhook-endpoints/{made[0]}")
    assert make(merchant).status_code == 201


def test_endpoints_are_listed_in_pages(merchant: Caller, other_merchant: Caller) -> None:
    made = [make(merchant).json["id"] for _ in range(3)]
    make(other_merchant)

    first = merchant.get("/v1/webhook-endpoints?limit=2")
    second = merchant.get(f"/v1/webhook-endpoints?limit=2&cursor={first.json['next_cursor']}")

    page_of(WebhookEndpoint).model_validate_json(first.data)
    assert [item["id"] for item in first.json["data"] + second.json["data"]] == made[::-1]
    assert second.json["next_cursor"] is None


def patch(merchant: Caller, id: str, **fields: Any) -> Response:
    return merchant.call(
        "PATCH", f"/v1/webhook-endpoints/{id}", data=json.dumps(fields), content_type="application/json"
    )


def test_an_update_changes_only_the_given_fields(merchant: Caller) -> None:
    made = make(merchant).json

    changed = patch(merchant, made["id"], url="https://example.com/other", events=["refund.failed"]).json

    assert (changed["url"], changed["events"], changed["status"]) == (
        "https://example.com/other", ["refund.failed"], "enabled",
    )  # fmt: skip
    assert patch(merchant, made["id"]).json["url"] == "https://example.com/other"
    assert field_errors(patch(merchant, made["id"], url="https://10.0.0.1/")) == {"/url": "invalid_url"}
    assert field_errors(patch(merchant, made["id"], status="gone")) == {"/status": "invalid_choice"}


def test_an_endpoint_that_was_disabled_by_a_410_can_be_enabled_again(merchant: Caller) -> None:
    made = make(merchant).json
    execute("UPDATE webhook_endpoints SET status = 'disabled', disabled_reason = :reason, consecutive_failures = 1", reason=GONE)  # fmt: skip  # noqa: E501
    assert merchant.get(f"/v1/webhook-endpoints/{made['id']}").json["disabled_reason"] == GONE
    assert patch(merchant, made["id"], status="disabled").json["disabled_reason"] == GONE

    enabled = patch(merchant, made["id"], status="enabled").json

    assert (enabled["status"], enabled["disabled_reason"]) == ("enabled", None)
    assert count("webhook_endpoints", "consecutive_failures = 0") == 1


def test_deleting_an_endpoint_deletes_its_secret_and_cancels_its_deliveries(merchant: Caller) -> None:
    made = make(merchant).json
    complete_payments(merchant.merchant_id)

    assert merchant.call("DELETE", f"/v1/webhook-endpoints/{made['id']}").status_code == 204

    path = f"/v1/webhook-endpoints/{made['id']}"
    for response in (
        merchant.get(path),
        patch(merchant, made["id"], status="enabled"),
        merchant.call("DELETE", path),
        merchant.post(f"{path}/rotate-secret"),
        merchant.get(f"{path}/deliveries"),
    ):
        expect_problem(response, 404, "not_found")
    assert merchant.get("/v1/webhook-endpoints").json["data"] == []
    assert count("webhook_deliveries", "status = 'canceled'") == 2
    assert count("webhook_endpoints", "secret = ''") == 1


def test_a_rotation_keeps_the_previous_secret_for_a_day(merchant: Caller) -> None:
    made = make(merchant).json

    rotated = merchant.post(f"/v1/webhook-endpoints/{made['id']}/rotate-secret")

    assert rotated.status_code == 200
    NewWebhookEndpoint.model_validate_json(rotated.data)
    assert rotated.json["secret"] != made["secret"]
    within_a_day = "previous_secret_until BETWEEN now() + interval '23 hours' AND now() + interval '24 hours'"
    assert count("webhook_endpoints", within_a_day) == 1


def test_deliveries_can_be_filtered_by_status(merchant: Caller) -> None:
    id = make(merchant, events=["transaction.completed"]).json["id"]
    complete_payments(merchant.merchant_id, 3)
    execute("UPDATE webhook_deliveries SET status = 'exhausted', next_attempt_at = NULL, attempts = 10, response_status = 500, last_error = 'HTTP 500', last_attempt_at = now(), finished_at = now() WHERE id = (SELECT min(id::text) FROM webhook_deliveries)::uuid")  # fmt: skip  # noqa: E501

    every = merchant.get(f"/v1/webhook-endpoints/{id}/deliveries")
    exhausted = merchant.get(f"/v1/webhook-endpoints/{id}/deliveries?status=exhausted")

    page_of(WebhookDelivery).model_validate_json(every.data)
    assert [item["status"] for item in every.json["data"]] == ["pending", "pending", "exhausted"]
    [found] = exhausted.json["data"]
    assert (found["response_status"], found["last_error"], found["attempts"]) == (500, "HTTP 500", 10)
    assert found["next_attempt_at"] is None
    expect_problem(merchant.get(f"/v1/webhook-endpoints/{id}/deliveries?status=lost"), 422, "validation_failed")


def test_every_action_is_in_the_audit_log(merchant: Caller) -> None:
    id = make(merchant).json["id"]
    patch(merchant, id, status="disabled")
    merchant.post(f"/v1/webhook-endpoints/{id}/rotate-secret")
    merchant.call("DELETE", f"/v1/webhook-endpoints/{id}")

    for action in ("created", "changed", "secret_rotated", "deleted"):
        assert count("audit_log", f"action = 'webhook_endpoint.{action}' AND subject = '{UUID(id)}'") == 1
