"""Operations: Flower, metrics, logs, and stopping a role in the middle of its work."""

import os
import re
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from celeryconfig import WORK_QUEUE_NAMES
from tests.end_to_end.client import Client
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually

Truth = psycopg.Connection[dict[str, Any]]
TIMEOUT_SECONDS = 15
ROLES = ("route", "settle", "operations")


def flower(stack: dict[str, Any], path: str) -> Any:
    auth = (stack["flower"]["user"], stack["flower"]["password"])
    response = requests.get(f"{stack['flower_url']}{path}", auth=auth, timeout=TIMEOUT_SECONDS)
    assert response.status_code == 200, response.text
    return response.json()


def metrics(stack: dict[str, Any]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of /metrics by its name and labels."""
    text = requests.get(f"{stack['api_url']}/metrics", timeout=TIMEOUT_SECONDS).text
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def test_flower_shows_every_worker_the_finished_tasks_and_the_queue_lengths(
    stack: dict[str, Any], merchant: Client
) -> None:
    payment = merchant.pay()["id"]

    def workers() -> bool:
        names = {name.partition("@")[0] for name in flower(stack, "/api/workers?refresh=true")}
        return set(ROLES) <= names

    def task_ran() -> bool:
        tasks = flower(stack, "/api/tasks?limit=1000").values()
        return any(task["name"] == "payments.settle" and payment in task["args"] for task in tasks)

    def lengths() -> bool:
        found = {queue["name"] for queue in flower(stack, "/api/queues/length")["active_queues"]}
        return set(WORK_QUEUE_NAMES) <= found

    eventually(workers, within=30, what="every worker in Flower")
    eventually(task_ran, within=30, what="the payment's task in Flower")
    eventually(lengths, within=30, what="the queue lengths in Flower")


def test_flower_requires_its_password(stack: dict[str, Any]) -> None:
    for path in ("/", "/api/workers", "/api/tasks"):
        assert requests.get(f"{stack['flower_url']}{path}", timeout=TIMEOUT_SECONDS).status_code == 401


def test_metrics_count_each_payment_once_over_all_processes(stack: dict[str, Any], merchant: Client) -> None:
    before = metrics(stack)
    approved = [merchant.pay("tok_approve")["id"] for _ in range(20)]
    declined = [merchant.pay("tok_decline_fraud")["id"] for _ in range(5)]
    retried = merchant.pay("tok_error_twice")["id"]
    for id in (*approved, retried):
        eventually(lambda id=id: merchant.transaction(id)["status"] == "completed", within=30)  # type: ignore[misc]
    for id in declined:
        eventually(lambda id=id: merchant.transaction(id)["status"] == "failed", within=30)  # type: ignore[misc]

    def grown(name: str, **labels: str) -> float:
        return value(metrics(stack), name, **labels) - value(before, name, **labels)

    assert grown("transactions_created_total", currency="USD") == 26
    eventually(lambda: grown("settlements_total", result="succeeded") == 21, what="21 settlements counted")
    assert grown("settlements_total", result="failed") == 5
    assert grown("task_retries_total", task="payments.settle") == 2
    assert grown("transaction_processing_seconds_count") == 21
    assert grown("http_requests_total", method="POST", route="/v1/transactions", status="201") == 26
    queues = {labels for (name, labels) in metrics(stack) if name == "queue_depth"}
    assert {frozenset({("queue", name)}) for name in WORK_QUEUE_NAMES} <= queues
    assert ("outbox_depth", frozenset()) in metrics(stack)


def test_a_request_id_is_in_the_log_of_the_api_and_of_the_worker(stack: dict[str, Any], merchant: Client) -> None:
    assert stack["api_url"] == merchant.api_url
    request_id = f"trace-{uuid4().hex}"
    response = merchant.call(
        "POST", "/v1/transactions", json={"amount": 1, "currency": "USD"}, headers={"X-Request-Id": request_id}
    )
    assert response.headers["X-Request-Id"] == request_id
    id = response.json()["id"]
    logs = Path(os.environ["GATEWAY_STACK"]).parent / "logs"

    def lines(role: str) -> list[str]:
        text = (logs / f"{role}.log").read_text(errors="replace")
        return [line for line in text.splitlines() if request_id in line]

    eventually(lambda: lines("api"), what="the API's line")
    [settled] = eventually(lambda: lines("worker-settle"), what="the worker's line") or []
    assert f"transaction_id={id}" in settled
    assert re.search(r"task_id=\S+", settled)


def test_a_stopped_worker_finishes_its_current_task(merchant: Client, truth: Truth, processes: Processes) -> None:
    ids = [merchant.pay("tok_slow")["id"] for _ in range(4)]
    query = "SELECT count(*) AS running FROM charge_attempts WHERE transaction_id = ANY(%s::uuid[]) AND outcome IS NULL"
    eventually(lambda: (truth.execute(query, [ids]).fetchone() or {})["running"], what="a slow call in progress")
    with processes.down("worker-settle", signal.SIGTERM):
        pass
    for id in ids:
        eventually(lambda id=id: merchant.transaction(id)["status"] == "completed", within=60)  # type: ignore[misc]
        assert merchant.transaction(id)["attempts"] == 1, "an attempt was interrupted and repeated"


def test_a_message_that_expires_before_it_is_consumed_is_enqueued_again(
    merchant: Client, truth: Truth, processes: Processes
) -> None:
    with processes.down("worker-route", signal.SIGTERM):
        id = merchant.pay()["id"]
        query = "SELECT requeues FROM transactions WHERE id = %s"
        eventually(
            lambda: (truth.execute(query, [id]).fetchone() or {})["requeues"],
            within=60,
            what="the expiry of its message",
        )
    eventually(lambda: merchant.transaction(id)["status"] == "completed", within=60, what="the settlement")
    assert merchant.transaction(id)["attempts"] == 1


@pytest.mark.parametrize(
    "role",
    ["api", "relay", "worker-settle", "worker-refunds", "worker-webhooks", "worker-operations", "beat", "flower"],
)
def test_no_role_shows_a_secret_in_its_log(stack: dict[str, Any], role: str) -> None:
    text = (Path(os.environ["GATEWAY_STACK"]).parent / "logs" / f"{role}.log").read_text(errors="replace")
    secrets = [stack["management"]["password"], stack["flower"]["password"], stack["merchant"]["client_secret"]]
    assert not any(secret in text for secret in (*secrets, stack["operator"]["password"]))
