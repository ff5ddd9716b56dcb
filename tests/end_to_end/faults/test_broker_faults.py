"""A broker that runs but does not work: alarms, a stopped queue process, a suspended node.

Its management API reports that everything is up. The gateway judges it by published and consumed messages.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from devstack.servers import rabbitmq
from devstack.settings import TEST_DIR, TEST_PORT_BASE, layout
from tests.end_to_end.client import Client
from tests.end_to_end.conftest import Processes
from tests.end_to_end.faults.test_outages import assert_all_settled_once
from tests.helpers.waiting import eventually

Truth = psycopg.Connection[dict[str, Any]]
QUEUE = "settlement.requested"
SERVER_OF_QUEUE = (
    f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"payments">>, queue, <<"{QUEUE}">>)),'
    " {Name, _} = amqqueue:get_pid(Q), ra:%s_server(quorum_queues, {Name, node()})."
)
REPORTED_WITHIN_SECONDS = 60
ALERTED_WITHIN_SECONDS = 120


class Broker:
    """Makes the stack's RabbitMQ fail."""

    def __init__(self, stack: dict[str, Any], processes: Processes) -> None:
        self._stack = stack
        self._processes = processes

    def control(self, *arguments: str) -> None:
        own = layout(TEST_DIR, TEST_PORT_BASE)
        rabbitmq.control(own, self._stack["management"]["password"], dict(os.environ), *arguments)

    def manages(self) -> bool:
        """Return whether the management API answers."""
        auth = (self._stack["management"]["user"], self._stack["management"]["password"])
        return requests.get(f"{self._stack['management_url']}/api/queues", auth=auth, timeout=10).ok

    @contextmanager
    def without_disk(self) -> Iterator[None]:
        """Set the disk limit so that the disk counts as full within the block."""
        with self._changed(("set_disk_free_limit", "900000GB"), ("set_disk_free_limit", "200MB")):
            yield

    @contextmanager
    def without_queue(self) -> Iterator[None]:
        """Stop the process of a queue within the block."""
        with self._changed(("eval", SERVER_OF_QUEUE % "stop"), ("eval", SERVER_OF_QUEUE % "restart")):
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend the node within the block."""
        pid = self._processes.leader("rabbitmq")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def _changed(self, there: tuple[str, ...], back: tuple[str, ...]) -> Iterator[None]:
        self.control(*there)
        try:
            yield
        finally:
            self.control(*back)


@pytest.fixture
def broker(stack: dict[str, Any], processes: Processes) -> Broker:
    """Return the stack's RabbitMQ."""
    return Broker(stack, processes)


def ready(merchant: Client) -> dict[str, Any]:
    response = requests.get(f"{merchant.api_url}/health/ready", timeout=10)
    assert response.status_code == 200, "the API needs no broker"
    found: dict[str, Any] = response.json()
    return found


def reports_a_problem(merchant: Client, word: str) -> Callable[[], bool]:
    def reports() -> bool:
        found = ready(merchant)
        return found["broker"] in {"down", "degraded"} and word in found["broker_reason"]

    return reports


def is_up(merchant: Client) -> Callable[[], bool]:
    return lambda: bool(ready(merchant)["broker"] == "up")


def relay_lines() -> list[str]:
    log = Path(os.environ["GATEWAY_STACK"]).parent / "logs" / "relay.log"
    return [json.loads(line)["message"] for line in log.read_text().splitlines() if line.startswith("{")]


def assert_every_reason_is_logged() -> None:
    logged = [line for line in relay_lines() if "does not accept messages" in line]
    assert all(line.partition(" s: ")[2].strip() for line in logged), logged


@pytest.mark.parametrize("fault", ["without_disk", "frozen"])
def test_a_broker_that_accepts_no_messages_is_reported_with_the_reason_and_no_payment_is_lost(
    merchant: Client, truth: Truth, broker: Broker, fault: str
) -> None:
    operation = "connecting" if fault == "frozen" else "at most 2 s"
    eventually(is_up(merchant), within=REPORTED_WITHIN_SECONDS, what="a broker that works")
    with getattr(broker, fault)():
        ids = [merchant.pay()["id"] for _ in range(5)]
        eventually(reports_a_problem(merchant, operation), within=REPORTED_WITHIN_SECONDS, what="the report")
        assert fault == "frozen" or broker.manages()
    assert_all_settled_once(merchant, truth, ids, within=90)
    eventually(is_up(merchant), within=REPORTED_WITHIN_SECONDS, what="the end of the report")
    assert_every_reason_is_logged()


def test_a_queue_that_is_down_raises_an_alert_within_two_minutes_and_its_payments_settle_afterwards(
    merchant: Client, truth: Truth, broker: Broker
) -> None:
    eventually(is_up(merchant), within=REPORTED_WITHIN_SECONDS, what="a broker that works")
    query = """
        SELECT count(*) AS number FROM alerts WHERE message LIKE %s AND details->>'kind' = 'queue_accepts_nothing'
    """
    with broker.without_queue():
        ids = [merchant.pay()["id"] for _ in range(5)]
        eventually(reports_a_problem(merchant, QUEUE), within=REPORTED_WITHIN_SECONDS, what="the report")
        assert ready(merchant)["broker"] == "degraded"
        assert broker.manages()

        def alerts() -> int:
            number: int = (truth.execute(query, [f"%{QUEUE} has accepted no messages for%"]).fetchone() or {})["number"]
            return number

        eventually(alerts, within=ALERTED_WITHIN_SECONDS, what="the alert")
        assert alerts() == 1
    assert_all_settled_once(merchant, truth, ids, within=90)
    eventually(is_up(merchant), within=REPORTED_WITHIN_SECONDS, what="the end of the report")
    assert_every_reason_is_logged()
