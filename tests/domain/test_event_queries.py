"""The bodies of webhooks: small, and the same bytes for every attempt."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from gateway.db import autocommit
from gateway.domain.payments.transactions import NewTransaction
from gateway.domain.webhooks import bodies, event_queries
from gateway.domain.webhooks import deliveries as webhook_deliveries
from gateway.domain.webhooks.bodies import BODY_MAX_BYTES
from gateway.domain.webhooks.event_queries import StoredEvent
from gateway.flows import routing
from gateway.flows.settlement import settle
from gateway.ids import new_id
from gateway.states import EventType
from tests.helpers.captured_sql import statements
from tests.helpers.factories import accept, execute, make_merchant
from tests.helpers.webhooks import complete_payments, make_endpoint

pytestmark = pytest.mark.usefixtures("database")

URL = "https://example.com/webhooks"


def claim_all(endpoint_id: UUID) -> list[dict[str, Any]]:
    with autocommit() as connection:
        claims = webhook_deliveries.claim(connection, {endpoint_id: (100, 1)})
    assert all(len(claim.body) < BODY_MAX_BYTES for claim in claims)
    return [json.loads(claim.body) for claim in claims]


def body_of_payment(**fields: Any) -> dict[str, Any]:
    """Return the body of the webhook of a completed payment with `fields`."""
    merchant_id = make_merchant()
    endpoint_id, _ = make_endpoint(merchant_id, URL, EventType.TRANSACTION_COMPLETED)
    new = NewTransaction(1_000, "USD", "tok_approve", **fields)
    with autocommit() as connection:
        accepted = accept(connection, merchant_id, new, "req-test", None)
    ids = [UUID(str(accepted.response.location).rpartition("/")[2])]
    routing.route(ids)
    settle(ids, "task-1")
    [body] = claim_all(endpoint_id)
    return body


def test_a_body_has_the_type_the_time_and_the_object_of_its_event() -> None:
    body = body_of_payment(metadata={"cart": "c-9", "gift": "Zwölf Äpfel 🍏"}, description="Two seats")
    assert list(body) == ["type", "timestamp", "data"]
    assert body["timestamp"] == body["data"]["updated_at"] == body["data"]["completed_at"]
    assert body["data"]["metadata"] == {"cart": "c-9", "gift": "Zwölf Äpfel 🍏"}


@pytest.mark.parametrize("character", ["x", "ü", "漢", "🍏", '"', "\x01", "\\"])
def test_a_body_is_limited_in_size_whatever_fields_the_merchant_has_set(character: str) -> None:
    metadata = {f"{number:02}".ljust(40, character): character * 500 for number in range(50)}
    body = body_of_payment(
        metadata=metadata, description=character * 500, reference=character * 255, customer_id=character * 64
    )
    assert body["omitted"] == ["metadata"]
    assert body["data"]["metadata"] == {}
    assert body["data"]["description"] == character * 500
    assert body["data"]["reference"] == character * 255


def test_metadata_that_fits_is_sent() -> None:
    metadata = {f"key-{number}": "é" * 250 for number in range(30)}
    body = body_of_payment(metadata=metadata)
    assert "omitted" not in body
    assert body["data"]["metadata"] == metadata


def test_the_description_is_omitted_after_the_metadata() -> None:
    event = StoredEvent(new_id(), "transaction.completed", new_id(), None, datetime.now(UTC))
    shown = {"metadata": {"a": "b"}, "description": "x" * BODY_MAX_BYTES, "reference": "r"}
    body = json.loads(bodies.make(event, shown))
    assert body["omitted"] == ["metadata", "description"]
    assert body["data"] == {"metadata": {}, "description": None, "reference": "r"}
    assert shown["metadata"] == {"a": "b"}, "what was given is left as it was"


def test_every_type_of_event_has_an_object() -> None:
    kinds = {str(type).partition(".")[0] for type in EventType}
    assert kinds == event_queries.OBJECTS.keys()


def test_many_deliveries_need_no_more_statements_than_one() -> None:
    merchant_id = make_merchant()
    endpoints = [make_endpoint(merchant_id, URL)[0] for _ in range(3)]
    complete_payments(merchant_id, 10)
    with statements() as sent, autocommit() as connection:
        claims = webhook_deliveries.claim(connection, dict.fromkeys(endpoints, (100, 1)))
    assert len(claims) == 60
    assert len(sent) == 4, "the claim, the transactions, the settlements, the bodies"


def test_two_workers_that_create_the_body_of_one_event_send_the_one_stored_first() -> None:
    event = StoredEvent(new_id(), "transaction.completed", new_id(), None, datetime.now(UTC))
    [payment] = complete_payments(make_merchant())
    older, newer = (replace(event, object_id=payment, snapshot={"version": version}) for version in (1, 2))
    transaction_ids = {event.id: payment}
    with autocommit() as connection:
        first = bodies.make_and_store(connection, [older], transaction_ids)
        second = bodies.make_and_store(connection, [newer], transaction_ids)
    assert first == second
    assert json.loads(first[event.id])["data"]["version"] == 1


def test_a_retry_reads_no_object_again() -> None:
    merchant_id = make_merchant()
    endpoint_id, _ = make_endpoint(merchant_id, URL)
    complete_payments(merchant_id, 10)
    first = claim_all(endpoint_id)
    execute("UPDATE webhook_deliveries SET next_attempt_at = now()")
    with statements() as sent:
        assert claim_all(endpoint_id) == first
    assert len(sent) == 1
