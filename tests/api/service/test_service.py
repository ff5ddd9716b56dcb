"""Health checks, metrics, and the documentation page."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from kombu import Connection, Queue
from sqlalchemy import text

from gateway.api.service import health, rabbitmq_management
from gateway.app import create_app
from gateway.config import settings
from gateway.db import begin
from gateway.domain.operations.queue_states import Observation
from gateway.flows.queue_states import record
from gateway.ids import new_id
from tests.api.conftest import Caller, expect_problem
from tests.helpers.endless_responses import ENDLESS_BEFORE_STATUS
from tests.helpers.engines import engine_on
from tests.helpers.factories import execute
from tests.helpers.http_servers import answering


def test_a_running_process_is_live(anonymous: Caller) -> None:
    assert anonymous.get("/health/live").json == {"status": "live"}


def test_a_process_with_its_database_is_ready(anonymous: Caller) -> None:
    response = anonymous.get("/health/ready")

    assert response.status_code == 200
    health.Ready.model_validate_json(response.data)
    assert response.json["database"] == "up"
    assert response.json["schema_version"] == health.expected_version()
    assert response.headers["Cache-Control"] == "no-store"


def test_a_process_without_its_schema_is_not_ready(anonymous: Caller) -> None:
    expected = health.expected_version()
    execute("DELETE FROM alembic_version")
    try:
        response = anonymous.get("/health/ready")
    finally:
        execute("INSERT INTO alembic_version VALUES (:expected)", expected=expected)

    problem = expect_problem(response, 503, "not_ready")
    assert "none" in problem["detail"]
    assert response.headers["Retry-After"]


def test_a_process_with_a_newer_schema_is_ready(anonymous: Caller) -> None:
    expected = health.expected_version()
    execute("UPDATE alembic_version SET version_num = '9999'")
    try:
        response = anonymous.get("/health/ready")
    finally:
        execute("UPDATE alembic_version SET version_num = :expected", expected=expected)

    assert (response.status_code, response.json["schema_version"]) == (200, "9999")


def metrics_of(caller: Caller) -> dict[str, float]:
    response = caller.get("/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain; version=0.0.4")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_log_explains_why_the_database_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    with engine_on("postgresql://nobody:hunter2@127.0.0.1:9/none"):
        client = create_app().test_client()
        expect_problem(client.get("/health/ready"), 503, "database_unavailable")
        assert "database_up 0" in client.get("/metrics").text
    log = capsys.readouterr().err
    assert log.count("port 9 failed: Connection refused") == 3, "readiness, backlog and invariants"
    assert "hunter2" not in log


def test_metrics_count_requests_by_the_template_of_their_route(merchant: Caller) -> None:
    name = 'http_requests_total{method="GET",route="/v1/transactions/<id>",status="404"}'
    before = metrics_of(merchant).get(name, 0)

    merchant.get(f"/v1/transactions/{new_id()}")
    merchant.get("/v1/transactions/4242")
    merchant.get("/some/path/that/nobody/knows")
    after = metrics_of(merchant)

    assert after[name] == before + 2
    assert after['http_requests_total{method="GET",route="unmatched",status="404"}'] >= 1
    assert not any("4242" in line or "nobody" in line for line in after)
    assert after['http_request_seconds_count{method="GET",route="/v1/transactions/<id>"}'] >= 2


def test_unknown_methods_create_no_metrics(anonymous: Caller) -> None:
    anonymous.call("BREW", "/v1/transactions")

    assert not any("BREW" in line for line in metrics_of(anonymous))


def test_repeated_requests_are_not_counted_as_transactions(merchant: Caller) -> None:
    name = 'transactions_created_total{currency="SEK"}'
    before = metrics_of(merchant).get(name, 0)

    for _ in range(3):
        merchant.pay({"Idempotency-Key": "k"}, currency="SEK")

    assert metrics_of(merchant)[name] == before + 1


def test_metrics_show_the_backlog(merchant: Caller) -> None:
    old, _ = merchant.pay().json, merchant.pay().json
    execute(
        "UPDATE transactions SET created_at = now() - interval '90 seconds' WHERE id = CAST(:id AS uuid)", id=old["id"]
    )
    execute("UPDATE outbox SET created_at = now() - interval '60 seconds'")
    execute(
        "INSERT INTO dead_letters (id, message_key, queue, reason, attempts, payload, headers, first_failed_at,"
        " dead_lettered_at) VALUES (CAST(:id AS uuid), 'm', 'q', 'rejected', 0, '', '{}', now(), now())",
        id=str(new_id()),
    )

    found = metrics_of(merchant)

    assert found["database_up"] == 1
    assert found["outbox_depth"] == 2
    assert 60 <= found["outbox_oldest_seconds"] < 120
    assert found['transactions_unfinished{status="pending"}'] == 2
    assert found['transactions_unfinished{status="processing"}'] == 0
    assert 90 <= found['transactions_oldest_unfinished_seconds{status="pending"}'] < 150
    assert found["dead_letters_open"] == 1


def test_counting_unfinished_transactions_uses_their_partial_index(database: None) -> None:  # noqa: ARG001
    with begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = connection.execute(
            text(
                "EXPLAIN SELECT status, count(*), min(created_at) FROM transactions"
                " WHERE status IN ('pending', 'processing') GROUP BY status"
            )
        ).scalars()
        assert any("ix_transactions_unfinished" in line for line in plan)


def use_management(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    """Use this URL of the management API, with an empty cache."""
    changed = settings().model_copy(update={"rabbitmq_management_url": url})
    monkeypatch.setattr(rabbitmq_management, "settings", lambda: changed)
    rabbitmq_management.forget()


def test_metrics_show_the_queues_of_our_virtual_host(
    anonymous: Caller, monkeypatch: pytest.MonkeyPatch, stack: dict[str, Any]
) -> None:
    management = stack["management"]
    address = stack["management_url"].removeprefix("http://")
    use_management(monkeypatch, f"http://{management['user']}:{management['password']}@{address}")
    with Connection(settings().rabbitmq_url) as connection:
        queue = Queue("api.test", durable=False, channel=connection.default_channel)
        queue.declare()
        deadline = time.monotonic() + 10
        while 'queue_depth{queue="api.test"}' not in (found := metrics_of(anonymous)):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        queue.delete()

    assert found["broker_management_up"] == 1
    assert found['queue_depth{queue="api.test"}'] == 0
    assert found['queue_consumers{queue="api.test"}'] == 0


def test_an_unavailable_management_api_does_not_delay_metrics(
    anonymous: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (1, silent.getsockname()[1]):
            use_management(monkeypatch, f"http://127.0.0.1:{port}")
            started = time.monotonic()
            found = metrics_of(anonymous)
            ready = anonymous.get("/health/ready")

            assert time.monotonic() - started < 4
            assert found["broker_management_up"] == 0
            assert not any(name.startswith("queue_") for name in found)
            assert (ready.status_code, ready.json["broker"]) == (200, "unknown")


def test_an_endless_response_of_the_management_api_does_not_delay_metrics(
    anonymous: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(ENDLESS_BEFORE_STATUS["100 Continue"]) as url:
        use_management(monkeypatch, url)
        assert metrics_of(anonymous)["broker_management_up"] == 0


def test_the_state_of_the_broker_is_that_of_its_queues(anonymous: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use_management(monkeypatch, None)

    def ready() -> tuple[int, str, str | None]:
        response = anonymous.get("/health/ready")
        health.Ready.model_validate_json(response.data)
        return response.status_code, response.json["broker"], response.json["broker_reason"]

    assert ready() == (200, "unknown", "No relay has checked the queues recently.")
    assert "broker_management_up" not in metrics_of(anonymous)
    record([Observation("a", None, 1), Observation("b", None, 1)])
    assert ready() == (200, "up", None)
    record([Observation("b", "MessageNacked: Message was nacked by broker.")])
    status, state, reason = ready()
    assert (status, state) == (200, "degraded")
    assert "b has accepted no messages" in str(reason)
    assert "MessageNacked" in str(reason)
    found = metrics_of(anonymous)
    assert (found['queue_accepts_messages{queue="a"}'], found['queue_accepts_messages{queue="b"}']) == (1, 0)
    assert found['queue_delivers_messages{queue="a"}'] == 1
    record([Observation("a", "gone")])
    assert ready()[:2] == (200, "down")
    execute("UPDATE queue_states SET checked_at = now() - interval '1 hour'")
    assert ready()[:2] == (200, "unknown")
    assert not any(name.startswith("queue_takes") for name in metrics_of(anonymous))


def test_the_documentation_page_loads_its_assets_from_this_server(anonymous: Caller) -> None:
    page = anonymous.get("/docs")

    assert page.content_type == "text/html; charset=utf-8"
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 4
    for path in linked:
        asset = anonymous.get(path)
        assert (asset.status_code, bool(asset.data)) == (200, True)
        assert asset.headers["X-Content-Type-Options"] == "nosniff"
    assert "/openapi.json" in anonymous.get("/docs/start.js").text


def test_the_api_does_not_import_celery() -> None:
    code = (
        "import gateway.app, sys; gateway.app.app; print([m for m in ('celery', 'kombu', 'amqp') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"


def test_create_app_returns_a_new_application(app: Flask) -> None:
    assert create_app() is not app
