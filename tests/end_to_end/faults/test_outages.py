"""The loss of a server or a worker: no payment is lost, none is settled twice."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import requests

from tests.end_to_end.client import FINAL, Client
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually

Truth = psycopg.Connection[dict[str, Any]]

SETTLED = """
    SELECT count(*) AS settled, count(DISTINCT transaction_id) AS once
    FROM settlements WHERE transaction_id = ANY(%s::uuid[])
"""
UNBALANCED = """
    SELECT currency FROM ledger_entries GROUP BY currency
    HAVING sum(amount) FILTER (WHERE direction = 'debit') <> sum(amount) FILTER (WHERE direction = 'credit')
"""


def pay_many(merchant: Client, number: int, threads: int = 8) -> list[str]:
    """Create `number` payments; return their ids."""
    with ThreadPoolExecutor(threads) as pool:
        return [payment["id"] for payment in pool.map(lambda _: merchant.pay(), range(number))]


def assert_all_settled_once(merchant: Client, truth: Truth, ids: list[str], within: float) -> None:
    def settled() -> bool:
        return truth.execute(SETTLED, [ids]).fetchone() == {"settled": len(ids), "once": len(ids)}

    eventually(settled, within=within, what=f"the settlement of {len(ids)} payments")
    statuses = {payment["id"]: payment["status"] for payment in merchant.all_transactions()}
    assert Counter(statuses[id] for id in ids) == {"completed": len(ids)}
    assert truth.execute(UNBALANCED).fetchall() == []
    assert statuses.keys() == set(ids), "there is a payment without a 201 response"


def requeued(truth: Truth, ids: list[str]) -> int:
    """Return the number of payments that were requeued because their message was lost."""
    query = "SELECT count(*) AS number FROM transactions WHERE id = ANY(%s::uuid[]) AND requeues > 0"
    number: int = (truth.execute(query, [ids]).fetchone() or {})["number"]
    return number


@contextmanager
def paying(merchant: Client) -> Iterator[list[str]]:
    """Create payments one after the other within the block; yield the growing list of those with a 201 response."""
    accepted: list[str] = []
    stop = threading.Event()
    problems: list[BaseException] = []

    def pay() -> None:
        try:
            while not stop.is_set():
                accepted.append(merchant.pay()["id"])
        except BaseException as exc:  # noqa: BLE001  # the test reports it
            problems.append(exc)

    thread = threading.Thread(target=pay)
    thread.start()
    try:
        yield accepted
    finally:
        stop.set()
        thread.join(30)
    assert problems == []


def test_five_hundred_payments_have_five_hundred_settlements_and_a_balanced_ledger(
    merchant: Client, truth: Truth
) -> None:
    assert_all_settled_once(merchant, truth, pay_many(merchant, 500), within=30)


def test_payments_are_accepted_while_the_broker_is_down_and_settle_afterwards(
    merchant: Client, truth: Truth, processes: Processes
) -> None:
    with paying(merchant) as accepted:
        eventually(lambda: len(accepted) > 20, what="payments before the outage")
        with processes.down("rabbitmq", signal.SIGTERM):
            before = len(accepted)
            eventually(lambda: len(accepted) > before + 20, what="payments during the outage")
            assert requests.get(f"{merchant.api_url}/health/ready", timeout=10).status_code == 200
    assert_all_settled_once(merchant, truth, accepted, within=90)


@pytest.mark.parametrize("role", ["worker-settle", "worker-route", "relay"])
def test_a_killed_process_neither_loses_nor_duplicates_a_payment(
    merchant: Client, truth: Truth, processes: Processes, role: str
) -> None:
    with paying(merchant) as accepted:
        eventually(lambda: len(accepted) > 20, what="payments before the kill")
        with processes.down(role):
            before = len(accepted)
            eventually(lambda: len(accepted) > before + 20, what="payments while the process is down")
    assert_all_settled_once(merchant, truth, accepted, within=90)
    assert requeued(truth, accepted) == 0, "a message was lost, and the sweep enqueued its payment again"


def test_the_message_of_a_payment_whose_worker_is_killed_is_delivered_again(
    merchant: Client, truth: Truth, processes: Processes
) -> None:
    ids = [merchant.pay("tok_slow")["id"] for _ in range(4)]
    in_progress = (
        "SELECT count(*) AS number FROM charge_attempts WHERE transaction_id = ANY(%s::uuid[]) AND outcome IS NULL"
    )
    eventually(lambda: (truth.execute(in_progress, [ids]).fetchone() or {})["number"], what="a slow call in progress")
    with processes.down("worker-settle"):
        pass
    assert_all_settled_once(merchant, truth, ids, within=90)
    assert requeued(truth, ids) == 0, "its message was acknowledged before its task had ended"


def test_the_sweep_enqueues_a_payment_whose_message_the_broker_lost(
    merchant: Client, truth: Truth, processes: Processes, stack: dict[str, Any]
) -> None:
    management = (stack["management"]["user"], stack["management"]["password"])
    queue = f"{stack['management_url']}/api/queues/payments/transaction.created"
    with processes.down("worker-route", signal.SIGTERM):
        id = merchant.pay()["id"]
        eventually(lambda: requests.get(queue, auth=management, timeout=10).json().get("messages"), what="its message")
        requests.delete(f"{queue}/contents", auth=management, timeout=10).raise_for_status()
    assert_all_settled_once(merchant, truth, [id], within=90)
    assert requeued(truth, [id]) == 1


def test_the_api_responds_with_503_while_the_database_is_down_and_recovers(
    merchant: Client, processes: Processes
) -> None:
    before = pay_many(merchant, 20)
    with processes.down("postgresql", signal.SIGINT):
        eventually(lambda: post_one(merchant).status_code == 503, what="503")
        response = post_one(merchant)
        assert response.headers["Content-Type"] == "application/problem+json"
        assert int(response.headers["Retry-After"]) >= 1
        assert response.json()["code"] == "database_unavailable"
        ready = requests.get(f"{merchant.api_url}/health/ready", timeout=10)
        assert ready.status_code == 503
        assert requests.get(f"{merchant.api_url}/health/live", timeout=10).status_code == 200
    after = [pay_as_soon_as_possible(merchant) for _ in range(5)]

    def all_final() -> bool:
        found = {payment["id"]: payment["status"] for payment in merchant.all_transactions()}
        return all(found.get(id) in FINAL for id in before + after)

    eventually(all_final, within=90, what="the settlement of the accepted payments")


def pay_as_soon_as_possible(merchant: Client) -> str:
    """Send a payment until the response is not 503, as its Retry-After requires; return its id.

    Each API process notices by itself that the database is back, within a second of its last failure.
    """

    responses: list[requests.Response] = []

    def accepted() -> bool:
        responses.append(post_one(merchant))
        return responses[-1].status_code != 503

    eventually(accepted, within=60, what="a response other than 503")
    assert responses[-1].status_code == 201, responses[-1].text
    id: str = responses[-1].json()["id"]
    return id


def post_one(merchant: Client) -> requests.Response:
    return merchant.call("POST", "/v1/transactions", json={"amount": 1, "currency": "USD"})
