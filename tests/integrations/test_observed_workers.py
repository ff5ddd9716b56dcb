"""OpenTelemetry's and Sentry's instrumentation on the workers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from gateway.db import begin
from gateway.domain.shared import alerts
from tasks import app, relay, transactions
from tests.helpers.alert_receivers import receiving
from tests.helpers.factories import accept_payment, make_merchant, status_of
from tests.helpers.waiting import eventually
from tests.tasks.workers import START_SECONDS, worker_process

pytestmark = pytest.mark.usefixtures("database", "broker")

QUEUES = "transaction.created,settlement.requested,operations"
SECONDS = 30.0
Lines = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def written(topology: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:  # noqa: ARG001
    """Run a worker with the instrumentation; return what it wrote to one of its two files."""
    home = tmp_path_factory.mktemp("observed")
    files = {"SPANS": home / "spans", "EVENTS": home / "events"}

    def lines(name: str) -> list[dict[str, Any]]:
        path: Path = files[name]
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    with receiving(lambda _: None) as url:
        environment = {name: str(path) for name, path in files.items()} | {"ALERT_WEBHOOK_URL": url}
        log = home / "worker.log"
        options = ("-P", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle")
        with worker_process(log, QUEUES, *options, app="tests.integrations.observed", environment=environment):
            eventually(lambda: " ready" in log.read_text(), within=START_SECONDS, what="a worker that is ready")
            yield lines


def publish(broker: Connection) -> None:
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        relay.relay_once(producer)


def test_a_payment_has_one_trace_of_route_and_settle_with_their_statements(broker: Connection, written: Lines) -> None:
    id = accept_payment(make_merchant())
    publish(broker)
    eventually(lambda: status_of(id) == "completed", within=SECONDS, what="the settlement")

    def trace() -> dict[str, list[dict[str, Any]]]:
        spans = written("SPANS")
        ids = {span["context"]["trace_id"] for span in spans if span["name"] == "run/payments.settle"}
        found: dict[str, list[dict[str, Any]]] = {}
        for span in spans:
            if span["context"]["trace_id"] in ids:
                found.setdefault(span["name"], []).append(span)
        return found

    spans = eventually(trace, within=SECONDS, what="the trace")
    [route], [settle] = spans["run/payments.route"], spans["run/payments.settle"]
    [publication] = spans["apply_async/payments.settle"]
    assert publication["parent_id"] == route["context"]["span_id"]
    assert settle["parent_id"] == publication["context"]["span_id"]
    assert "apply_async/payments.announce" in spans
    statements = [span for found in spans.values() for span in found if "db.statement" in span["attributes"]]
    for task in (route, settle):
        assert any(statement["parent_id"] == task["context"]["span_id"] for statement in statements)


def test_a_call_of_requests_is_part_of_the_trace_of_its_task(broker: Connection, written: Lines) -> None:
    with begin() as connection:
        alerts.raise_alert(connection, "error", "an alert to be traced", {})
    publish(broker)

    def call() -> list[str]:
        spans = written("SPANS")
        names = {span["context"]["span_id"]: span["name"] for span in spans}
        return [names.get(span["parent_id"], "") for span in spans if span["name"] == "POST"]

    assert eventually(call, within=SECONDS, what="the call of the receiver") == ["run/operations.deliver_alerts"]


def test_an_exception_of_a_task_is_reported_to_sentry(written: Lines) -> None:
    transactions.settle.delay(["not an id"])
    [event] = eventually(lambda: written("EVENTS"), within=SECONDS, what="the event")
    [exception] = event["exception"]["values"]
    assert exception["type"] == "MalformedMessage"
    assert event["transaction"] == "payments.settle"
