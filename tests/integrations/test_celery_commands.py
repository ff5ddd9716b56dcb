"""Celery's own commands on a worker of the gateway: `inspect`, `control` and `events`."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.db import begin
from gateway.domain.shared import alerts as alert_rules
from tasks import alerts, transactions
from tests.helpers.http_servers import answering
from tests.helpers.waiting import eventually
from tests.tasks.workers import START_SECONDS, worker_process

QUEUE = "settlement.completed"
COMMAND_SECONDS = 60
ALERT_SECONDS = 30


def celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "tasks", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Celery to its end."""
    return subprocess.run(
        celery(*arguments), env=os.environ, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )


@pytest.fixture(scope="module")
def respond() -> threading.Event:
    """Return an event for which the receiver of alerts waits before it responds."""
    return threading.Event()


@pytest.fixture(scope="module")
def node(
    topology: None,  # noqa: ARG001
    respond: threading.Event,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Run a worker with one process, as in production; yield its name."""
    name = uuid4().hex
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    options = ("-P", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle", "-E")
    with (
        answering(lambda _: respond.wait(ALERT_SECONDS)) as url,
        worker_process(
            log,
            QUEUE,
            *options,
            name=name,
            environment={"ALERT_WEBHOOK_URL": url, "ALERT_TIMEOUT_SECONDS": str(ALERT_SECONDS)},
        ),
    ):
        eventually(lambda: " ready" in log.read_text(), within=START_SECONDS, what="a worker that is ready")
        [found] = replies("inspect", "ping")
        assert found.startswith(f"{name}@")
        yield found


def replies(*arguments: str) -> dict[str, Any]:
    """Return the replies of the workers to a command, by their names."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: Any = json.loads(done.stdout)
    merged: dict[str, Any] = (
        found if isinstance(found, dict) else {name: a for part in found for name, a in part.items()}
    )
    return merged


def test_inspect_ping_gets_a_reply(node: str) -> None:
    assert replies("inspect", "ping") == {node: {"ok": "pong"}}


def test_inspect_stats_shows_the_pool_and_the_finished_tasks(node: str) -> None:
    before = replies("inspect", "stats")[node]["total"].get("payments.announce", 0)
    transactions.announce.delay([str(uuid4())])

    def finished() -> bool:
        stats = replies("inspect", "stats")[node]
        assert stats["pool"]["max-concurrency"] == 1
        return bool(stats["total"].get("payments.announce", 0) == before + 1)

    eventually(finished, within=COMMAND_SECONDS, what="the task in the statistics")


def test_inspect_shows_the_queues_and_the_tasks_of_a_worker(node: str) -> None:
    assert [queue["name"] for queue in replies("inspect", "active_queues")[node]] == [QUEUE]
    assert "payments.settle" in replies("inspect", "registered")[node]
    assert replies("inspect", "conf")[node]["task_acks_late"] is True


@pytest.mark.usefixtures("database")
def test_inspect_active_shows_a_running_task(node: str, respond: threading.Event) -> None:
    with begin() as connection:
        id = alert_rules.raise_alert(connection, "error", "an alert whose receiver does not respond", {})

    def active() -> list[tuple[str, str]]:
        return [(task["id"], task["name"]) for task in replies("inspect", "active")[node]]

    sent = alerts.deliver_alerts.apply_async(([str(id)],), queue=QUEUE)
    shown = eventually(active, within=ALERT_SECONDS, what="a running task")
    respond.set()
    assert shown == [(sent.id, "operations.deliver_alerts")]
    eventually(lambda: not active(), within=COMMAND_SECONDS, what="the end of the task")


def test_control_changes_a_worker(node: str) -> None:
    def processes() -> int:
        return len(replies("inspect", "stats")[node]["pool"]["processes"])

    assert "ok" in replies("control", "pool_grow", "1")[node]
    eventually(lambda: processes() == 2, within=COMMAND_SECONDS, what="a second process")
    assert "ok" in replies("control", "pool_shrink", "1")[node]
    eventually(lambda: processes() == 1, within=COMMAND_SECONDS, what="the end of a process")


def test_events_show_tasks_and_workers(node: str, tmp_path: Path) -> None:
    shown = tmp_path / "events"
    with shown.open("wb") as output:
        dump = subprocess.Popen(celery("events", "--dump"), env=os.environ, stdout=output, stderr=subprocess.STDOUT)
    try:

        def heartbeat() -> bool:
            return any(line.startswith(node) and "heartbeat" in line for line in shown.read_text().splitlines())

        eventually(heartbeat, within=COMMAND_SECONDS, what="a heartbeat")
        transactions.announce.delay([str(uuid4())])

        def finished() -> bool:
            text = shown.read_text()
            return all(f"task {step}" in text for step in ("received", "started", "succeeded"))

        eventually(finished, within=COMMAND_SECONDS, what="the events of a task")
        assert "payments.announce" in shown.read_text()
    finally:
        dump.terminate()
        dump.wait(COMMAND_SECONDS)
