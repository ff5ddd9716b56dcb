"""The relay: from the outbox to real queues."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection
from sqlalchemy import func

import celeryconfig
from gateway import db
from gateway.cli.alert_receiver import Received
from gateway.config import settings
from gateway.db import begin
from gateway.domain.shared import outbox
from gateway.domain.shared.outbox import Topic
from gateway.ids import new_id
from tasks import app, relay, topology
from tasks.base import BROKER_UNAVAILABLE
from tests.helpers.alert_receivers import alerts_sent_to, receiving
from tests.helpers.captured_sql import Statement, statements
from tests.helpers.factories import accept_payment, count, execute, make_merchant
from tests.helpers.lifecycles import completed
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


def received(broker: Connection, name: str) -> list[Any]:
    """Return the bodies of all messages on a queue."""
    queue = app.amqp.queues[name](broker.default_channel)
    bodies = []
    while (message := queue.get()) is not None:
        bodies.append(json.loads(str(message.body)))
        message.ack()
    return bodies


@contextmanager
def relaying() -> Iterator[None]:
    """Run a relay within the block; it must stop soon after."""
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive(), "the relay does not stop"


def relay_once(broker: Connection) -> int:
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        return relay.relay_once(producer)


def test_a_single_payment_has_its_own_message_and_its_outbox_row_is_deleted(broker: Connection) -> None:
    id = accept_payment(make_merchant())
    assert relay_once(broker) == 1
    [[args, _, embedded]] = received(broker, "transaction.created")
    assert args == [[str(id)]]
    assert [step["task"] for step in embedded["chain"]] == ["payments.settle"]
    assert count("outbox") == 0


def test_a_backlog_is_published_in_ordered_lists_of_which_all_but_the_first_are_bulk(broker: Connection) -> None:
    merchant_id, size = make_merchant(), settings().message_max_ids
    ids = [accept_payment(merchant_id) for _ in range(2 * size + 5)]
    other = accept_payment(make_merchant())
    assert relay_once(broker) == len(ids) + 1
    lists = [args[0] for args, *_ in received(broker, "transaction.created")]
    assert [[UUID(id) for id in list_] for list_ in lists] == [ids[:size], [other]]
    bulk = received(broker, "transaction.created.bulk")
    assert [[UUID(id) for id in args[0]] for args, *_ in bulk] == [ids[size : 2 * size], ids[2 * size :]]
    for _, _, embedded in bulk:
        assert [step["options"].get("queue") for step in embedded["chain"]] == ["settlement.requested.bulk"]


def test_work_without_a_merchant_is_never_bulk(broker: Connection) -> None:
    id = accept_payment(make_merchant())
    execute("UPDATE outbox SET merchant_id = NULL")
    assert relay_once(broker) == 1
    assert [args[0] for args, *_ in received(broker, "transaction.created")] == [[str(id)]]


def test_an_empty_outbox_publishes_nothing(broker: Connection) -> None:
    assert relay_once(broker) == 0
    assert received(broker, "transaction.created") == []


def test_rows_that_the_broker_refuses_stay_in_the_outbox(broker: Connection) -> None:
    merchant_id = make_merchant()
    channel: Any = broker.default_channel
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        accept_payment(merchant_id)
        assert relay.relay_once(producer) == 1  # the first message of a connection declares the queue with its binding
        accept_payment(merchant_id)
        for key in ("transaction.created", "#.transaction.created"):  # the second one is for delayed messages
            channel.queue_unbind("transaction.created", exchange=celeryconfig.PAYMENTS.name, routing_key=key)
        channel.queue_unbind(celeryconfig.UNROUTED_QUEUE.name, exchange=celeryconfig.UNROUTED.name, routing_key="")
        try:
            with pytest.raises(BROKER_UNAVAILABLE):
                relay.relay_once(producer)
        finally:
            topology.declare()
    assert count("outbox") == 1


def test_every_topic_is_published_on_the_relays_own_connection(
    broker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        publish = producer.publish

        def noted(*args: Any, **options: Any) -> Any:
            used.append(options["routing_key"])
            return publish(*args, **options)

        monkeypatch.setattr(producer, "publish", noted)  # other connections lack the relay's timeouts
        with begin() as connection:
            for topic in Topic:
                outbox.enqueue(connection, topic, [new_id()])
        assert relay.relay_once(producer) == len(Topic)
    assert len(used) == len(Topic)


def test_the_relay_stops_and_has_published_everything(broker: Connection) -> None:
    merchant_id = make_merchant()
    with relaying():
        ids = {str(accept_payment(merchant_id)) for _ in range(20)}
        eventually(lambda: count("outbox") == 0, what="an empty outbox")
    assert {id for args, *_ in received(broker, "transaction.created") for id in args[0]} == ids


def batches(sent: list[Statement]) -> list[Statement]:
    return [statement for statement in sent if "DELETE FROM outbox" in statement.sql]


def test_a_relay_whose_rows_are_locked_by_another_one_polls_like_an_idle_one(broker: Connection) -> None:
    accept_payment(make_merchant())
    rounds = 3
    with begin() as connection, statements() as sent:
        assert len(outbox.take(connection, 1).rows) == 1
        began = time.monotonic()
        with relaying():
            eventually(lambda: len(batches(sent)) >= 1 + rounds, what="polls of the outbox")
            elapsed = time.monotonic() - began
    assert elapsed >= (rounds - 1) * settings().outbox_poll_seconds
    assert received(broker, "transaction.created") == []


def test_another_relay_finds_the_rows_of_a_dead_one_without_a_notification(broker: Connection) -> None:
    id = accept_payment(make_merchant())
    with begin() as connection, statements() as sent:
        assert len(outbox.take(connection, 1).rows) == 1
        with relaying():
            eventually(lambda: len(batches(sent)) >= 3, what="polls that find nothing")
            connection.rollback()  # as PostgreSQL does when a relay dies
            eventually(lambda: count("outbox") == 0, what="an empty outbox")
    assert [args[0] for args, *_ in received(broker, "transaction.created")] == [[str(id)]]


def test_listeners_are_notified_immediately_of_new_rows() -> None:
    with db.listening(outbox.CHANNEL) as wait_for_notification:
        id = accept_payment(make_merchant())
        began = time.monotonic()
        wait_for_notification(30)
        assert time.monotonic() - began < 15, "there was no notification"
        with begin() as connection:
            assert [row.subject_id for row in outbox.take(connection, 10).rows] == [id]


def test_a_settlement_without_webhooks_notifies_no_relay() -> None:
    with db.engine().connect() as connection:
        connection.exec_driver_sql(f"LISTEN {outbox.CHANNEL}")
        completed(make_merchant())
        with begin() as another:
            another.execute(func.pg_notify(outbox.CHANNEL, "the end").select())
        driver: Any = connection.connection.dbapi_connection
        heard = [message.payload for message in driver.notifies(timeout=30, stop_after=2)]
        connection.detach()
    assert heard == ["", "the end"], "the acceptance, and nothing else"


def test_a_relay_that_lost_its_listening_connection_listens_again(broker: Connection) -> None:
    merchant_id = make_merchant()
    listeners = "query = 'LISTEN outbox' AND datname = current_database()"
    with relaying():
        eventually(lambda: count("pg_stat_activity", listeners) == 1, what="a listening relay")
        execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listeners}")  # noqa: S608
        id = accept_payment(merchant_id)
        eventually(lambda: count("outbox") == 0, what="an empty outbox")
        eventually(lambda: count("pg_stat_activity", listeners) == 1, what="a relay that listens again")
    assert [args[0] for args, *_ in received(broker, "transaction.created")] == [[str(id)]]


def test_payments_collect_while_the_workers_are_busy_and_are_published_in_one_list(
    broker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "HOLD_SECONDS", 10.0)
    queue = app.amqp.queues["transaction.created"](broker.default_channel)
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        for _ in range(relay.READY_MAX + 1):
            producer.publish("{}", exchange=celeryconfig.PAYMENTS.name, routing_key="transaction.created")
    merchant_id = make_merchant()
    with relaying():
        accept_payment(merchant_id)
        eventually(lambda: count("outbox") == 0, what="the first payment on its way, alone")
        collected = [str(accept_payment(merchant_id)) for _ in range(20)]
        queue.purge()  # the workers have caught up
        eventually(lambda: count("outbox") == 0, within=5, what="the others on their way")
    assert [args[0] for args, *_ in received(broker, "transaction.created")] == [collected]


def test_the_relay_itself_raises_and_delivers_the_alert_about_an_unavailable_broker() -> None:
    id = accept_payment(make_merchant())
    execute("UPDATE outbox SET created_at = now() - interval '2 minutes' WHERE subject_id = :id", id=id)
    received: list[Received] = []
    with receiving(received.append) as url, alerts_sent_to(url):
        outage, another = (relay.Periodic(60, relay.alert_of_outage) for _ in range(2))
        outage.run_if_due()
        assert count("alerts", "severity = 'critical' AND status = 'pending'") == 1
        execute("UPDATE alerts SET created_at = now() - interval '2 minutes'")
        another.run_if_due()
        outage.run_if_due()  # too soon
    assert count("alerts", "status = 'delivered'") == 1
    assert "wait in the outbox" in received[0]["alert"]["message"]


def test_endpoints_with_due_deliveries_are_published_to_the_webhook_worker(broker: Connection) -> None:
    ids = [new_id(), new_id()]
    with begin() as connection:
        outbox.enqueue(connection, Topic.WEBHOOK_DUE, ids)
    assert relay_once(broker) == 2
    [[args, *_]] = received(broker, "webhook.delivery")
    assert args == [[str(id) for id in ids]]


def test_every_topic_has_a_task() -> None:
    assert set(relay.SIGNATURE_OF) == set(Topic)
