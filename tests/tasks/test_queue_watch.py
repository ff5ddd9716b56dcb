"""Queues that do not work although the broker and its management API answer: detection and isolation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from amqp.exceptions import MessageNacked
from kombu import Connection, Consumer

import celeryconfig
from gateway.config import settings
from gateway.db import begin
from gateway.domain.dead_letters.intake import DeadMessage
from gateway.domain.operations import queue_states
from gateway.domain.operations.queue_states import BrokerState, State
from gateway.domain.shared import outbox
from gateway.domain.shared.outbox import Topic
from gateway.flows import queue_states as flow
from gateway.flows import upkeep
from gateway.ids import new_id, utc_now
from gateway.reasons import reason_of
from tasks import app, monitor, queue_watch, relay, topology
from tasks.base import BROKER_UNAVAILABLE
from tasks.queue_watch import AvoidedQueues, QueueWatch
from tests.helpers.alert_receivers import alerts_sent_to, receiving
from tests.helpers.factories import count, execute
from tests.helpers.waiting import eventually
from tests.tasks.test_relay import received

pytestmark = pytest.mark.usefixtures("database")

FULL = "settlement.requested"
OTHERS = [name for name in celeryconfig.WORK_QUEUE_NAMES if name != FULL]


@pytest.fixture
def management(stack: dict[str, Any]) -> Iterator[requests.Session]:
    """Use RabbitMQ's management API; delete the policies of the test afterwards."""
    with requests.Session() as session:
        session.auth = (stack["management"]["user"], stack["management"]["password"])
        yield session


@contextmanager
def full(management: requests.Session, stack: dict[str, Any], queue: str = FULL) -> Iterator[None]:
    """Fill a queue within the block with one message, so that it refuses every other one (basic.nack)."""
    vhost = urlsplit(settings().rabbitmq_url).path.removeprefix("/")
    policy = f"{stack['management_url']}/api/policies/{vhost}/full"

    def limit(length: int) -> None:
        body = {"pattern": f"^{queue}$", "definition": {"max-length": length}, "apply-to": "queues", "priority": 9}
        management.put(policy, json=body, timeout=10).raise_for_status()

    limit(0)
    try:
        eventually(lambda: not accepts_one(queue), what="a full queue")
        yield
    finally:
        limit(1_000)  # without any limit RabbitMQ would not notify the delay queues of free space
        eventually(lambda: accepts_one(queue, purge=True), what="a queue that takes messages")
        management.delete(policy, timeout=10).raise_for_status()


def accepts_one(name: str, *, purge: bool = False) -> bool:
    """Return whether a queue accepts a message; with `purge` it is emptied before and after."""
    with relay.broker_connection() as connection, connection.Producer() as producer:
        queue = app.amqp.queues[name](connection.default_channel)
        try:
            if purge:
                queue.purge()
            producer.publish("{}", exchange=celeryconfig.PAYMENTS.name, routing_key=name)
            if purge:
                queue.purge()
        except MessageNacked:
            return False
        return True


@pytest.fixture
def avoided() -> AvoidedQueues:
    return AvoidedQueues()


@pytest.fixture
def watch(broker: Connection, avoided: AvoidedQueues) -> Iterator[QueueWatch]:  # noqa: ARG001  # the queues are empty
    made = QueueWatch(relay.broker_connection, avoided)
    yield made
    made.close()


def states() -> dict[str, State]:
    with begin() as connection:
        return {state.name: state for state in queue_states.states(connection)}


def broker_state() -> tuple[BrokerState, str | None]:
    return queue_states.summary(list(states().values()))


def enqueue_one_of_each() -> None:
    with begin() as connection:
        for topic in Topic:
            outbox.enqueue(connection, topic, [new_id()])


def test_the_state_is_unknown_before_the_first_check() -> None:
    assert broker_state()[0] is BrokerState.UNKNOWN


def test_queues_that_accept_messages_are_up_and_get_one_probe_each(broker: Connection, watch: QueueWatch) -> None:
    for _ in range(3):
        assert [found.reason for found in watch.check()] == [None] * len(celeryconfig.WORK_QUEUE_NAMES)
    assert broker_state() == (BrokerState.UP, None)
    for name in celeryconfig.WORK_QUEUE_NAMES:
        assert [args for args, *_ in received(broker, name)] == [[name]]


def test_a_queue_that_refuses_messages_is_reported_with_a_reason_and_the_others_are_used(
    watch: QueueWatch, avoided: AvoidedQueues, management: requests.Session, stack: dict[str, Any]
) -> None:
    with full(management, stack):
        avoided.avoid(FULL, 60)  # as the relay does when the queue refuses its message
        found = {observation.name: observation.reason for observation in watch.check()}
        assert "MessageNacked" in str(found[FULL])
        assert f"waiting for {FULL} to confirm" in str(found[FULL])
        assert [found[name] for name in OTHERS] == [None] * len(OTHERS)
        assert avoided.names() == {FULL}
        state, reason = broker_state()
        assert state is BrokerState.DEGRADED
        assert FULL in str(reason)
    watch.check()
    assert avoided.names() == set()
    assert broker_state() == (BrokerState.UP, None)


def test_a_queue_that_refuses_messages_does_not_delay_others_and_nothing_is_published_twice(
    broker: Connection, avoided: AvoidedQueues, management: requests.Session, stack: dict[str, Any]
) -> None:
    avoided.avoid(FULL, 60)
    with full(management, stack), app.amqp.Producer(broker, auto_declare=False) as producer:
        enqueue_one_of_each()
        others = len(Topic) - 1
        assert relay.relay_once(producer, avoided=avoided) == others
        assert relay.relay_once(producer, avoided=avoided) == 0
        assert count("outbox", f"topic = '{Topic.SETTLEMENT_REQUESTED}'") == count("outbox") == 1
    avoided.use(FULL)
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        assert relay.relay_once(producer, avoided=avoided) == 1
    assert len(received(broker, FULL)) == 1
    assert len(received(broker, "transaction.created")) == 1


def test_the_relay_avoids_a_queue_that_has_refused_its_messages(
    broker: Connection, avoided: AvoidedQueues, management: requests.Session, stack: dict[str, Any]
) -> None:
    with begin() as connection:
        outbox.enqueue(connection, Topic.SETTLEMENT_REQUESTED, [new_id()])
    with (
        full(management, stack),
        app.amqp.Producer(broker, auto_declare=False) as producer,
        pytest.raises(BROKER_UNAVAILABLE) as caught,
    ):
        relay.relay_once(producer, avoided=avoided)
    assert avoided.names() == {FULL}
    assert f"publishing to {FULL}" in reason_of(caught.value)
    assert "MessageNacked" in reason_of(caught.value)


def test_a_missing_queue_is_reported(broker: Connection, watch: QueueWatch) -> None:
    channel: Any = broker.default_channel
    channel.queue_delete("webhook.delivery")
    try:
        found = {observation.name: observation.reason for observation in watch.check()}
        assert "NOT_FOUND" in str(found["webhook.delivery"])
        assert found[FULL] is None
    finally:
        topology.declare()


def test_an_unreachable_broker_is_down_and_no_queue_is_avoided(avoided: AvoidedQueues) -> None:
    def nowhere(_: int) -> Connection:
        return Connection("amqp://127.0.0.1:9//", transport_options={})

    found = QueueWatch(nowhere, avoided).check()
    assert all("cannot be reached" in str(observation.reason) for observation in found)
    assert broker_state()[0] is BrokerState.DOWN
    assert avoided.names() == set()


def test_a_queue_that_accepts_no_messages_raises_one_alert_which_is_delivered_without_the_queue(
    watch: QueueWatch,
    avoided: AvoidedQueues,
    management: requests.Session,
    stack: dict[str, Any],
) -> None:
    with full(management, stack, "operations"), receiving(lambda _: None) as url, alerts_sent_to(url):
        avoided.avoid("operations", 60)
        watch.check()
        assert count("alerts") == 0, "the cluster may be electing a leader"
        execute("UPDATE queue_states SET failing_since = failing_since - interval '1 minute' WHERE reason IS NOT NULL")
        watch.check()
        watch.check()
        kind = "queue_accepts_nothing"
        assert count("alerts") == count("alerts", f"details->>'kind' = '{kind}' AND severity = 'critical'") == 1
        assert count("alerts", "message LIKE '%operations has accepted no messages%MessageNacked%'") == 1
        execute("UPDATE alerts SET created_at = now() - interval '10 seconds'")
        watch.check()
        assert count("alerts", "status = 'delivered'") == 1


def test_a_broker_without_working_queues_raises_one_alert(avoided: AvoidedQueues) -> None:
    nowhere = QueueWatch(lambda _: Connection("amqp://127.0.0.1:9//"), avoided)
    nowhere.check()
    execute("UPDATE queue_states SET failing_since = failing_since - interval '1 minute'")
    nowhere.check()
    nowhere.check()
    assert count("alerts") == count("alerts", "details->>'subject' = 'all queues'") == 1


def test_a_queue_whose_messages_are_not_consumed_raises_an_alert_although_it_has_a_consumer(
    broker: Connection, watch: QueueWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Consumer(broker.default_channel, [app.amqp.queues[FULL]], on_message=lambda _: None, auto_declare=False):
        watch.check()
        watch.check()
    assert states()[FULL].consumers == 1
    monkeypatch.setattr(flow, "NOTE_SECONDS", 0.0)
    for name in OTHERS:
        queue_watch.take_probe(name)
    execute("UPDATE queue_states SET waiting_since = now() - interval '2 minutes' WHERE name = :name", name=FULL)
    watch.check()
    assert not states()[FULL].delivers_messages
    assert broker_state()[0] is BrokerState.DEGRADED
    assert count("alerts") == count("alerts", "details->>'kind' = 'queue_delivers_nothing'") == 1
    assert count("alerts", f"message LIKE 'no message of {FULL} was consumed for%; it has 1 consumers'") == 1
    queue_watch.take_probe(FULL)
    watch.check()
    assert broker_state() == (BrokerState.UP, None)


def test_ordinary_tasks_show_that_a_queue_is_consumed_like_probes(
    watch: QueueWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "NOTE_SECONDS", 0.0)
    watch.check()
    execute("UPDATE queue_states SET waiting_since = waiting_since - interval '2 minutes'")
    app.tasks["payments.announce"].apply(args=([str(new_id())],))
    assert states()["settlement.completed"].delivers_messages
    assert not states()["webhook.delivery"].delivers_messages


def test_a_probe_records_no_unknown_queue() -> None:
    for name in ("no.such.queue", 7, None):
        queue_watch.take_probe(name)
    assert count("queue_states") == 0


@pytest.mark.parametrize("queue", [FULL, "operations", "refund.requested"])
def test_an_expired_probe_is_no_dead_letter(queue: str) -> None:
    message = DeadMessage("key", queue, "expired", "queues.take_probe", f'[["{queue}"], {{}}, {{}}]', {}, utc_now())
    monitor.store_dead([message])
    assert (count("dead_letters"), count("alerts")) == (0, 0)


def test_the_alert_of_a_lagging_outbox_contains_the_reason() -> None:
    enqueue_one_of_each()
    execute("UPDATE outbox SET created_at = now() - interval '2 minutes'")
    flow.record([queue_states.Observation(FULL, "MessageNacked: Message was nacked by broker.")])
    upkeep.alert_lagging_outbox()
    assert count("alerts", f"message LIKE '%wait in the outbox%{FULL}%MessageNacked%'") == 1
    assert count("alerts", "details->>'reason' LIKE '%MessageNacked%'") == 1
