"""Poison messages are recorded, alerted and acknowledged; no worker dies of them or processes them forever."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from kombu import Connection

from celeryconfig import BULK_SUFFIX, DEAD_LETTERS, MAIN_QUEUE_NAMES, PAYMENTS, WORK_QUEUE_NAMES
from gateway.ids import new_id
from tests.end_to_end.client import Client
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually

Truth = psycopg.Connection[dict[str, Any]]
JSON, UTF8 = "application/json", "utf-8"
BIG = 10_000_000
TASK_OF = {
    "transaction.created": "payments.route",
    "settlement.requested": "payments.settle",
    "refund.requested": "payments.refund",
    "settlement.completed": "payments.announce",
    "webhook.delivery": "webhooks.deliver",
    "operations": "operations.sweep",
}


@dataclass(frozen=True)
class Poison:
    """A message; its body contains the marker by which it is found."""

    body: Callable[[str], bytes]
    headers: Callable[[str, str], dict[str, Any]] = field(
        default=lambda task, id: {"task": task, "id": id, "lang": "py"}
    )
    content_type: str = JSON
    content_encoding: str = UTF8


def arguments(*args: object, **kwargs: object) -> Callable[[str], bytes]:
    return lambda marker: json.dumps([list(args), {**kwargs}, {"marker": marker}]).encode()


RECORDED = "SELECT 1 FROM dead_letters WHERE status = 'open' AND payload LIKE '%%' || %s || '%%'"
POISONS = {
    "broken JSON": Poison(lambda marker: b'[["' + marker.encode()),
    "bytes that are no text": Poison(lambda marker: marker.encode() + b"\xff\xfe\x00"),
    "an unaccepted content type": Poison(lambda marker: marker.encode(), content_type="application/x-python-serialize"),
    "an unknown encoding": Poison(lambda marker: marker.encode(), content_encoding="no-such-encoding"),
    "an unknown task": Poison(arguments(), lambda _, id: {"task": "payments.no_such_task", "id": id}),
    "no headers": Poison(arguments(["x"]), lambda *_: {}),
    "no task id": Poison(arguments(["x"]), lambda task, _: {"task": task}),
    "a body of another shape": Poison(lambda marker: json.dumps({"marker": marker}).encode()),
    "too many arguments": Poison(arguments(1, 2, 3, 4)),
    "unknown keyword arguments": Poison(arguments(nonsense=True)),
    "ids that are none": Poison(arguments(["not-an-id"], 1)),
    "ten megabytes": Poison(lambda marker: marker.encode() + b"x" * BIG),
}


@pytest.fixture
def send(stack: dict[str, Any]) -> Callable[[str, Poison, str], None]:
    """Return a function that publishes a poison message with a marker to a queue."""

    def publish(queue: str, poison: Poison, marker: str) -> None:
        exchange = DEAD_LETTERS if queue.startswith("dlq.") else PAYMENTS
        with Connection(stack["broker_url"], transport_options={"confirm_publish": True}) as connection:
            connection.Producer(exchange=exchange, auto_declare=False).publish(
                poison.body(marker),
                routing_key=queue,
                headers=poison.headers(TASK_OF[queue.removeprefix("dlq.").removesuffix(BULK_SUFFIX)], str(uuid4())),
                content_type=poison.content_type,
                content_encoding=poison.content_encoding,
            )

    return publish


def assert_payments_settle(merchant: Client) -> None:
    id = merchant.pay()["id"]
    eventually(lambda: merchant.transaction(id)["status"] == "completed", within=30, what="a payment after the poison")


@pytest.mark.parametrize("prefix", ["", "dlq."])
def test_every_poison_message_on_every_queue_is_recorded_and_payments_continue(
    merchant: Client, truth: Truth, send: Callable[[str, Poison, str], None], prefix: str
) -> None:
    sent: dict[str, str] = {}
    for queue in MAIN_QUEUE_NAMES if prefix else WORK_QUEUE_NAMES:
        for name, poison in POISONS.items():
            marker = uuid4().hex
            send(prefix + queue, poison, marker)
            sent[marker] = f"{name} on {prefix}{queue}"

    def all_recorded() -> bool:
        for marker in list(sent):
            if truth.execute(RECORDED, [marker]).fetchone():
                del sent[marker]
        return not sent

    eventually(all_recorded, within=60, what=f"the record of {sent}")
    assert_payments_settle(merchant)


def test_a_nonexistent_id_is_recorded_and_the_other_payments_of_its_list_settle(
    merchant: Client, truth: Truth, send: Callable[[str, Poison, str], None]
) -> None:
    stranger = str(new_id())
    payment = merchant.pay()["id"]
    for queue in ("transaction.created", "settlement.requested"):
        send(queue, Poison(arguments([stranger, payment])), uuid4().hex)
    query = "SELECT exception FROM dead_letters WHERE transaction_id = %s"
    eventually(lambda: len(truth.execute(query, [stranger]).fetchall()) >= 1, within=30, what="the stranger's record")
    eventually(lambda: merchant.transaction(payment)["status"] == "completed", within=60, what="the neighbour")


def test_an_id_named_twice_settles_once(merchant: Client, send: Callable[[str, Poison, str], None]) -> None:
    payment = merchant.pay()["id"]
    for queue in ("transaction.created", "settlement.requested"):
        send(queue, Poison(arguments([payment, payment])), uuid4().hex)
    eventually(lambda: merchant.transaction(payment)["status"] == "completed", within=60, what="the payment")
    assert len(merchant.get("/v1/settlements", transaction_id=payment)["data"]) == 1


def test_a_payment_that_kills_its_worker_each_time_is_dead_lettered_and_the_others_of_its_list_settle(
    merchant: Client, operator: Client, processes: Processes
) -> None:
    with processes.down("relay", signal.SIGTERM):  # all of them are in one message
        killer = merchant.pay("tok_test_kill_worker")["id"]
        neighbours = [merchant.pay()["id"] for _ in range(49)]

    def ended() -> bool:
        statuses = {payment["id"]: payment["status"] for payment in merchant.all_transactions()}
        return statuses[killer] == "dead_lettered" and {statuses[id] for id in neighbours} == {"completed"}

    eventually(ended, within=150, what="the end of the list")
    assert merchant.transaction(killer)["attempts"] == 4
    letters = operator.get("/v1/dead-letters", status="open", limit=100)["data"]
    [letter] = [letter for letter in letters if letter["transaction_id"] == killer]
    assert letter["reason"] == "in_doubt"
    for id in neighbours:
        assert len(merchant.get("/v1/settlements", transaction_id=id)["data"]) == 1


def test_a_provider_call_that_never_returns_is_abandoned_and_the_other_payments_of_its_list_settle(
    merchant: Client,
) -> None:
    hanging, neighbour = merchant.pay("tok_test_hang")["id"], merchant.pay()["id"]
    eventually(lambda: merchant.transaction(neighbour)["status"] == "completed", within=30, what="the neighbour")
    eventually(lambda: merchant.transaction(hanging)["status"] == "dead_lettered", within=90, what="the hanging one")
    assert merchant.transaction(hanging)["attempts"] == 4


def test_a_dead_letter_that_arrives_while_the_database_is_down_is_stored_later(
    merchant: Client, stack: dict[str, Any], send: Callable[[str, Poison, str], None], processes: Processes
) -> None:
    marker = uuid4().hex
    with processes.down("postgresql", signal.SIGINT):
        eventually(lambda: merchant.call("GET", "/v1/transactions").status_code == 503, what="the outage")
        send("dlq.operations", POISONS["broken JSON"], marker)
    url = stack["database_url"].replace("postgresql+psycopg://", "postgresql://")

    def recorded() -> bool:
        try:
            with psycopg.connect(url, connect_timeout=5) as connection:
                return connection.execute(RECORDED, [marker]).fetchone() is not None
        except psycopg.OperationalError:
            return False

    eventually(recorded, within=60, what="the record of the dead letter")
