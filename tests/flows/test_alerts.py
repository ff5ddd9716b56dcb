"""Deliveries of alerts over real HTTP, to the development receiver and to misbehaving receivers."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from flask import Flask, Response, request
from loguru import logger
from sqlalchemy import text

from gateway.cli.alert_receiver import Received
from gateway.config import settings
from gateway.db import begin, engine
from gateway.domain.shared import alerts
from gateway.domain.shared.alerts import ATTEMPTS_MAX
from gateway.flows.alerts import CALLS_AT_ONCE, ERROR_BODY_MAX_BYTES, deliver, deliver_overdue
from gateway.ids import new_id, rfc3339
from gateway.providers.bounded_http import RESPONSE_MAX_BYTES
from tests.helpers.alert_receivers import alerts_sent_to, receiving
from tests.helpers.endless_responses import ENDLESS_BEFORE_STATUS
from tests.helpers.factories import count, execute
from tests.helpers.http_servers import LOOPBACK, answering, served

pytestmark = pytest.mark.usefixtures("database")

OK = b"HTTP/1.1 200 OK\r\n"
REFUSED = b"HTTP/1.1 500 Internal Server Error\r\n"


def raised(message: str = "Something broke", severity: alerts.Severity = "error", **details: Any) -> UUID:
    with begin() as connection:
        alerts.raise_alert(connection, severity, message, details)
        query = text("SELECT id FROM alerts ORDER BY id DESC LIMIT 1")
        id: UUID = connection.execute(query).scalar_one()
    return id


def row(id: UUID) -> Any:
    with begin() as connection:
        return connection.execute(text("SELECT * FROM alerts WHERE id = :id"), {"id": id}).one()


@contextmanager
def logged() -> Iterator[list[str]]:
    """Record the log lines of the block, each as `LEVEL message`."""
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    try:
        yield lines
    finally:
        logger.remove(sink)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_an_alert_is_delivered_once_with_exactly_five_fields() -> None:
    received: list[Received] = []
    id = raised("Dead-lettered: 2 transactions", "critical", count=2, ids=["a", "b"])
    with receiving(received.append) as url, alerts_sent_to(f"{url}/hooks/alerts?team=payments"):
        assert deliver([id]) == []
        assert deliver([id]) == []
    [only] = received
    assert only["alert"] == {
        "service": settings().log_service_name,
        "severity": "critical",
        "message": "Dead-lettered: 2 transactions",
        "details": {"count": 2, "ids": ["a", "b"]},
        "timestamp": rfc3339(row(id).created_at),
    }
    assert only["alert"]["timestamp"].endswith("Z")
    assert (row(id).status, row(id).attempts, row(id).last_error) == ("delivered", 1, None)
    assert row(id).finished_at >= row(id).created_at


def test_no_database_connection_is_held_during_the_call() -> None:
    held: list[int] = []
    ids = [raised() for _ in range(3)]
    with receiving(lambda _: held.append(engine().pool.checkedout())) as url, alerts_sent_to(url):  # type: ignore[attr-defined]
        deliver(ids)
    assert held == [0, 0, 0]


def test_an_id_without_an_alert_is_ignored() -> None:
    with alerts_sent_to("http://127.0.0.1:9"):
        assert deliver([new_id()]) == []


def test_without_a_receiver_an_alert_is_logged_once_at_its_severity() -> None:
    with alerts_sent_to(None), logged() as lines:
        id = raised("The outbox lags", "warning", count=7)
        assert deliver([id]) == []
    assert [line.strip() for line in lines] == ["WARNING alert: The outbox lags {'count': 7}"]
    assert row(id).status == "logged"


def test_a_failing_receiver_is_called_a_limited_number_of_times_and_the_failure_is_logged() -> None:
    received: list[Received] = []
    id = raised("Something broke")
    with receiving(received.append, fail_with=503) as url, alerts_sent_to(url), logged() as lines:
        undelivered = [deliver([id]) for _ in range(ATTEMPTS_MAX + 2)]
    assert undelivered == [[id]] * (ATTEMPTS_MAX - 1) + [[]] * 3
    assert len(received) == ATTEMPTS_MAX
    assert (row(id).status, row(id).attempts, row(id).last_error) == ("failed", ATTEMPTS_MAX, "HTTP 503")
    assert row(id).finished_at is not None
    assert sum(line.startswith("ERROR") and " failed after 4 attempts" in line for line in lines) == 1
    assert count("alerts") == 1  # no alert about the failed alert


def test_only_failed_alerts_are_retried() -> None:
    ids = [raised(f"alert {number}") for number in range(CALLS_AT_ONCE + 5)]
    bad = ids[3]

    receiver = Flask(__name__)

    @receiver.post("/")
    def take() -> Response:
        return Response(status=500 if request.get_json()["message"] == "alert 3" else 200)

    with served(receiver) as url, alerts_sent_to(url):
        assert deliver(ids) == [bad]
    assert {row(id).status for id in ids if id != bad} == {"delivered"}


@pytest.mark.parametrize("pause", [None, 0.2], ids=["silent", "trickling"])
def test_a_call_of_a_slow_receiver_ends_at_its_timeout(pause: float | None) -> None:
    over = threading.Event()

    def stall(connection: socket.socket) -> None:
        while not over.wait(pause):
            connection.sendall(b"H")

    id = raised()
    with answering(stall) as url, alerts_sent_to(url, timeout_seconds=1), at_most(3):
        assert deliver([id]) == [id]
    over.set()
    assert (row(id).status, row(id).last_error) == ("pending", "no response within 1 s")


def test_a_dead_receiver_delays_the_queue_by_one_timeout_regardless_of_the_number_of_alerts() -> None:
    over = threading.Event()
    ids = [raised() for _ in range(3 * CALLS_AT_ONCE)]
    with answering(lambda _: over.wait()) as url, alerts_sent_to(url, timeout_seconds=1), at_most(3):
        assert deliver(ids) == ids
    over.set()
    assert count("alerts", "last_error = 'no response within 1 s'") == CALLS_AT_ONCE
    assert count("alerts", "last_error LIKE 'not tried%'") == 2 * CALLS_AT_ONCE


def test_the_error_of_a_refused_connection_does_not_contain_the_secret_in_the_url() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
    id = raised()
    with alerts_sent_to(f"http://{LOOPBACK}:{port}/services/T0/s3cr3t"), logged() as lines:
        assert deliver([id]) == [id]
    assert "refused" in row(id).last_error
    assert "s3cr3t" not in row(id).last_error + "".join(lines)


def test_a_redirect_is_not_followed() -> None:
    received: list[Received] = []
    id = raised()
    with receiving(received.append) as target:
        moved = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {target}/\r\nContent-Length: 0\r\n\r\n".encode()
        with answering(lambda connection: connection.sendall(moved)) as url, alerts_sent_to(url):
            assert deliver([id]) == [id]
    assert received == []
    assert row(id).last_error == "HTTP 307"


@pytest.mark.parametrize("head", [OK, REFUSED], ids=["accepted", "refused"])
def test_an_endless_response_is_not_read_to_its_end(head: bytes) -> None:
    over = threading.Event()

    def flood(connection: socket.socket) -> None:
        connection.sendall(head + b"Content-Type: text/plain\r\n\r\n")
        while not over.is_set():
            connection.sendall(b"x\x00" * 500_000)

    id = raised()
    with answering(flood) as url, alerts_sent_to(url), at_most(5):
        again = deliver([id])
    over.set()
    assert again == ([] if head == OK else [id])
    assert len(row(id).last_error or "") < ERROR_BODY_MAX_BYTES + 20


def test_a_response_that_is_not_http_is_a_failure() -> None:
    id = raised()
    with answering(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as url, alerts_sent_to(url):
        assert deliver([id]) == [id]
    assert "SSH" in row(id).last_error


def test_an_alert_that_waits_for_too_long_is_delivered_without_broker_and_relay() -> None:
    received: list[Received] = []
    old, new = raised("Something broke"), raised("Something else broke")
    execute("UPDATE alerts SET created_at = now() - interval '5 minutes' WHERE id = :id", id=old)
    with receiving(received.append) as url, alerts_sent_to(url):
        deliver_overdue()
    assert [row(old).status, row(new).status] == ["delivered", "pending"]


def test_endless_informational_responses_end_at_the_maximum_length() -> None:
    with answering(ENDLESS_BEFORE_STATUS["100 Continue"]) as url, alerts_sent_to(url):
        id = raised()
        assert deliver([id]) == [id]
    assert row(id).last_error.endswith(f"the response has more than {RESPONSE_MAX_BYTES} bytes")
