"""The log of a running worker."""

from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from gateway.config import settings
from tasks import transactions
from tests.helpers.waiting import eventually
from tests.tasks.workers import START_SECONDS, worker_process


@pytest.mark.usefixtures("broker")
def test_no_password_of_the_broker_or_the_database_is_in_the_log_of_a_worker(tmp_path: Path) -> None:
    broker_password = urlsplit(settings().rabbitmq_url).password
    database_password = urlsplit(settings().database_url).password
    assert broker_password
    assert database_password
    log = tmp_path / "worker.log"
    options = ("-P", "solo", "--loglevel", "DEBUG")
    environment = {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json"}
    with worker_process(log, "settlement.completed", *options, environment=environment):
        transactions.announce.delay([str(uuid4())])
        eventually(lambda: "succeeded" in log.read_text(), within=START_SECONDS, what="the first task")

    assert [secret for secret in (broker_password, database_password) if secret in log.read_text()] == []
