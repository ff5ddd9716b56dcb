"""OpenTelemetry's instrumentation on the unmodified product."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import event

from gateway import db
from gateway.app import create_app
from gateway.config import settings
from tasks import topology
from tests.api.conftest import Caller, register
from tests.api.process import api_process
from tests.helpers.engines import engine_on
from tests.helpers.waiting import eventually
from tests.integrations.tracing import below, named, spans_of, traced_environment
from tests.sandbox.process import AcquirerProcess
from tests.tasks.workers import worker_process

SETTLED_SECONDS = 60
SPANS_SECONDS = 20
STOP_SECONDS = 30
REQUEST_SECONDS = 30
STORE = "INSERT INTO transactions"


@dataclass(frozen=True)
class Tracing:
    """A tracer provider and the spans of what uses it."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


@pytest.fixture
def tracing(database: None) -> Iterator[Tracing]:  # noqa: ARG001
    """Instrument psycopg and a separate database engine within the test."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with engine_on(settings().database_url):
        PsycopgInstrumentor().instrument(tracer_provider=provider)
        try:
            yield Tracing(provider, exporter)
        finally:
            PsycopgInstrumentor().uninstrument()


def test_a_request_has_a_span_with_those_of_its_statements_below(tracing: Tracing) -> None:
    app = create_app()
    merchant = register(app)
    FlaskInstrumentor().instrument_app(app, tracer_provider=tracing.provider)  # type: ignore[no-untyped-call]
    tracing.exporter.clear()

    assert merchant.pay().status_code == 201

    [request] = [span for span in tracing.spans() if span.name == "POST /v1/transactions"]
    [store] = [span for span in tracing.spans() if STORE in str((span.attributes or {}).get("db.statement"))]
    assert request.context is not None
    assert store.parent is not None
    assert store.parent.span_id == request.context.span_id


def test_the_events_of_sqlalchemy_show_the_statement_that_stores_payments(database: None) -> None:  # noqa: ARG001
    seen: list[str] = []

    def collect(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    merchant = register(create_app())
    event.listen(db.engine(), "before_cursor_execute", collect)
    try:
        assert merchant.pay().status_code == 201
    finally:
        event.remove(db.engine(), "before_cursor_execute", collect)
    assert any(STORE in statement for statement in seen)


@contextmanager
def relay_process(log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run the relay until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.relay"],
            env=os.environ | dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def post_payment(url: str, token: str) -> str:
    """Create a payment over HTTP and return its id."""
    headers = {"Authorization": f"Bearer {token}"}
    body = {"amount": 1000, "currency": "USD"}
    response = requests.post(f"{url}/v1/transactions", json=body, headers=headers, timeout=REQUEST_SECONDS)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def is_settled(merchant: Caller, id: str) -> bool:
    return bool(merchant.get(f"/v1/transactions/{id}").json["status"] == "completed")


def statements(spans: list[dict[str, Any]]) -> list[str]:
    """Return the SQL of the spans that are statements."""
    return [span["attributes"]["db.statement"] for span in spans if "db.statement" in span["attributes"]]


def test_a_payment_has_spans_from_its_acceptance_to_its_settlement(database: None, tmp_path: Path) -> None:  # noqa: ARG001
    merchant = register(create_app())
    topology.declare()
    acquirer = AcquirerProcess(tmp_path / "acquirer.sqlite").start()
    environment = traced_environment(tmp_path) | {"PROVIDERS": "sandbox", "SANDBOX_ACQUIRER_URL": acquirer.url}

    with ExitStack() as processes:
        processes.callback(acquirer.stop)
        api = processes.enter_context(api_process(tmp_path / "api.log", 1, **environment))
        processes.enter_context(relay_process(tmp_path / "relay.log", environment))
        for queue in ("transaction.created", "settlement.requested"):
            log = tmp_path / f"{queue}.log"
            processes.enter_context(worker_process(log, queue, "-c", "1", environment=environment))
        id = post_payment(api.url, str(merchant.token))
        eventually(lambda: is_settled(merchant, id), within=SETTLED_SECONDS, what="the settlement")
        eventually(lambda: named(spans_of(tmp_path), "run/payments.settle"), within=SPANS_SECONDS, what="the last span")

    spans = spans_of(tmp_path)
    [accepted] = named(spans, "POST /v1/transactions")
    assert any(STORE in sql for sql in statements(below(spans, accepted)))
    [routed] = named(spans, "run/payments.route")
    assert any("UPDATE transactions" in sql for sql in statements(below(spans, routed)))
    [settled] = named(spans, "run/payments.settle")
    assert any("INSERT INTO settlements" in sql for sql in statements(below(spans, settled)))
    charges = [span for span in spans if acquirer.url in span["attributes"].get("http.url", "")]
    assert [span["attributes"]["http.status_code"] for span in charges] == [201]
