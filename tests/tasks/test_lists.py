"""Unfinished ids of a message, on real queues and real PostgreSQL."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from celery.canvas import Signature
from celery.exceptions import Ignore
from kombu import Connection

from gateway.config import settings
from gateway.db import autocommit
from gateway.domain.payments import settling as settlements
from gateway.flows import routing, settlement
from gateway.flows.provider_calls import ProcessedList
from gateway.ids import new_id
from tasks import app, lists, transactions
from tasks.base import GatewayTask
from tests.helpers.factories import accept_payment, expire_lease, make_merchant, route_payments, status_of
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")

MAIN, BULK, ANNOUNCED = "settlement.requested", "settlement.requested.bulk", "settlement.completed"


def got(broker: Connection, name: str, within: float = 15.0) -> tuple[str, list[UUID], int]:
    """Return task, ids and retries of the next message on a queue."""
    queue = app.amqp.queues[name](broker.default_channel)
    message: Any = eventually(queue.get, within=within, what=f"a message on {name}")
    message.ack()
    ids = [UUID(id) for id in json.loads(str(message.body))[0][0]]
    return message.headers["task"], ids, message.headers["retries"]


def length(broker: Connection, name: str) -> int:
    channel: Any = broker.default_channel
    return int(channel.queue_declare(name, passive=True).message_count)


@contextmanager
def handling(task: GatewayTask, retries: int = 0, chain: Sequence[Signature] = ()) -> Iterator[Any]:
    """Put a task into the state in which it handles a message."""
    task.push_request(
        id="task-1", retries=retries, chain=list(chain), delivery_info={"routing_key": MAIN}, called_directly=False
    )
    try:
        yield task
    finally:
        task.pop_request()


@pytest.fixture
def settling() -> Iterator[Any]:
    """Return the task in the state in which it handles a message that was retried once."""
    with handling(transactions.settle, retries=1) as task:
        yield task


def test_retries_use_the_bulk_queue(broker: Connection, settling: Any) -> None:
    [id] = route_payments(make_merchant(), "tok_error_once")
    lists.republish_unfinished(settling, [id], ProcessedList(retry=[id]), transactions.recover)
    assert got(broker, BULK) == ("payments.settle", [id], 2)
    assert length(broker, MAIN) == 0


def test_ids_without_capacity_are_republished_in_bulk_and_no_retry_is_counted(
    broker: Connection, settling: Any
) -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    lists.republish_unfinished(settling, [id], ProcessedList(waiting=[id]), transactions.recover)
    assert got(broker, BULK) == ("payments.settle", [id], 1)


def test_the_next_steps_after_late_outcomes_are_published_after_the_message_has_been_handled(
    broker: Connection,
) -> None:
    done, failed, dead = route_payments(make_merchant(), *["tok_approve"] * 3)
    with handling(transactions.settle) as task:
        publish = lists.late_callback(task, transactions.publish_settled)
    publish(ProcessedList(completed=[done], retry=[failed], dead=[dead]))
    assert got(broker, ANNOUNCED) == ("payments.announce", [done], 0)
    assert got(broker, BULK) == ("payments.settle", [dead], task.max_retries)
    assert got(broker, BULK) == ("payments.settle", [failed], 1)


def test_calls_in_progress_are_checked_when_their_leases_have_expired(broker: Connection) -> None:
    dead, alive, done = ids = route_payments(make_merchant(), *["tok_approve"] * 3)
    with autocommit() as connection:
        settlements.claim(connection, [dead, alive], "task-1", settings().claim_lease_seconds)
    expire_lease([dead])
    transactions.recover.apply(([str(id) for id in ids],), throw=True)
    assert got(broker, BULK) == ("payments.settle", [dead], 0)
    assert length(broker, BULK) == 0, "the one with a live worker comes back when its lease has expired"
    assert status_of(done) == "processing"


@pytest.mark.parametrize("queue", [MAIN, BULK])
def test_a_list_of_a_main_queue_is_processed_whole_and_one_of_a_bulk_queue_as_capacity_allows(
    settling: Any, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [new_id() for _ in range(5)]
    monkeypatch.setattr(lists, "split_by_capacity", lambda ids: (ids[:2], ids[2:]))
    settling.request.delivery_info = {"routing_key": f"0.0.1.{queue}"}
    seen: list[UUID] = []

    def process(now: Sequence[UUID]) -> ProcessedList:
        seen.extend(now)
        return ProcessedList(waiting=[ids[0]])

    result = lists.process_within_capacity(settling, ids, process)
    assert (seen, result.waiting) == ((ids, ids[:1]) if queue == MAIN else (ids[:2], [*ids[2:], ids[0]]))


def test_a_message_that_celery_itself_delays_uses_the_bulk_queue(broker: Connection) -> None:
    id = new_id()  # as after the loss of a worker, where Celery names no queue
    transactions.settle.apply_async(([str(id)],), countdown=1)
    eventually(lambda: length(broker, BULK) == 1, what="the message on the bulk queue")
    assert length(broker, MAIN) == 0


def test_a_route_that_routes_nothing_publishes_no_settlement(broker: Connection) -> None:
    [settled] = route_payments(make_merchant(), "tok_approve")
    settlement.settle([settled], "task-1")
    new = accept_payment(make_merchant())
    with handling(transactions.route, chain=[transactions.settle.s()]) as task:
        assert task.run([str(settled), str(new)]) == [str(new)]
        with pytest.raises(Ignore):
            task.run([str(settled)])
    assert (length(broker, MAIN), length(broker, BULK)) == (0, 0)


def test_a_list_that_is_split_publishes_each_id_with_the_rest_of_its_chain_and_no_settlement(
    broker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [new_id(), new_id()]

    def fail(_: Sequence[UUID]) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(routing, "route", fail)
    with handling(transactions.route, chain=[transactions.settle.s()]) as task, pytest.raises(Ignore):
        task.run([str(id) for id in ids])
    queue = app.amqp.queues["transaction.created.bulk"](broker.default_channel)
    found = []
    for _ in ids:
        message: Any = eventually(queue.get, what="a message for each id")
        message.ack()
        args, _, embedded = json.loads(str(message.body))
        found += args[0]
        assert [step["task"] for step in embedded["chain"]] == ["payments.settle"]
    assert sorted(found) == sorted(map(str, ids))


def test_a_repeated_settlement_is_announced_under_the_same_task_id(broker: Connection) -> None:
    ids = [str(id) for id in route_payments(make_merchant(), "tok_approve")]
    queue = app.amqp.queues[ANNOUNCED](broker.default_channel)
    announced = []
    with handling(transactions.settle) as task:
        for _ in range(2):
            task.run(ids)
            message: Any = eventually(queue.get, what="the announcement")
            message.ack()
            announced.append((message.headers["id"], json.loads(str(message.body))[0]))
    assert announced[0] == announced[1]
    assert announced[0][1] == [ids]


def test_a_message_of_an_older_version_is_announced_once(broker: Connection) -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    with handling(transactions.settle, chain=[transactions.announce.s()]) as task, pytest.raises(Ignore):
        task.run([str(id)])
    assert got(broker, ANNOUNCED) == ("payments.announce", [id], 0)
    assert length(broker, ANNOUNCED) == 0
