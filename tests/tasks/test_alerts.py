"""Alerts from the outbox to a receiver: relay, broker and a real worker of the operations queue."""

from typing import Any

import pytest
from kombu import Connection
from sqlalchemy import text

import celeryconfig
from gateway.cli.alert_receiver import Received
from gateway.db import begin
from gateway.domain.shared import alerts
from gateway.domain.shared.alerts import ATTEMPTS_MAX
from tasks import app, relay
from tests.helpers.alert_receivers import alerts_sent_to, receiving
from tests.helpers.factories import count
from tests.helpers.waiting import eventually
from tests.tasks.workers import worker_thread

pytestmark = pytest.mark.usefixtures("database")


def publish(broker: Connection) -> None:
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        relay.relay_once(producer)


def waiting(broker: Connection, name: str) -> int:
    """Return the number of ready messages of a queue."""
    channel: Any = broker.default_channel
    return int(channel.queue_declare(name, passive=True).message_count)


def test_raised_alerts_arrive_and_a_refusing_receiver_is_called_a_bounded_number_of_times(broker: Connection) -> None:
    received: list[Received] = []
    with begin() as connection:
        alerts.raise_alert(connection, "error", "one", {})
        alerts.raise_alert(connection, "info", "other", {})
    publish(broker)
    with receiving(received.append, fail_with=503) as url, alerts_sent_to(url), worker_thread("operations"):
        eventually(lambda: count("alerts", "status = 'failed'") == 2, within=40, what="the last attempts")
        assert len(received) == 2 * ATTEMPTS_MAX
        eventually(lambda: waiting(broker, "operations") == 0, what="the acknowledgement")
    assert not any(waiting(broker, queue.name) for queue in celeryconfig.DEAD_LETTER_QUEUES)
    assert (count("alerts"), count("dead_letters"), count("outbox")) == (2, 0, 0)


def test_delivered_alerts_are_not_sent_again(broker: Connection) -> None:
    received: list[Received] = []
    with begin() as connection:
        alerts.raise_alert(connection, "error", "one", {})
        alerts.raise_alert(connection, "error", "other", {})
        connection.execute(text("UPDATE alerts SET status = 'delivered' WHERE message = 'one'"))
    publish(broker)
    with receiving(received.append) as url, alerts_sent_to(url), worker_thread("operations"):
        eventually(lambda: count("alerts", "status = 'delivered'") == 2, what="the delivery")
    assert [alert["alert"]["message"] for alert in received] == ["other"]
