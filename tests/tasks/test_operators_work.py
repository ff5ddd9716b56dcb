"""Jobs and reconciliations that operators request, through the relay, the broker and a real operations worker."""

from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection
from sqlalchemy import text

from gateway.db import begin
from gateway.domain.dead_letters import bulk_jobs
from gateway.domain.dead_letters.bulk_jobs import NewJob
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.domain.reconciliation import requests as reconciliation_requests
from gateway.domain.reconciliation.runs import ADVISORY_LOCK
from gateway.ids import new_id, utc_now
from tasks import app
from tasks.dead_letters import run_job_step
from tasks.reconciliation import reconcile_as_requested
from tasks.relay import relay_once
from tests.helpers import lifecycles
from tests.helpers.factories import count, make_merchant
from tests.helpers.waiting import eventually
from tests.tasks.workers import worker_thread

pytestmark = pytest.mark.usefixtures("database")


def publish(broker: Connection) -> None:
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        relay_once(producer)


def replay_all(max_per_second: int) -> UUID:
    job = NewJob("replay", DeadLetterFilter(), None, dry_run=False, max_per_second=max_per_second)
    with begin() as connection:
        return UUID(bulk_jobs.create(connection, job, "test", "req-test")["id"])


def test_a_job_on_dead_letters_runs_step_by_step_at_its_rate(broker: Connection) -> None:
    merchant_id = make_merchant()
    for _ in range(3):
        lifecycles.dead_lettered(merchant_id)
    with begin() as connection:
        connection.execute(text("DELETE FROM outbox"))
    began = utc_now()
    replay_all(max_per_second=1)
    publish(broker)

    with worker_thread("operations"):
        eventually(lambda: count("dead_letter_jobs", "status = 'completed'") == 1, what="the end of the job")

    assert utc_now() - began > timedelta(seconds=2), "three letters at one a second"
    assert count("dead_letters", "status = 'replayed'") == 3
    assert count("dead_letter_jobs", "done = 3 AND failed = 0") == 1


def test_a_requested_reconciliation_runs_after_the_one_in_progress(broker: Connection) -> None:
    with begin() as connection:
        run = reconciliation_requests.request(connection, utc_now() - timedelta(days=1), utc_now(), None, "test")
    publish(broker)
    lock = text("SELECT pg_advisory_xact_lock(:key)")
    with ExitStack() as worker:
        with begin() as connection:
            connection.execute(lock, {"key": ADVISORY_LOCK})  # before there is a worker that could be faster
            worker.enter_context(worker_thread("operations"))
            eventually(lambda: waiting(broker) == 0, what="that a worker takes the message")
            assert count("reconciliation_runs", "status = 'pending'") == 1
        eventually(lambda: count("reconciliation_runs", "status = 'completed'") == 1, what="the run")
    assert count("reconciliation_runs", f"id = '{run['id']}'") == 1


def waiting(broker: Connection) -> int:
    channel: Any = broker.channel()
    depth: int = channel.queue_declare("operations", passive=True).message_count
    channel.close()
    return depth


def test_reconciliations_in_one_message_are_split(broker: Connection) -> None:
    ids = [str(new_id()) for _ in range(2)]

    assert reconcile_as_requested.apply(args=(ids,)).successful()

    eventually(lambda: waiting(broker) == 2, what="a message for each")


def test_a_message_that_names_no_jobs_is_rejected() -> None:
    for task in (run_job_step, reconcile_as_requested):
        assert task.apply(args=("everything",)).failed()


def test_jobs_and_runs_that_do_not_exist_are_ignored() -> None:
    for task in (run_job_step, reconcile_as_requested):
        assert task.apply(args=([str(new_id())],)).successful()
