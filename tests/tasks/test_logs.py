"""What a running worker really writes to its log."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from gateway.config import settings
from tasks import transactions
from tests.helpers.waiting import eventually

WORKER_SECONDS = 60


@pytest.mark.usefixtures("broker")
def test_no_password_of_the_broker_or_the_database_is_in_the_log_of_a_worker(tmp_path: Path) -> None:
    broker_password = urlsplit(settings().rabbitmq_url).password
    database_password = urlsplit(settings().database_url).password
    assert broker_password
    assert database_password
    environment = {
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-Q", "settlement.completed", "-P", "solo"]
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [*command, "-n", f"{uuid4()}@%h", "--loglevel", "DEBUG"],
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        transactions.announce.delay([str(uuid4())])
        eventually(lambda: "succeeded" in log.read_text(), within=WORKER_SECONDS, what="the first task")
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(WORKER_SECONDS)

    assert [secret for secret in (broker_password, database_password) if secret in log.read_text()] == []
