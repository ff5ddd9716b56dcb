"""Deliveries to real receivers: requests, schedule of retries, and the end of retries."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.db import autocommit, begin
from gateway.domain.webhooks import deliveries as webhook_deliveries
from gateway.domain.webhooks import delivery_queries, event_queries
from gateway.domain.webhooks import endpoints as webhook_endpoints
from gateway.domain.webhooks.deliveries import DELAYS_SECONDS, JITTER
from gateway.domain.webhooks.event_queries import StoredEvent
from gateway.flows import webhook_calls, webhooks
from gateway.flows.webhooks import WINDOW_MAX, DeliveryLoop
from gateway.states import EndpointStatus, EventType
from tests.helpers.factories import count, execute, make_merchant
from tests.helpers.waiting import eventually
from tests.helpers.webhooks import (
    attempted,
    complete_payments,
    deliveries,
    loopback_allowed,
    make_due,
    make_endpoint,
    receiver,
    statuses,
)

pytestmark = pytest.mark.usefixtures("database")

COMPLETED = EventType.TRANSACTION_COMPLETED


def test_a_standard_webhooks_library_verifies_the_requests(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver() as there:
        endpoint_id, secret = make_endpoint(merchant_id, there.url)
        [payment] = complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"] * 2, what="both deliveries")
    by_type = {call.json["type"]: call for call in there.calls}
    assert by_type.keys() == {"transaction.completed", "settlement.completed"}
    for call in there.calls:
        Webhook(secret).verify(call.body, call.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(call.body.replace(b"USD", b"EUR"), call.headers)
        assert call.path == "/hooks?shop=7"
        assert call.headers["content-type"] == "application/json"
    data = by_type["transaction.completed"].json["data"]
    assert (data["id"], data["status"], data["object"]) == (str(payment), "completed", "transaction")
    assert by_type["settlement.completed"].json["data"]["transaction_id"] == str(payment)


def test_after_a_rotation_both_secrets_verify_until_the_old_one_expires(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver() as there:
        endpoint_id, old = make_endpoint(merchant_id, there.url, COMPLETED)
        with begin() as connection:
            new = webhook_endpoints.rotate_secret(connection, merchant_id, endpoint_id, "test")["secret"]
        complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: len(there.calls) == 1, what="the first call")
        execute("UPDATE webhook_endpoints SET previous_secret_until = now()")
        complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: len(there.calls) == 2, what="the second call")
    during, after = there.calls
    assert len(during.headers["webhook-signature"].split()) == 2
    for secret, call in ((old, during), (new, during), (new, after)):
        Webhook(secret).verify(call.body, call.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(after.body, after.headers)


def test_every_attempt_and_a_resend_have_the_same_id_and_the_same_bytes(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver(status=500) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        [payment] = complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), what="the first attempt")
        execute(
            "UPDATE transactions SET status = 'refunded', amount_refunded = amount, updated_at = now() WHERE id = :id",
            id=payment,
        )
        there.status = 204
        make_due(endpoint_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"], what="the second attempt")
        with begin() as connection:
            delivery_queries.resend(connection, merchant_id, UUID(there.calls[0].id), None)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"] * 2, what="the resend")
    assert len(there.calls) == 3
    assert len({(call.id, call.body) for call in there.calls}) == 1
    assert there.calls[0].json["data"]["status"] == "completed"


def test_a_release_that_changes_the_representation_does_not_change_the_bytes_of_retries_and_resends(
    delivery_loop: DeliveryLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_new_field(connection: Connection, events: Iterable[StoredEvent]) -> dict[UUID, dict[str, Any]]:
        return {id: {**shown, "new_field": 1} for id, shown in objects_of(connection, events).items()}

    objects_of = event_queries.objects_of
    merchant_id = make_merchant()
    with receiver(status=500) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), what="the first attempt")
        monkeypatch.setattr(event_queries, "objects_of", with_a_new_field)
        there.status = 204
        make_due(endpoint_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"], what="the retry")
        with begin() as connection:
            delivery_queries.resend(connection, merchant_id, UUID(there.calls[0].id), None)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"] * 2, what="the resend")
        complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"] * 3, what="another event")
    first, retry, resend, other = there.calls
    assert first.body == retry.body == resend.body
    assert "new_field" not in first.json["data"]
    assert other.json["data"]["new_field"] == 1


def test_a_failing_delivery_is_attempted_ten_times_on_schedule_and_then_exhausted(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver(status=503) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        complete_payments(merchant_id)
        for attempt, delay in enumerate(DELAYS_SECONDS, start=1):
            delivery_loop.wake([endpoint_id])
            eventually(attempted(endpoint_id, attempt), what=f"attempt {attempt}")
            [row] = deliveries(endpoint_id)
            assert (row.status, row.response_status, row.last_error) == ("pending", 503, "HTTP 503")
            waits = (row.next_attempt_at - row.last_attempt_at).total_seconds()
            assert delay <= waits <= delay * (1 + JITTER) + 1
            make_due(endpoint_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["exhausted"], what="the last attempt")
    assert len(there.calls) == 10
    assert deliveries(endpoint_id)[0].finished_at is not None


def test_410_disables_the_endpoint_and_cancels_its_pending_deliveries(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver(status=410) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED, consecutive_failures=1)
        complete_payments(merchant_id, 5)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["canceled"] * 5, what="the end of all deliveries")
        complete_payments(merchant_id)
    assert len(there.calls) == 1
    assert count("webhook_deliveries") == 5
    with autocommit() as connection:
        endpoint = webhook_endpoints.find(connection, merchant_id, endpoint_id)
    assert (endpoint["status"], endpoint["disabled_reason"]) == ("disabled", webhook_endpoints.GONE)


def test_a_redirect_is_not_followed(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver() as elsewhere, receiver(status=307, location=elsewhere.url) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), what="the attempt")
    assert deliveries(endpoint_id)[0].last_error == "HTTP 307"
    assert elsewhere.calls == []


def test_a_failing_endpoint_gets_one_call_at_a_time_until_a_call_succeeds(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver(status=500) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED, consecutive_failures=3)
        complete_payments(merchant_id, 30)
        in_progress, maximum = [0], [0]

        def count_call() -> None:
            in_progress[0] += 1
            maximum[0] = max(maximum[0], in_progress[0])
            time.sleep(0.01)  # long enough for a second call to overlap
            in_progress[0] -= 1

        there.before_answer = count_call
        delivery_loop.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), what="the first attempts")
        assert (maximum[0], len(there.calls)) == (1, 30)
        assert count("webhook_endpoints", "consecutive_failures = 33") == 1
        there.status = 200
        make_due(endpoint_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"] * 30, what="all deliveries")
    assert count("webhook_endpoints", "consecutive_failures = 0") == 1
    assert 1 < maximum[0] <= WINDOW_MAX


def test_a_delivery_that_a_dead_process_had_claimed_becomes_due_again(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver() as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        complete_payments(merchant_id)
        with autocommit() as connection:
            [claim] = webhook_deliveries.claim(connection, {endpoint_id: (5, 1)})
            assert webhook_deliveries.claim(connection, {endpoint_id: (5, 1)}) == []
            assert webhook_deliveries.enqueue_due(connection) == 0
        assert claim.lease > datetime.now(UTC) + timedelta(seconds=2 * webhook_calls.CALL_SECONDS)
        execute("DELETE FROM outbox")
        make_due(endpoint_id)  # as when the lease has expired
        assert webhooks.enqueue_due() == 1
        assert webhooks.enqueue_due() == 0, "it is already in the outbox"
        delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"], what="the delivery")
    assert count("outbox", "topic = 'webhook.due'") == 1


def test_two_processes_send_each_event_once() -> None:
    merchant_id = make_merchant()
    with loopback_allowed(), receiver() as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url)
        complete_payments(merchant_id, 50)
        loops = [DeliveryLoop(), DeliveryLoop()]
        for delivery_loop in loops:
            delivery_loop.wake([endpoint_id])
        eventually(lambda: statuses(endpoint_id) == ["succeeded"] * 100, what="all deliveries")
        for delivery_loop in loops:
            delivery_loop.close()
    assert len(there.ids()) == len(set(there.ids())) == 100


def test_a_stopping_process_finishes_its_calls_in_progress(delivery_loop: DeliveryLoop) -> None:
    merchant_id = make_merchant()
    with receiver(before_answer=lambda: time.sleep(0.5)) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        complete_payments(merchant_id, 2)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: len(there.calls) == 2, what="the calls")
        delivery_loop.close()
    assert statuses(endpoint_id) == ["succeeded"] * 2


def test_an_endpoint_with_a_forbidden_address_is_not_called() -> None:
    merchant_id = make_merchant()
    with receiver() as there:  # on this host, which is not allowed here
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        complete_payments(merchant_id)
        delivery_loop = DeliveryLoop()
        delivery_loop.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), what="the attempt")
        delivery_loop.close()
    assert there.calls == []
    assert "the address is not public" in deliveries(endpoint_id)[0].last_error


def test_a_disabled_endpoint_gets_no_events_and_an_enabled_one_those_of_later_changes(
    delivery_loop: DeliveryLoop,
) -> None:
    merchant_id = make_merchant()
    with receiver() as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, COMPLETED)
        complete_payments(merchant_id)

        def set_status(status: EndpointStatus) -> None:
            with begin() as connection:
                webhook_endpoints.change(
                    connection, merchant_id, endpoint_id, url=None, events=None, status=status, actor="test"
                )

        set_status(EndpointStatus.DISABLED)
        complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        set_status(EndpointStatus.ENABLED)
        [payment] = complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: "succeeded" in statuses(endpoint_id), what="the delivery")
    assert [call.json["data"]["id"] for call in there.calls] == [str(payment)]
    assert statuses(endpoint_id) == ["canceled", "succeeded"]
