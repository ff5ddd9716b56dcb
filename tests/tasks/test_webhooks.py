"""Webhooks from a settled payment to a merchant's receiver, through real queues."""

from collections.abc import Iterator

import pytest
from kombu import Connection

from gateway.errors import MalformedMessage
from gateway.flows import webhooks as flow
from gateway.states import EventType
from tasks import app, relay
from tasks.webhooks import deliver
from tests.helpers.factories import count, execute, make_merchant
from tests.helpers.waiting import eventually
from tests.helpers.webhooks import (
    complete_payments,
    deliveries,
    loopback_allowed,
    make_endpoint,
    receiver,
)
from tests.tasks.test_relay import received, relaying

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def _process() -> Iterator[None]:
    """Make deliveries in this process, as in a `worker-webhooks` process."""
    with loopback_allowed():
        yield
        flow.close()


@pytest.mark.usefixtures("_process")
def test_the_relay_publishes_the_endpoint_and_the_worker_delivers(broker: Connection) -> None:
    merchant_id = make_merchant()
    with receiver() as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, EventType.TRANSACTION_COMPLETED)
        complete_payments(merchant_id, 3)
        with app.amqp.Producer(broker, auto_declare=False) as producer:
            relay.relay_once(producer)
        [[args, *_]] = received(broker, "webhook.delivery")
        assert args == [[str(endpoint_id)]], "one message for all deliveries"
        deliver(*args)
        eventually(lambda: len(there.calls) == 3, what="the deliveries")
        eventually(lambda: count("webhook_deliveries", "status = 'succeeded'") == 3, what="their recording")


@pytest.mark.usefixtures("_process")
def test_the_task_does_not_wait_for_the_receiver() -> None:
    merchant_id = make_merchant()
    with receiver(before_answer=lambda: eventually(finished.copy, what="the end of the task")) as there:
        endpoint_id, _ = make_endpoint(merchant_id, there.url, EventType.TRANSACTION_COMPLETED)
        complete_payments(merchant_id)
        finished: list[str] = []
        deliver([str(endpoint_id)])
        finished.append("the task")
        eventually(lambda: deliveries(endpoint_id)[0].status == "succeeded", what="the delivery")


def test_a_malformed_message_is_rejected() -> None:
    for ids in (None, [], ["x"], "x", [7]):
        with pytest.raises(MalformedMessage):
            deliver(ids)


def test_the_relay_enqueues_due_deliveries_and_cancels_those_of_disabled_endpoints(broker: Connection) -> None:
    merchant_id = make_merchant()
    wanted, _ = make_endpoint(merchant_id, "https://example.com/", EventType.TRANSACTION_COMPLETED)
    disabled, _ = make_endpoint(merchant_id, "https://example.com/", EventType.TRANSACTION_COMPLETED)
    waiting, _ = make_endpoint(merchant_id, "https://example.com/", EventType.TRANSACTION_COMPLETED)
    complete_payments(merchant_id, 2)
    execute("DELETE FROM outbox")
    execute("UPDATE webhook_endpoints SET status = 'disabled', disabled_reason = 'x' WHERE id = :id", id=disabled)
    later = "UPDATE webhook_deliveries SET next_attempt_at = now() + interval '5 s' WHERE endpoint_id = :id"
    execute(later, id=waiting)

    with relaying():
        [[args, *_]] = eventually(lambda: received(broker, "webhook.delivery"), what="the message")
    assert args == [[str(wanted)]]
    assert {row.status for row in deliveries(disabled)} == {"canceled"}
    assert {row.status for row in deliveries(waiting)} == {"pending"}
