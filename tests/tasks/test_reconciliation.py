"""The nightly reconciliation through the broker and a real worker of the operations queue."""

import pytest
from celery.contrib.testing.worker import start_worker
from sqlalchemy import text

import celeryconfig
from gateway.db import begin
from gateway.domain.reconciliation.runs import ADVISORY_LOCK
from tasks import app
from tasks.reconciliation import reconcile
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import count, execute
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database", "broker")


def test_beat_s_task_runs_a_reconciliation_on_the_operations_queue() -> None:
    scheduled = str(celeryconfig.beat_schedule["reconcile"]["task"])
    settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    with start_worker(app, pool="solo", queues=["operations"], perform_ping_check=False, shutdown_timeout=30):
        app.send_task(scheduled)
        eventually(lambda: count("reconciliation_runs", "status = 'completed'") == 1, what="the run")
    assert (count("discrepancies"), count("alerts")) == (1, 1)


def test_a_run_that_is_under_way_already_does_it() -> None:
    with begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        assert reconcile.apply().successful()
    assert count("reconciliation_runs") == 0
