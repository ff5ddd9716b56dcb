"""Unfinished ids of a message, on real queues and real PostgreSQL."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection

from gateway.config import settings
from gateway.db import autocommit
from gateway.domain.payments import settling as settlements
from gateway.flows.provider_calls import Handled
from gateway.ids import new_id
from tasks import app, lists, transactions
from tests.helpers.factories import expire_lease, make_merchant, route_payments, status_of
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


@pytest.fixture
def settling() -> Any:
    """Return the task in the state in which it handles a message of a chain."""
    task = transactions.settle
    chain = [transactions.announce.s()]
    task.push_request(id="task-1", retries=1, chain=chain, delivery_info={"routing_key": MAIN}, called_directly=False)
    yield task
    task.pop_request()


def test_what_is_tried_again_travels_in_bulk(broker: Connection, settling: Any) -> None:
    [id] = route_payments(make_merchant(), "tok_error_once")
    lists.send_on(settling, [id], Handled(retry=[id]), transactions.recover)
    assert got(broker, BULK) == ("payments.settle", [id], 2)
    assert length(broker, MAIN) == 0


def test_what_finds_no_room_is_put_back_in_bulk_and_no_retry_is_counted(broker: Connection, settling: Any) -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    lists.send_on(settling, [id], Handled(waiting=[id]), transactions.recover)
    assert got(broker, BULK) == ("payments.settle", [id], 1)


def test_what_follows_a_late_answer_is_published_after_the_message_has_been_handled(broker: Connection) -> None:
    done, failed, dead = route_payments(make_merchant(), *["tok_approve"] * 3)
    task = transactions.settle
    chain = [transactions.announce.s()]
    task.push_request(id="task-1", retries=0, chain=chain, delivery_info={"routing_key": MAIN}, called_directly=False)
    publish = lists.follow_up(task)
    task.pop_request()
    publish(Handled(completed=[done], retry=[failed], dead=[dead]))
    assert got(broker, ANNOUNCED) == ("payments.announce", [done], 0)
    assert got(broker, BULK) == ("payments.settle", [dead], task.max_retries)
    assert got(broker, BULK) == ("payments.settle", [failed], 1)


def test_calls_in_hand_are_looked_for_once_their_leases_are_over(broker: Connection) -> None:
    dead, alive, done = ids = route_payments(make_merchant(), *["tok_approve"] * 3)
    with autocommit() as connection:
        settlements.claim(connection, [dead, alive], "task-1", settings().claim_lease_seconds)
    expire_lease([dead])
    transactions.recover.apply(([str(id) for id in ids],), throw=True)
    assert got(broker, BULK) == ("payments.settle", [dead], 0)
    assert length(broker, BULK) == 0, "the one in a worker's hands comes back when its lease is over"
    assert status_of(done) == "processing"


@pytest.mark.parametrize("queue", [MAIN, BULK])
def test_a_list_of_a_main_queue_is_looked_at_whole_and_of_a_bulk_queue_as_room_allows(
    settling: Any, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [new_id() for _ in range(5)]
    monkeypatch.setattr(lists, "split_by_room", lambda ids: (ids[:2], ids[2:]))
    settling.request.delivery_info = {"routing_key": f"0.0.1.{queue}"}
    seen: list[UUID] = []

    def work(now: Sequence[UUID]) -> Handled:
        seen.extend(now)
        return Handled(waiting=[ids[0]])

    result = lists.work_as_room_allows(settling, ids, work)
    assert (seen, result.waiting) == ((ids, ids[:1]) if queue == MAIN else (ids[:2], [*ids[2:], ids[0]]))


def test_a_message_that_celery_itself_delays_comes_back_in_bulk(broker: Connection) -> None:
    id = new_id()  # as after the loss of a worker, where Celery names no queue
    transactions.settle.apply_async(([str(id)],), countdown=1)
    eventually(lambda: length(broker, BULK) == 1, what="the message on the bulk queue")
    assert length(broker, MAIN) == 0
