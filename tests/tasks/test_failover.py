"""Several broker URLs, one of which does not answer; and a broker that refuses messages for a while."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from amqp.exceptions import MessageNacked, RecoverableConnectionError
from kombu import Connection
from kombu.exceptions import OperationalError

from celeryconfig import PAYMENTS
from gateway.config import settings
from gateway.flows import settlement
from tasks import lists, relay, transactions
from tasks.base import TRANSIENT
from tests.conftest import MANAGEMENT_TIMEOUT_SECONDS, NAME
from tests.helpers.factories import accept_payment, count, make_merchant
from tests.helpers.waiting import eventually
from tests.tasks.test_relay import relaying
from tests.tasks.workers import START_SECONDS, worker_process

DOWN = "amqp://nobody:nothing@127.0.0.1:1/nowhere"
REFUSED_SECONDS = 2.0


@pytest.mark.usefixtures("database", "broker")
def test_the_relay_uses_the_next_node_when_the_first_one_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"{DOWN};{settings().rabbitmq_url}")
    accept_payment(make_merchant())
    with relaying():
        eventually(lambda: count("outbox") == 0, what="an empty outbox")


@pytest.mark.usefixtures("database", "broker")
def test_the_relay_keeps_rows_that_it_cannot_publish_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"{DOWN};{DOWN}")
    accept_payment(make_merchant())
    tries = 0
    connect = relay.broker_connection

    def counted() -> Connection:
        nonlocal tries
        tries += 1
        return connect()

    monkeypatch.setattr(relay, "broker_connection", counted)
    with relaying():
        eventually(lambda: tries >= 3, what="three tries, a second apart")
    assert count("outbox") == 1


@pytest.mark.usefixtures("broker")
def test_a_worker_starts_immediately_although_one_node_is_down(tmp_path: Path) -> None:
    environment = {"RABBITMQ_URL": f"{DOWN};{settings().rabbitmq_url}"}
    log = tmp_path / "worker.log"
    with worker_process(log, "settlement.completed", "-P", "solo", environment=environment):
        transactions.announce.delay([str(uuid4())])
        eventually(lambda: "succeeded" in log.read_text(), within=START_SECONDS, what="the first task")
        assert "delayed delivery" not in log.read_text(), "it waited for the node that is down"


@pytest.fixture
def end_election(stack: dict[str, Any], broker: Connection) -> Iterator[Callable[[], object]]:
    """Make the broker refuse messages for `settlement.completed`, as during an election, until this is called."""
    api = f"{stack['management_url']}/api"
    auth = (stack["management"]["user"], stack["management"]["password"])
    body = {"pattern": "^settlement.completed$", "definition": {"max-length": 0}, "apply-to": "queues"}

    def call(method: str, path: str, json: object = None) -> requests.Response:
        return requests.request(method, f"{api}/{path}", json=json, auth=auth, timeout=MANAGEMENT_TIMEOUT_SECONDS)

    def refused() -> bool:
        try:
            broker.Producer(exchange=PAYMENTS, routing_key="settlement.completed").publish("fills the queue")
        except MessageNacked:
            return True
        return False

    call("PUT", f"policies/{NAME}/full", body).raise_for_status()
    eventually(refused, what="a refusal")
    yield lambda: call("DELETE", f"policies/{NAME}/full")
    call("DELETE", f"policies/{NAME}/full")


def test_a_message_that_is_refused_during_an_election_is_published_after_it(
    end_election: Callable[[], object],
) -> None:
    timer = threading.Timer(REFUSED_SECONDS, end_election)
    timer.start()
    began = time.monotonic()
    transactions.announce.delay([str(uuid4())])
    assert time.monotonic() - began >= REFUSED_SECONDS, "the broker did not refuse it"
    timer.join()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("error", [OperationalError("refused"), RecoverableConnectionError("closed"), OSError("reset")])
def test_a_payment_whose_next_message_the_broker_refuses_keeps_its_attempts(error: Exception) -> None:
    id = accept_payment(make_merchant())

    def publish(_ids: list[UUID]) -> list[UUID]:
        raise error

    with pytest.raises(type(error)):
        lists.process_list(
            transactions.settle, [str(id)], publish, id_field="transaction_id", exhaust=settlement.exhaust
        )
    assert count("transactions", "attempts < attempt_limit AND last_error IS NULL") == 1
    assert isinstance(error, TRANSIENT)
