"""The broker's topology: declarations, dead letters, unroutable and delayed messages, message TTL."""

import os
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from kombu import Connection, Producer

import celeryconfig
from gateway.config import settings
from tasks import app, topology
from tests.helpers.waiting import eventually


def test_declaring_twice_changes_nothing(broker: Connection) -> None:
    assert broker.connected
    topology.declare()


@pytest.mark.parametrize("name", celeryconfig.WORK_QUEUE_NAMES)
def test_a_rejected_message_of_each_work_queue_is_dead_lettered(broker: Connection, name: str) -> None:
    Producer(broker).publish("{}", exchange=celeryconfig.PAYMENTS.name, routing_key=name, mandatory=True)
    work = app.amqp.queues[name](broker.default_channel)
    message = eventually(work.get, what="the message")
    assert message is not None
    message.reject()
    dead_name = f"dlq.{name.removesuffix(celeryconfig.BULK_SUFFIX)}"
    [dead_queue] = [queue for queue in celeryconfig.DEAD_LETTER_QUEUES if queue.name == dead_name]
    dead = eventually(lambda: dead_queue(broker.default_channel).get(), what="the dead letter")
    assert dead is not None
    deaths: Any = dead.headers["x-death"]
    [death] = deaths
    assert (death["queue"], death["reason"]) == (name, "rejected")
    dead.ack()


def test_an_unroutable_message_is_kept(broker: Connection) -> None:
    Producer(broker).publish("{}", exchange=celeryconfig.PAYMENTS.name, routing_key="no.such.queue")
    unrouted = celeryconfig.UNROUTED_QUEUE(broker.default_channel)
    message = eventually(unrouted.get, what="the unrouted message")
    assert message is not None
    message.ack()


@pytest.mark.parametrize("name", celeryconfig.WORK_QUEUE_NAMES)
def test_a_delayed_message_reaches_its_queue(broker: Connection, name: str) -> None:
    app.send_task("operations.sweep", queue=name, countdown=1)
    queue = app.amqp.queues[name](broker.default_channel)
    message = eventually(queue.get, what="the delayed message")
    assert message is not None
    message.ack()


def test_the_message_ttl_is_a_policy_that_can_be_changed_and_removed(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    management = urlsplit(stack["management_url"])
    user, password = stack["management"]["user"], stack["management"]["password"]
    monkeypatch.setenv("RABBITMQ_MANAGEMENT_URL", f"http://{user}:{password}@{management.netloc}")
    vhost = urlsplit(os.environ["RABBITMQ_URL"]).path.removeprefix("/")
    url = f"{stack['management_url']}/api/policies/{vhost}/{topology.POLICY}"

    def policy() -> dict[str, Any] | None:
        response = requests.get(url, auth=(user, password), timeout=10)
        found: dict[str, Any] = response.json()
        return found if response.ok else None

    try:
        for seconds in (60, 300):
            monkeypatch.setenv("MESSAGE_TTL_SECONDS", str(seconds))
            settings.cache_clear()
            topology.set_message_ttl()
            found = policy()
            assert found is not None
            assert found["definition"] == {"message-ttl": seconds * 1000}
        monkeypatch.setenv("MESSAGE_TTL_SECONDS", "0")
        settings.cache_clear()
        topology.set_message_ttl()
        topology.set_message_ttl()
        assert policy() is None
    finally:
        settings.cache_clear()
